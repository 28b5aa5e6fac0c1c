"""What one connection knows of its database already, because it was read before, or written by itself.

On PostgreSQL that is what was read ahead for a transaction with many jobs. Whoever has a payment's name to himself may
trust what is known of it until the transaction ends; who writes to the database notes it here as well.

On SQLite a transaction sees one moment and writes alone, so whatever it asks it may remember. So may the next ones, as
long as no other connection has committed anything between: SQLite counts that (`PRAGMA data_version`). Whatever is
rolled back, or written past these notes, makes all of them forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from x402.lifecycle import Entry
from x402.stages import Intended

_KNOWN = "x402.known"
_KEPT = "x402.known.kept"
_ENTRIES, _SUMS, _TIMES = 512, 4096, 64
"""How much is known at most: payments, payers, and recent payments of one payer. Beyond it everything is asked anew."""

Sum = tuple[str, str, str]
"""A network, an asset and a payer; everybody is an empty payer."""


@dataclass(slots=True)
class Known:
    """Payments by party and identity, None for those that don't exist; what is unsettled, in atomic units; and how far
    back, in unix seconds, it is known when each payer last failed, and what each paid with the time."""

    version: int | None = None
    """SQLite's count of what others committed, when all of this was true."""
    entries: dict[tuple[str, str], Entry | None] = field(default_factory=dict)
    unsettled: dict[Sum, int] = field(default_factory=dict)
    failed: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    paid: dict[Sum, tuple[int, list[tuple[int, int]]]] = field(default_factory=dict)

    @property
    def remembers(self) -> bool:
        """Whether what is asked may be noted: nobody else writes before the transaction ends."""
        return self.version is not None

    def forget_attempts(self) -> None:
        """Ask anew for payments that wait for a transaction: bytes that some of them share are replaced."""
        for name, entry in list(self.entries.items()):
            if entry is not None and isinstance(entry.stage, Intended):
                del self.entries[name]

    def note_paid(self, key: Sum, at: int, units: int) -> None:
        """Another payment of a payer has moved its money."""
        if key in self.paid:
            self.paid[key][1].append((at, units))
            if len(self.paid[key][1]) > _TIMES:
                del self.paid[key]

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew."""
        return len(self.entries) > _ENTRIES or max(len(self.unsettled), len(self.failed), len(self.paid)) > _SUMS


def known(connection: Connection) -> Known | None:
    """What this transaction knows, if it knows anything."""
    found: Known | None = connection.info.get(_KNOWN)
    return found


def remember(connection: Connection, what: Known) -> None:
    """Know this until `forget`."""
    connection.info[_KNOWN] = what


def forget(connection: Connection) -> None:
    """Know nothing any more: the transaction is over, or something was written that is not noted."""
    if not connection.invalidated:
        connection.info.pop(_KNOWN, None)
        connection.info.pop(_KEPT, None)


def resume(connection: Connection) -> None:
    """On SQLite, when a transaction begins: know what was known when the last one ended, if that is true still."""
    raw: Any = connection.connection.dbapi_connection
    version = raw.execute("PRAGMA data_version").fetchone()[0]
    what: Known | None = connection.info.pop(_KEPT, None)
    fresh = what is None or what.version != version or what.is_full
    connection.info[_KNOWN] = Known(version) if fresh else what


def keep(connection: Connection) -> None:
    """After a commit: on SQLite, what is known now is for the next transaction; on PostgreSQL it is forgotten."""
    what: Known | None = connection.info.pop(_KNOWN, None)
    if what is not None and what.remembers:
        connection.info[_KEPT] = what
