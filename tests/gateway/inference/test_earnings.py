"""Row 83: what providers have earned is credited once and paid out once, whatever is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.billing import Bill, EntryKind, Metered, PaidBy, Posting
from x402.gateway.inference.earnings import (
    CAPPED,
    SPENT,
    WAITS,
    Paid,
    PayoutLimits,
    due_by,
    pay_out,
    preview,
    with_bonus,
)
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Payout
from x402.ports.ledger import SqlLedger
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import Earned, RegisteredProvider, Seen

NOW = 1_800_000_000
DAY = NOW // 86_400
WALLETS = {
    "0xone": "eip155:84532:0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199",
    "two": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1:8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq",
}


@pytest.fixture
async def ledger() -> AsyncIterator[SqlLedger]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as ledger:
        for index, (id, account) in enumerate(WALLETS.items()):
            offer = RegisteredProvider(id=id, account=account, offer="{}", issued_at=index)
            await SqlProviders(ledger).register(offer)
        yield ledger


async def sell(ledger: SqlLedger, name: str, provider: str, earned: int, at: int = NOW - 100) -> None:
    metered = Metered(model="m", provider=provider, charged=earned, complete=True)
    bill = Bill(bill_id=name, at=at, account="payer", paid_by=PaidBy.EXACT, metered=metered, earned=earned)
    await SqlAccounts(ledger).add(bill)


async def batch(
    ledger: SqlLedger, until: int = NOW, *, dry: bool = False, least: int = 0, per_day: int = 10**12, now: int = NOW
) -> Sequence[Paid]:
    """What a batch tells, or a dry run."""
    limits = PayoutLimits(ledger=ledger, least=least, per_day=per_day, now=now)
    work = preview if dry else pay_out
    return await work(SqlProviders(ledger), SqlAccounts(ledger), until=until, bonus_percent=0, limits=limits)


async def test_row_083_a_batch_pays_on_both_chains_and_only_once(ledger: SqlLedger) -> None:
    accounts = SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    await sell(ledger, "b", "two", 500)
    await sell(ledger, "c", "operators-own", 9999)
    for _ in range(3):
        paid = await batch(ledger)
        assert {(one.earned.account, one.earned.units, one.payout) for one in paid} == {
            (WALLETS["0xone"], 1000, "asked"),
            (WALLETS["two"], 500, "asked"),
        }
    open_now = await accounts.open_withdrawals(lease_seconds=0)
    assert sorted(one.units for one in open_now) == [500, 1000]
    assert [(await accounts.balance(account)).units for account in WALLETS.values()] == [0, 0]


async def test_row_083_a_dry_run_writes_nothing(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await sell(ledger, "a", "0xone", 1000)
    before = await book.due(NOW)
    assert [earned.units for earned in await due_by(book, until=NOW, bonus_percent=0)] == [1000]
    assert await book.due(NOW) == before
    assert await book.credited() == []
    assert await SqlAccounts(ledger).open_withdrawals(lease_seconds=0) == []


async def test_row_083_what_was_credited_before_a_crash_is_paid_by_the_next_batch(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    (due,) = await book.due(NOW)
    assert await book.credit(due)
    assert await accounts.withdrawal(due.payout_id) is None
    (paid,) = await batch(ledger)
    assert (paid.earned.units, paid.payout) == (1000, "asked")


async def test_row_083_two_batches_at_once_pay_once(ledger: SqlLedger) -> None:
    accounts = SqlAccounts(ledger)
    for index in range(20):
        await sell(ledger, f"bill {index}", "0xone", 10)
    await asyncio.gather(*(batch(ledger, NOW - index) for index in range(8)))
    await batch(ledger)
    assert sum(one.units for one in await accounts.open_withdrawals(lease_seconds=0, limit=100)) == 200


async def test_row_083_what_the_provider_has_spent_is_not_paid_out(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    (due,) = await book.due(NOW)
    await book.credit(due)
    await accounts.post(Posting(account=due.account, kind=EntryKind.DEBIT, reference="r", units=-600))
    (paid,) = await batch(ledger)
    assert paid.payout == ""
    assert (await accounts.balance(due.account)).units == 400


async def test_row_083_what_is_returned_stays_the_providers(ledger: SqlLedger) -> None:
    accounts = SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    await batch(ledger)
    (asked,) = await accounts.open_withdrawals(lease_seconds=0)
    assert await accounts.move(replace(asked, state=Payout.RETURNED), was=asked)
    (paid,) = await batch(ledger)
    assert paid.payout == "returned"
    assert (await accounts.balance(WALLETS["0xone"])).withdrawable == 1000


async def test_row_083_a_bill_that_is_written_late_is_in_the_next_batch_and_in_no_other(ledger: SqlLedger) -> None:
    await sell(ledger, "a", "0xone", 1000, at=NOW - 100)
    await batch(ledger, NOW - 50)
    await sell(ledger, "late", "0xone", 70, at=NOW - 5000)
    assert [one.payout for one in await batch(ledger, NOW - 50)] == ["asked"], "the batch that is closed stays so"
    for until in (NOW - 40, NOW - 40, NOW):
        told = await batch(ledger, until)
        assert [(one.earned.earned, one.earned.answers) for one in told] == [(1000, 1), (70, 1)]
    await sell(ledger, "later", "0xone", 5, at=0)
    await batch(ledger, NOW + 1)
    assert sum(one.units for one in await SqlAccounts(ledger).open_withdrawals(lease_seconds=0)) == 1075


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000)), max_size=8))
def test_row_083_whenever_bills_come_and_batches_run_everything_is_credited_once(
    bills: list[tuple[int, int, int]],
) -> None:
    """Bills of any second, each written at any later or earlier step; a batch at every seventh step."""

    async def run() -> None:
        async with SqlLedger("sqlite://", clock=lambda: NOW) as ledger:
            book, account = SqlProviders(ledger), WALLETS["two"]
            await book.register(RegisteredProvider(id="two", account=account, offer="{}", issued_at=1))
            for step in range(0, 42, 7):
                for number, (written, at, earned) in enumerate(bills):
                    if step <= written < step + 7:
                        await sell(ledger, f"bill {number}", "two", earned, at=at)
                for due in await book.due(step):
                    assert await book.credit(due)
                    assert not await book.credit(due)
            for due in await book.due(1000):
                assert await book.credit(due)
            assert (await SqlAccounts(ledger).balance(account)).units == sum(earned for _, _, earned in bills)

    asyncio.run(run())


async def test_row_083_too_little_waits_and_too_much_goes_out_tomorrow(ledger: SqlLedger) -> None:
    accounts, tomorrow = SqlAccounts(ledger), NOW + 86_400
    limits: dict[str, Any] = {"least": 100, "per_day": 1000}
    await sell(ledger, "a", "0xone", 99)
    await sell(ledger, "b", "two", 600)
    assert [(one.earned.units, one.payout) for one in await batch(ledger, **limits)] == [(600, "asked"), (99, WAITS)]
    await sell(ledger, "c", "0xone", 1)
    await sell(ledger, "d", "two", 401)
    told = await batch(ledger, NOW + 1, **limits)
    assert [(one.earned.units, one.payout) for one in told] == [(600, "asked"), (100, "asked"), (401, CAPPED)]
    assert (await accounts.balance(WALLETS["two"])).withdrawable == 401, "it may take it out by itself"
    assert [one.payout for one in await batch(ledger, NOW + 2, **limits)] == ["asked", "asked", CAPPED]
    assert [one.payout for one in await batch(ledger, NOW + 3, now=tomorrow, **limits)] == ["asked"] * 3
    assert sorted(one.units for one in await accounts.open_withdrawals(lease_seconds=0)) == [100, 401, 600]


async def test_row_083_what_is_paid_is_told_no_more(ledger: SqlLedger) -> None:
    accounts = SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    await batch(ledger)
    (asked,) = await accounts.open_withdrawals(lease_seconds=0)
    sent = replace(asked, state=Payout.SENT, header="h", attempt=1)
    assert await accounts.move(sent, was=asked)
    assert [one.payout for one in await batch(ledger)] == ["sent"]
    assert await accounts.move(replace(sent, state=Payout.PAID, transaction="0x1"), was=sent)
    assert await batch(ledger) == []


async def test_row_083_a_dry_run_tells_what_the_run_tells(ledger: SqlLedger) -> None:
    """What waits, what goes out, what is capped, what was spent, what is under way: all at once."""
    accounts, limits = SqlAccounts(ledger), dict[str, Any](least=100, per_day=1000)
    await sell(ledger, "a", "0xone", 900)
    await batch(ledger, NOW - 50, per_day=0)
    spent = Posting(account=WALLETS["0xone"], kind=EntryKind.DEBIT, reference="r", units=-1)
    await accounts.post(spent)
    plan: list[list[tuple[str, int]]] = [
        [("0xone", 100), ("two", 1000)], [("0xone", 99), ("two", 500)], [("0xone", 1)], [],
    ]  # fmt: skip
    for step, sales in enumerate(plan):
        for number, (provider, earned) in enumerate(sales):
            await sell(ledger, f"{step} {number}", provider, earned)
        for now in (NOW, NOW + 86_400 * step):
            until = NOW + 2 * step + (now != NOW)
            dry = await batch(ledger, until, dry=True, now=now, **limits)
            assert dry == await batch(ledger, until, dry=True, now=now, **limits), "it writes nothing"
            run = await batch(ledger, until, now=now, **limits)
            assert dry == run
            assert run == await batch(ledger, until, dry=True, now=now, **limits)
    states = {one.payout for one in run}
    assert states <= {"asked", CAPPED, SPENT, WAITS}
    assert "asked" in states


async def test_row_083_a_bonus_for_those_who_kept_their_promise(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await sell(ledger, "a", "0xone", 1999)
    await sell(ledger, "b", "two", 1999)
    await book.count(
        DAY, [Seen(provider="0xone", answered=995, failed=5), Seen(provider="two", answered=994, failed=6)]
    )
    due = await due_by(book, until=NOW, bonus_percent=5)
    assert [(earned.provider, earned.bonus, earned.units) for earned in due] == [("0xone", 99, 2098), ("two", 0, 1999)]


@given(st.integers(1, 2**40), st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bonus_is_never_more_than_its_percentage(earned: int, percent: int, answered: int, failed: int) -> None:
    due = Earned(provider="p", account="a", since=0, until=1, answers=1, earned=earned)
    (paid,) = with_bonus([due], [Seen(provider="p", answered=answered, failed=failed)], percent)
    assert 0 <= paid.bonus * 100 <= earned * percent
    assert not paid.bonus or failed * 200 <= answered + failed
