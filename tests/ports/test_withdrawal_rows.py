"""The rows of withdrawals on both databases: who may move one, and who works on it (faults G10, E11)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Connection, text

from tests.postgres import Postgres
from x402.billing import EntryKind, Posting
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Payout, TooLittle, Withdrawal
from x402.ports.ledger import SqlLedger

ALICE = "eip155:84532:0xA11CE"
FILLED = 1_000
LEASE = 10


class Vault:
    """A book with one account in it, and a clock that stands still unless it is set."""

    def __init__(self, url: str) -> None:
        self.now = 5_000
        self.ledger = SqlLedger(url, clock=lambda: self.now)
        self.book = SqlAccounts(self.ledger)

    async def fill(self) -> None:
        assert await self.book.post(Posting(account=ALICE, kind=EntryKind.DEPOSIT, reference="pay", units=FILLED))

    async def begin(self, name: str, units: int = 10, *, seconds: int = LEASE) -> Withdrawal:
        begun, won = await self.book.withdraw(Withdrawal(id=name, account=ALICE, units=units), lease_seconds=seconds)
        assert won
        return begun

    async def bring(self, name: str, state: Payout, attempt: int = 1) -> Withdrawal:
        """A withdrawal that has come so far."""
        begun = await self.begin(name)
        there = replace(begun, state=state, header="bytes", pay_id=f"pay {name}", attempt=attempt)
        if there != begun:
            assert await self.book.move(there, was=begun)
        found = await self.book.withdrawal(name)
        assert found is not None
        return found

    async def taken(self, limit: int = 16) -> list[str]:
        return [one.id for one in await self.book.open_withdrawals(lease_seconds=LEASE, limit=limit)]

    async def units(self) -> int:
        return (await self.book.balance(ALICE)).units


@pytest.fixture
async def vault(ledger_url: str) -> AsyncIterator[Vault]:
    vault = Vault(ledger_url)
    async with vault.ledger:
        await vault.fill()
        yield vault


async def test_G10_who_begins_a_withdrawal_is_told_the_row_that_was_written(vault: Vault) -> None:
    wanted = Withdrawal(id="w", account=ALICE, units=70)
    begun, won = await vault.book.withdraw(wanted, lease_seconds=LEASE)
    assert won
    assert begun == replace(wanted, created_at=5_000, updated_at=5_000)
    vault.now += 3
    assert await vault.book.withdraw(replace(wanted, units=71), lease_seconds=LEASE) == (begun, False)
    assert await vault.units() == FILLED - 70
    (newest, *_) = await vault.book.statement(ALICE)
    assert (newest.kind, newest.units, newest.reference) == (EntryKind.WITHDRAW, -70, "w")


async def test_G10_what_there_is_too_little_for_leaves_no_row(vault: Vault) -> None:
    with pytest.raises(TooLittle):
        await vault.begin("w", FILLED + 1)
    assert await vault.book.withdrawal("w") is None
    await vault.begin("w", FILLED)
    assert await vault.units() == 0


@pytest.mark.parametrize("name", ["a", "m", "z"])
async def test_G10_one_withdrawal_moves_and_its_neighbours_stay(vault: Vault, name: str) -> None:
    there = {each: await vault.begin(each) for each in ("a", "m", "z")}
    vault.now += 7
    after = replace(there[name], state=Payout.SENT, header="bytes", pay_id="p", attempt=1, transaction="0x1")
    assert await vault.book.move(after, was=there[name])
    there[name] = replace(after, updated_at=5_007)
    assert {each: await vault.book.withdrawal(each) for each in there} == there


@pytest.mark.parametrize("stands", list(Payout))
@pytest.mark.parametrize("believed", list(Payout))
async def test_G10_a_withdrawal_that_stands_otherwise_than_believed_is_not_moved(
    vault: Vault, stands: Payout, believed: Payout
) -> None:
    """Above all, one that is paid never comes back into the account, and one that came back is not paid."""
    found = await vault.bring("w", stands)
    before = await vault.units()
    moved = await vault.book.move(replace(found, state=Payout.RETURNED), was=replace(found, state=believed))
    assert moved is (stands is believed)
    after = await vault.book.withdrawal("w")
    assert after is not None
    assert after.state is (Payout.RETURNED if moved else stands)
    assert await vault.units() == (FILLED if moved or stands is Payout.RETURNED else before)


@pytest.mark.parametrize(("believed", "moves"), [(1, False), (2, True), (3, False)])
async def test_G10_what_became_of_one_attempt_says_nothing_of_another(vault: Vault, believed: int, moves: bool) -> None:
    found = await vault.bring("w", Payout.SENT, attempt=2)
    assert await vault.book.move(replace(found, state=Payout.RETURNED), was=replace(found, attempt=believed)) is moves
    assert await vault.units() == (FILLED if moves else FILLED - 10)


async def test_G10_a_paid_withdrawal_keeps_its_transaction_and_is_open_no_more(vault: Vault) -> None:
    found = await vault.bring("w", Payout.SENT)
    assert await vault.book.move(replace(found, state=Payout.PAID, transaction="0xabc"), was=found)
    paid = await vault.book.withdrawal("w")
    assert paid == replace(found, state=Payout.PAID, transaction="0xabc")
    assert await vault.units() == FILLED - 10
    vault.now += 1_000
    assert await vault.taken() == []


async def test_E11_a_withdrawal_is_free_in_the_second_in_which_its_lease_ends(vault: Vault) -> None:
    await vault.begin("w")
    vault.now += LEASE - 1
    assert await vault.taken() == []
    vault.now += 1
    assert await vault.taken() == ["w"]
    vault.now += LEASE - 1
    assert await vault.taken() == []
    vault.now += 1
    assert await vault.taken() == ["w"]


async def test_E11_what_nobody_ever_held_is_free_at_once_and_then_held(vault: Vault) -> None:
    """As a batch of payouts leaves it."""
    await vault.begin("w", seconds=0)
    assert await vault.taken() == ["w"]
    assert await vault.taken() == []


async def test_E11_those_that_were_left_longest_come_first_and_no_more_than_were_asked_for(vault: Vault) -> None:
    for name, began, seconds in (("c", 0, 1), ("b", 0, 3), ("a", 1, 2), ("d", 1, 2), ("asked", 2, 50)):
        vault.now = 5_000 + began
        await vault.begin(name, seconds=seconds)
    await vault.bring("paid", Payout.PAID)
    vault.now = 5_020
    assert await vault.taken(2) == ["c", "b"]
    assert await vault.taken(1) == ["a"]
    assert await vault.taken() == ["d"]
    assert await vault.taken() == []


async def test_E11_a_withdrawal_that_is_being_written_to_is_passed_over(postgres: Postgres) -> None:
    place, locked, go_on = postgres.database(), threading.Event(), threading.Event()
    mine, theirs = Vault(place), Vault(place)

    def write(connection: Connection) -> None:
        connection.execute(text("SELECT 1 FROM withdrawals WHERE id = 'busy' FOR UPDATE"))
        locked.set()
        go_on.wait(30)

    async with mine.ledger, theirs.ledger:
        await mine.fill()
        for name in ("busy", "free"):
            await mine.begin(name, seconds=0)
        writing = asyncio.create_task(theirs.ledger.run(write))
        await asyncio.to_thread(locked.wait, 30)
        try:
            taken: Sequence[str] = await asyncio.wait_for(mine.taken(), 10)
        finally:
            go_on.set()
            await writing
        assert taken == ["free"]
        assert await mine.taken() == ["busy"]
