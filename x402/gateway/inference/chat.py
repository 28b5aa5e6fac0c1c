"""Chat completions as goods: what one costs, and how it is made and metered once it is paid for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from x402.errors import MalformedError, Mender
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.chat_request import ChatRequest, parse_chat, refused
from x402.gateway.inference.meter import (
    StreamMeter,
    begins_with_error,
    charge_json,
    is_empty,
    receipt_comment,
    usage_of,
)
from x402.gateway.inference.price_rules import Tier
from x402.gateway.inference.router import Router, Take, Taken
from x402.gateway.inference.selection import NO_WISHES, REGION, Wishes, read_wishes
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale
from x402.gateway.terms import FREE, Flow, Price, Terms
from x402.quote import Quote, quote
from x402.signed_quote import peek
from x402.wire.strict import parse_object


@dataclass(frozen=True, slots=True)
class Ordered:
    """A request that was read, the model it names, and the quote under which it is served."""

    request: ChatRequest
    model: Model
    quoted: Quote
    wishes: Wishes = NO_WISHES
    tier: Tier = Tier.DEFAULT


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: the upstream's own bytes."""

    body: bytes = field(repr=False)
    members: dict[str, Any] = field(repr=False)


class ChatCounter:
    """Sells the models of a router's catalogue."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def price(self, request: PaidRequest) -> Price:
        """The price of a chat request: a quote, taken up front for a stream; nothing for a free model.

        Raises `ApiProblem` for what cannot run, before anybody is asked to pay for it.
        """
        ordered = self._read(request.body, None, request.header(REGION) or "")
        if ordered.quoted.free:
            return FREE
        stream = ordered.request.stream
        return Terms(
            price=ordered.quoted,
            flow=Flow.UPFRONT if stream else Flow.AUTHORIZATION,
            description=f"One chat completion by {ordered.model.display_name}",
            mime_type="text/event-stream" if stream else "application/json",
        )

    def order(self, body: bytes, sale: Sale | None, *, region: str = "") -> Ordered:
        """The order to serve. What was paid for is the quote that came with the payment, not today's price."""
        return self._read(body, sale, region)

    def _read(self, body: bytes, sale: Sale | None, region: str) -> Ordered:
        request = parse_chat(body)
        wishes = read_wishes(request.members, preferred_region=region)
        model = self._router.fitting(self._router.resolve(request.model), request.members, wishes)
        token = None if sale is None else sale.requirement.extra.get("quote")
        if isinstance(token, str):
            # Its signature was checked when the payment was taken.
            return Ordered(request, model, peek(token).quote, wishes, request.tier)
        model = replace(model, price=self._router.catalogue.rules.price(model.price, request.tier))
        try:
            quoted = quote(request.order(model.price), self._router.catalogue.price_list(model))
        except MalformedError as error:
            raise refused("", error.message, code=error.code) from error
        return Ordered(request, model, quoted, wishes, request.tier)

    async def complete(self, ordered: Ordered, sale: Sale | None, *, request_id: str = "") -> bytes:
        """The body of a plain answer; the receipt notes what it really used. An empty answer raises, and so is not
        charged (aimo row 86)."""
        quoted = ordered.quoted
        done = await self._ask(ordered, _take_whole, request_id)
        if sale is not None:
            sale.note(charge=charge_json(quoted, usage_of(done.members)))
        return done.body

    async def stream(self, ordered: Ordered, sale: Sale | None, *, request_id: str = "") -> AsyncIterator[bytes]:
        """The events of a streamed answer, with the receipt as a comment before `[DONE]`.

        The upstream has begun to answer when this returns; the iterator raises `UpstreamFailed` when it breaks off.
        """
        quoted = ordered.quoted
        answer = await self._ask(ordered, _take_stream, request_id)
        return _relay(answer, StreamMeter(include_usage=ordered.request.include_usage), quoted, sale)

    async def _ask(self, ordered: Ordered, take: Take[Taken], request_id: str) -> Taken:
        return await self._router.ask(
            ordered.model,
            ordered.request,
            ordered.quoted.output_tokens,
            take,
            request_id=request_id,
            wishes=ordered.wishes,
            tier=ordered.tier,
        )


async def _take_whole(answer: UpstreamAnswer) -> Completion:
    try:
        body = await answer.read()
    finally:
        await answer.close()
    try:
        members = parse_object(body, limit=len(body) + 1)
    except MalformedError as error:
        raise UpstreamFailed("the answer is not JSON", status=200) from error
    if not isinstance(members.get("choices"), list):
        raise UpstreamFailed("the answer has no choices", status=200)
    usage = usage_of(members)
    answer.ended(usage.completion_tokens if usage else 0)
    if is_empty(members):
        raise ApiProblem(
            502,
            "empty_completion",
            "the model said nothing; nothing is charged",
            kind="server_error",
            mender=Mender.NOBODY,
        )
    return Completion(body, members)


async def _take_stream(answer: UpstreamAnswer) -> UpstreamAnswer:
    if "text/event-stream" not in answer.content_type:
        raise UpstreamFailed("the answer is no event stream", status=200)
    if begins_with_error(answer.first):
        # Nothing has reached the buyer yet, so another provider may still be asked.
        raise UpstreamFailed("the stream began with an error", status=200)
    return answer


async def _relay(answer: UpstreamAnswer, meter: StreamMeter, quoted: Quote, sale: Sale | None) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.chunks():
            events = meter.feed(chunk)
            if events:
                yield events
            if meter.done:
                break
        charge = charge_json(quoted, meter.usage)
        comment = ""
        if sale is not None and sale.receipt is not None:
            sale.note(charge=charge)
            comment = receipt_comment(sale.receipt, charge)
        ending = meter.finish(comment)
        answer.ended(meter.usage.completion_tokens if meter.usage else 0)
        yield ending
    except UpstreamFailed:
        answer.ended(broken=True)
        raise
    finally:
        await answer.close()
