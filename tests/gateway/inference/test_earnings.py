"""Row 83: what providers have earned is credited once and paid out once, whatever is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.billing import Bill, EntryKind, Metered, PaidBy, Posting
from x402.gateway.inference.earnings import pay_out, payout_id, preview, with_bonus
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


async def test_row_083_a_batch_pays_on_both_chains_and_only_once(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    await sell(ledger, "b", "two", 500)
    await sell(ledger, "c", "operators-own", 9999)
    for _ in range(3):
        paid = await pay_out(book, accounts, until=NOW, bonus_percent=0)
        assert {(one.earned.account, one.earned.units, one.withdrawal) for one in paid} == {
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
    assert [earned.units for earned in await preview(book, until=NOW, bonus_percent=0)] == [1000]
    assert await book.due(NOW) == before
    assert await book.credited() == []
    assert await SqlAccounts(ledger).open_withdrawals(lease_seconds=0) == []


async def test_row_083_what_was_credited_before_a_crash_is_paid_by_the_next_batch(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    (due,) = await book.due(NOW)
    assert await book.credit(due)
    assert await accounts.withdrawal(payout_id(due)) is None
    (paid,) = await pay_out(book, accounts, until=NOW, bonus_percent=0)
    assert (paid.earned.units, paid.withdrawal) == (1000, "asked")


async def test_row_083_two_batches_at_once_pay_once(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    for index in range(20):
        await sell(ledger, f"bill {index}", "0xone", 10)
    await asyncio.gather(*(pay_out(book, accounts, until=NOW - index, bonus_percent=0) for index in range(8)))
    await pay_out(book, accounts, until=NOW, bonus_percent=0)
    assert sum(one.units for one in await accounts.open_withdrawals(lease_seconds=0, limit=100)) == 200


async def test_row_083_what_the_provider_has_spent_is_not_paid_out(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    (due,) = await book.due(NOW)
    await book.credit(due)
    await accounts.post(Posting(account=due.account, kind=EntryKind.DEBIT, reference="r", units=-600))
    (paid,) = await pay_out(book, accounts, until=NOW, bonus_percent=0)
    assert paid.withdrawal == ""
    assert (await accounts.balance(due.account)).units == 400


async def test_row_083_what_is_returned_stays_the_providers(ledger: SqlLedger) -> None:
    from dataclasses import replace

    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await sell(ledger, "a", "0xone", 1000)
    await pay_out(book, accounts, until=NOW, bonus_percent=0)
    (asked,) = await accounts.open_withdrawals(lease_seconds=0)
    assert await accounts.move(replace(asked, state=Payout.RETURNED), was=asked)
    (paid,) = await pay_out(book, accounts, until=NOW, bonus_percent=0)
    assert paid.withdrawal == "returned"
    assert (await accounts.balance(WALLETS["0xone"])).withdrawable == 1000


async def test_row_083_a_bonus_for_those_who_kept_their_promise(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await sell(ledger, "a", "0xone", 1999)
    await sell(ledger, "b", "two", 1999)
    await book.count(
        DAY, [Seen(provider="0xone", answered=995, failed=5), Seen(provider="two", answered=994, failed=6)]
    )
    due = await preview(book, until=NOW, bonus_percent=5)
    assert [(earned.provider, earned.bonus, earned.units) for earned in due] == [("0xone", 99, 2098), ("two", 0, 1999)]


@given(st.integers(1, 2**40), st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bonus_is_never_more_than_its_percentage(earned: int, percent: int, answered: int, failed: int) -> None:
    due = Earned(provider="p", account="a", since=0, until=1, answers=1, earned=earned)
    (paid,) = with_bonus([due], [Seen(provider="p", answered=answered, failed=failed)], percent)
    assert 0 <= paid.bonus * 100 <= earned * percent
    assert not paid.bonus or failed * 200 <= answered + failed
