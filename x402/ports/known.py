"""What one transaction knows already, because it was read for all of its jobs together, or written by one of them.

Only a transaction with many jobs on PostgreSQL has any of this. Whoever has a payment's name to himself may trust what
is known of it until the transaction ends; who writes to the database notes it here as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection

from x402.lifecycle import Entry
from x402.stages import Intended

_KNOWN = "x402.known"
Sum = tuple[str, str, str]
"""A network, an asset and a payer; everybody is an empty payer."""


@dataclass(slots=True)
class Known:
    """Payments by party and identity, None for those that don't exist; what is unsettled, in atomic units; when each
    payer last failed, in unix seconds; and what each paid lately, with the time."""

    entries: dict[tuple[str, str], Entry | None] = field(default_factory=dict)
    unsettled: dict[Sum, int] = field(default_factory=dict)
    failed: dict[str, int | None] = field(default_factory=dict)
    paid: dict[Sum, list[tuple[int, int]]] = field(default_factory=dict)

    def forget_attempts(self) -> None:
        """Ask anew for payments that wait for a transaction: bytes that some of them share are replaced."""
        for name, entry in list(self.entries.items()):
            if entry is not None and isinstance(entry.stage, Intended):
                del self.entries[name]

    def forget_conduct(self, key: Sum) -> None:
        """Ask anew what a payer paid and whether he failed: a payment of his is being ended."""
        self.paid.pop(key, None)
        self.failed.pop(key[2], None)


def known(connection: Connection) -> Known | None:
    """What this transaction knows, if it knows anything."""
    if connection.dialect.name == "sqlite":
        return None
    found: Known | None = connection.info.get(_KNOWN)
    return found


def remember(connection: Connection, what: Known) -> None:
    """Know this until `forget`."""
    connection.info[_KNOWN] = what


def forget(connection: Connection) -> None:
    """Know nothing any more: the transaction is over."""
    if not connection.invalidated:
        connection.info.pop(_KNOWN, None)
