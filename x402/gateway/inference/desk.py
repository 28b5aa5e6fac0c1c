"""Where one kind of answer is sold: what a request costs, and how its answer is made and metered once it is paid for.

Chat completions, embeddings and images differ in how a request is read and an answer is judged (`Trade`); everything
about money is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from x402.errors import MalformedError, Mender
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.router import Asked, Router
from x402.gateway.inference.tally import Tally
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale
from x402.gateway.terms import FREE, Flow, Price, Terms
from x402.price import ModelPrice
from x402.quote import Order, Quote, quote
from x402.signed_quote import peek
from x402.wire.strict import parse_object


class Sold(Asked, Protocol):
    """A request that can be priced as well as forwarded."""

    @property
    def stream(self) -> bool: ...

    @property
    def tags(self) -> Mapping[str, str]: ...

    def order(self, price: ModelPrice) -> Order: ...


R = TypeVar("R", bound=Sold)


@dataclass(frozen=True, slots=True)
class Ordered(Generic[R]):
    """A request that was read, the model it names, and the quote under which it is served."""

    request: R
    model: Model
    quoted: Quote


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, as the buyer gets it, and who made it."""

    body: bytes = field(repr=False)
    members: dict[str, Any] = field(repr=False)
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Trade(Generic[R]):
    """What is particular to one kind of answer.

    `makes` are the output modalities of the models that can be asked, `count` tells a tally what an answer used:
    it raises `UpstreamFailed` for what is no such answer, so that another provider is asked.
    """

    words: str
    makes: frozenset[str]
    parse: Callable[[bytes], R]
    count: Callable[[Mapping[str, Any], Tally], None]
    check: Callable[[R, Model], None] = lambda request, model: None


class Desk(Generic[R]):
    """Sells one kind of answer of the models of a router's catalogue."""

    def __init__(self, router: Router, trade: Trade[R]) -> None:
        self.router = router
        self.trade = trade

    def price(self, request: PaidRequest) -> Price:
        """The price of a request: a quote, taken up front for a stream; nothing for a free model.

        Raises `ApiProblem` for what cannot run, before anybody is asked to pay for it.
        """
        ordered = self.order(request.body, None)
        if ordered.quoted.free:
            return FREE
        stream = ordered.request.stream
        return Terms(
            price=ordered.quoted,
            flow=Flow.UPFRONT if stream else Flow.AUTHORIZATION,
            description=f"{self.trade.words} by {ordered.model.display_name}",
            mime_type="text/event-stream" if stream else "application/json",
        )

    def order(self, body: bytes, sale: Sale | None) -> Ordered[R]:
        """The order to serve. What was paid for is the quote that came with the payment, not today's price."""
        request = self.trade.parse(body)
        model = self.router.resolve(request.model)
        if not self.trade.makes & set(model.output_modalities):
            made = ", ".join(model.output_modalities)
            words = f"{model.id} does not make this: it makes {made}"
            raise refused("model", words, code="unsuitable_model", status=422)
        self.trade.check(request, model)
        token = None if sale is None else sale.requirement.extra.get("quote")
        if isinstance(token, str):
            # Its signature was checked when the payment was taken.
            return Ordered(request, model, peek(token).quote)
        try:
            quoted = quote(request.order(model.price), self.router.catalogue.prices)
        except MalformedError as error:
            raise refused("", error.message, code=error.code) from error
        return Ordered(request, model, quoted)

    def tally(self, ordered: Ordered[R], sale: Sale | None, request_id: str) -> Tally:
        """The bill of an order, and what its sale has to remember of the request."""
        if sale is not None:
            sale.tags, sale.request_id = dict(ordered.request.tags), request_id
        return Tally(ordered.quoted, ordered.request.endpoint, sale)

    async def complete(self, ordered: Ordered[R], sale: Sale | None, *, request_id: str = "") -> Completion:
        """A whole answer; the receipt notes what it really used.

        An empty answer raises `ApiProblem` 502, and so is not charged (aimo row 86).
        """
        tally = self.tally(ordered, sale, request_id)
        name = ordered.request.model

        async def take(answer: UpstreamAnswer) -> Completion:
            body, members = await _read(answer)
            tally.provider = answer.provider
            self.trade.count(members, tally)
            if members.get("model") not in (None, name):
                # The buyer hears the name that it asked for (aimo row 35).
                members["model"] = name
                body = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
            return Completion(body, members, answer.provider)

        done = await self.router.ask(
            ordered.model, ordered.request, ordered.quoted.output_tokens, take, request_id=request_id
        )
        tally.tell()
        if tally.void:
            raise _empty()
        if sale is not None:
            sale.note(charge=tally.as_json())
        return done


def _empty() -> ApiProblem:
    words = "the model said nothing; nothing is charged"
    return ApiProblem(502, "empty_completion", words, kind="server_error", mender=Mender.NOBODY)


async def _read(answer: UpstreamAnswer) -> tuple[bytes, dict[str, Any]]:
    try:
        body = await answer.read()
    finally:
        await answer.close()
    try:
        return body, parse_object(body, limit=len(body) + 1)
    except MalformedError as error:
        raise UpstreamFailed("the answer is not JSON", status=200) from error
