"""Who works on a row, as statements inside the ledger's transactions (fault E11).

A lease is the right of one process to work on a row until a unix second. It spares work and sends; what keeps two
processes from moving a row twice is the law, which is checked in the transaction that moves it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, update

from x402.lifecycle import Party, open_states
from x402.ports.prepared import Prepared, value
from x402.ports.schema import has_open_state, payments, whole_payments
from x402.stages import State


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder` to work on a row until before the unix second `until`; none when that has passed."""

    holder: str
    now: int
    until: int

    @property
    def columns(self) -> dict[str, Any]:
        """What stands in a new row."""
        held = self.until > self.now
        return {"leased_by": self.holder if held else None, "leased_until": self.until if held else 0}


_row = (payments.c.party == value("party")) & (payments.c.pay_id == value("pay_id"))
_COLUMNS = ("leased_by", "leased_until")
_TAKE = Prepared(
    update(payments).where(_row, (payments.c.leased_by == value("holder")) | (payments.c.leased_until <= value("now"))),
    _COLUMNS,
)
_END = Prepared(update(payments).where(_row, payments.c.leased_by == value("holder")), _COLUMNS)
_TURN = Prepared(update(payments).where(_row), (*_COLUMNS, "turn"))


def take(connection: Connection, party: Party, pay_id: str, lease: Lease) -> bool:
    """Take or renew it; False while another holds it, or without a row."""
    values = {"holder": lease.holder, "now": lease.now, "leased_by": lease.holder, "leased_until": lease.until}
    return _TAKE.count(connection, party=str(party), pay_id=pay_id, **values) == 1


def end(connection: Connection, party: Party, pay_id: str, holder: str) -> None:
    """Give it back, if it is the holder's."""
    _END.do(connection, party=str(party), pay_id=pay_id, holder=holder, leased_by=None, leased_until=0)


def take_open(
    connection: Connection, party: Party, lease: Lease, limit: int, only: Collection[State] = ()
) -> Sequence[Any]:
    """Lease the open rows that nobody holds, least recently taken first, passing over those being written to."""
    free, last_turn = _open_rows(party, frozenset(only))
    rows = free.rows(connection, now=lease.now, limit=limit)
    if rows:
        turn = int(last_turn.scalar(connection) or 0) + 1
        for row in rows:
            values = {"leased_by": lease.holder, "leased_until": lease.until, "turn": turn}
            _TURN.do(connection, party=row.party, pay_id=row.pay_id, **values)
    return rows


def held_elsewhere(connection: Connection, party: Party, holder: str, now: int) -> int:
    """How many open rows others than `holder` have leased."""
    return int(_held(party).scalar(connection, holder=holder, now=now))


@cache
def _held(party: Party) -> Prepared:
    theirs = (payments.c.leased_until > value("now")) & (payments.c.leased_by != value("holder"))
    return Prepared(select(func.count()).select_from(payments).where(*_open(party, open_states(party)), theirs))


def _open(party: Party, states: Collection[State]) -> tuple[ColumnElement[bool], ...]:
    # The first two are what the index `payments_by_turn` knows.
    wanted = payments.c.state.in_(sorted(str(state) for state in states))
    return (payments.c.party == str(party), has_open_state(), wanted)


@cache
def _open_rows(party: Party, only: frozenset[State]) -> tuple[Prepared, Prepared]:
    is_open = _open(party, open_states(party) & only if only else open_states(party))
    order = (payments.c.turn, payments.c.created_at, payments.c.pay_id)
    free = whole_payments.where(*is_open, payments.c.leased_until <= value("now")).order_by(*order)
    taken = free.limit(value("limit")).with_for_update(of=payments, skip_locked=True)
    return Prepared(taken), Prepared(select(func.max(payments.c.turn)).where(*is_open))
