"""Balances on both databases: never below zero, never booked twice, and every unit told by an entry. Fault G07."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.ports.ledgers import subject
from x402.billing import Bill, Booking, EntryKind, Metered, PaidBy, Posting
from x402.lifecycle import Event, Party, begin
from x402.ports import Answer
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import (
    Balance,
    BillFilter,
    Held,
    NotHeld,
    OtherRequest,
    Payout,
    Reservation,
    TooLittle,
    Withdrawal,
)
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Delivered, Final, Lost, Settled, Settling

ALICE, BOB = "eip155:84532:0xA11CE", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1:B0B"
SHOP = Party.GATEWAY
DAY = 86_400


class Town:
    """A ledger with its accounts, and a clock that stands still unless it is set."""

    def __init__(self, url: str) -> None:
        self.now = 10 * DAY
        self.ledger = SqlLedger(url, clock=lambda: self.now)
        self.book = SqlAccounts(self.ledger)

    async def give(self, account: str, units: int, kind: EntryKind = EntryKind.DEPOSIT, reference: str = "pay") -> None:
        assert await self.book.post(Posting(account=account, kind=kind, reference=reference, units=units))

    async def reserve(self, units: int, name: str = "r", *, identifier: str = "", fingerprint: str = "") -> Reservation:
        wanted = Reservation(id=name, account=ALICE, units=units, identifier=identifier, fingerprint=fingerprint)
        reservation, _ = await self.book.reserve(wanted, lease_seconds=10)
        return reservation

    async def stands(self, account: str = ALICE) -> tuple[int, int]:
        balance = await self.book.balance(account)
        entries = await self.book.statement(account, limit=10_000)
        told = (sum(entry.units for entry in entries), sum(entry.held for entry in entries))
        assert told == (balance.units, balance.reserved), "the entries are the balance"
        return told


def bill(name: str = "r", charged: int = 0, fee: int = 0, **members: object) -> Bill:
    used = Metered(model="m", provider="p", prompt_tokens=3, completion_tokens=5, charged=charged, fee=fee)
    given = Bill(bill_id=name, at=10 * DAY, account=ALICE, paid_by=PaidBy.BALANCE, metered=used, quoted=100)
    return replace(given, **members)  # type: ignore[arg-type]


@pytest.fixture
async def town(ledger_url: str) -> AsyncIterator[Town]:
    town = Town(ledger_url)
    async with town.ledger:
        yield town


async def test_G07_of_a_hundred_that_want_the_last_unit_one_gets_it(town: Town, ledger_url: str) -> None:
    await town.give(ALICE, 1)
    other = Town(ledger_url)
    async with other.ledger:
        tries = [replica.reserve(1, f"{name}{n}") for n in range(50) for name, replica in (("a", town), ("b", other))]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
    won = [one for one in outcomes if isinstance(one, Reservation)]
    assert len(won) == 1
    assert {type(one) for one in outcomes} == {Reservation, TooLittle}
    assert await town.stands() == (0, 1)
    settled = await asyncio.gather(
        *(town.book.settle(won[0].id, bill(won[0].id, charged=1)) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, Balance) for one in settled) == 1
    assert await town.stands() == (0, 0)


async def test_G07_control_who_has_enough_gets_all_of_it(town: Town) -> None:
    await town.give(ALICE, 100)
    await asyncio.gather(*(town.reserve(1, f"{n}") for n in range(100)))
    assert await town.stands() == (0, 100)


async def test_an_answer_is_debited_with_its_fee_and_the_rest_comes_back(town: Town) -> None:
    await town.give(ALICE, 150)
    await town.reserve(100)
    balance = await town.book.settle("r", bill(charged=40, fee=3))
    assert (balance.units, balance.reserved) == (110, 0) == await town.stands()
    kinds = [(entry.kind, entry.units, entry.held) for entry in await town.book.statement(ALICE)]
    assert kinds == [
        (EntryKind.RELEASE, 60, -60),
        (EntryKind.FEE, 0, -3),
        (EntryKind.DEBIT, 0, -37),
        (EntryKind.RESERVE, -100, 100),
        (EntryKind.DEPOSIT, 150, 0),
    ]
    assert await town.book.bill("r") == bill(charged=40, fee=3)
    with pytest.raises(NotHeld):
        await town.book.settle("r", bill(charged=40))
    assert not await town.book.release("r")


@pytest.mark.parametrize(("charged", "fee"), [(101, 0), (5, 6), (-1, 0)])
async def test_a_bill_beyond_what_was_set_aside_is_never_booked(town: Town, charged: int, fee: int) -> None:
    await town.give(ALICE, 500)
    await town.reserve(100)
    with pytest.raises(ValueError, match="set aside"):
        await town.book.settle("r", bill(charged=charged, fee=fee))
    assert await town.stands() == (400, 100)
    assert await town.book.bill("r") is None


async def test_what_is_too_little_writes_nothing(town: Town) -> None:
    await town.give(ALICE, 99)
    with pytest.raises(TooLittle) as refused:
        await town.reserve(100)
    assert (refused.value.scope, refused.value.available, refused.value.wanted) == ("balance", 99, 100)
    assert await town.stands() == (99, 0)
    assert await town.book.reserved_as(ALICE, "") is None
    with pytest.raises(TooLittle):
        await town.book.post(Posting(account=BOB, kind=EntryKind.WITHDRAW, reference="w", units=-1))
    assert await town.book.balance(BOB) == Balance(account=BOB)


async def test_random_days_end_in_the_same_sums(town: Town) -> None:
    """Against the simplest model that there is, with many movements at once."""
    dice = random.Random(7)
    await town.give(ALICE, 1_000)
    open_: dict[str, int] = {}
    units = 1_000
    for step in range(60):
        name, size = f"r{step}", dice.randint(1, 300)
        if dice.random() < 0.5:
            if size > units:
                with pytest.raises(TooLittle):
                    await town.reserve(size, name)
            else:
                await town.reserve(size, name)
                open_[name], units = size, units - size
        elif open_:
            name, size = open_.popitem()
            charged = dice.randint(0, size)
            if dice.random() < 0.3:
                assert await town.book.release(name)
                units += size
            else:
                await town.book.settle(name, bill(name, charged=charged, fee=charged // 10))
                units += size - charged
        assert await town.stands() == (units, sum(open_.values()))


async def test_a_name_belongs_to_one_request_until_it_is_released(town: Town) -> None:
    await town.give(ALICE, 1_000)
    first = await town.reserve(100, "a", identifier="mine", fingerprint="x")
    again, won = await town.book.reserve(replace(first, id="b"), lease_seconds=10)
    assert (again, won) == (first, False)
    with pytest.raises(OtherRequest):
        await town.reserve(100, "c", identifier="mine", fingerprint="y")
    # Another account may use the same word.
    await town.give(BOB, 5, reference="pay2")
    assert (await town.book.reserve(
        Reservation(id="d", account=BOB, units=5, identifier="mine", fingerprint="y"), lease_seconds=10
    ))[1]  # fmt: skip
    await town.book.release("a")
    assert (await town.reserve(100, "e", identifier="mine", fingerprint="y")).id == "e"
    await town.book.settle("e", bill("e", charged=1))
    kept = await town.book.reserved_as(ALICE, "mine")
    assert kept is not None
    assert (kept.id, kept.state) == ("e", Held.SETTLED)


async def test_a_key_spends_no_more_than_its_limit_however_many_ask_at_once(town: Town) -> None:
    await town.give(ALICE, 1_000)
    tries = [
        town.book.reserve(Reservation(id=f"{n}", account=ALICE, units=10, key_id="k"), lease_seconds=10, key_limit=35)
        for n in range(20)
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, TooLittle)]
    assert (len(refused), refused[0].scope, refused[0].available) == (17, "key", 5)
    for n, one in enumerate(outcomes):
        if not isinstance(one, BaseException):
            await town.book.settle(f"{n}", bill(f"{n}", charged=1))
    # What was set aside and not needed counts no more.
    await town.book.reserve(Reservation(id="last", account=ALICE, units=32, key_id="k"), lease_seconds=10, key_limit=35)


async def test_E11_a_reservation_that_its_process_left_behind_is_released_and_a_living_one_is_not(town: Town) -> None:
    await town.give(ALICE, 1_000)
    await town.reserve(100, "dead")
    await town.reserve(200, "alive")
    town.now += 9
    await town.book.keep(["alive"], 10)
    assert await town.book.release_abandoned() == []
    town.now += 1
    assert await town.book.release_abandoned() == ["dead"]
    assert await town.stands() == (800, 200)
    assert await town.book.release_abandoned() == []


async def test_G07_a_nonce_is_used_once_by_one_account(town: Town) -> None:
    uses = await asyncio.gather(*(town.book.use_nonce(ALICE, "n", town.now + 60) for _ in range(20)))
    assert sum(uses) == 1
    assert await town.book.use_nonce(BOB, "n", town.now + 60)
    town.now += 59
    await town.book.forget(0)
    assert not await town.book.use_nonce(ALICE, "n", town.now + 60)
    town.now += 61
    await town.book.forget(0)
    assert await town.book.use_nonce(ALICE, "n", town.now + 60)


async def test_a_gift_is_spent_first_and_never_paid_out(town: Town) -> None:
    await town.give(ALICE, 100)
    await town.give(ALICE, 30, EntryKind.GRANT, "welcome")
    assert not await town.book.post(Posting(account=ALICE, kind=EntryKind.GRANT, reference="welcome", units=30))
    assert (await town.book.balance(ALICE)).withdrawable == 100
    with pytest.raises(TooLittle) as refused:
        await town.book.withdraw(Withdrawal(id="w", account=ALICE, units=101), lease_seconds=10)
    assert (refused.value.scope, refused.value.available) == ("gift", 100)
    await town.reserve(50)
    await town.book.settle("r", bill(charged=40, fee=4))
    balance = await town.book.balance(ALICE)
    assert (balance.units, balance.gift, balance.withdrawable) == (90, 0, 90)


async def test_what_a_payment_brings_an_account_is_written_with_it_and_once(town: Town) -> None:
    await town.ledger.begin(begin(SHOP, subject(), Claimed()))
    await town.ledger.advance(SHOP, "pay", Event.SUBMIT, Settling())
    await town.ledger.advance(SHOP, "pay", Event.SETTLE, Settled("0xtx"))
    credit = Posting(account=ALICE, kind=EntryKind.CREDIT, reference="pay", units=60)
    sold = bill("pay", charged=40, paid_by=PaidBy.EXACT, credited=60)
    await town.ledger.advance(
        SHOP, "pay", Event.DELIVER, Delivered("0xtx"), booking=Booking(bill=sold, postings=(credit,))
    )
    assert await town.stands() == (60, 0)
    assert await town.book.bill("pay") == sold
    assert not await town.book.post(credit)
    assert await town.stands() == (60, 0)


async def test_G07_an_arrow_that_the_law_refuses_books_nothing(town: Town) -> None:
    from x402.lifecycle import UnlawfulEvent

    await town.ledger.begin(begin(SHOP, subject(), Claimed()))
    credit = Posting(account=ALICE, kind=EntryKind.CREDIT, reference="pay", units=60)
    with pytest.raises(UnlawfulEvent):
        await town.ledger.advance(
            SHOP, "pay", Event.DELIVER, Delivered("0xtx"), booking=Booking(bill=bill("pay"), postings=(credit,))
        )
    assert await town.stands() == (0, 0)
    assert await town.book.bill("pay") is None


async def test_A16_what_the_chain_undoes_is_taken_back_as_far_as_it_is_there(town: Town) -> None:
    for name, units in (("one", 60), ("two", 50)):
        await town.ledger.begin(begin(SHOP, subject(name), Claimed()))
        await town.ledger.advance(SHOP, name, Event.SUBMIT, Settling())
        await town.ledger.advance(SHOP, name, Event.SETTLE, Settled(f"0x{name}"))
        credit = Posting(account=ALICE, kind=EntryKind.CREDIT, reference=name, units=units)
        booking = Booking(postings=(credit,))
        await town.ledger.advance(SHOP, name, Event.DELIVER, Delivered(f"0x{name}"), booking=booking)
    await town.reserve(90)
    await town.ledger.advance(SHOP, "one", Event.REORGANISE, Lost("0xone"))
    assert await town.stands() == (0, 90)
    (newest, *_) = await town.book.statement(ALICE)
    assert (newest.kind, newest.units, newest.reference) == (EntryKind.REVERSE, -20, "one")
    # It lands again, for good: what was taken back is there again, once.
    await town.ledger.advance(SHOP, "one", Event.FINALISE, Final("0xagain", 9))
    assert await town.stands() == (20, 90)
    (newest, *_) = await town.book.statement(ALICE)
    assert (newest.kind, newest.units, newest.reference) == (EntryKind.RESTORE, 20, "one")


async def test_G10_a_withdrawal_is_taken_once_moves_forward_and_comes_back_once(town: Town) -> None:
    await town.give(ALICE, 100)
    asked = [town.book.withdraw(Withdrawal(id="w", account=ALICE, units=70), lease_seconds=10) for _ in range(10)]
    outcomes = await asyncio.gather(*asked)
    assert sum(won for _, won in outcomes) == 1
    assert await town.stands() == (30, 0)
    first = outcomes[0][0]
    sent = replace(first, state=Payout.SENT, header="bytes", pay_id="p", attempt=1)
    assert await town.book.move(sent, was=first)
    assert not await town.book.move(sent, was=first)
    assert await town.book.open_withdrawals(lease_seconds=10) == []
    town.now += 11
    assert [one.id for one in await town.book.open_withdrawals(lease_seconds=10)] == ["w"]
    moves = await asyncio.gather(*(town.book.move(replace(sent, state=Payout.RETURNED), was=sent) for _ in range(5)))
    assert sum(moves) == 1
    assert await town.stands() == (100, 0)
    town.now += 11
    assert await town.book.open_withdrawals(lease_seconds=10) == []


async def test_kept_answers_of_balance_calls_are_forgotten_when_they_ended(town: Town) -> None:
    await town.give(ALICE, 100)
    for name in ("open", "done"):
        await town.reserve(10, name)
        await town.ledger.keep_answer(name, Answer(200, (), b"words"))
    await town.book.settle("done", bill("done"))
    await town.book.forget(town.now - 1)
    assert await town.ledger.answer("done") is not None
    await town.book.forget(town.now)
    assert await town.ledger.answer("done") is None
    assert await town.ledger.answer("open") is not None


async def test_bills_come_newest_first_page_by_page_and_add_up(town: Town) -> None:
    made = [
        bill(f"b{n}", charged=n, fee=1 if n else 0, at=(10 + n // 4) * DAY + n, key_id="k" if n % 2 else "", earned=n,
             tags={"user": "é"})
        for n in range(8)
    ]  # fmt: skip
    for one in made:
        assert await town.book.add(one)
        assert not await town.book.add(one)
    await town.book.add(bill("theirs", account=BOB))
    mine = BillFilter(account=ALICE)
    page = await town.book.bills(mine, limit=5)
    rest = await town.book.bills(mine, limit=5, before=(page[-1].at, page[-1].bill_id))
    assert [*page, *rest] == made[::-1]
    (total,) = await town.book.sums(mine)
    assert (total.bills, total.charged, total.fee, total.earned) == (8, 28, 7, 28)
    days = await town.book.sums(mine, ["day", "key_id"])
    assert [(one.group, one.bills, one.charged) for one in days] == [
        (("10", ""), 2, 2), (("10", "k"), 2, 4), (("11", ""), 2, 10), (("11", "k"), 2, 12),
    ]  # fmt: skip
    assert await town.book.sums(BillFilter(account="nobody")) == []
    early = BillFilter(since=10 * DAY, until=10 * DAY + 2)
    assert {one.bill_id for one in await town.book.bills(early)} == {"theirs", "b1", "b0"}
    with pytest.raises(ValueError, match="summed"):
        await town.book.sums(mine, ["tags"])
