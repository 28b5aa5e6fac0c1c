"""What the parties remember, after somebody else wrote to it: rows of ledger and journal, and whole files.

A damaged row is told as a fault of the books, by a typed error or as a violation in an audit; it is never a traceback,
and never a payment that reads as another one.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, update

from fuzzing import seeds
from fuzzing.case import Target
from fuzzing.tape import Tape, damage, fresh, junk, maul, tear
from x402.client.budget import Limits
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.errors import X402Error
from x402.lifecycle import Event, Party, begin
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.ports.ledger_text import EventRow, History, PaymentRow
from x402.ports.schema import payments
from x402.schemes.subject import subject_of
from x402.stages import Claimed, Intended, Served, Settling

_OFFER = seeds.evm_offer()
_PAYMENT = seeds.payment(_OFFER)
_SUBJECT = subject_of(_PAYMENT, _OFFER, fingerprint="f" * 64)
_ROW_COLUMNS = ("state", "network", "asset", "payer", "amount", "record", "stage", "pay_id", "party", "created_at")
_JOURNAL_COLUMNS = ("state", "amount", "record", "stage", "receipt", "usd_micros", "created_at", "expires_at", "owner")
_INTENDED = Intended("0x" + "12" * 32, b"\x02\xf8", seeds.NOW, "0x" + "34" * 20, 7)


def _wounded_cell(tape: Tape, cell: Any) -> Any:
    """What could stand in a column instead: SQLite keeps any type in any column."""
    match tape.below(4):
        case 0:
            value = junk(tape)
            return value if isinstance(value, str | int | float) and _fits(value) else json.dumps(value)[:2_000]
        case 1:
            return tear(str(cell), tape)
        case 2 if isinstance(cell, str) and cell.startswith("{"):
            return json.dumps(damage(json.loads(cell), tape))
        case _:
            return tape.choose(["", "0", "-1", "settled", "intended", "final", "{}", "[]", "null", 2**62, 1.5])


def _fits(value: str | float) -> bool:
    """Whether SQLite can hold it."""
    if isinstance(value, str):
        return value.isascii()
    return value == value and -(2**63) <= value < 2**63


def _rows() -> dict[str, Any]:
    subject = {**asdict(_SUBJECT), "record": json.dumps(dict(_SUBJECT.record)), "amount": str(_SUBJECT.amount)}
    del subject["pay_id"]
    stage = json.dumps({"transaction": "0x" + "12" * 32, "block": 5})
    begun, ended = seeds.NOW - 3, seeds.NOW - 1
    walk = [["begin", "claimed", "{}", begun], ["submit", "settling", "{}", begun], ["settle", "settled", stage, ended]]
    payment = ["gateway", _SUBJECT.pay_id, "settled", stage, begun, ended, subject]
    return {"payment": payment, "events": walk}


def _make_history(tape: Tape) -> bytes:
    return json.dumps([damage(fresh(_HISTORY), tape) for _ in range(1 + tape.below(2))]).encode()


def run_history(data: bytes) -> bool:
    """An audit of rows as they stand; whether the books agree."""
    histories = []
    for told in json.loads(data):
        try:
            party, pay_id, state, stage, created, updated, constants = told["payment"]
            walk = [EventRow(str(one[0]), str(one[1]), str(one[2]), int(one[3])) for one in told["events"]]
            row = PaymentRow(str(party), str(pay_id), str(state), str(stage), int(created), int(updated), constants)
            whole = row.constants.keys() >= _CONSTANTS
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
            continue
        if whole:
            histories.append(History(row.party, row.pay_id, row, tuple(walk)))
    found = audit(histories, now=seeds.NOW)
    return bool(histories) and not found.violations


_HISTORY = json.dumps(_rows())
_CONSTANTS = frozenset(_rows()["payment"][6])


class Books:
    """A ledger and a journal with a payment each, whose rows a case rewrites; and a ledger's file to be torn."""

    def __init__(self, place: Path, ledger: SqlLedger) -> None:
        self.ledger = ledger
        self.place = place
        self.file = place / "books.sqlite"
        self.torn = place / "torn.sqlite"
        self.whole = b""
        self.journal = Journal(place / "journal.sqlite", clock=lambda: seeds.NOW)
        self._other: Engine = create_engine(f"sqlite:///{self.file}")
        self.ledger_row: dict[str, Any] = {}
        self.journal_row: dict[str, Any] = {}

    async def open(self) -> None:
        """Write what is to be damaged."""
        await self.ledger.begin(begin(Party.FACILITATOR, _SUBJECT, _INTENDED))
        await self.ledger.begin(begin(Party.GATEWAY, _SUBJECT, Claimed()))
        await self.ledger.advance(Party.GATEWAY, _SUBJECT.pay_id, Event.SERVE, Served())
        await self.ledger.advance(Party.GATEWAY, _SUBJECT.pay_id, Event.SUBMIT, Settling())
        call = Call()
        self.journal.hold(_SUBJECT, host="h", usd=Decimal("0.01"), limits=Limits(), call=call)
        self.journal.expose(_SUBJECT.pay_id, "PAYMENT-SIGNATURE", _PAYMENT.as_header())
        with self._other.begin() as connection:
            row = connection.execute(payments.select().where(payments.c.party == "facilitator")).one()
            self.ledger_row = {name: row._mapping[name] for name in _ROW_COLUMNS}
        with sqlite3.connect(self.journal.path) as db:
            db.row_factory = sqlite3.Row
            known = db.execute("SELECT * FROM payments").fetchone()
            # Owned by nobody who lives: the name of this process would be another one in each run.
            self.journal_row = {name: known[name] for name in _JOURNAL_COLUMNS} | {"owner": "1.1/1"}
        async with SqlLedger(f"sqlite:///{self.torn}", clock=lambda: seeds.NOW) as once:
            await once.begin(begin(Party.FACILITATOR, _SUBJECT, _INTENDED))
        self.whole = self.torn.read_bytes()

    def write_ledger(self, values: dict[str, Any]) -> None:
        """Rewrite the facilitator's row behind the ledger's back."""
        with self._other.begin() as connection:
            where = payments.c.created_at >= 0 if "created_at" not in values else payments.c.network != ""
            connection.execute(update(payments).where(payments.c.sender != "", where).values(**values))

    def write_journal(self, values: dict[str, Any]) -> None:
        """Rewrite the journal's row behind its back."""
        names = ", ".join(f"{name} = ?" for name in values)
        with sqlite3.connect(self.journal.path) as db:
            db.execute(f"UPDATE payments SET {names}", tuple(values.values()))

    def close(self) -> None:
        """Let go of the files."""
        self.journal.close()
        self._other.dispose()


def _wounded_row(tape: Tape, row: dict[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: _wounded_cell(tape, row[name]) for name in (tape.choose(columns) for _ in range(1 + tape.below(2)))}


def targets(books: Books) -> list[Target]:
    """The books' readers."""

    def make_journal(tape: Tape) -> bytes:
        return json.dumps(_wounded_row(tape, books.journal_row, _JOURNAL_COLUMNS)).encode()

    def run_journal(data: bytes) -> bool:
        values = json.loads(data)
        books.write_journal(values)
        try:
            return all(_read(ask) for ask in _asked_of_journal(books.journal))
        finally:
            books.write_journal(books.journal_row)

    def make_file(tape: Tape) -> bytes:
        wounds = [(tape.below(len(books.whole)), tape.below(256)) for _ in range(1 + tape.below(6))]
        raw = bytearray(books.whole)
        for at, byte in wounds:
            raw[at] = byte
        if tape.below(8) == 0:
            raw = bytearray(maul(bytes(raw), tape))
        return base64.b64encode(bytes(raw))

    def run_file(data: bytes) -> bool:
        books.torn.write_bytes(base64.b64decode(data))
        with read_ledger(str(books.torn)) as snapshot:
            found = audit(snapshot.histories(), now=seeds.NOW)
            rows = list(snapshot.payments())
        return bool(rows) and not found.violations

    return [
        Target("book.audit", _make_history, run_history, 3),
        Target("book.journal-row", make_journal, run_journal, 1, (X402Error,)),
        Target("book.ledger-row", *_ledger_row(books), 1, (X402Error,)),
        Target("book.ledger-file", make_file, run_file, 1, (X402Error,)),
    ]


def _ledger_row(books: Books) -> tuple[Callable[[Tape], bytes], Callable[[bytes], Any]]:
    columns = tuple(name for name in _ROW_COLUMNS if name not in ("pay_id", "party"))

    def make(tape: Tape) -> bytes:
        return json.dumps(_wounded_row(tape, books.ledger_row, columns)).encode()

    async def run(data: bytes) -> bool:
        books.write_ledger(json.loads(data))
        try:
            await books.ledger.find(Party.FACILITATOR, _SUBJECT.pay_id)
            await books.ledger.unresolved(Party.FACILITATOR)
            await books.ledger.take_open(Party.FACILITATOR, 1)
        finally:
            books.write_ledger(books.ledger_row)
        return True

    return make, run


def _read(ask: Callable[[], object]) -> bool:
    """Whether a question to the journal is answered; each is asked, whatever became of the one before."""
    try:
        ask()
    except X402Error:
        return False
    return True


def _asked_of_journal(journal: Journal) -> list[Callable[[], object]]:
    return [
        lambda: journal.find(_SUBJECT.pay_id),
        journal.history,
        journal.unresolved,
        journal.totals,
        lambda: journal.spent(3600),
        journal.bury,
        lambda: journal.recall(_SUBJECT.fingerprint, Call()),
    ]


@asynccontextmanager
async def open_books(place: Path) -> AsyncIterator[Books]:
    """The books, in the folder `place`."""
    async with SqlLedger(f"sqlite:///{place / 'books.sqlite'}", clock=lambda: seeds.NOW) as ledger:
        books = Books(place, ledger)
        await books.open()
        yield books
        books.close()
