"""The client hangs up, the upstream dies, the ledger goes away or the clock jumps: at every single step there is.

Faults A18, G04 (each chunk of a hundred), E02, E10 (each write of the ledger) and E09 (each look at the clock).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

from tests.gateway.waiting import until
from x402.errors import UnavailableError
from x402.lifecycle import Party
from x402.stages import State

CHUNKS = 100
WHOLE = b"".join(b"<%d>" % index for index in range(CHUNKS))


class Story:
    """A stream of a hundred chunks, with something to do before one of them."""

    def __init__(self, shop: Any) -> None:
        self.at = -1
        self.do: Callable[[], object] = lambda: None
        self.told = 0

        @shop.app.get("/story")
        async def story() -> StreamingResponse:
            self.told += 1

            async def body() -> AsyncIterator[bytes]:
                for index in range(CHUNKS):
                    if index == self.at:
                        self.at = -1
                        self.do()
                        await asyncio.sleep(0)
                    yield b"<%d>" % index

            return StreamingResponse(body())


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A18_a_hang_up_at_every_chunk_is_one_settlement_of_the_whole(shop: Any, flow: str) -> None:
    """`exact` is paid whole, however much was read; whoever comes back gets all of it, and nothing is made twice."""
    story = Story(shop)
    client = shop.open({"GET /story": "$0.01"}, flow=flow)
    challenge = await shop.challenge("/story")
    for chunk in range(CHUNKS):
        header, asked = shop.payer.pay(challenge), shop.bank.asked.count("settle")
        call = asyncio.create_task(client.get("/story", headers=header))
        story.at, story.do = chunk, call.cancel
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not shop.paywall.till._tasks)
        assert len(shop.bank.moved) == chunk + 1
        assert shop.bank.asked.count("settle") == asked + 1
        again = await client.get("/story", headers=header)
        assert (again.status_code, again.content) == (200, WHOLE)
    assert story.told == CHUNKS
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
    (units,) = (await shop.ledger.totals(Party.GATEWAY, State.DELIVERED)).values()
    assert units == CHUNKS * 10_000


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_G04_an_upstream_that_dies_at_any_chunk_is_charged_once_and_made_again(shop: Any, flow: str) -> None:
    story = Story(shop)
    shop.strict = False
    client = shop.open({"GET /story": "$0.01"}, flow=flow)
    challenge = await shop.challenge("/story")

    def die() -> None:
        raise ConnectionError("upstream")

    for index, chunk in enumerate((0, 1, 2, 37, 98, 99)):
        header = shop.payer.pay(challenge)
        story.at, story.do = chunk, die
        try:
            broken = (await client.get("/story", headers=header)).content
        except Exception:  # noqa: BLE001 - a stream that breaks off is an error of the transport
            broken = b""
        assert broken != WHOLE
        # Under `authorization` nothing was charged for half an answer; `upfront` owes it.
        assert len(shop.bank.moved) == index + (flow == "upfront")
        assert (await client.get("/story", headers=header)).content == WHOLE
        assert len(shop.bank.moved) == index + 1
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


class Meddled:
    """A part whose every call is counted, and before whose n-th and later calls something happens."""

    def __init__(self, part: Any, before: Callable[[], None]) -> None:
        self._part, self._before = part, before
        self.in_process = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._before()
            return await method(*args, **kwargs)

        return call


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_E02_E10_a_ledger_that_goes_away_at_any_step_heals_by_itself(shop: Any, flow: str) -> None:
    """Gone or full from its n-th call on: 503, and nothing sent unless it was written first; well again, the same
    payment is served, and has moved once."""
    state = {"left": 10**9}

    def full() -> None:
        state["left"] -= 1
        if state["left"] < 0:
            raise UnavailableError("ledger_unavailable", "database or disk is full")

    client = shop.open({"GET /report": "$0.01"}, flow=flow, ledger=Meddled(shop.ledger, full))
    challenge = await shop.challenge()
    for step in range(40):
        header, moved = shop.payer.pay(challenge), len(shop.bank.moved)
        state["left"] = step
        response = await client.get("/report", headers=header)
        entry = await shop.ledger.unresolved(Party.GATEWAY)
        if len(shop.bank.moved) > moved:
            assert all(one.state is not State.CLAIMED for one in entry), "it was sent before that was written down"
        assert response.status_code in ((503, 200) if len(shop.bank.moved) > moved else (503,)), f"step {step}"
        healthy = state["left"] > 0
        state["left"] = 10**9
        again = await client.get("/report", headers=header)
        assert (again.status_code, len(shop.bank.moved)) == (200, moved + 1), f"step {step}"
        if healthy:
            break
    else:
        pytest.fail("it never went through")
    assert step >= 4
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


@pytest.mark.parametrize("jump", [-3600, 3600])
@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_E09_a_clock_that_jumps_at_any_step_costs_nobody_anything(shop: Any, flow: str, jump: int) -> None:
    state = {"left": 0}

    def tick() -> None:
        state["left"] -= 1
        if state["left"] == 0:
            shop.now += jump

    ledger, bank = Meddled(shop.ledger, tick), Meddled(shop.bank, tick)
    client = shop.open({"GET /report": "$0.01"}, flow=flow, ledger=ledger, facilitator=bank)
    for step in range(1, 40):
        state["left"] = 0
        start = shop.now
        header = shop.payer.pay(await shop.challenge(), now=start)
        moved, runs = len(shop.bank.moved), len(shop.runs)
        state["left"] = step
        response = await client.get("/report", headers=header)
        await shop.paywall.till.reconcile()
        again = await client.get("/report", headers=header)
        paid = len(shop.bank.moved) - moved
        # Either it was dead before it was sent, and then nothing moved; or it is paid once, and answered.
        assert paid in (0, 1)
        assert response.status_code == (200 if paid else 402), f"step {step}"
        assert again.status_code in ((200, 410) if paid else (402,))
        assert len(shop.runs) - runs <= 1
        if state["left"] > 0:
            break
        shop.now = start + 100_000
    else:
        pytest.fail("the clock jumped for ever")
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
