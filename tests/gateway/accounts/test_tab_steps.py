"""Each step of a sale out of a balance, with its tab driven by hand (faults A17, A18, E02, E11, G03, G04, G06)."""

from __future__ import annotations

import asyncio
import gc
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tests.gateway.accounts.guest import EACH, LEASE, PRICE, SOON, TEXT, UPFRONT, WITHHELD, Guest, Model, read
from tests.gateway.waiting import until
from x402.billing import Metered
from x402.errors import MisconfiguredError, UnavailableError, X402Error
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale, Sink
from x402.gateway.terms import Flow, Terms
from x402.ports.accounts import NotHeld
from x402.telemetry import Fact
from x402.wire.headers import BILL, decode_header, only


async def test_a_stream_is_played_while_it_is_made_and_draining_waits_for_it(guest: Guest) -> None:
    model = Model(b"one", b"two", waits=True)
    reply = await guest.take(model)
    assert (reply.status, await asyncio.wait_for(anext(aiter(reply.chunks)), SOON)) == (200, b"one")
    told = {"id": model.sale.pay_id, "account": guest.account, "quoted": str(PRICE)}
    assert decode_header(only(reply.headers, BILL) or "") == told
    draining = asyncio.create_task(guest.tab.drain(SOON))
    await asyncio.sleep(0.01)
    model.go_on.set()
    assert await read(reply) == (b"two", True)
    await draining
    assert await guest.bill() == ("served", 2 * EACH)


@pytest.mark.parametrize(("status", "sold"), [(399, True), (400, False)])
@pytest.mark.parametrize("flow", [UPFRONT, WITHHELD])
async def test_row_086_errors_begin_with_status_400(guest: Guest, flow: Flow, status: int, sold: bool) -> None:
    reply = await guest.take(Model(b"words", status=status), flow)
    assert (reply.status, await read(reply)) == (status, (b"words", True))
    header = only(reply.headers, BILL)
    assert (header and "charged" in decode_header(header)) == ((flow is WITHHELD) if sold else None)
    assert [bill.metered.charged for bill in await guest.bills()] == [EACH] * sold


async def test_A17_a_handler_is_told_its_whole_seconds_and_at_least_one(guest: Guest) -> None:
    for timeout, told in ((0.5, 1), (1.9, 1), (2.5, 2)):
        guest.open(timeout=timeout)
        model = Model(b"words")
        await guest.take(model, WITHHELD)
        assert model.sale.requirement.max_timeout_seconds == told


async def test_A17_a_handler_that_says_nothing_in_time_is_an_error_and_costs_nothing(guest: Guest) -> None:
    guest.open(timeout=0.02)
    with pytest.raises(UnavailableError, match=r"^handler_timeout: no answer within 0\.02 seconds$"):
        await guest.take(Model(status=0, waits=True))
    with pytest.raises(TimeoutError, match=r"^its own$"):
        await guest.take(Model(status=0, fails=TimeoutError("its own")))
    with pytest.raises(RuntimeError, match=r"^the handler returned without an answer$"):
        await guest.take(Model(status=0))
    assert await guest.bills() == []


async def test_only_an_answer_that_is_withheld_may_not_be_too_long(guest: Guest) -> None:
    guest.open(limit=10)
    with pytest.raises(MisconfiguredError, match="10 bytes"):
        await guest.take(Model(b"x" * 11), WITHHELD)
    assert await read(await guest.take(Model(b"x" * 11))) == (b"x" * 11, True)
    assert await read(await guest.take(Model(b"x" * 10), WITHHELD)) == (b"x" * 10, True)
    assert len(await guest.bills()) == 2


async def test_E11_what_is_at_work_is_renewed_thrice_a_lease(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    over = asyncio.Semaphore(0)

    async def nap(seconds: float) -> None:
        asked.append(seconds)
        await over.acquire()

    async def beat() -> None:
        so_far = len(asked)
        over.release()
        await until(lambda: len(asked) > so_far)

    monkeypatch.setattr("x402.gateway.accounts.tab.asyncio", SimpleNamespace(**(vars(asyncio) | {"sleep": nap})))
    first, second = Model(b"one", waits=True), Model(b"two", waits=True)
    await guest.take(first)
    beating: Any = guest.tab._beating
    await guest.take(second)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(guest.book, "keep", AsyncMock(side_effect=UnavailableError("ledger_unavailable", "away")))
        await beat()
    first.go_on.set()
    await until(lambda: len(guest.tab._tasks) == 1)
    for _ in range(2):
        guest.shop.now += LEASE - 1
        await beat()
    assert (await guest.book.release_abandoned(), asked) == ([], [LEASE / 3] * 4)
    assert (guest.tab._beating, beating.cancelling()) == (beating, 0)
    second.go_on.set()
    assert [bill.outcome for bill in await guest.bills()] == ["served"] * 2
    await until(beating.cancelled)


async def test_E11_reconciling_tells_how_many_reservations_came_back(guest: Guest) -> None:
    await guest.reserve()
    model = Model(b"words", waits=True)
    await guest.take(model)
    guest.shop.now += LEASE
    assert [await guest.tab.reconcile() for _ in range(2)] == [1, 0]
    assert (await guest.book.balance(guest.account)).reserved == PRICE
    model.go_on.set()
    assert await guest.bill() == ("served", EACH)


async def test_A18_for_a_reader_who_left_before_it_began_nothing_is_made(guest: Guest) -> None:
    order = guest.tab._order(await guest.reserve(), PaidRequest("POST", "/text", (), b""), Terms(price="$0.01"))
    model = Model(b"words")
    guest.tab._hung_up(order)
    await asyncio.wait_for(guest.tab._serve(order, model), SOON)
    assert (model.sale, getattr(order.ended.exception(), "code", "")) == (None, "answer_stopped")
    assert await guest.bills() == []


async def test_A18_an_error_that_nobody_waits_for_troubles_nobody(guest: Guest) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    model = Model(status=0, waits=True)
    taking = guest.taking(model)
    await asyncio.wait_for(model.made.wait(), SOON)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    del taking
    assert await guest.bills() == []
    gc.collect()
    assert told == []


@pytest.mark.parametrize(("name", "ended"), [("", ("hung_up", EACH)), ("mine", ("served", 3 * EACH))])
async def test_A18_closing_a_stream_ends_it_unless_it_has_a_name(guest: Guest, name: str, ended: object) -> None:
    guest.open(limit=10)
    model = Model(b"one", b"x" * 300 * 1024, b"three", waits=True)
    reply = await guest.take(model, name=name)
    if name:
        model.go_on.set()
        # The second piece is more than a handler may run ahead of its reader.
        await until(lambda: model.sale.metered.charged == 2 * EACH)
    await reply.chunks.aclose()
    assert await guest.bill() == ended


async def test_G03_all_that_was_set_aside_may_be_used_and_no_unit_more(guest: Guest) -> None:
    assert await read(await guest.take(Model(b"one", b"two", each=PRICE // 2))) == (b"onetwo", True)
    assert await read(await guest.take(Model(b"one", b"two", each=PRICE // 2 + 1))) == (b"one", False)
    assert {(bill.outcome, bill.metered.charged) for bill in await guest.bills()} == {("served", PRICE), ("cut", PRICE)}


async def test_G04_a_stream_that_fails_is_told_to_who_runs_it(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    failure = ConnectionError("upstream")
    with caplog.at_level(logging.ERROR, "x402.gateway"):
        assert await read(await guest.take(Model(b"one", b"two"))) == (b"onetwo", True)
        assert await read(await guest.take(Model(b"one", fails=failure))) == (b"one", False)
        assert {bill.outcome for bill in await guest.bills()} == {"served", "failed"}
    told = [record for record in caplog.records if record.name == "x402.gateway"]
    assert [record.getMessage() for record in told] == ["a handler failed after its answer had begun"]
    assert [record.exc_info and record.exc_info[1] for record in told] == [failure]


@pytest.mark.parametrize(("each", "stop"), [(EACH, None), (EACH, EACH + 200), (None, None)])
@pytest.mark.parametrize("drained", [True, False])
async def test_a_stream_that_is_stopped_breaks_off_and_costs_what_was_metered(
    guest: Guest, each: int | None, stop: int | None, drained: bool
) -> None:
    reply = await guest.take(Model(b"one", each=each, stop=stop, waits=True))
    if drained:
        await guest.tab.drain(0)
        assert not guest.tab._tasks, "what is owed is written by then"
    for task in list(guest.tab._tasks):
        task.cancel()
    assert await read(reply) == (b"one", False)
    assert await guest.bill() == ("stopped", stop or each or 0)


@pytest.mark.parametrize("how", ["stopped", "failed"])
async def test_a_withheld_answer_that_does_not_come_to_its_end_costs_nothing(guest: Guest, how: str) -> None:
    fails = ConnectionError("upstream") if how == "failed" else None
    model = Model(b"one", b"two", fails=fails, waits=True)
    taking = guest.taking(model, WITHHELD)
    await asyncio.wait_for(model.made.wait(), SOON)
    if how == "stopped":
        await guest.tab.drain(0)
    model.go_on.set()
    with pytest.raises(ConnectionError if fails else UnavailableError) as told:
        await asyncio.wait_for(taking, SOON)
    assert getattr(told.value, "code", told.value) == (fails or "answer_stopped")
    assert await guest.bills() == []


async def test_a_sale_that_was_cancelled_before_it_began_is_not_renewed_after_draining(guest: Guest) -> None:
    taking = guest.taking(Model(b"words"))
    async with asyncio.timeout(SOON):
        while not guest.tab._tasks:  # noqa: ASYNC110 - it is cancelled in the very turn in which it is made
            await asyncio.sleep(0)
    next(iter(guest.tab._tasks)).cancel()
    await guest.tab.drain(0)
    assert guest.tab._beating is None
    taking.cancel()


@pytest.mark.parametrize(
    ("name", "ending", "outcome"),
    [("mine", "", "served"), ("", "", "served"), ("mine", "long", "served"), ("", "long", "served"),
     ("mine", "cut", "cut"), ("mine", "fails", "failed"), ("mine", "stops", "stopped")],
)  # fmt: skip
async def test_only_a_whole_answer_with_a_name_is_kept_for_who_asks_again(
    guest: Guest, name: str, ending: str, outcome: str
) -> None:
    guest.open(limit=10 if ending == "long" else 1000)
    fails, each = (ConnectionError("upstream") if ending == "fails" else None), PRICE if ending == "cut" else EACH
    model = Model(b"one", b"x" * 10, each=each, fails=fails, waits=True)
    reply = await guest.take(model, name=name)
    if ending == "stops":
        await guest.tab.drain(0)
    model.go_on.set()
    assert (await read(reply))[1] is (outcome == "served")
    (bill,) = await guest.bills()
    kept = bool(name) and not ending
    assert (bill.outcome, await guest.register.ledger.answer(bill.bill_id) is not None) == (outcome, kept)
    if kept:
        assert await read(await guest.take(model, name=name)) == (b"one" + b"x" * 10, True)
    elif name:
        with pytest.raises(ApiProblem, match=r"^answer_gone: "):
            await guest.take(model, name=name)


@pytest.mark.parametrize("flow", [UPFRONT, WITHHELD])
@pytest.mark.parametrize(("error", "code"), [
    (UnavailableError("gone", "away"), "gone"), (NotHeld(""), "reservation_lost"), (KeyError(), "answer_unavailable"),
])  # fmt: skip
async def test_E02_an_answer_that_could_not_be_billed_does_not_go_out_and_is_told(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, flow: Flow, error: Exception, code: str
) -> None:
    monkeypatch.setattr(guest.book, "settle", AsyncMock(side_effect=error))
    model = Model(b"words", waits=True)
    taking = guest.taking(model, flow)
    await asyncio.wait_for(model.made.wait(), SOON)
    serving = list(guest.tab._tasks)
    if flow is UPFRONT:
        await guest.tab.drain(0)
        assert await read(await asyncio.wait_for(taking, SOON)) == (b"words", False)
    else:
        model.go_on.set()
        with pytest.raises(X402Error) as told:
            await asyncio.wait_for(taking, SOON)
        assert told.value.code == code
    await asyncio.gather(*serving, return_exceptions=True)
    told_of = [Fact("balance.unbilled", {"account": guest.account, "units": EACH})]
    assert guest.facts == told_of * (code != "answer_unavailable")
    assert (guest.tab._orders, guest.tab._tasks, guest.tab._beating) == (set(), set(), None)
    assert (await guest.book.balance(guest.account)).reserved == PRICE


@pytest.mark.parametrize(("piece", "first_ms"), [(b"words", 2250), (b"", None)])
async def test_row_077_what_was_sold_is_told_with_its_milliseconds_and_the_platforms_fee_is_not_earned(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, piece: bytes, first_ms: int | None
) -> None:
    times = [100.0]

    async def handler(sale: Sale, sink: Sink) -> None:
        await sink.start(200, TEXT)
        sale.metered = Metered(model="m", charged=EACH, fee=70)
        times.append(102.25)
        await sink.write(piece)
        times.append(105.75)

    clock = SimpleNamespace(time=lambda: times[-1], create_future=asyncio.get_running_loop().create_future)
    timed = SimpleNamespace(**(vars(asyncio) | {"get_running_loop": lambda: clock}))
    for module in ("x402.gateway.accounts.tab", "x402.gateway.recording"):
        monkeypatch.setattr(f"{module}.asyncio", timed)
    await read(await guest.take(handler))
    (bill,) = await guest.bills()
    assert (bill.latency_ms, bill.first_token_ms, bill.earned) == (5750, first_ms, EACH - 70)
    assert guest.facts == [Fact("balance.charged", {"units": EACH}), Fact("answer.sold", bill.facts())]
