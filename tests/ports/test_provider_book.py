"""Rows 83 and 90: who has registered, how each did, and what each has earned, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from x402.billing import Bill, Metered, PaidBy
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import RegisteredProvider, Seen, Standing

NOW = 1_800_000_000
WALLET = "eip155:84532:0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"
ONE = RegisteredProvider(id="0xone", account=WALLET, offer='{"name": "One"}', issued_at=100, sealed_key="sealed")


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(ledger_url, clock=lambda: NOW) as ledger:
        yield ledger


def bill(name: str, at: int, earned: int, provider: str = "0xone") -> Bill:
    metered = Metered(model="m", provider=provider, charged=earned + 3, fee=3, complete=True)
    return Bill(bill_id=name, at=at, account="payer", paid_by=PaidBy.EXACT, metered=metered, earned=earned)


async def test_row_090_a_newer_document_replaces_an_older_and_never_the_other_way(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    assert await book.register(ONE)
    assert not await book.register(replace(ONE, offer="replayed"))
    assert not await book.register(replace(ONE, offer="older", issued_at=99))
    assert await book.register(replace(ONE, offer="newer", issued_at=101))
    known = await book.provider("0xone")
    assert known is not None
    assert (known.offer, known.issued_at, known.created_at) == ("newer", 101, NOW)


async def test_a_check_of_an_old_document_says_nothing_about_a_new_one(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await book.register(ONE)
    await book.register(replace(ONE, issued_at=101))
    assert not await book.mark("0xone", Standing.ACTIVE, issued_at=100)
    assert await book.mark("0xone", Standing.ACTIVE, issued_at=101)
    assert [one.id for one in await book.providers([Standing.ACTIVE])] == ["0xone"]
    assert await book.providers([Standing.PENDING]) == []


async def test_what_the_operator_disabled_stays_so(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await book.register(ONE)
    assert await book.mark("0xone", Standing.DISABLED, "spam")
    assert not await book.register(replace(ONE, issued_at=500))
    assert not await book.mark("0xone", Standing.ACTIVE, issued_at=100)
    assert await book.mark("0xone", Standing.ACTIVE), "but the operator may change his mind"
    assert not await book.mark("0xnobody", Standing.ACTIVE)


async def test_row_089_what_was_seen_adds_up_by_day(ledger: SqlLedger) -> None:
    book = SqlProviders(ledger)
    await book.count(10, [Seen(provider="a", answered=5, failed=1), Seen(provider="b", answered=1, failed=0)])
    await book.count(10, [Seen(provider="a", answered=5, failed=0)])
    await book.count(11, [Seen(provider="a", answered=100, failed=0)])
    assert await book.seen(10, 11) == [
        Seen(provider="a", answered=10, failed=1),
        Seen(provider="b", answered=1, failed=0),
    ]
    assert (await book.seen(10, 12))[0].answered == 110


async def test_row_083_every_bill_is_credited_once(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await book.register(ONE)
    for name, at, earned in (("a", 10, 700), ("b", 20, 300), ("c", 30, 50)):
        await accounts.add(bill(name, at, earned))
    await accounts.add(bill("x", 10, 10_000, provider="somebody"))
    (due,) = await book.due(30)
    assert (due.since, due.until, due.answers, due.earned) == (0, 30, 2, 1000)
    assert await book.credit(replace(due, bonus=20))
    assert not await book.credit(due), "the same span again"
    assert (await accounts.balance(WALLET)).withdrawable == 1020
    assert await book.due(30) == []
    (rest,) = await book.due(31)
    assert (rest.since, rest.earned) == (30, 50)
    assert await book.credit(rest)
    assert (await accounts.balance(WALLET)).units == 1070
    assert sorted(credited.units for credited in await book.credited("0xone")) == [50, 1020]


async def test_row_083_two_who_credit_at_once_credit_once(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await book.register(ONE)
    await accounts.add(bill("a", 10, 700))
    (due,) = await book.due(30)
    (other,) = await book.due(25)
    done = await asyncio.gather(book.credit(due), book.credit(other), book.credit(due), return_exceptions=True)
    assert done.count(True) == 1
    assert (await accounts.balance(WALLET)).units == 700


async def test_a_sum_that_has_grown_since_it_was_shown_is_not_credited_as_shown(ledger: SqlLedger) -> None:
    book, accounts = SqlProviders(ledger), SqlAccounts(ledger)
    await book.register(ONE)
    await accounts.add(bill("a", 10, 700))
    (due,) = await book.due(30)
    await accounts.add(bill("late", 11, 5))
    assert not await book.credit(due)
    assert (await accounts.balance(WALLET)).units == 0
