"""The till by hand: who joins a sale at work, what a failure of a handler comes to, and how it is closed (A13, A22)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator.world import Meddled, unreachable
from tests.gateway.waiting import until
from x402.errors import ConflictError, MisconfiguredError, UnavailableError
from x402.gateway.flow import Till
from x402.gateway.problem import ApiProblem, status_of
from x402.gateway.sale import Refusal, Reply
from x402.lifecycle import Party
from x402.ports.ledger import SqlLedger
from x402.stages import State

NOW = 1_800_000_000
PRICED = {"GET /report": "$0.01"}
PLAIN = (("content-type", "text/plain"),)


class Counter:
    """A seller's till, and payments that are put on it."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.go_on = asyncio.Event()
        self.runs = 0

    async def open(self, flow: str = "authorization", **options: Any) -> Till:
        self.shop.open(PRICED, flow=flow, **options)
        self.challenge = await self.shop.challenge()
        self.offered = self.challenge.accepts[0]
        till: Till = self.shop.paywall.till
        self.till = till
        return till

    def signed(self) -> Any:
        return self.shop.payer.payment(self.offered, self.challenge)

    async def offer(self) -> Any:
        return self.offered

    async def quick(self, _: Any, sink: Any) -> None:
        self.runs += 1
        await sink.start(200, PLAIN)
        await sink.write(b"secret")

    async def slow(self, sale: Any, sink: Any) -> None:
        self.runs += 1
        await self.go_on.wait()
        await sink.start(200, PLAIN)
        await sink.write(b"secret")

    def take(self, payment: Any, handler: Any = None, fingerprint: str = "print") -> asyncio.Task[Reply]:
        return asyncio.create_task(self.till.take(payment, fingerprint, self.offer, handler or self.quick))

    def verify_slowly(self) -> asyncio.Event:
        """Have verifications wait for `go_on`; the event tells when the first has begun."""
        looked, verify = asyncio.Event(), self.shop.bank.verify

        async def slowly(*asked: Any) -> Any:
            looked.set()
            await self.go_on.wait()
            return await verify(*asked)

        self.shop.bank.verify = slowly
        return looked

    async def state(self) -> State:
        entry = await self.shop.entry()
        state: State = entry.state
        return state


@pytest.fixture
def counter(shop: Any) -> Counter:
    return Counter(shop)


async def body(reply: Reply) -> bytes:
    return b"".join([piece async for piece in reply.chunks])


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
async def test_B01_another_request_never_joins_a_sale_at_work(counter: Counter, first: str, second: str) -> None:
    await counter.open()
    payment = counter.signed()
    selling = counter.take(payment, counter.slow, first)
    await until(lambda: counter.runs)
    with pytest.raises(Refusal) as refused:
        await asyncio.wait_for(counter.take(payment, fingerprint=second), 1)
    assert isinstance(refused.value.error, ConflictError)
    assert refused.value.error.code == "payment_already_used"
    # Control: the same request gets the same answer.
    joined = counter.take(payment, fingerprint=first)
    await asyncio.sleep(0.01)
    counter.go_on.set()
    assert await body(await selling) == await body(await joined) == b"secret"
    assert counter.runs == 1


async def test_A13_who_joins_is_asked_for_the_very_same_payment_also_before_it_is_claimed(counter: Counter) -> None:
    """While the first is being verified, nothing is remembered of it yet."""
    await counter.open()
    payment, looked = counter.signed(), counter.verify_slowly()
    forged = payment.model_copy(update={"payload": {**payment.payload, "signature": "0x" + "11" * 64 + "1b"}})
    selling = counter.take(payment)
    await looked.wait()
    thief, friend = counter.take(forged), counter.take(payment)
    await asyncio.sleep(0.01)
    assert not thief.done()
    counter.go_on.set()
    assert await body(await selling) == await body(await friend) == b"secret"
    with pytest.raises(Refusal) as refused:
        await thief
    assert isinstance(refused.value.error, ConflictError)
    assert counter.runs == 1


async def test_A13_garbage_that_came_first_does_not_keep_the_real_payment_out(counter: Counter) -> None:
    await counter.open()
    payment, looked = counter.signed(), counter.verify_slowly()
    forged = payment.model_copy(update={"payload": {**payment.payload, "signature": "0x" + "11" * 64 + "1b"}})
    thief = counter.take(forged)
    await looked.wait()
    selling = counter.take(payment)
    await asyncio.sleep(0.01)
    counter.go_on.set()
    with pytest.raises(Refusal):
        await thief
    assert await body(await selling) == b"secret"


async def test_F14_what_is_no_payment_is_refused_before_anything_runs(counter: Counter) -> None:
    await counter.open()
    payment = counter.signed()
    for nothing in (
        payment.model_copy(update={"payload": {}}),
        payment.model_copy(update={"network": "eip155:999"}),
    ):
        with pytest.raises(Refusal):
            await counter.take(nothing)
    assert (counter.till._tasks, counter.runs) == (set(), 0)


async def test_A22_closing_waits_for_the_sales_at_work(counter: Counter) -> None:
    till = await counter.open()
    selling = counter.take(counter.signed(), counter.slow)
    await until(lambda: counter.runs)
    closing = asyncio.create_task(till.drain(5))
    await asyncio.sleep(0.01)
    assert not closing.done()
    counter.go_on.set()
    assert await body(await selling) == b"secret"
    await closing
    assert len(counter.shop.bank.moved) == 1


async def test_A22_closing_leaves_what_takes_too_long_to_the_ledger(counter: Counter, tmp_path: Path) -> None:
    """Nothing of it runs on, its row is given back for others, and nothing is renewed any more."""
    path = f"sqlite:///{tmp_path / 'gateway.sqlite'}"
    async with SqlLedger(path, clock=lambda: NOW) as ours, SqlLedger(path, clock=lambda: NOW) as elsewhere:
        counter.shop.ledger = ours
        till = await counter.open()
        calls = [counter.take(counter.signed(), counter.slow) for _ in range(3)]
        await until(lambda: counter.runs == 3)
        till.register.leases.keep("another")
        await till.drain(0.01)
        assert (till._tasks, till._running) == (set(), {})
        assert (till.register.leases._held, till.register.leases._beating) == (set(), None)
        left = await ours.unresolved(Party.GATEWAY)
        assert [entry.state for entry in left] == [State.CLAIMED] * 3
        assert [await elsewhere.lease(Party.GATEWAY, entry.subject.pay_id, 60) for entry in left] == [True] * 3
        # Whoever waited is let go.
        assert all(isinstance(end, BaseException) for end in await asyncio.gather(*calls, return_exceptions=True))


async def test_A22_a_sale_that_is_over_is_not_joined_but_replayed(counter: Counter) -> None:
    till = await counter.open()
    payment = counter.signed()
    assert await body(await counter.take(payment)) == b"secret"
    await until(lambda: not till._tasks)
    assert till._running == {}
    assert await body(await counter.take(payment)) == b"secret"
    assert counter.runs == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("a secret of ours"), 500, "handler_failed"),
        (UnavailableError("upstream_failed", "the upstream is away"), 503, "upstream_failed"),
        (TimeoutError(), 500, "handler_failed"),
    ],
)
async def test_A22_what_was_paid_and_not_answered_is_owed_and_says_so(
    counter: Counter, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    await counter.open("upfront")
    payment = counter.signed()

    async def fails(*_: Any) -> None:
        raise error

    with pytest.raises(Refusal) as told:
        await counter.take(payment, fails)
    problem = told.value.error
    assert isinstance(problem, ApiProblem)
    assert (status_of(problem), problem.code, str(problem.moved)) == (status, code, "yes")
    assert "a secret of ours" not in str(problem)
    assert told.value.receipt is not None
    assert told.value.receipt.success
    assert await counter.state() is State.OWED
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    # Control: the same payment asks again, and nothing is taken for it.
    assert await body(await counter.take(payment)) == b"secret"
    assert counter.shop.bank.asked.count("settle") == 1


async def test_A22_a_handler_that_never_begins_an_answer_is_a_failure(counter: Counter) -> None:
    await counter.open("upfront")

    async def says_nothing(*_: Any) -> None:
        return

    with pytest.raises(Refusal) as told:
        await counter.take(counter.signed(), says_nothing)
    assert told.value.error.code == "handler_failed"
    assert await counter.state() is State.OWED


async def test_E02_a_ledger_that_is_away_is_told_as_such_and_nothing_is_asked(counter: Counter) -> None:
    till = await counter.open()
    till.register.ledger = Meddled(till.register.ledger, find=unreachable)
    with pytest.raises(Refusal) as told:
        await counter.take(counter.signed())
    assert isinstance(told.value.error, UnavailableError)
    assert "verify" not in counter.shop.bank.asked


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
@pytest.mark.parametrize(("status", "charged"), [(399, True), (400, False)])
async def test_A21_an_error_is_what_begins_at_400(counter: Counter, flow: str, status: int, charged: bool) -> None:
    await counter.open(flow)

    async def answers(_: Any, sink: Any) -> None:
        await sink.start(status, PLAIN)
        await sink.write(b"answer")

    reply = await counter.take(counter.signed(), answers)
    assert (reply.status, await body(reply)) == (status, b"answer")
    await until(lambda: not counter.till._tasks)
    totals = counter.shop.ledger.totals
    if charged:
        assert await totals(Party.GATEWAY, State.DELIVERED)
    else:
        assert await counter.state() is (State.CLAIMED if flow == "authorization" else State.OWED)
    assert bool(counter.shop.bank.moved) is (charged or flow == "upfront")


@pytest.mark.parametrize("swallowed", [True, False])
async def test_A02_an_answer_beyond_the_limit_is_broken_off_at_once_and_not_sold(
    counter: Counter, swallowed: bool
) -> None:
    till = await counter.open()
    till._answer_limit = 100

    async def endless(_: Any, sink: Any) -> None:
        await sink.start(200, PLAIN)
        with suppress(*[MisconfiguredError] * swallowed):
            while True:
                counter.runs += 1
                await sink.write(b"x" * 60)

    with pytest.raises(Refusal) as told:
        await asyncio.wait_for(counter.take(counter.signed(), endless), 5)
    assert (told.value.error.code, counter.runs) == ("answer_too_large", 2)
    assert await counter.state() is State.CLAIMED


async def test_A21_a_handler_that_fails_is_not_paid_and_its_failure_is_its_callers(counter: Counter) -> None:
    await counter.open()

    async def fails(_: Any, sink: Any) -> None:
        await sink.start(200, PLAIN)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await counter.take(counter.signed(), fails)
    assert (await counter.state(), counter.shop.bank.moved) == (State.CLAIMED, {})


@pytest.mark.parametrize("family", ["eip155", "solana"])
async def test_A17_control_work_that_may_take_its_time_is_paid_after_it(counter: Counter, family: str) -> None:
    await counter.open()
    counter.offered = next(one for one in counter.challenge.accepts if one.network.startswith(family))
    paid_before: list[int] = []

    async def works(_: Any, sink: Any) -> None:
        paid_before.append(len(counter.shop.bank.moved))
        await counter.quick(_, sink)

    assert await body(await counter.take(counter.signed(), works)) == b"secret"
    assert (paid_before, len(counter.shop.bank.moved)) == ([0], 1)


async def test_F14_the_same_payment_in_the_other_dialect_joins_the_sale_at_work(counter: Counter) -> None:
    await counter.open()
    payment = counter.signed()
    selling = counter.take(payment, counter.slow)
    await until(lambda: counter.runs)
    joined = counter.take(payment.model_copy(update={"version": 1, "accepted": None, "resource": None}))
    await asyncio.sleep(0.01)
    assert not joined.done()
    counter.go_on.set()
    assert await body(await selling) == await body(await joined) == b"secret"
    assert ((await joined).version, counter.runs) == (1, 1)


async def test_A17_how_long_a_handler_may_work_unless_its_seller_says_otherwise(counter: Counter) -> None:
    till = await counter.open()
    assert (Till(till.register)._answer_limit, Till(till.register)._timeout) == (8_388_608, 600.0)
    for family, seconds in (("eip155", 300 - 20), ("solana", 60 - 20)):
        counter.offered = next(one for one in counter.challenge.accepts if one.network.startswith(family))
        job = await till.register.claim(counter.signed(), "print", counter.offered)
        job.entry = replace(job.entry, created_at=NOW)
        assert till._patience(job) == seconds


async def test_how_long_an_answer_took_is_known_in_thousandths(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = await counter.open()
    till._timeout = 10**9
    loop, jumped = asyncio.get_running_loop(), [0]
    real, sales = loop.time, []
    monkeypatch.setattr(loop, "time", lambda: real() + jumped[0])

    async def works(sale: Any, sink: Any) -> None:
        sales.append(sale)
        await sink.start(200, PLAIN)
        if len(sales) == 1:
            jumped[0] += 40_000
            await sink.write(b"secret")
        jumped[0] += 60_000

    for _ in range(2):
        await counter.take(counter.signed(), works)
    assert 100_000_000 <= sales[0].latency_ms < 100_050_000
    assert 40_000_000 <= sales[0].first_token_ms < 40_030_000
    # An answer without a body has no first byte.
    assert (60_000_000 <= sales[1].latency_ms < 60_050_000, sales[1].first_token_ms) == (True, None)
