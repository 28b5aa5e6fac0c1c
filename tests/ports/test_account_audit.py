"""The accounts' own court: an honest ledger is not accused, and every forgery in a real file is found (I13)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.ports.ledgers import NETWORK, subject, url
from x402.billing import Bill, Booking, EntryKind, Metered, PaidBy, Posting
from x402.cli.ledger import app
from x402.lifecycle import Event, Party, begin
from x402.ports.account_audit import audit_accounts
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Payout, Reservation, Withdrawal
from x402.ports.audit import Audit, Holdings
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.stages import Claimed, Credited, Delivered, Lost, Owed, Settled, Settling

SHOP = Party.GATEWAY
ALICE = f"{NETWORK}:0xpayer"


async def paid(ledger: SqlLedger, name: str, kind: EntryKind, units: int, end: str = "delivered") -> None:
    await ledger.begin(begin(SHOP, subject(name), Claimed()))
    await ledger.advance(SHOP, name, Event.SUBMIT, Settling())
    await ledger.advance(SHOP, name, Event.SETTLE, Settled(f"0x{name}"))
    booking = Booking(postings=(Posting(account=ALICE, kind=kind, reference=name, units=units),))
    if end == "credited":
        await ledger.advance(SHOP, name, Event.FAIL, Owed(f"0x{name}", "why"))
        await ledger.advance(SHOP, name, Event.CREDIT, Credited(f"0x{name}", ALICE), booking=booking)
    else:
        await ledger.advance(SHOP, name, Event.DELIVER, Delivered(f"0x{name}"), booking=booking)
    if end == "reversed":
        await ledger.advance(SHOP, name, Event.REORGANISE, Lost(f"0x{name}"))


async def books(folder: Path) -> Path:
    """An honest ledger with everything that an account may go through, closed."""
    ticks = iter(range(100, 10_000))
    async with SqlLedger(url(folder), clock=lambda: next(ticks)) as ledger:
        book = SqlAccounts(ledger)
        await paid(ledger, "deposit", EntryKind.DEPOSIT, 1000)
        await paid(ledger, "credit", EntryKind.CREDIT, 400)
        await paid(ledger, "owed", EntryKind.CREDIT, 1000, "credited")
        await paid(ledger, "undone", EntryKind.CREDIT, 300, "reversed")
        await book.post(Posting(account=ALICE, kind=EntryKind.GRANT, reference="welcome", units=50))
        for name in ("sold", "left", "open"):
            await book.reserve(Reservation(id=name, account=ALICE, units=200), lease_seconds=10_000)
        used = Metered(model="m", charged=120, fee=12)
        bill = Bill(bill_id="sold", at=1, account=ALICE, paid_by=PaidBy.BALANCE, metered=used, quoted=200)
        await book.settle("sold", bill)
        await book.release("left")
        first, _ = await book.withdraw(Withdrawal(id="out", account=ALICE, units=500), lease_seconds=10)
        await book.move(replace(first, state=Payout.SENT, attempt=1), was=first)
        second, _ = await book.withdraw(Withdrawal(id="back", account=ALICE, units=100), lease_seconds=10)
        await book.move(replace(second, state=Payout.RETURNED), was=second)
    return folder / "ledger.sqlite"


def judge(file: Path) -> Audit:
    with read_ledger(str(file)) as snapshot:
        return audit_accounts(snapshot.accounts(), Audit())


async def test_I13_an_honest_ledger_agrees_with_itself(tmp_path: Path) -> None:
    found = judge(await books(tmp_path))
    assert found.violations == []
    # 1000 + 400 + 1000 + 50, without 120 that were sold and 500 that are on their way out.
    assert found.holdings == Holdings(accounts=1, entries=16, units=1830, gifts=0)


FORGERIES = {
    "a richer balance": "UPDATE accounts SET balance = balance + 1",
    "less set aside": "UPDATE accounts SET reserved = reserved - 1",
    "a gift made one's own": "UPDATE accounts SET gift = gift + 1",
    "an account without entries": "INSERT INTO accounts VALUES ('eve', 5, 0, 0, 1, 1)",
    "an entry too much": "INSERT INTO account_entries (account, at, kind, units, held, reference)"
    f" VALUES ('{ALICE}', 1, 'grant', 5, 0, 'again')",
    "an entry that is gone": "DELETE FROM account_entries WHERE kind = 'release' AND reference = 'left'",
    "a kind of nobody": "UPDATE account_entries SET kind = 'gold' WHERE kind = 'grant'",
    "a credit that nobody paid": "UPDATE account_entries SET reference = 'nothing' WHERE reference = 'credit'",
    "a credit of another's payment": "UPDATE payments SET payer = '0xother' WHERE pay_id = 'credit'",
    "a credit beyond its payment": "UPDATE payments SET amount = '399' WHERE pay_id = 'credit'",
    "a credit for a payment that is not delivered": "UPDATE payments SET state = 'owed' WHERE pay_id = 'credit'",
    "a larger debit": "UPDATE account_entries SET held = held - 1 WHERE kind = 'debit'",
    "a smaller bill": "UPDATE bills SET charged = 1",
    "no bill": "DELETE FROM bills",
    "a reservation that was never set aside": "UPDATE reservations SET units = 5 WHERE id = 'open'",
    "a release that was a sale": "UPDATE reservations SET state = 'released' WHERE id = 'sold'",
    "an end without a release": "UPDATE reservations SET state = 'released' WHERE id = 'open'",
    "a larger withdrawal": "UPDATE withdrawals SET units = 501 WHERE id = 'out'",
    "a return that never came": "UPDATE withdrawals SET state = 'returned' WHERE id = 'out'",
    "a payout that came back too": "UPDATE withdrawals SET state = 'paid' WHERE id = 'back'",
    "a day on which there was less": "UPDATE account_entries SET units = -90000 WHERE reference = 'undone' AND seq ="
    " (SELECT min(seq) FROM account_entries WHERE reference = 'undone')",
}


@pytest.mark.parametrize("forgery", list(FORGERIES))
async def test_I13_every_forgery_is_found(tmp_path: Path, forgery: str) -> None:
    file = await books(tmp_path)
    with closing(sqlite3.connect(file)) as raw, raw:
        assert raw.execute(FORGERIES[forgery]).rowcount > 0
    found = judge(file)
    assert {one.invariant for one in found.violations} == {"I13"}


async def test_I13_the_command_tells_what_is_held_for_others_and_fails_when_it_is_not_there(tmp_path: Path) -> None:
    file = await books(tmp_path)
    told = CliRunner().invoke(app, ["audit", str(file), "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["accounts"] == {
        "accounts": "1", "entries": "16", "units": "1830", "gifts": "0",
    }  # fmt: skip
    shown = CliRunner().invoke(app, ["audit", str(file)])
    assert "0.00183 USDC for others" in shown.stdout
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("UPDATE accounts SET balance = 10")
    assert CliRunner().invoke(app, ["audit", str(file)]).exit_code == 1
