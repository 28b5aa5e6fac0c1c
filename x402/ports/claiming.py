"""How a payment is claimed: the room that there must be for it, what is begun without, and why it may not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from x402.lifecycle import Entry, Event
from x402.stages import Stage

Arrow = tuple[Event, Stage]
"""A step of the law: what happened, and what is known after it."""


class NoRoom(Exception):
    """A claim would leave more open than may be open at once, in atomic units. `scope` is `payer` or `total`; or it is
    `failures`, for a payer who has no room at all.

    It is `doubtful` where there would be room but for what the payer settled since `Room.since`: that may have been off
    his balance already when it was read, and is counted all the same.
    """

    def __init__(self, scope: str, open_units: int, room: int, *, doubtful: bool = False) -> None:
        super().__init__(f"{open_units} units are open, and the limit ({scope}) is {room}")
        self.scope, self.open_units, self.room, self.doubtful = scope, open_units, room, doubtful


class IdentifierTaken(Exception):
    """A payer has given this name to another payment of his, which is alive or was paid (fault B14)."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be unsettled at once on an entry's network and asset, in atomic units, the entry included:
    for its payer, and for all payers together. None is no limit (fault A08).

    What the payer settled at unix second `since` or later counts as open for `payer` as well: a balance that was read
    then may not have known of it. A payer with a failure (`Ledger.failures_of`) at the gateway, or at a facilitator
    that keeps its books here as well, at `failures_since` or later has no room (faults A16, D11).
    """

    payer: int | None = None
    total: int | None = None
    since: int | None = None
    failures_since: int | None = None


@dataclass(frozen=True, slots=True)
class Instead:
    """What is begun where one of `scopes` (`NoRoom.scope`) has no room: another first memory of the same payment, which
    follows `arrows` at once, and needs no room."""

    scopes: frozenset[str]
    entry: Entry
    arrows: Sequence[Arrow] = ()
