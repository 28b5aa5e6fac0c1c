"""What the client remembers of its payments, across crashes and shared by the processes of one machine (fault B12).

SQLite with `synchronous=FULL`: when a method returns, its write is on the disk. Rows move along
`lifecycle.LAW[Party.CLIENT]` and no other way. The file holds signed payments, which are bearer instruments until they
expire, so only its owner may read it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from x402 import lifecycle
from x402.client.budget import HOUR_SECONDS, Limits
from x402.client.owner import Call, is_live
from x402.errors import MalformedError, Mender, MisconfiguredError, UnavailableError
from x402.lifecycle import Entry, Event, Party, Subject
from x402.money import EXACT_CONTEXT, round_up
from x402.stages import STAGES, Exposed, Held, Released, Stage, State
from x402.wire.receipt import Receipt, parse_receipt

IN_MEMORY = ":memory:"
_VERSION = 1
_BUSY_MS = 15_000
_ALIVE_MARGIN_SECONDS = 60
"""How far our clock and the chain's may differ before a signature is taken for dead."""
_ALIVE_WITHOUT_EXPIRY_SECONDS = 300
"""A Solana blockhash serves 150 blocks, which is 60 to 90 seconds; this is how long we take it to live."""
_RECALL_SECONDS = 25 * HOUR_SECONDS
"""How long an unanswered payment is presented again; no signature of ours lives longer than a day."""
_OWED = (
    "SELECT * FROM payments WHERE fingerprint = ? AND open = 1 AND header <> '' AND created_at > ?"
    " ORDER BY created_at, rowid"
)
_SCHEMA = """
CREATE TABLE payments (
    pay_id TEXT PRIMARY KEY, state TEXT NOT NULL, network TEXT NOT NULL, asset TEXT NOT NULL, payer TEXT NOT NULL,
    payee TEXT NOT NULL, host TEXT NOT NULL, amount TEXT NOT NULL, usd_micros INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, fingerprint TEXT NOT NULL, record TEXT NOT NULL, stage TEXT NOT NULL,
    header_name TEXT NOT NULL DEFAULT '', header TEXT NOT NULL DEFAULT '', receipt TEXT NOT NULL DEFAULT '',
    open INTEGER NOT NULL DEFAULT 1, owner TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX payments_open ON payments (fingerprint) WHERE open = 1;
CREATE INDEX payments_owned ON payments (owner) WHERE owner <> '';
CREATE INDEX payments_created ON payments (created_at);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One payment as the client remembers it.

    `header_name` and `header` are the very text that was presented. `open` says that no answer was received for it
    yet, so that the next call for the same request presents it again.
    """

    entry: Entry
    host: str
    usd: Decimal
    header_name: str = ""
    header: str = ""
    receipt: Receipt | None = None
    open: bool = True

    @property
    def pay_id(self) -> str:
        return self.entry.subject.pay_id

    @property
    def state(self) -> State:
        return self.entry.state

    def alive(self, now: int) -> bool:
        """Whether the signature may still move money; `now` is in unix seconds."""
        expires_at = self.entry.subject.expires_at
        if expires_at:
            return now < expires_at + _ALIVE_MARGIN_SECONDS
        return now < self.entry.created_at + _ALIVE_WITHOUT_EXPIRY_SECONDS


class Journal:
    """The memory of one user's payments in a file, or in memory for `":memory:"`. Safe for threads and processes.

    `clock` gives unix seconds. Every method raises `UnavailableError("journal_unavailable")` when it could not write;
    then nothing may be signed or sent (fault E10).
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], int]) -> None:
        self.path = str(path) if str(path) == IN_MEMORY else str(Path(path).expanduser())
        self._clock = clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened_by = 0
        self._inherited: list[sqlite3.Connection] = []

    def hold(self, subject: Subject, *, host: str, usd: Decimal, limits: Limits, call: Call) -> None:
        """Reserve an amount, before anything is signed; all limits are checked in the same transaction.

        Raises `DeclinedError("budget_exceeded")`.
        """
        now = self._clock()
        call.engaged = True
        entry = replace(lifecycle.begin(Party.CLIENT, subject, Held()), created_at=now, updated_at=now)
        with self._transaction() as db:
            self._bury(db)
            limits.check(usd, host, lambda seconds, where: _spent(db, now - seconds, where))
            db.execute(
                "INSERT INTO payments (pay_id, state, network, asset, payer, payee, host, amount, usd_micros,"
                " expires_at, fingerprint, record, stage, owner, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    subject.pay_id, entry.state, subject.network, subject.asset, subject.payer, subject.payee, host,
                    str(subject.amount), round_up(usd.scaleb(6, EXACT_CONTEXT)), subject.expires_at,
                    subject.fingerprint, json.dumps(dict(subject.record)), "{}", call.owner, now, now,
                ),
            )  # fmt: skip

    def expose(self, pay_id: str, header_name: str, header: str) -> Record:
        """Write down the signed header; only after this returns may it leave the machine."""
        with self._transaction() as db:
            self._move(db, pay_id, Event.EXPOSE, Exposed(header))
            change = "UPDATE payments SET header_name = ?, header = ? WHERE pay_id = ?"
            db.execute(change, (header_name, header, pay_id))
            return _record(_row(db, pay_id))

    def release(self, pay_id: str, reason: str) -> None:
        """Give a reservation back: it was never exposed, or is proven dead without having moved money."""
        with self._transaction() as db:
            self._move(db, pay_id, Event.RELEASE, Released(reason))
            db.execute("UPDATE payments SET open = 0, owner = '' WHERE pay_id = ?", (pay_id,))

    def recall(self, fingerprint: str, call: Call) -> Record | None:
        """Take up the oldest payment for this request that still lacks an answer and that no living call owns."""
        arguments = (fingerprint, self._clock() - _RECALL_SECONDS)
        with self._reading() as db:
            if not any(_is_free(row) for row in db.execute(_OWED, arguments)):
                return None
        with self._transaction() as db:
            for row in db.execute(_OWED, arguments).fetchall():
                if _is_free(row):
                    call.engaged = True
                    db.execute("UPDATE payments SET owner = ? WHERE pay_id = ?", (call.owner, row["pay_id"]))
                    return _record(row)
        return None

    def conclude(
        self, pay_id: str, *, event: Event | None = None, stage: Stage | None = None,
        receipt: Receipt | None = None, answered: bool = False,
    ) -> Record:  # fmt: skip
        """Write down what a reply proves. An event that the row is already past changes nothing: no arrow leads back.

        `answered` closes the payment: it will not be presented again.
        """
        with self._transaction() as db:
            row = _row(db, pay_id)
            if event is not None and stage is not None and event in lifecycle.LAW[Party.CLIENT][State(row["state"])]:
                self._move(db, pay_id, event, stage)
            if receipt is not None:
                text = json.dumps(receipt.as_json())
                db.execute("UPDATE payments SET receipt = ? WHERE pay_id = ?", (text, pay_id))
            if answered:
                db.execute("UPDATE payments SET open = 0, owner = '' WHERE pay_id = ?", (pay_id,))
            return _record(_row(db, pay_id))

    def leave(self, call: Call) -> None:
        """End a call: what it exposed is free for the next one, what it only held never left and is released."""
        with self._transaction() as db:
            for row in db.execute("SELECT * FROM payments WHERE owner = ?", (call.owner,)).fetchall():
                self._abandon(db, row)

    def find(self, pay_id: str) -> Record | None:
        """One payment by its identity."""
        with self._reading() as db:
            row = db.execute("SELECT * FROM payments WHERE pay_id = ?", (pay_id,)).fetchone()
            return _record(row) if row is not None else None

    def history(self, limit: int = 100, *, host: str = "", unresolved: bool = False) -> Sequence[Record]:
        """The latest payments, newest first; those to one host, or those without a known outcome, when asked for."""
        states = sorted(lifecycle.open_states(Party.CLIENT) if unresolved else State)
        marks = ", ".join("?" * len(states))
        with self._reading() as db:
            rows = db.execute(
                f"SELECT * FROM payments WHERE state IN ({marks}) AND ? IN ('', host)"
                " ORDER BY created_at DESC, rowid DESC LIMIT ?",
                (*states, host, limit),
            )
            return [_record(row) for row in rows]

    def unresolved(self) -> Sequence[Record]:
        """Payments whose outcome is not known (`lifecycle.open_states`), oldest first."""
        states = sorted(lifecycle.open_states(Party.CLIENT))
        marks = ", ".join("?" * len(states))
        with self._reading() as db:
            rows = db.execute(f"SELECT * FROM payments WHERE state IN ({marks}) ORDER BY created_at, rowid", states)
            return [_record(row) for row in rows]

    def spent(self, seconds: int, host: str = "") -> Decimal:
        """US dollars signed away in the last `seconds`, at one host or at all: all but what was released."""
        with self._reading() as db:
            return _spent(db, self._clock() - seconds, host)

    def totals(self) -> Mapping[State, Decimal]:
        """US dollars by state, over all time."""
        with self._reading() as db:
            rows = db.execute("SELECT state, SUM(usd_micros) AS micros FROM payments GROUP BY state")
            try:
                return {State(row["state"]): _dollars(row["micros"]) for row in rows}
            except (ValueError, TypeError, ArithmeticError) as error:
                raise _damaged("a state or an amount") from error

    def bury(self) -> Sequence[Record]:
        """Release what was only held by calls that have died, and return it: it never left this machine."""
        with self._transaction() as db:
            return [_record(_row(db, pay_id)) for pay_id in self._bury(db)]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None and self._opened_by == os.getpid():
                self._connection.close()
            self._connection = None

    def _bury(self, db: sqlite3.Connection) -> list[str]:
        """Release what dead calls held: the signed header is written before it leaves, so this never left."""
        held = db.execute("SELECT * FROM payments WHERE owner <> '' AND state = ?", (State.HELD,)).fetchall()
        dead = [row for row in held if not is_live(row["owner"])]
        for row in dead:
            self._abandon(db, row)
        return [row["pay_id"] for row in dead]

    def _abandon(self, db: sqlite3.Connection, row: sqlite3.Row) -> None:
        if row["state"] == State.HELD:
            self._move(db, row["pay_id"], Event.RELEASE, Released("never exposed"))
            db.execute("UPDATE payments SET open = 0 WHERE pay_id = ?", (row["pay_id"],))
        db.execute("UPDATE payments SET owner = '' WHERE pay_id = ?", (row["pay_id"],))

    def _move(self, db: sqlite3.Connection, pay_id: str, event: Event, stage: Stage) -> None:
        after = lifecycle.advance(_record(_row(db, pay_id)).entry, event, stage)
        db.execute(
            "UPDATE payments SET state = ?, stage = ?, updated_at = ? WHERE pay_id = ?",
            (after.state, json.dumps(asdict(stage)), self._clock(), pay_id),
        )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._open()
            except (sqlite3.Error, OSError) as error:
                raise _unavailable(self.path, error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        """The connection of this process; one inherited through a fork is neither used nor closed."""
        if self._connection is not None:
            if self._opened_by == os.getpid() or self.path == IN_MEMORY:
                return self._connection
            self._inherited.append(self._connection)
        if self.path != IN_MEMORY:
            file = Path(self.path)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            _prepare(db, self.path)
        except BaseException:
            db.close()
            raise
        self._connection, self._opened_by = db, os.getpid()
        return db


def _prepare(db: sqlite3.Connection, path: str) -> None:
    db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    if path != IN_MEMORY and db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")
    elif version != _VERSION:
        raise MisconfiguredError("journal_too_new", f"{path} was written by a later version of this program")


def _row(db: sqlite3.Connection, pay_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM payments WHERE pay_id = ?", (pay_id,)).fetchone()
    if row is None:
        raise KeyError(pay_id)
    return row


def _is_free(row: sqlite3.Row) -> bool:
    return not row["owner"] or not is_live(row["owner"])


def _record(row: sqlite3.Row) -> Record:
    try:
        return _parsed(row)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MalformedError) as error:
        raise _damaged(f"payment {row['pay_id']}") from error


def _parsed(row: sqlite3.Row) -> Record:
    subject = Subject(
        pay_id=row["pay_id"], network=row["network"], asset=row["asset"], payer=row["payer"], payee=row["payee"],
        amount=int(row["amount"]), expires_at=row["expires_at"], fingerprint=row["fingerprint"],
        record=json.loads(row["record"]),
    )  # fmt: skip
    stage = STAGES[State(row["state"])](**json.loads(row["stage"]))
    receipt = parse_receipt(json.loads(row["receipt"])) if row["receipt"] else None
    entry = Entry(Party.CLIENT, subject, stage, row["created_at"], row["updated_at"])
    return Record(
        entry, row["host"], _dollars(row["usd_micros"]), row["header_name"], row["header"], receipt, bool(row["open"])
    )


def _spent(db: sqlite3.Connection, since: int, host: str) -> Decimal:
    query = "SELECT SUM(usd_micros) FROM payments WHERE created_at > ? AND state <> ?"
    arguments: list[Any] = [since, State.RELEASED]
    if host:
        query += " AND host = ?"
        arguments.append(host)
    micros = db.execute(query, arguments).fetchone()[0] or 0
    if type(micros) is not int:
        raise _damaged("an amount")
    return _dollars(micros)


def _dollars(micros: int) -> Decimal:
    return Decimal(micros).scaleb(-6, EXACT_CONTEXT)


def _damaged(what: str) -> UnavailableError:
    return UnavailableError(
        "journal_damaged",
        f"{what} in the journal can't be read: something else wrote to its file. Nothing is signed before a copy from"
        " before that is put back, or another file is named in X402_JOURNAL",
        mender=Mender.OPERATOR,
    )


def _unavailable(path: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        "journal_unavailable",
        f"the journal {path} cannot be used ({error}), and nothing is signed without it. Free the disk, mend its"
        " permissions, or name another file in X402_JOURNAL",
    )
