"""What the client remembers of its payments, across crashes and shared by the processes of one machine (fault B12).

When a method returns, its write is on the disk. Rows move along `lifecycle.LAW[Party.CLIENT]` and no other way.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from x402 import lifecycle
from x402.client.breaker import Breaker, Standing
from x402.client.budget import HOUR_SECONDS, Limits
from x402.client.journal_file import IN_MEMORY as IN_MEMORY
from x402.client.journal_file import JournalFile
from x402.client.owner import Call, is_live
from x402.client.record import EARLIER, Check, Earlier, Record, damaged, dollars, micros, record_of
from x402.client.trust import Payee, named_host, remembered
from x402.lifecycle import Event, Party, Subject
from x402.stages import Exposed, Held, Released, Settled, Stage, State
from x402.wire.receipt import Receipt

_RECALL_SECONDS = 25 * HOUR_SECONDS
"""How long an unanswered payment is presented again; no signature of ours lives longer than a day."""
_OWED = (
    "SELECT * FROM payments WHERE fingerprint = ? AND open = 1 AND header <> '' AND created_at > ?"
    " ORDER BY created_at, rowid"
)
_SINCE_ITS_LAST_ANSWER = (
    "FROM payments WHERE host = :host AND answered_at = 0 AND state <> 'released' AND rowid > COALESCE("
    "(SELECT rowid FROM payments WHERE host = :host AND answered_at > 0 ORDER BY rowid DESC LIMIT 1), 0)"
)
_IN_WORK_MAX = 1000


class Journal:
    """The memory of one user's payments in a file, or in memory for `":memory:"`. Safe for threads and processes.

    `clock` gives unix seconds. Every method raises `UnavailableError("journal_unavailable")` when it could not write;
    then nothing may be signed or sent (fault E10).
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], int]) -> None:
        self._file = JournalFile(path)
        self._clock = clock

    @property
    def path(self) -> str:
        """Where it is kept."""
        return self._file.path

    def hold(
        self, subject: Subject, *, host: str, usd: Decimal, limits: Limits, call: Call, breaker: Breaker | None = None
    ) -> None:
        """Reserve an amount, before anything is signed; limits and breaker are checked in the same transaction.

        Raises `DeclinedError("budget_exceeded")` or `DeclinedError("host_suspended")`, having reserved nothing.
        """
        now = self._clock()
        call.engaged = True
        entry = replace(lifecycle.begin(Party.CLIENT, subject, Held()), created_at=now, updated_at=now)
        with self._transaction() as db:
            self._bury(db)
            if breaker is not None:
                breaker.check(host, _standing(db, host, breaker.failures), now)
            limits.check(usd, host, subject.payee, lambda *window: _spent(db, now, *window))
            db.execute(
                "INSERT INTO payments (pay_id, state, network, asset, payer, payee, host, amount, usd_micros,"
                " expires_at, fingerprint, record, stage, owner, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    subject.pay_id, entry.state, subject.network, subject.asset, subject.payer, subject.payee, host,
                    str(subject.amount), micros(usd), subject.expires_at,
                    subject.fingerprint, json.dumps(dict(subject.record)), "{}", call.owner, now, now,
                ),
            )  # fmt: skip

    def expose(self, pay_id: str, header_name: str, header: str) -> Record:
        """Write down the signed header; only after this returns may it leave the machine."""
        with self._transaction() as db:
            self._move(db, pay_id, Event.EXPOSE, Exposed(header))
            change = "UPDATE payments SET header_name = ?, header = ? WHERE pay_id = ?"
            db.execute(change, (header_name, header, pay_id))
            return _find(db, pay_id)

    def hold_more(self, pay_id: str, *, host: str, usd: Decimal, limits: Limits) -> None:
        """Reserve what a payment is to cost instead, before it is signed anew with the same nonce.

        What it cost before stays reserved where that was more: either of both may be taken, and never both. Raises
        `DeclinedError("budget_exceeded")`, having reserved nothing.
        """
        now = self._clock()
        with self._transaction() as db:
            before = _find(db, pay_id)
            if usd > before.usd:
                payee = before.entry.subject.payee
                limits.check(usd - before.usd, host, payee, lambda *window: _spent(db, now, *window))
                db.execute("UPDATE payments SET usd_micros = ? WHERE pay_id = ?", (micros(usd), pay_id))

    def replace(self, subject: Subject, header_name: str, header: str) -> Record:
        """Write down the header that takes the place of an exposed one; only after this returns may it leave.

        `subject` has the same `pay_id`. Raises `UnlawfulEvent` for a payment that is not exposed any more.
        """
        with self._transaction() as db:
            known = _find(db, subject.pay_id)
            before, was = known.entry.stage, known.entry.subject
            earlier = (*before.earlier, before.header) if isinstance(before, Exposed) else ()
            self._move(db, subject.pay_id, Event.REPLACE, Exposed(header, earlier))
            kept = [*known.earlier, Earlier(known.header_name, known.header, was.amount, was.payee)]
            record = json.dumps({**was.record, EARLIER: [asdict(one) for one in kept]})
            change = (
                "UPDATE payments SET header_name = ?, header = ?, amount = ?, payee = ?, record = ?,"
                " expires_at = MAX(expires_at, ?) WHERE pay_id = ?"
            )
            values = (header_name, header, str(subject.amount), subject.payee, record, subject.expires_at)
            db.execute(change, (*values, subject.pay_id))
            return _find(db, subject.pay_id)

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
                    return record_of(row)
        return None

    def conclude(
        self, pay_id: str, *, event: Event | None = None, stage: Stage | None = None,
        receipt: Receipt | None = None, answered: bool = False,
    ) -> Record:  # fmt: skip
        """Write down what a reply proves. An event that the row is already past changes nothing: no arrow leads back.

        `answered` closes the payment: it will not be presented again, and whom it paid is known for its host from now.
        """
        with self._transaction() as db:
            before = _find(db, pay_id)
            if event is not None and stage is not None and event in lifecycle.LAW[Party.CLIENT][before.state]:
                self._move(db, pay_id, event, stage)
            if receipt is not None:
                text = json.dumps(receipt.as_json())
                db.execute("UPDATE payments SET receipt = ? WHERE pay_id = ?", (text, pay_id))
            if answered:
                change = "UPDATE payments SET open = 0, owner = '', answered_at = ? WHERE pay_id = ?"
                db.execute(change, (max(1, self._clock()), pay_id))
                self._learn(db, before)
            return _find(db, pay_id)

    def give_up(self, pay_id: str) -> Record:
        """Stop presenting a payment that brought no answer, so that the same call may be paid for anew.

        It goes on counting in every limit until the chain proves that it never moved money.
        """
        with self._transaction() as db:
            db.execute("UPDATE payments SET open = 0 WHERE pay_id = ? AND header <> ''", (pay_id,))
            return _find(db, pay_id)

    def walk_away(self, pay_id: str, call: Call) -> None:
        """End a call in the midst of its answer: the next one may fetch the whole, and the host is not to blame."""
        with self._transaction() as db:
            change = "UPDATE payments SET owner = '', answered_at = ? WHERE pay_id = ? AND owner = ?"
            db.execute(change, (max(1, self._clock()), pay_id, call.owner))

    def leave(self, call: Call) -> None:
        """End a call: what it exposed is free for the next one, what it only held never left and is released."""
        with self._transaction() as db:
            for row in db.execute("SELECT * FROM payments WHERE owner = ?", (call.owner,)).fetchall():
                self._abandon(db, row)

    def note(self, pay_id: str, check: Check, amount: int | None = None) -> Record:
        """Keep what the chain said about a receipt; `amount` is what it shows to have been taken of a maximum, which
        from then on is all that counts in the limits."""
        with self._transaction() as db:
            if amount is not None:
                self._book(db, pay_id, amount)
            db.execute("UPDATE payments SET finding = ? WHERE pay_id = ?", (json.dumps(asdict(check)), pay_id))
            return _find(db, pay_id)

    def payees(self, host: str) -> frozenset[Payee]:
        """The addresses at which a host is known to be paid; empty for a host that has not answered a payment yet."""
        with self._reading() as db:
            rows = db.execute("SELECT payee, network, asset FROM payees WHERE host = ?", (host,))
            return frozenset(Payee(row["payee"], row["network"], row["asset"]) for row in rows)

    def trust(self, host: str, address: str) -> None:
        """Know one more address at which a host is paid, on any network: a person says so (fault B04). Raises
        `MalformedError("invalid_host")`."""
        values = (named_host(host), address, self._clock())
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO payees VALUES (?, '', '', ?, ?)", values)

    def standing(self, host: str) -> Standing:
        """How a host has treated us since its last answer."""
        with self._reading() as db:
            return _standing(db, host, _IN_WORK_MAX)

    def find(self, pay_id: str) -> Record | None:
        """One payment by its identity."""
        with self._reading() as db:
            row = db.execute("SELECT * FROM payments WHERE pay_id = ?", (pay_id,)).fetchone()
            return record_of(row) if row is not None else None

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
            return [record_of(row) for row in rows]

    def unresolved(self) -> Sequence[Record]:
        """Payments whose outcome is not known (`lifecycle.open_states`), oldest first."""
        states = sorted(lifecycle.open_states(Party.CLIENT))
        marks = ", ".join("?" * len(states))
        with self._reading() as db:
            rows = db.execute(f"SELECT * FROM payments WHERE state IN ({marks}) ORDER BY created_at, rowid", states)
            return [record_of(row) for row in rows]

    def records(self) -> Sequence[Record]:
        """Every payment in the order in which it was held."""
        with self._reading() as db:
            return [record_of(row) for row in db.execute("SELECT * FROM payments ORDER BY rowid")]

    def spent(self, seconds: int, host: str = "", payee: str = "") -> Decimal:
        """US dollars signed away in the last `seconds`, at one host, to one payee, or at all: all but what was
        released."""
        with self._reading() as db:
            return _spent(db, self._clock(), seconds, host, payee)

    def totals(self) -> Mapping[State, Decimal]:
        """US dollars by state, over all time."""
        with self._reading() as db:
            rows = db.execute("SELECT state, SUM(usd_micros) AS micros FROM payments GROUP BY state")
            try:
                return {State(row["state"]): dollars(row["micros"]) for row in rows}
            except ValueError as error:
                raise damaged("a payment's state") from error

    def bury(self) -> Sequence[Record]:
        """Release what was only held by calls that have died, and return it: it never left this machine."""
        with self._transaction() as db:
            return [_find(db, pay_id) for pay_id in self._bury(db)]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._file.reading()

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._file.transaction()

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

    def _learn(self, db: sqlite3.Connection, answered: Record) -> None:
        """Whom an answered payment paid, and whom its challenge offered to be paid instead."""
        for payee in remembered(answered.entry.subject):
            row = (answered.host, payee.network, payee.asset, payee.address, self._clock())
            db.execute("INSERT OR IGNORE INTO payees VALUES (?, ?, ?, ?, ?)", row)

    def _book(self, db: sqlite3.Connection, pay_id: str, amount: int) -> None:
        before = _find(db, pay_id)
        stage, signed = before.entry.stage, before.entry.subject.amount
        # Once: what is booked is a part of what was signed, and no part of a part.
        if not isinstance(stage, Settled) or before.check is not None or not 0 <= amount <= signed:
            return
        taken = -(-micros(before.usd) * amount // signed)
        change = "UPDATE payments SET stage = ?, usd_micros = ? WHERE pay_id = ?"
        db.execute(change, (json.dumps(_told(replace(stage, amount=amount))), taken, pay_id))

    def _move(self, db: sqlite3.Connection, pay_id: str, event: Event, stage: Stage) -> None:
        after = lifecycle.advance(_find(db, pay_id).entry, event, stage)
        db.execute(
            "UPDATE payments SET state = ?, stage = ?, updated_at = ? WHERE pay_id = ?",
            (after.state, json.dumps(_told(after.stage)), self._clock(), pay_id),
        )


def _told(stage: Stage) -> dict[str, Any]:
    """A stage as its row keeps it; an older program reads what has no amount of its own."""
    return {name: value for name, value in asdict(stage).items() if name != "amount" or value is not None}


def _find(db: sqlite3.Connection, pay_id: str) -> Record:
    row: sqlite3.Row | None = db.execute("SELECT * FROM payments WHERE pay_id = ?", (pay_id,)).fetchone()
    if row is None:
        raise KeyError(pay_id)
    return record_of(row)


def _is_free(row: sqlite3.Row) -> bool:
    return not row["owner"] or not is_live(row["owner"])


def _spent(db: sqlite3.Connection, now: int, seconds: int, host: str = "", payee: str = "") -> Decimal:
    query = "SELECT SUM(usd_micros) FROM payments WHERE created_at > ? AND state <> ?"
    arguments: list[int | str] = [now - seconds, State.RELEASED]
    if host:
        query += " AND host = ?"
        arguments.append(host)
    if payee:
        # One EVM address has several spellings, and no two Solana addresses differ in case alone.
        query += " AND payee = ? COLLATE NOCASE"
        arguments.append(payee)
    return dollars(db.execute(query, arguments).fetchone()[0] or 0)


def _standing(db: sqlite3.Connection, host: str, enough: int) -> Standing:
    """What is held or presented since a host's last answer; counts no further than `enough`."""
    newest = db.execute(f"SELECT MAX(created_at) {_SINCE_ITS_LAST_ANSWER}", {"host": host}).fetchone()[0]
    failed = 0
    for row in db.execute(f"SELECT owner {_SINCE_ITS_LAST_ANSWER} AND header <> '' ORDER BY rowid", {"host": host}):
        failed += _is_free(row)
        if failed >= enough:
            break
    return Standing(failed, newest or 0)
