"""Answers out of a balance: the bound is set aside, exactly what was metered is debited, and nothing for nothing.

Faults A18, B17, E02, E11, G03-G05, G07; aimo rows 38, 77, 79, 86.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.accounts.wallets import EVM, HOST, Signer
from tests.gateway.test_every_step import Meddled
from tests.gateway.waiting import until
from x402.billing import EntryKind, Metered, PaidBy, Posting
from x402.errors import UnavailableError
from x402.gateway.accounts import Holder
from x402.gateway.recording import BrokenOff
from x402.ports.accounts import BillFilter
from x402.wire.headers import BILL

PRICE, CHUNKS, EACH = 10_000, 10, 700
WHOLE = b"".join(b"<%d>" % index for index in range(CHUNKS))
FLOWS = ["authorization", "upfront"]


class Customer:
    """An account holder of the metered shop."""

    def __init__(self, metered: Any) -> None:
        self.metered = metered
        self.grants = 0

    def open(self, **options: Any) -> Any:
        self.client = self.metered.open(**({"public_url": f"https://{HOST}"} | options))
        return self.client

    async def fill(self, units: int) -> None:
        self.grants += 1
        name = f"fill {self.grants}"
        await self.metered.book.post(
            Posting(account=self.metered.account(), kind=EntryKind.DEPOSIT, reference=name, units=units)
        )

    async def call(self, **headers: str) -> Any:
        return await self.client.post("/text", headers=Signer().header(self.metered.shop.now) | headers)

    async def heard(self) -> bytes:
        """What a call brings, also when it breaks off: then the transport raises."""
        try:
            content: bytes = (await self.call()).content
        except (ConnectionError, BrokenOff):
            return b""
        return content

    async def bills(self) -> Any:
        return await self.metered.book.bills(BillFilter(account=self.metered.account()))

    async def stands(self) -> tuple[int, int]:
        balance = await self.metered.balance()
        return balance.units, balance.reserved

    @property
    def tab(self) -> Any:
        return self.metered.shop.paywall.members.tab

    async def quiet(self) -> None:
        await until(lambda: not self.tab._tasks)

    def die(self) -> None:
        """The process is gone: nothing more is written by it."""
        for task in list(self.tab._tasks):
            task.cancel()
        self.tab.rest()


@pytest.fixture
async def customer(metered: Any) -> AsyncIterator[Customer]:
    customer = Customer(metered)
    yield customer
    if metered.pause is not None:
        metered.pause.set()
    await customer.tab.drain(1)


@pytest.mark.parametrize("flow", FLOWS)
async def test_row_038_row_077_what_is_debited_is_what_was_used(customer: Customer, flow: str) -> None:
    customer.metered.fee = 10
    customer.open(flow=flow)
    await customer.fill(50_000)
    answer = await customer.call()
    assert (answer.status_code, answer.content) == (200, WHOLE)
    await customer.quiet()
    assert await customer.stands() == (43_000, 0)
    (bill,) = await customer.bills()
    assert (bill.paid_by, bill.quoted, bill.metered.charged, bill.metered.fee) == (PaidBy.BALANCE, PRICE, 7000, 700)
    assert (bill.outcome, bill.network, bill.transaction, bill.credited) == ("served", EVM, "", 0)
    told = json.loads(base64.b64decode(answer.headers[BILL]))
    assert (told["id"], told["account"]) == (bill.bill_id, customer.metered.account())
    assert flow == "upfront" or told["charged"] == "7000"
    # No settlement was asked for, and no header says that one was.
    assert "payment-response" not in answer.headers
    assert "settle" not in customer.metered.shop.bank.asked


async def test_G07_a_hundred_calls_share_what_there_is(customer: Customer) -> None:
    """Each sets the bound aside before it begins, so the last unit is spent once."""
    customer.open(flow="authorization")
    await customer.fill(PRICE + 2 * EACH * CHUNKS)
    answers = await asyncio.gather(*(customer.call() for _ in range(100)))
    served = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} == {200, 402}
    assert customer.metered.runs == served
    units, reserved = await customer.stands()
    assert (units, reserved) == (PRICE + 2 * EACH * CHUNKS - served * 7000, 0)
    assert 1 <= served <= 3


async def test_row_079_an_empty_balance_is_a_402_with_offers_that_says_both(customer: Customer, town: Any) -> None:
    client = customer.open()
    await customer.fill(PRICE - 1)
    answer = await customer.call()
    assert answer.status_code == 402
    body = answer.json()
    assert (body["error"], body["code"]) == ("insufficient_credits", "insufficient_credits")
    assert body["details"] == {
        "account": customer.metered.account(), "available": str(PRICE - 1), "required": str(PRICE),
    }  # fmt: skip
    assert customer.metered.runs == 0
    # The same request is paid by one of its offers at once.
    header = customer.metered.shop.payer.pay(town.challenge_of(answer))
    assert (await client.post("/text", headers=header)).status_code == 200


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("chunk", [0, 1, 5, 9])
async def test_G04_an_upstream_that_dies_at_any_chunk_is_billed_as_far_as_it_came(
    customer: Customer, flow: str, chunk: int
) -> None:
    customer.metered.shop.strict = False
    customer.open(flow=flow)
    await customer.fill(50_000)
    customer.metered.fails_at = chunk
    assert await customer.heard() != WHOLE
    await customer.quiet()
    # An answer that was withheld has reached nobody; of a stream, what was made is owed.
    owed = chunk * EACH if flow == "upfront" else 0
    assert await customer.stands() == (50_000 - owed, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_row_086_an_error_costs_nothing(customer: Customer, flow: str) -> None:
    customer.open(flow=flow)
    await customer.fill(50_000)
    customer.metered.status = 503
    answer = await customer.call()
    assert (answer.status_code, BILL.lower() in answer.headers) == (503, False)
    await customer.quiet()
    assert await customer.stands() == (50_000, 0)
    assert await customer.bills() == []


@pytest.mark.parametrize("flow", FLOWS)
async def test_row_086_what_is_metered_as_nothing_costs_nothing(customer: Customer, flow: str) -> None:
    customer.metered.used = lambda chunks: Metered(model="demo", charged=0)
    customer.open(flow=flow)
    await customer.fill(50_000)
    assert (await customer.call()).status_code == 200
    await customer.quiet()
    assert await customer.stands() == (50_000, 0)
    assert [bill.metered.charged for bill in await customer.bills()] == [0]


async def hang_up_after(customer: Customer, chunks: int, **headers: str) -> None:
    metered = customer.metered
    metered.pause, metered.chunk_made = asyncio.Event(), asyncio.Event()
    metered.pause_after = chunks
    call = asyncio.create_task(customer.call(**headers))
    await metered.chunk_made.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("chunks", [1, 2, 5])
async def test_A18_a_reader_who_hangs_up_pays_for_what_was_made_until_then(customer: Customer, chunks: int) -> None:
    customer.open()
    await customer.fill(50_000)
    await hang_up_after(customer, chunks)
    await customer.quiet()
    (bill,) = await customer.bills()
    assert (bill.outcome, bill.metered.charged) == ("hung_up", bill.metered.completion_tokens * EACH)
    assert bill.metered.completion_tokens == chunks
    assert await customer.stands() == (50_000 - bill.metered.charged, 0)


async def test_A18_a_call_with_a_name_is_finished_for_whoever_comes_back(customer: Customer) -> None:
    customer.open()
    await customer.fill(50_000)
    await hang_up_after(customer, 1, **{"Idempotency-Key": "mine"})
    busy = await customer.call(**{"Idempotency-Key": "mine"})
    assert (busy.status_code, busy.headers["retry-after"]) == (409, "1")
    customer.metered.pause.set()
    await customer.quiet()
    again = await customer.call(**{"Idempotency-Key": "mine"})
    assert (again.status_code, again.content) == (200, WHOLE)
    assert customer.metered.runs == 1
    assert await customer.stands() == (43_000, 0)


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Request-ID"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_the_same_name_is_the_same_answer_and_one_debit(customer: Customer, flow: str, name: str) -> None:
    customer.open(flow=flow)
    await customer.fill(50_000)
    first = await customer.call(**{name: "call-1"})
    await customer.quiet()
    again = await customer.call(**{name: "call-1"})
    assert (first.content, again.content) == (WHOLE, WHOLE)
    assert customer.metered.runs == 1
    assert await customer.stands() == (43_000, 0)
    headers = Signer().header(customer.metered.shop.now) | {name: "call-1"}
    other = await customer.client.post("/text", content=b"other", headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    fresh = await customer.call(**{name: "call-2"})
    assert fresh.status_code == 200
    await customer.quiet()
    assert await customer.stands() == (36_000, 0)
    # Kept no longer than other answers are.
    customer.metered.shop.now += 600
    await customer.metered.shop.paywall.members.reconcile()
    gone = await customer.call(**{name: "call-1"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_gone")


async def test_a_name_of_a_call_that_failed_may_be_used_again(customer: Customer) -> None:
    customer.open(flow="authorization")
    await customer.fill(50_000)
    customer.metered.status = 502
    assert (await customer.call(**{"Idempotency-Key": "k"})).status_code == 502
    customer.metered.status = 200
    assert (await customer.call(**{"Idempotency-Key": "k"})).status_code == 200
    assert (await customer.stands())[0] == 43_000


@pytest.mark.parametrize("value", ["", " ", "a b", "é", "x" * 129])
async def test_F06_an_idempotency_key_of_another_form_is_refused(customer: Customer, value: str) -> None:
    customer.open()
    await customer.fill(50_000)
    answer = await customer.client.post(
        "/text",
        headers=[*Signer().header(customer.metered.shop.now).items(), ("Idempotency-Key", value.encode("latin-1"))],
    )
    assert (answer.status_code, customer.metered.runs) == (400, 0)
    assert await customer.stands() == (50_000, 0)


async def test_G03_a_stream_without_end_stops_at_what_was_set_aside(customer: Customer) -> None:
    customer.metered.used = lambda chunks: Metered(model="demo", completion_tokens=chunks, charged=chunks * 3000)
    customer.open()
    await customer.fill(50_000)
    assert len(await customer.heard()) < len(WHOLE)
    await customer.quiet()
    (bill,) = await customer.bills()
    assert (bill.outcome, bill.metered.charged) == ("cut", PRICE)
    assert await customer.stands() == (40_000, 0)


async def test_G05_B17_a_meter_never_charges_beyond_the_bound(customer: Customer) -> None:
    customer.metered.used = lambda chunks: Metered(model="demo", charged=10**30 if chunks == CHUNKS else 0, fee=10**40)
    customer.open(flow="authorization")
    await customer.fill(50_000)
    assert (await customer.call()).content == WHOLE
    await customer.quiet()
    assert await customer.stands() == (40_000, 0)


async def test_E11_what_a_dead_process_has_set_aside_comes_back(customer: Customer) -> None:
    customer.open()
    await customer.fill(50_000)
    customer.metered.pause, customer.metered.chunk_made = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(customer.call())
    await customer.metered.chunk_made.wait()
    assert await customer.stands() == (40_000, PRICE)
    other = Customer(customer.metered)
    dead = customer.tab
    dead.rest()
    dead._book = None
    other.open()
    for seconds, expected in ((9, (40_000, PRICE)), (1, (50_000, 0))):
        customer.metered.shop.now += seconds
        await other.tab.reconcile()
        assert await other.stands() == expected
    dead._book = customer.metered.book
    customer.metered.pause.set()
    await asyncio.gather(call, return_exceptions=True)
    # Its late debit finds nothing set aside any more.
    assert await other.stands() == (50_000, 0)


async def test_E11_control_what_is_at_work_is_kept(customer: Customer) -> None:
    customer.open()
    await customer.fill(50_000)
    customer.metered.pause, customer.metered.chunk_made = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(customer.call())
    await customer.metered.chunk_made.wait()
    customer.metered.shop.now += 9
    await customer.tab.reconcile()
    customer.metered.shop.now += 9
    await Customer(customer.metered).metered.book.release_abandoned()
    assert await customer.stands() == (40_000, PRICE)
    customer.metered.pause.set()
    assert (await call).content == WHOLE
    await customer.quiet()
    assert await customer.stands() == (43_000, 0)


async def test_a_process_that_stops_bills_what_was_made(customer: Customer) -> None:
    customer.open()
    await customer.fill(50_000)
    customer.metered.pause, customer.metered.chunk_made = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(customer.call())
    await customer.metered.chunk_made.wait()
    await customer.tab.drain(0)
    await asyncio.gather(call, return_exceptions=True)
    (bill,) = await customer.bills()
    assert bill.outcome == "stopped"
    assert await customer.stands() == (50_000 - bill.metered.charged, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_E02_a_ledger_that_goes_away_at_any_step_costs_nobody_anything_twice(
    customer: Customer, flow: str
) -> None:
    state = {"left": 10**9}

    def full() -> None:
        state["left"] -= 1
        if state["left"] < 0:
            raise UnavailableError("ledger_unavailable", "database or disk is full")

    customer.open(flow=flow, accounts=Meddled(customer.metered.book, full))
    await customer.fill(10**6)
    spent = 0
    for step in range(20):
        state["left"] = step
        answer = await customer.call(**{"Idempotency-Key": f"k{step}"})
        await customer.quiet()
        healthy = state["left"] >= 0
        state["left"] = 10**9
        if flow == "authorization":
            assert answer.status_code == (200 if healthy else 503)
        customer.metered.shop.now += 20
        await customer.metered.shop.paywall.members.reconcile()
        again = await customer.call(**{"Idempotency-Key": f"k{step}"})
        assert again.status_code == 200
        await customer.quiet()
        spent += 7000
        assert await customer.stands() == (10**6 - spent, 0)
        if healthy:
            break
    else:
        pytest.fail("it never went through")
    assert step >= 2


async def test_a_keys_limit_is_told_and_kept(customer: Customer) -> None:
    customer.open(flow="authorization")
    await customer.fill(50_000)

    class Keys:
        async def holder(self, request: Any) -> Holder | None:
            if request.header("Authorization") is None:
                return None
            return Holder(account=customer.metered.account(), key_id="k", spend_limit=2 * PRICE)

    members = customer.metered.shop.paywall.members
    members.credentials = [*members.credentials, Keys()]
    key = {"Authorization": "Bearer k"}
    assert [(await customer.client.post("/text", headers=key)).status_code for _ in range(3)] == [200, 200, 402]
    refused = await customer.client.post("/text", headers=key)
    assert refused.json()["code"] == "spend_limit_reached"
    assert refused.json()["details"]["available"] == "6000"
    assert {bill.key_id for bill in await customer.bills()} == {"k"}


async def test_200_readers_at_once_are_billed_to_the_unit(customer: Customer) -> None:
    customer.open()
    await customer.fill(200 * PRICE)
    answers = await asyncio.gather(*(customer.call() for _ in range(200)))
    assert {answer.content for answer in answers} == {WHOLE}
    await customer.quiet()
    assert await customer.stands() == (200 * PRICE - 200 * 7000, 0)
    assert len(await customer.metered.book.bills(BillFilter(), limit=500)) == 200
