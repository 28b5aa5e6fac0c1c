"""What is paid and not used goes to the payer's account, in the transaction that marks the payment delivered.

So it is never lost and never given twice, at whatever step a process dies. Faults A22, G07; aimo rows 75, 77, 81, 84.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.gateway.test_every_step import Meddled
from x402 import networks
from x402.billing import EntryKind, PaidBy
from x402.errors import UnavailableError
from x402.gateway.accounts.credits import micro_units
from x402.lifecycle import Party
from x402.ports.accounts import BillFilter
from x402.stages import Credited, State

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICE, CHUNKS, EACH = 10_000, 10, 700
UNUSED = PRICE - CHUNKS * EACH
FLOWS = ["authorization", "upfront"]


async def bills_of(metered: Any, network: str = EVM) -> Any:
    return await metered.book.bills(BillFilter(account=metered.account(network)))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_row_075_row_077_what_is_not_used_is_credited_and_told(
    metered: Any, town: Any, flow: str, network: str
) -> None:
    metered.fee = 10
    client = metered.open(flow=flow)
    header = await metered.pay(network)
    answer = await client.post("/text", headers=header)
    assert answer.status_code == 200
    balance = await metered.balance(network)
    assert (balance.units, balance.reserved) == (UNUSED, 0)
    (bill,) = await bills_of(metered, network)
    assert (bill.paid_by, bill.quoted, bill.metered.charged, bill.metered.fee) == (PaidBy.EXACT, PRICE, 7000, 700)
    assert (bill.credited, bill.earned, bill.network) == (UNUSED, 6300, network)
    assert bill.transaction == metered.shop.bank.moved[bill.bill_id]
    assert bill.metered.charged + bill.credited == PRICE
    # The same payment again is the same answer, with the credit in its receipt, and no other credit.
    again = await client.post("/text", headers=header)
    assert again.content == answer.content
    told = town.receipt_of(again).extra["credit"]
    assert told == {"account": metered.account(network), "units": str(UNUSED)}
    if flow == "authorization":
        assert town.receipt_of(answer).extra["credit"] == told
    assert (await metered.balance(network)).units == UNUSED


async def test_row_081_the_bill_has_units_rates_fee_network_transaction_and_payer(metered: Any) -> None:
    client = metered.open()
    await client.post("/text", headers=await metered.pay())
    (bill,) = await bills_of(metered)
    assert (bill.metered.model, bill.metered.provider, bill.metered.completion_tokens) == ("demo", "one", CHUNKS)
    assert (bill.account, bill.network, bill.outcome) == (metered.account(), EVM, "served")
    assert bill.latency_ms >= (bill.first_token_ms or 0) >= 0
    assert bill.transaction


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_handler_that_meters_nothing_sells_at_its_price(metered: Any, flow: str) -> None:
    metered.shop.open({"GET /report": "$0.01"}, accounts=True, flow=flow)
    client = metered.shop.client
    header = metered.shop.payer.pay(await metered.shop.challenge())
    assert (await client.get("/report", headers=header)).status_code == 200
    assert (await metered.balance()).units == 0
    (bill,) = await bills_of(metered)
    assert (bill.metered.charged, bill.credited) == (PRICE, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_without_accounts_nothing_is_booked(metered: Any, flow: str) -> None:
    client = metered.open(accounts=False, flow=flow)
    assert (await client.post("/text", headers=await metered.pay())).status_code == 200
    assert (await metered.balance()).units == 0
    assert await bills_of(metered) == []


@pytest.mark.parametrize("charged", [-5, 0, PRICE, PRICE + 1, 10**30])
async def test_B17_no_meter_charges_beyond_the_price_or_below_nothing(metered: Any, charged: int) -> None:
    from x402.billing import Metered

    metered.used = lambda chunks: Metered(model="demo", charged=charged, fee=charged)
    client = metered.open()
    await client.post("/text", headers=await metered.pay())
    (bill,) = await bills_of(metered)
    assert bill.metered.charged == min(max(0, charged), PRICE)
    assert bill.metered.fee <= bill.metered.charged
    assert (await metered.balance()).units == PRICE - bill.metered.charged


async def consistent(metered: Any) -> None:
    """Every unit that was paid is sold, or lies in the account, or is still open; and the entries say so."""
    shop = metered.shop
    delivered = sum((await shop.ledger.totals(Party.GATEWAY, State.DELIVERED)).values())
    credited = sum((await shop.ledger.totals(Party.GATEWAY, State.CREDITED)).values())
    bills = await bills_of(metered)
    balance = await metered.balance()
    entries = await metered.book.statement(metered.account(), limit=1000)
    assert sum(entry.units for entry in entries) == balance.units
    assert balance.units == delivered + credited - sum(bill.metered.charged for bill in bills)
    assert len({entry.reference for entry in entries}) == len(entries)


@pytest.mark.parametrize("flow", FLOWS)
async def test_A22_G07_whatever_write_fails_the_credit_is_given_once(metered: Any, flow: str) -> None:
    state = {"left": 10**9}

    def full() -> None:
        state["left"] -= 1
        if state["left"] < 0:
            raise UnavailableError("ledger_unavailable", "database or disk is full")

    metered.shop.ledger_seen = Meddled(metered.shop.ledger, full)
    client = metered.open(flow=flow, ledger=metered.shop.ledger_seen, accounts=metered.book)
    for step in range(40):
        header = await metered.pay()
        state["left"] = step
        await client.post("/text", headers=header)
        healthy = state["left"] > 0
        state["left"] = 10**9
        metered.shop.now += 20
        await metered.shop.paywall.till.reconcile()
        await consistent(metered)
        assert (await client.post("/text", headers=header)).status_code == 200
        await consistent(metered)
        assert (await metered.balance()).units == (step + 1) * UNUSED
        if healthy:
            break
    else:
        pytest.fail("it never went through")
    assert step >= 3


@pytest.mark.parametrize("flow", FLOWS)
async def test_A22_a_process_that_dies_at_any_chunk_loses_no_credit(metered: Any, flow: str) -> None:
    """The sale is cancelled in the middle, and another process opens the same ledger."""
    for _ in range(3):
        client = metered.open(flow=flow)
        header = await metered.pay()
        metered.pause, metered.chunk_made = asyncio.Event(), asyncio.Event()
        call = asyncio.create_task(client.post("/text", headers=header))
        await metered.chunk_made.wait()
        await metered.shop.paywall.till.drain(0)
        await asyncio.gather(call, return_exceptions=True)
        metered.pause = None
        client = metered.open(flow=flow)
        metered.shop.now += 20
        await metered.shop.paywall.till.reconcile()
        await consistent(metered)
        assert (await client.post("/text", headers=header)).status_code == 200
        await consistent(metered)
    assert (await metered.balance()).units == 3 * UNUSED


async def test_row_084_what_was_paid_and_never_answered_is_credited_in_the_end(metered: Any, town: Any) -> None:
    client = metered.open()
    header = await metered.pay()
    metered.status = 502
    assert (await client.post("/text", headers=header)).status_code == 502
    entry = await metered.shop.entry()
    assert entry.state is State.OWED
    metered.shop.now += 599
    await metered.shop.paywall.till.reconcile()
    assert (await metered.balance()).units == 0
    metered.shop.now += 1
    for _ in range(3):
        assert await metered.shop.paywall.till.reconcile() == 0
    assert (await metered.balance()).units == PRICE
    known = await metered.shop.ledger.find(Party.GATEWAY, entry.subject.pay_id)
    assert isinstance(known.stage, Credited)
    assert known.stage.account == metered.account()
    # Mended or not, nothing is made for it any more; the receipt says where the money is.
    metered.status = 200
    gone = await client.post("/text", headers=header)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "payment_credited")
    assert town.receipt_of(gone).transaction == known.stage.transaction
    await consistent(metered)


async def test_row_084_control_who_asks_in_time_is_served(metered: Any) -> None:
    client = metered.open()
    header = await metered.pay()
    metered.status = 502
    await client.post("/text", headers=header)
    metered.status = 200
    assert (await client.post("/text", headers=header)).status_code == 200
    metered.shop.now += 10_000
    await metered.shop.paywall.till.reconcile()
    assert (await metered.balance()).units == UNUSED
    kinds = [entry.kind for entry in await metered.book.statement(metered.account())]
    assert kinds == [EntryKind.CREDIT]


@pytest.mark.parametrize(
    ("decimals", "units", "expected"), [(6, 7, 7), (18, 10**12 * 5 + 999, 5), (18, 1, 0), (2, 7, 70_000)]
)
def test_a_credit_is_never_more_than_was_paid(
    monkeypatch: pytest.MonkeyPatch, decimals: int, units: int, expected: int
) -> None:
    token = networks.get(EVM).assets[0]
    other = replace(networks.get(EVM), assets=(replace(token, decimals=decimals),))
    monkeypatch.setattr(networks, "get", lambda _: other)
    assert micro_units(units, EVM, token.address) == expected
