"""The file in which the client's payments are remembered: SQLite, one connection per process, one writer at a time.

`synchronous=FULL`: when a transaction has ended, it is on the disk. The file holds signed payments, which are bearer
instruments until they expire, so only its owner may read it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from x402.errors import MisconfiguredError, UnavailableError

IN_MEMORY = ":memory:"
_BUSY_MS = 15_000
_FIRST = """
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
_SECOND = """
ALTER TABLE payments ADD COLUMN answered_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN finding TEXT NOT NULL DEFAULT '';
UPDATE payments SET answered_at = updated_at WHERE open = 0 AND state <> 'released';
CREATE INDEX payments_host ON payments (host);
DROP INDEX payments_created;
CREATE INDEX payments_sums ON payments (created_at, state, usd_micros);
CREATE INDEX payments_host_sums ON payments (host, created_at, state, usd_micros);
CREATE INDEX payments_payee_sums ON payments (payee COLLATE NOCASE, created_at, state, usd_micros);
CREATE INDEX payments_answered ON payments (host) WHERE answered_at > 0;
CREATE TABLE payees (
    host TEXT NOT NULL, network TEXT NOT NULL, asset TEXT NOT NULL, payee TEXT NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (host, network, asset, payee)
);
INSERT INTO payees SELECT host, network, asset, payee, MIN(created_at) FROM payments
    WHERE answered_at > 0 GROUP BY host, network, asset, payee;
"""
_CHANGES = (_FIRST, _SECOND)
"""What leads from each version of the file to the next; a new file takes all of them."""


class JournalFile:
    """A journal's file, or memory for `":memory:"`. Safe for threads and processes.

    Everything raises `UnavailableError("journal_unavailable")` when the file can't be used, and
    `MisconfiguredError("journal_too_new")` when a later version of this program has written it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path) if str(path) == IN_MEMORY else str(Path(path).expanduser())
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened_by = 0
        self._inherited: list[sqlite3.Connection] = []

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing."""
        with self._lock:
            try:
                yield self._open()
            except (sqlite3.Error, OSError) as error:
                raise _unavailable(self.path, error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection as the only writer: all of it is on the disk in the end, or nothing."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None and self._opened_by == os.getpid():
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        """The connection of this process; one inherited through a fork is neither used nor closed."""
        if self._connection is not None:
            if self._opened_by == os.getpid() or self.path == IN_MEMORY:
                return self._connection
            self._inherited.append(self._connection)
        if self.path != IN_MEMORY:
            file = Path(self.path)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Only a file that is not there yet is opened here: closing one that SQLite holds open would drop this
            # process's locks on it, and another process could take its write-ahead log away under it (POSIX).
            with suppress(FileExistsError):
                os.close(os.open(file.resolve(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
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
    if _version(db) < len(_CHANGES):
        db.execute("BEGIN IMMEDIATE")
        try:
            for change in _CHANGES[_version(db) :]:
                for statement in change.split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {max(_version(db), len(_CHANGES))}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    if _version(db) > len(_CHANGES):
        raise MisconfiguredError("journal_too_new", f"{path} was written by a later version of this program")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _unavailable(path: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        "journal_unavailable",
        f"the journal {path} cannot be used ({error}), and nothing is signed without it. Free the disk, mend its"
        " permissions, or name another file in X402_JOURNAL",
    )
