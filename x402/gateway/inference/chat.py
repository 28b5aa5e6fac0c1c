"""Chat completions as goods: whole, or as a stream that is metered while it passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from x402.gateway.inference.abilities import MAKES_CHATS
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.chat_request import ChatRequest, parse_chat
from x402.gateway.inference.desk import Desk, Ordered, Trade, remember
from x402.gateway.inference.meter import (
    StreamMeter,
    begins_with_error,
    bill_comment,
    is_empty,
    receipt_comment,
    usage_of,
)
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.router import Router
from x402.gateway.inference.tally import Tally, tokens_of
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamFailed
from x402.gateway.sale import Sale


class ChatDesk(Desk[ChatRequest]):
    """Sells chat completions."""

    def __init__(self, router: Router) -> None:
        super().__init__(router, Trade("One chat completion", MAKES_CHATS, parse_chat, _count, _check, announced=True))

    async def stream(
        self, ordered: Ordered[ChatRequest], sale: Sale | None, *, request_id: str = ""
    ) -> AsyncIterator[bytes]:
        """The events of a streamed answer, with the receipt as a comment before `[DONE]`.

        The upstream has begun to answer when this returns; the iterator raises `UpstreamFailed` when it breaks off.
        """
        remember(ordered, sale, request_id)
        answer = await self.ask(ordered, _take_stream, request_id)
        tally = self.tally(ordered, answer, sale)
        tally.tell()
        request = ordered.request
        return _relay(
            answer, StreamMeter(include_usage=request.include_usage, model=request.model, most=tally.most), tally
        )


def _check(request: ChatRequest, model: Model) -> None:
    if request.images and "image" not in model.input_modalities:
        raise refused("messages", f"{model.id} does not look at images", code="unsuitable_model", status=422)


def _count(members: Mapping[str, Any], tally: Tally) -> None:
    choices = members.get("choices")
    if not isinstance(choices, list):
        raise UpstreamFailed("the answer has no choices", status=200)
    if is_empty(members):
        tally.nothing()
        return
    said = sum(tokens_of(choice.get("message")) for choice in choices if isinstance(choice, dict))
    tally.hear(said, usage_of(members))


async def _take_stream(answer: UpstreamAnswer) -> UpstreamAnswer:
    if "text/event-stream" not in answer.content_type:
        raise UpstreamFailed("the answer is no event stream", status=200)
    if begins_with_error(answer.first):
        # Nothing has reached the buyer yet, so another provider may still be asked.
        raise UpstreamFailed("the stream began with an error", status=200)
    return answer


async def _relay(answer: UpstreamAnswer, meter: StreamMeter, tally: Tally) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.chunks():
            events = meter.feed(chunk)
            tally.hear(meter.said - tally.said, meter.usage)
            if events:
                yield events
            if meter.done:
                break
        if meter.failed or not meter.said:
            tally.nothing()
        sale, comment = tally.sale, ""
        receipt = None if sale is None else sale.receipt
        if sale is not None and sale.settle is not None:
            receipt = await sale.settle()
        if sale is not None and receipt is not None:
            charge = tally.as_json()
            sale.note(charge=charge)
            comment = receipt_comment(receipt, charge)
        elif sale is not None and sale.account and not sale.credits:
            comment = bill_comment(tally.as_json() | {"id": sale.pay_id})
        ending = meter.finish(comment)
        answer.ended(tally.used.completion_tokens)
        yield ending
    except UpstreamFailed:
        answer.ended(broken=True)
        raise
    finally:
        await answer.close()
