"""Accounts and reservations at each of their bounds: whose they are, which name they have, how much is just enough, and
what is told to who asks for more. Faults A16, E11, G07, G10."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.ports.ledgers import subject
from tests.ports.test_accounts import ALICE, Town, bill
from tests.postgres import Postgres
from x402.billing import Booking, EntryKind, Posting
from x402.lifecycle import Event, Party, begin
from x402.ports import account_rows
from x402.ports.accounts import Balance, OtherRequest, Reservation, TooLittle, Withdrawal
from x402.ports.ledger import of_account
from x402.stages import Claimed, Delivered, Final, Lost, Settled, Settling

SHOP = Party.GATEWAY
BEFORE, AFTER = "bip122:0:a", "solana:z"
"""Accounts that come before and after the one that is asked about in the alphabet."""


@pytest.fixture
async def town(ledger_url: str) -> AsyncIterator[Town]:
    town = Town(ledger_url)
    async with town.ledger:
        yield town


async def sold(town: Town, name: str, units: int = 0) -> None:
    """Sell an answer, of whose payment so much was not used."""
    await town.ledger.begin(begin(SHOP, subject(name), Claimed()))
    await town.ledger.follow(SHOP, name, [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))])
    credit = Posting(account=ALICE, kind=EntryKind.CREDIT, reference=name, units=units)
    booking = Booking(postings=(credit,) if units else ())
    await town.ledger.advance(SHOP, name, Event.DELIVER, Delivered("0xtx"), booking=booking)


async def too_little(town: Town, wanted: Reservation, key_limit: int | None = None) -> tuple[str, int, int]:
    """What is told to who can't have what he wants; his account stands as it stood."""
    stood = await town.stands()
    with pytest.raises(TooLittle) as refused:
        await town.book.reserve(wanted, lease_seconds=10, key_limit=key_limit)
    assert await town.stands() == stood
    return refused.value.scope, refused.value.available, refused.value.wanted


def wants(units: int, name: str = "r", *, key: str = "", identifier: str = "", fingerprint: str = "") -> Reservation:
    return Reservation(id=name, account=ALICE, units=units, key_id=key, identifier=identifier, fingerprint=fingerprint)


async def test_an_account_that_nobody_filled_is_empty_whoever_comes_before_and_after_it(town: Town) -> None:
    await town.give(BEFORE, 3, reference="before")
    await town.give(AFTER, 5, reference="after")
    assert await town.book.balance(ALICE) == Balance(account=ALICE)
    await town.give(ALICE, 7)
    assert [(await town.book.balance(account)).units for account in (BEFORE, ALICE, AFTER)] == [3, 7, 5]


async def test_G07_a_name_is_taken_by_no_other_name(town: Town) -> None:
    await town.give(ALICE, 100)
    for name in ("a", "z"):
        await town.reserve(10, name, identifier=name, fingerprint="theirs")
    assert await town.book.reserved_as(ALICE, "m") is None
    mine, won = await town.book.reserve(wants(10, "m", identifier="m", fingerprint="mine"), lease_seconds=10)
    assert won
    assert await town.book.reserved_as(ALICE, "m") == mine
    assert await town.stands() == (70, 30)


@pytest.mark.parametrize(("older", "newer"), [("x", "y"), ("y", "x"), ("", "x"), ("x", "")])
async def test_G07_a_name_is_of_the_very_request_that_it_was_given_to(town: Town, older: str, newer: str) -> None:
    await town.give(ALICE, 100)
    await town.reserve(10, "a", identifier="mine", fingerprint=older)
    with pytest.raises(OtherRequest, match="mine"):
        await town.reserve(10, "b", identifier="mine", fingerprint=newer)
    assert await town.stands() == (90, 10)


async def test_a_key_may_spend_all_of_its_limit_whatever_others_have_spent(town: Town) -> None:
    await town.give(ALICE, 1_000)
    for name in ("a", "z"):
        await town.book.reserve(wants(30, name, key=name), lease_seconds=10)
    assert await too_little(town, wants(36, key="m"), key_limit=35) == ("key", 35, 36)
    for units in (20, 15):
        assert (await town.book.reserve(wants(units, f"{units}", key="m"), lease_seconds=10, key_limit=35))[1]
    assert await too_little(town, wants(1, "more", key="m"), key_limit=35) == ("key", 0, 1)


async def test_a_key_whose_limit_was_lowered_below_what_it_has_spent_has_nothing_left(town: Town) -> None:
    await town.give(ALICE, 1_000)
    await town.book.reserve(wants(30, key="k"), lease_seconds=10)
    assert await too_little(town, wants(1, "more", key="k"), key_limit=20) == ("key", 0, 1)


async def test_a_limit_without_a_key_is_one_of_each_reservation(town: Town) -> None:
    await town.give(ALICE, 1_000)
    for name in ("one", "two"):
        assert await too_little(town, wants(36, name), key_limit=35) == ("key", 35, 36)
        assert (await town.book.reserve(wants(35, name), lease_seconds=10, key_limit=35))[1]
    assert await town.stands() == (930, 70)


@pytest.mark.parametrize(("units", "held"), [(-8, 0), (1, -1), (1, -2), (-8, -1)])
async def test_G07_neither_what_there_is_nor_what_is_set_aside_falls_below_nothing(
    town: Town, units: int, held: int
) -> None:
    await town.give(ALICE, 7)
    with pytest.raises(TooLittle) as refused:
        await town.book.post(Posting(account=ALICE, kind=EntryKind.RELEASE, reference="r", units=units, held=held))
    assert (refused.value.scope, refused.value.available, refused.value.wanted) == ("balance", 7, -units)
    assert await town.stands() == (7, 0)


async def test_G10_all_but_a_gift_is_paid_out_and_not_a_unit_more(town: Town) -> None:
    await town.give(ALICE, 100)
    await town.give(ALICE, 30, EntryKind.GRANT, "welcome")
    with pytest.raises(TooLittle) as refused:
        await town.book.withdraw(Withdrawal(id="w", account=ALICE, units=101), lease_seconds=10)
    assert (refused.value.scope, refused.value.available, refused.value.wanted) == ("gift", 100, 101)
    assert (await town.book.withdraw(Withdrawal(id="w", account=ALICE, units=100), lease_seconds=10))[1]
    balance = await town.book.balance(ALICE)
    assert (balance.units, balance.gift, balance.withdrawable) == (30, 30, 0)


@pytest.mark.parametrize(("charged", "fee", "account"), [
    (5, -1, ALICE), (0, -1, ALICE), (5, 0, BEFORE), (5, 0, AFTER),
])  # fmt: skip
async def test_G07_a_bill_of_another_account_or_with_a_fee_below_nothing_is_never_booked(
    town: Town, charged: int, fee: int, account: str
) -> None:
    await town.give(ALICE, 100)
    await town.reserve(10)
    with pytest.raises(ValueError, match="its own account's"):
        await town.book.settle("r", bill(charged=charged, fee=fee, account=account))
    assert await town.stands() == (90, 10)
    assert await town.book.bill("r") is None
    # What it is about is open still.
    assert await town.book.release("r")


async def test_G07_a_nonce_is_remembered_until_the_second_in_which_it_expires(town: Town) -> None:
    until = town.now + 60
    assert await town.book.use_nonce(ALICE, "n", until)
    town.now = until - 1
    await town.book.forget(0)
    assert not await town.book.use_nonce(ALICE, "n", until)
    town.now = until
    await town.book.forget(0)
    assert await town.book.use_nonce(ALICE, "n", until)


async def test_A16_what_the_chain_undoes_takes_and_gives_nothing_that_another_payment_brought(town: Town) -> None:
    for name, units in (("a", 10), ("m", 0), ("z", 20)):
        await sold(town, name, units)
    await town.ledger.advance(SHOP, "m", Event.REORGANISE, Lost("0xtx"))
    assert await town.stands() == (30, 0)
    for name, left in (("a", 20), ("z", 0)):
        await town.ledger.advance(SHOP, name, Event.REORGANISE, Lost("0xtx"))
        assert await town.stands() == (left, 0)
    for name, left in (("m", 0), ("z", 20), ("a", 30)):
        await town.ledger.advance(SHOP, name, Event.FINALISE, Final("0xagain", 9))
        assert await town.stands() == (left, 0)


async def test_A16_G10_what_lands_again_gives_back_no_withdrawal_of_the_same_name(town: Town) -> None:
    await sold(town, "same")
    await town.give(ALICE, 100, reference="other")
    await town.book.withdraw(Withdrawal(id="same", account=ALICE, units=70), lease_seconds=10)
    await town.ledger.advance(SHOP, "same", Event.REORGANISE, Lost("0xtx"))
    await town.ledger.advance(SHOP, "same", Event.FINALISE, Final("0xagain", 9))
    assert await town.stands() == (30, 0)


class Replicas:
    """Two replicas on PostgreSQL, of which the first stops in the middle of a transaction, and one that looks on."""

    def __init__(self, place: str) -> None:
        self.first, self.second, self.third = Town(place), Town(place), Town(place)
        self.gate, self.begun = threading.Event(), asyncio.Event()

    def stop_after(self, posting: Posting) -> asyncio.Task[None]:
        """Book it, and commit when the gate is open."""
        loop = asyncio.get_running_loop()

        def work(connection: Connection) -> None:
            account_rows.post(connection, posting, self.first.now)
            loop.call_soon_threadsafe(self.begun.set)
            self.gate.wait(10)

        return asyncio.ensure_future(self.first.ledger.run(work, of_account(posting.account)))

    async def until_it_waits(self, second: asyncio.Task[Any]) -> None:
        """Look on until the second waits for the first, or has not waited for it."""
        query = text(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND backend_type = 'client backend'"
        )
        while not second.done():
            if await self.third.ledger.run(lambda connection: connection.execute(query).first()):
                return


@pytest.fixture
async def replicas(postgres: Postgres) -> AsyncIterator[Replicas]:
    made = Replicas(postgres.database())
    async with AsyncExitStack() as stack:
        for town in (made.first, made.second, made.third):
            await stack.enter_async_context(town.ledger)
        stack.callback(made.gate.set)
        yield made


RESERVED = Posting(account=ALICE, kind=EntryKind.RESERVE, reference="r", units=-50, held=50)


async def test_who_only_looks_at_an_account_waits_for_nobody_who_moves_it(replicas: Replicas) -> None:
    await replicas.second.give(ALICE, 60)
    first = replicas.stop_after(RESERVED)
    await replicas.begun.wait()
    seen = asyncio.ensure_future(replicas.second.book.balance(ALICE))
    await replicas.until_it_waits(seen)
    assert seen.done()
    assert (await seen).units == 60
    replicas.gate.set()
    await first
    assert await replicas.second.stands() == (10, 50)


def posted(connection: Connection) -> None:
    account_rows.post(connection, Posting(account=ALICE, kind=EntryKind.DEPOSIT, reference="two", units=5), 1)


def restored(connection: Connection) -> None:
    account_rows.restore(connection, "lost", 1)


@pytest.mark.parametrize("work", [posted, restored])
async def test_G07_who_moves_an_account_without_having_its_name_waits_for_who_moves_it_now(
    replicas: Replicas, work: Callable[[Connection], None]
) -> None:
    await replicas.second.give(ALICE, 60)
    await replicas.second.book.post(Posting(account=ALICE, kind=EntryKind.REVERSE, reference="lost", units=-5))
    first = replicas.stop_after(RESERVED)
    await replicas.begun.wait()
    second = asyncio.ensure_future(replicas.second.ledger.run(work))
    await replicas.until_it_waits(second)
    assert not second.done()
    replicas.gate.set()
    await asyncio.gather(first, second)
    assert await replicas.third.stands() == (10, 50)


async def test_A16_G07_what_the_chain_undoes_is_taken_from_what_another_replica_leaves_there(
    replicas: Replicas,
) -> None:
    await sold(replicas.second, "pay", 60)
    first = replicas.stop_after(RESERVED)
    await replicas.begun.wait()
    lost = asyncio.ensure_future(replicas.second.ledger.advance(SHOP, "pay", Event.REORGANISE, Lost("0xtx")))
    await replicas.until_it_waits(lost)
    assert not lost.done()
    replicas.gate.set()
    await asyncio.gather(first, lost)
    assert await replicas.third.stands() == (0, 50)
    (newest, *_) = await replicas.third.book.statement(ALICE)
    assert (newest.kind, newest.units) == (EntryKind.REVERSE, -10)
