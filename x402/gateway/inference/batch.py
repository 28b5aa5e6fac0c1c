"""Many chat requests under one payment (aimo row 74).

    POST /api/v1/batch    {"requests": [{"custom_id": "a", "body": {"model": …, "messages": …}}, …]}

One batch asks one model, and one provider answers all of it as long as it can: when it dies on the way, each request
that is left goes to the next, and what was earned is shared by who answered what. Its quote is the sum of the quotes of
its requests, less the operator's `batch_discount_percent`; its charge is the sum of what was used. The answers come in
the order of the requests; one that nobody gave has an error in its place and costs nothing. When all fail, the batch
does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from x402.billing import Metered
from x402.errors import MalformedError
from x402.gateway.inference.chat import ChatDesk
from x402.gateway.inference.chat_request import ChatRequest
from x402.gateway.inference.desk import Completion, Ordered, empty_completion
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.selection import REGION
from x402.gateway.inference.tally import Tally, charge_json
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale
from x402.gateway.terms import FREE, Flow, Price, Terms
from x402.price import PriceUnit, Rate
from x402.quote import Item, Quote, add_up, itemise
from x402.signed_quote import peek
from x402.wire.strict import parse_object

REQUESTS_LIMIT = 100
AT_ONCE = 8
BODY_LIMIT = 1024 * 1024
ENDPOINT = "batch"

_NAME_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was read: each request with the caller's name for it, and the quote for all of them."""

    names: tuple[str, ...]
    orders: tuple[Ordered[ChatRequest], ...]
    quoted: Quote


class BatchDesk:
    """Sells chat completions by the batch."""

    def __init__(self, chat: ChatDesk) -> None:
        self._chat = chat

    def price(self, request: PaidRequest) -> Price:
        """The sum of the quotes. The money is taken up front, because a batch takes long and may half succeed."""
        batch = self.order(request.body, None, region=request.header(REGION) or "")
        if batch.quoted.free:
            return FREE
        words = f"{len(batch.orders)} chat completions by {batch.orders[0].model.display_name}"
        return Terms(price=batch.quoted, flow=Flow.UPFRONT, description=words, mime_type="application/json")

    def order(self, body: bytes, sale: Sale | None, *, region: str = "") -> Batch:
        """The batch to serve. Raises `ApiProblem` 400 that names the request in the wrong."""
        try:
            members = parse_object(body, limit=BODY_LIMIT, code="invalid_request")
        except MalformedError as error:
            raise refused("", f"the request body: {error.message}") from error
        entries = members.get("requests")
        if not isinstance(entries, list) or not 1 <= len(entries) <= REQUESTS_LIMIT:
            raise refused("requests", f"requests: a list of 1 to {REQUESTS_LIMIT} objects is required")
        names, orders = [], []
        for index, entry in enumerate(entries):
            name, order = self._entry(entry, index, region)
            names.append(name)
            orders.append(order)
        if len({order.model.id for order in orders}) > 1:
            raise refused("requests", "requests: all of a batch name the same model")
        if len(set(names)) < len(names):
            raise refused("requests", "requests: two have the same custom_id")
        token = None if sale is None else sale.requirement.extra.get("quote")
        quoted = peek(token).quote if isinstance(token, str) else total([order.quoted for order in orders])
        return Batch(tuple(names), tuple(orders), quoted)

    def _entry(self, entry: Any, index: int, region: str) -> tuple[str, Ordered[ChatRequest]]:
        where = f"requests.{index}"
        if not isinstance(entry, dict) or not isinstance(entry.get("body"), dict):
            raise refused(where, f"{where}: an object with custom_id and body is required")
        name = entry.get("custom_id", str(index))
        if not isinstance(name, str) or not 1 <= len(name) <= _NAME_LIMIT:
            raise refused(f"{where}.custom_id", f"{where}.custom_id: a text of 1 to {_NAME_LIMIT} characters")
        if entry["body"].get("stream"):
            raise refused(f"{where}.body.stream", f"{where}.body.stream: a batch is answered whole")
        try:
            return name, self._chat.order(json.dumps(entry["body"]).encode(), None, region=region, batch=True)
        except ApiProblem as problem:
            problem.param = f"{where}.body.{problem.param or ''}".rstrip(".")
            raise

    async def complete(self, batch: Batch, sale: Sale | None, *, request_id: str = "") -> dict[str, Any]:
        """All answers in order. Raises `ApiProblem` 503 when there is none: then nothing is charged."""
        done: list[tuple[Completion, Tally] | ApiProblem] = []
        lead, rest = _Lead(), list(batch.orders)
        # The first that can be answered decides who answers all, as long as it does.
        while rest and not lead.provider:
            done.append(await self._one(rest.pop(0), lead, request_id))
        turn = asyncio.Semaphore(AT_ONCE)

        async def next_one(order: Ordered[ChatRequest]) -> tuple[Completion, Tally] | ApiProblem:
            async with turn:
                return await self._one(order, lead, request_id)

        done += await asyncio.gather(*(next_one(order) for order in rest))
        served = [one for one in done if not isinstance(one, ApiProblem)]
        if not served:
            failure = next(one for one in done if isinstance(one, ApiProblem))
            raise ApiProblem(503, "batch_failed", f"none of the batch was answered: {failure.message}")
        metered = metered_of(batch.quoted, [tally for _, tally in served])
        charged = metered if sale is None else sale.reduced(metered)
        charge = charge_json(batch.quoted, charged.charged, sale)
        if sale is not None:
            sale.metered, sale.request_id = metered, request_id
            sale.note(charge=charge)
        results = [_result(name, one) for name, one in zip(batch.names, done, strict=True)]
        return {"object": "batch.completion", "results": results, "charge": charge}

    async def _one(
        self, order: Ordered[ChatRequest], lead: _Lead, request_id: str
    ) -> tuple[Completion, Tally] | ApiProblem:
        try:
            done, tally = await self._chat.make(lead.first(order), request_id)
        except ApiProblem as problem:
            return problem
        if not tally.void:
            lead.provider = tally.provider
        return empty_completion() if tally.void else (done, tally)


@dataclass(slots=True)
class _Lead:
    """Who answered last: asked first from then on, as far as a request's own wishes let it."""

    provider: str = ""

    def first(self, order: Ordered[ChatRequest]) -> Ordered[ChatRequest]:
        """The order with the lead at the head of its line; the others stand in for it."""
        if not any(one.id == self.provider for one in order.model.providers):
            return order
        others = [slug for slug in order.wishes.order if slug != self.provider]
        return replace(order, wishes=replace(order.wishes, order=(self.provider, *others)))


def total(quotes: Sequence[Quote]) -> Quote:
    """One quote for all: the same items at the same rate are one line, and the fee is on top of everything."""
    units: dict[tuple[Item, Rate], int] = {}
    fee = Rate(Decimal(0), PriceUnit.PERCENT)
    for quoted in quotes:
        for line in quoted.lines:
            if line.item is Item.FEE:
                fee = line.rate
            else:
                units[line.item, line.rate] = units.get((line.item, line.rate), 0) + line.units
    rows = [(item, count, rate) for (item, rate), count in units.items()]
    if fee.value and rows:
        rows.append((Item.FEE, 1, fee))
    lines = itemise(rows)
    first = quotes[0]
    output = sum(quoted.output_tokens for quoted in quotes)
    return Quote(first.model, lines, max(1, add_up(lines)) if lines else 0, output, len(quotes), first.price_list)


def metered_of(quoted: Quote, tallies: Sequence[Tally]) -> Metered:
    """What all of a batch used and costs: never more than was quoted."""
    parts = [tally.metered() for tally in tallies]
    shares: dict[str, int] = {}
    for part in parts:
        shares[part.provider] = shares.get(part.provider, 0) + part.charged - part.fee
    whole = Metered(
        model=quoted.model,
        provider=parts[0].provider,
        shares=tuple(shares.items()) if len(shares) > 1 else (),
        endpoint=ENDPOINT,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        images=sum(part.images for part in parts),
        charged=sum(part.charged for part in parts),
        fee=sum(part.fee for part in parts),
        complete=all(part.complete for part in parts),
    )
    return whole.within(quoted.bound)


def _result(name: str, one: tuple[Completion, Tally] | ApiProblem) -> dict[str, Any]:
    if isinstance(one, ApiProblem):
        error = {"code": one.code, "message": one.message, "type": one.kind}
        return {"custom_id": name, "status": one.status_code, "error": error}
    done, tally = one
    return {"custom_id": name, "status": 200, "body": done.members, "charged": str(tally.charge.total)}
