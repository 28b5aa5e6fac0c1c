"""Who leaves alone, who gathers and when all leave: the lanes of each key (design D8, ADR 13; faults D01, D05, E10).

The chain and the keys are scripted, so that nothing lands by itself; the ledger is real.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.facilitator.test_sender import Chain, Pool, Signed, pool
from tests.facilitator.world import Meddled, unreachable
from tests.ports.ledgers import subject
from x402.errors import UnavailableError
from x402.facilitator.evm_queue import EvmQueue
from x402.facilitator.evm_sender import Gas
from x402.ports.ledger import SqlLedger
from x402.stages import Intended

LATER = 10**6


class Blocks(Chain):
    """Says when the next block comes."""

    due: float | None = None

    def next_block(self) -> float | None:
        return self.due


class Platform:
    """A queue and those who wait in it."""

    def __init__(self, ledger: Any, *keys: str, bundle: int = 1000) -> None:
        gas = Gas(limit=10, bundle=bundle)
        self.pool: Pool = pool(*(keys or ("a",)), gas=gas)
        chain: Any = Blocks()
        self.chain = self.pool.chain = self.pool.sender._chain = chain
        self.queue = EvmQueue(chain, self.pool.sender, gas, lambda: self.pool.now)
        self.ledger = ledger
        self.placed = 0

    def place(self, count: int = 1, *, together: bool = True, on: Any = None, **signed: Any) -> list[asyncio.Task[Any]]:
        tasks = []
        for _ in range(count):
            self.placed += 1
            given: Any = Signed(**({"valid_before": LATER} | signed))
            place = self.queue.place(subject(f"pay{self.placed}"), given, on or self.ledger, together=together)
            tasks.append(asyncio.create_task(place))
        return tasks

    async def left(self, tasks: list[asyncio.Task[Any]]) -> list[tuple[str, int | None, int]]:
        """Those of them that have left: key, nonce, and how many share it."""
        for _ in range(20):
            await asyncio.sleep(0.002)
        stages = [task.result()[0].stage for task in tasks if task.done()]
        return [(stage.sender, stage.nonce, stage.shares) for stage in stages]

    def flights(self) -> dict[str, int]:
        return {address: lane.flights for address, lane in self.queue._lanes.items()}


async def test_light_load_waits_for_nothing_and_the_next_ones_gather(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    first = platform.place()
    assert await platform.left(first) == [("a", 0, 1)]
    others = platform.place(3)
    assert await platform.left(others) == []
    assert platform.flights() == {"a": 1}
    platform.queue.landed("a:0")
    assert await platform.left(others) == [("a", 1, 3)] * 3
    # What is not in the air any more lets nobody go, and what never was.
    more = platform.place()
    platform.queue.landed("a:0")
    platform.queue.landed("unknown")
    assert await platform.left(more) == []
    platform.queue.landed("a:1")
    assert await platform.left(more) == [("a", 2, 1)]


async def test_those_who_were_checked_together_leave_together(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    assert await platform.left(platform.place(5)) == [("a", 0, 5)] * 5


async def test_four_times_as_many_as_left_last_wait_for_no_block(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    first = platform.place(2)
    assert await platform.left(first) == [("a", 0, 2)] * 2
    waiting = platform.place(7)
    assert await platform.left(waiting) == []
    waiting += platform.place(1)
    assert await platform.left(waiting) == [("a", 1, 8)] * 8
    assert platform.flights() == {"a": 2}


async def test_a_full_transaction_leaves_at_once_and_takes_no_more(ledger: SqlLedger) -> None:
    platform = Platform(ledger, bundle=30)
    first = platform.place(4)
    assert await platform.left(first) == [("a", 0, 3)] * 3
    first += platform.place(2)
    assert (await platform.left(first))[3:] == [("a", 1, 3)] * 3


async def test_no_key_has_more_than_eight_in_the_air(ledger: SqlLedger) -> None:
    platform = Platform(ledger, bundle=20)
    tasks = platform.place(20)
    assert len(await platform.left(tasks)) == 16
    assert platform.flights() == {"a": 8}
    platform.queue.landed("a:3")
    assert len(await platform.left(tasks)) == 18


async def test_several_keys_share_the_load_before_any_sends_twice(ledger: SqlLedger) -> None:
    platform = Platform(ledger, "a", "b", bundle=20)
    tasks = platform.place(8)
    assert sorted(await platform.left(tasks)) == [
        (key, nonce, 2) for key in "ab" for nonce in (0, 1) for _ in range(2)
    ]  # fmt: skip
    assert platform.pool.sender.able() == ["a", "b"]


@pytest.mark.parametrize(
    ("signed", "together", "bundle"),
    [({}, False, 1000), ({}, True, 19), ({"valid_before": 1029}, True, 1000), ({"sender": "b"}, False, 1000)],
)
async def test_D05_who_may_not_or_cannot_wait_goes_alone(
    ledger: SqlLedger, signed: dict[str, Any], together: bool, bundle: int
) -> None:
    platform = Platform(ledger, "a", "b", bundle=bundle)
    sender = signed.pop("sender", "")
    given: Any = Signed(**({"valid_before": LATER, "sender": sender} | signed))
    tasks = [
        asyncio.create_task(platform.queue.place(subject(name), given, ledger, together=together))
        for name in ("one", "two")
    ]
    left = await platform.left(tasks)
    assert sorted(left) == ([("b", 0, 1), ("b", 1, 1)] if sender else [("a", 0, 1), ("b", 0, 1)])
    assert platform.flights() == {}


async def test_what_lives_half_a_minute_may_wait(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    assert await platform.left(platform.place(2, valid_before=1030)) == [("a", 0, 2)] * 2


async def test_a_transaction_holds_those_that_follow_for_four_seconds_at_most(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    await platform.left(platform.place())
    ((lane, timer),) = platform.queue._flights.values()
    assert 3 < timer.when() - asyncio.get_running_loop().time() <= 4
    waiting = platform.place()
    await platform.left(waiting)
    timer._run()
    assert await platform.left(waiting) == [("a", 1, 1)]
    assert (timer.cancelled(), lane.flights) == (True, 1)


@pytest.mark.parametrize(("due", "planned"), [(None, None), (0.25, None), (0.2, None), (10.0, 9.75)])
async def test_a_last_call_is_planned_once_a_moment_before_the_next_block(
    ledger: SqlLedger, due: float | None, planned: float | None
) -> None:
    platform = Platform(ledger)
    await platform.left(platform.place())
    platform.chain.due = due
    now = asyncio.get_running_loop().time()
    waiting = platform.place(2)
    assert await platform.left(waiting) == []
    call = platform.queue._last_call
    if planned is None:
        assert call is None
        return
    assert call is not None
    assert planned <= call.when() - now < planned + 0.4
    waiting += platform.place()
    assert await platform.left(waiting) == []
    assert platform.queue._last_call is call
    call._run()
    call.cancel()
    assert await platform.left(waiting) == [("a", 1, 3)] * 3
    assert platform.queue._last_call is None
    # Who comes after it waits for the next one.
    late = platform.place()
    assert await platform.left(late) == []
    next_call = platform.queue._last_call
    assert next_call is not None
    next_call._run()
    next_call.cancel()
    # Also one alone misses no block.
    assert await platform.left(late) == [("a", 2, 1)]


async def test_E10_what_cannot_be_written_is_told_to_all_and_frees_the_key(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    blind = Meddled(ledger, intend_together=unreachable)
    for outcome in await asyncio.gather(*platform.place(3, on=blind), return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
    assert platform.flights() == {"a": 0}
    assert await platform.left(platform.place(2)) == [("a", 0, 2)] * 2


async def test_what_another_replica_won_holds_nobody_back(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    known = platform.place(2)
    await platform.left(known)
    platform.queue.landed("a:0")
    platform.placed = 0
    again = platform.place(2)
    await platform.left(again)
    assert [(await task)[1] for task in (*known, *again)] == [True, True, False, False]
    assert (platform.flights(), platform.queue._flights, platform.queue._signing) == ({"a": 0}, {}, set())


async def test_who_gives_up_waiting_is_left_behind(ledger: SqlLedger) -> None:
    platform = Platform(ledger)
    await platform.left(platform.place())
    waiting = platform.place(3)
    await platform.left(waiting)
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    platform.queue.landed("a:0")
    assert await platform.left([waiting[0], waiting[2]]) == [("a", 1, 2)] * 2


async def test_one_transaction_is_written_into_one_ledger(ledger: SqlLedger) -> None:
    platform = Platform(ledger, "a", "b")
    async with SqlLedger() as other:
        ours, theirs = platform.place(2), platform.place(2, on=other)
        left = [*await platform.left(ours), *await platform.left(theirs)]
        assert left == [("a", 0, 2)] * 2 + [("b", 0, 2)] * 2
        entry, _ = await ours[0]
        assert isinstance(entry.stage, Intended)
        assert await other.find(entry.party, entry.subject.pay_id) is None


@pytest.fixture
def gate(ledger: SqlLedger) -> tuple[asyncio.Event, Any]:
    """A ledger that writes several together only once it may."""
    go_on = asyncio.Event()

    async def slowly(*asked: Any) -> Any:
        await go_on.wait()
        return await ledger.intend_together(*asked)

    return go_on, Meddled(ledger, intend_together=slowly)


async def test_who_gives_up_while_it_is_written_takes_nobody_along(gate: Any) -> None:
    go_on, ledger = gate
    platform = Platform(ledger)
    tasks = platform.place(3)
    await platform.left(tasks)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    go_on.set()
    assert await platform.left(tasks[1:]) == [("a", 0, 3)] * 2


async def test_E10_who_gathered_behind_a_failure_goes_as_soon_as_it_is_known(ledger: SqlLedger) -> None:
    platform, go_on = Platform(ledger), asyncio.Event()

    async def fails(*_: Any) -> Any:
        await go_on.wait()
        raise UnavailableError("ledger_unavailable", "the disk is full")

    failing = platform.place(2, on=Meddled(ledger, intend_together=fails))
    await platform.left([])
    behind = platform.place()
    assert await platform.left(behind) == []
    go_on.set()
    await asyncio.gather(*failing, return_exceptions=True)
    assert await platform.left(behind) == [("a", 0, 1)]


async def test_a_writing_that_is_broken_off_lets_everybody_go(gate: Any) -> None:
    platform = Platform(gate[1])
    tasks = platform.place(2)
    await platform.left(tasks)
    (signing,) = platform.queue._signing
    signing.cancel()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
