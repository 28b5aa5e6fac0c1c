"""Answers that are longer than is kept: never sold cut short, and no reason to pay anybody back (faults A17, A18)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from tests.gateway.waiting import until
from x402.errors import MisconfiguredError
from x402.gateway.flow import SETTLING_SECONDS, Till
from x402.gateway.recording import BrokenOff
from x402.gateway.register import Register
from x402.gateway.sale import Refusal
from x402.lifecycle import Party
from x402.stages import State

PIECE, PIECES = b"x" * 64 * 1024, 100


async def terms(shop: Any, flow: str) -> tuple[Any, Any]:
    """A payment, and how its offer is found."""
    shop.open({"GET /report": "$0.01"}, flow=flow)
    challenge = await shop.challenge()
    requirement = challenge.accepts[0]

    async def offer() -> Any:
        return requirement

    return shop.payer.payment(requirement, challenge), offer


async def states(shop: Any) -> dict[State, int]:
    """How much stands in which state."""
    told = {state: await shop.ledger.totals(Party.GATEWAY, state) for state in (State.OWED, State.DELIVERED)}
    return {state: sum(units.values()) for state, units in told.items() if units}


@pytest.mark.parametrize("swallowed", [False, True])
async def test_A17_a_paid_answer_that_grew_too_long_is_not_sold_cut_short(shop: Any, swallowed: bool) -> None:
    """The settlement goes first, because the payment is about to expire; then the answer grows beyond the limit."""
    payment, offer = await terms(shop, "authorization")
    dies = int(payment.payload["authorization"]["validBefore"])
    clock: Any = lambda: dies - SETTLING_SECONDS - 0.02  # noqa: E731 - a part of a second before it is time
    till = Till(Register(shop.bank, shop.ledger, clock=clock), answer_limit=10)

    async def handler(_: Any, sink: Any) -> None:
        await sink.start(200, (("content-length", "12"),))
        await until(lambda: "settle" in shop.bank.asked)
        await sink.write(b"12345678")
        with suppress(*[MisconfiguredError] * swallowed):
            await sink.write(b"9abc")

    with pytest.raises(Refusal) as told:
        await till.take(payment, "f" * 64, offer, handler)
    assert (getattr(told.value.error, "code", ""), await states(shop)) == ("answer_too_large", {State.OWED: 10_000})


class Slow:
    """A handler of a long answer, and a reader who takes the first pieces and then no more, but stays."""

    def __init__(self, till: Till, *, fails: bool = False) -> None:
        self.till, self.fails, self.runs = till, fails, 0

    async def __call__(self, _: Any, sink: Any) -> None:
        self.runs += 1
        await sink.start(200, ())
        for index in range(PIECES):
            await sink.write(PIECE)
            if self.fails and index > 10:
                raise TimeoutError

    async def read(self, payment: Any, offer: Any, pieces: int) -> int:
        reply = await self.till.take(payment, "f" * 64, offer, self)
        assert reply is not None
        chunks = aiter(reply.chunks)
        got = sum([len(await anext(chunks)) for _ in range(pieces)])
        await until(lambda: not self.till._tasks)
        with suppress(BrokenOff, StopAsyncIteration):
            while True:
                got += len(await anext(chunks))
        return got


async def test_A18_who_stops_reading_near_the_end_has_bought_what_it_left(shop: Any) -> None:
    """Whoever stalls is paid back no more than whoever hangs up, and nothing is made for it again."""
    payment, offer = await terms(shop, "upfront")
    till = Till(
        Register(shop.bank, shop.ledger, clock=lambda: shop.now), answer_limit=1000, handler_timeout_seconds=0.2
    )
    handler = Slow(till)
    assert 90 * len(PIECE) <= await handler.read(payment, offer, 90) < PIECES * len(PIECE)
    assert await states(shop) == {State.DELIVERED: 10_000}
    with pytest.raises(Refusal) as gone:
        await till.take(payment, "f" * 64, offer, handler)
    assert (getattr(gone.value.error, "code", ""), handler.runs) == ("answer_gone", 1)


async def test_A22_control_a_handler_that_fails_while_its_reader_follows_owes_the_answer(shop: Any) -> None:
    payment, offer = await terms(shop, "upfront")
    till = Till(Register(shop.bank, shop.ledger, clock=lambda: shop.now), answer_limit=1000, handler_timeout_seconds=5)
    assert await Slow(till, fails=True).read(payment, offer, 12) == 12 * len(PIECE)
    assert await states(shop) == {State.OWED: 10_000}
