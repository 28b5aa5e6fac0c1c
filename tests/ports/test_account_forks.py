"""What a fork takes from an account, its gifts included, and what landing again gives back. Fault A16; aimo row 78."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ports.ledgers import subject, url
from tests.ports.test_account_audit import judge
from tests.ports.test_accounts import ALICE, Town
from x402.billing import Booking, EntryKind, Posting
from x402.lifecycle import Event, Party, begin
from x402.ports.accounts import Balance, Withdrawal
from x402.stages import Claimed, Delivered, Final, Lost, Settled, Settling

SHOP = Party.GATEWAY


@pytest.fixture
async def town(ledger_url: str) -> AsyncIterator[Town]:
    town = Town(ledger_url)
    async with town.ledger:
        yield town


async def deposit(town: Town, name: str, units: int, bonus: int = 0) -> None:
    """A payment that fills the account, and what is given on top of it."""
    await town.ledger.begin(begin(SHOP, subject(name), Claimed()))
    await town.ledger.follow(SHOP, name, [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))])
    told = ((EntryKind.DEPOSIT, units), (EntryKind.GRANT, bonus))
    postings = tuple(
        Posting(account=ALICE, kind=kind, reference=name, units=brought) for kind, brought in told if brought
    )
    await town.ledger.advance(SHOP, name, Event.DELIVER, Delivered("0xtx"), booking=Booking(postings=postings))


async def undo(town: Town, name: str) -> None:
    await town.ledger.advance(SHOP, name, Event.REORGANISE, Lost("0xtx"))


async def land_again(town: Town, name: str) -> None:
    await town.ledger.advance(SHOP, name, Event.FINALISE, Final("0xagain", 9))


async def balance(town: Town) -> tuple[int, int, int]:
    """What may be spent, what is set aside, and how much of both is a gift."""
    there: Balance = await town.book.balance(ALICE)
    assert 0 <= there.gift <= there.units + there.reserved
    return there.units, there.reserved, there.gift


async def test_A16_row_078_a_bonus_goes_and_comes_with_the_payment_that_brought_it(town: Town) -> None:
    await deposit(town, "undone", 60, 6)
    await deposit(town, "other", 50, 5)
    await undo(town, "undone")
    assert await balance(town) == (55, 0, 5)
    newest, older, *_ = await town.book.statement(ALICE)
    assert [(one.kind, one.units) for one in (older, newest)] == [(EntryKind.REVERSE, -60), (EntryKind.REVOKE, -6)]
    # It is a gift again, which is spent and never paid out.
    await land_again(town, "undone")
    assert await balance(town) == (121, 0, 11)


async def test_A16_G10_what_was_paid_out_already_is_taken_from_gifts(town: Town) -> None:
    """A later deposit is whole: it is no gift, and nothing of it stands for what the fork took."""
    await deposit(town, "undone", 60)
    await town.book.post(Posting(account=ALICE, kind=EntryKind.GRANT, reference="welcome", units=30))
    await town.book.withdraw(Withdrawal(id="out", account=ALICE, units=40), lease_seconds=10)
    await undo(town, "undone")
    assert await balance(town) == (0, 0, 0)
    await deposit(town, "later", 50)
    assert (await town.book.balance(ALICE)).withdrawable == 50
    await land_again(town, "undone")
    assert await balance(town) == (100, 0, 30)


async def test_A16_what_is_set_aside_stays_set_aside(town: Town) -> None:
    await deposit(town, "undone", 60, 6)
    await town.reserve(10)
    await undo(town, "undone")
    assert await balance(town) == (0, 10, 0)
    await land_again(town, "undone")
    assert await balance(town) == (56, 10, 6)


async def test_A16_what_is_larger_than_what_was_brought_keeps_the_rest(town: Town) -> None:
    await town.book.post(Posting(account=ALICE, kind=EntryKind.GRANT, reference="welcome", units=30))
    await deposit(town, "undone", 60)
    await deposit(town, "other", 5)
    await undo(town, "undone")
    assert await balance(town) == (35, 0, 30)


async def test_A16_the_audit_follows_every_step(tmp_path: Path) -> None:
    town = Town(url(tmp_path))
    async with town.ledger:
        await deposit(town, "undone", 60, 6)
        await deposit(town, "gone", 40, 4)
        for name in ("undone", "gone"):
            await undo(town, name)
        await land_again(town, "undone")
    found = judge(tmp_path / "ledger.sqlite")
    # Alice was filled by another's wallet here, which is told; her balance is what its entries make of it.
    assert [one.words for one in found.violations if "payment of 0xpayer" not in one.words] == []
    assert (found.holdings.units, found.holdings.gifts) == (66, 6)
