"""Who works on a row, as statements inside the ledger's transactions (fault E11).

A lease is the right of one process to work on a row until a unix second. It spares work and sends; what keeps two
processes from moving a row twice is the law, which is checked in the transaction that moves it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from x402.lifecycle import Party, open_states
from x402.ports.schema import payments
from x402.stages import State


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder` to work on a row until before the unix second `until`; none when that has passed."""

    holder: str
    now: int
    until: int

    @property
    def columns(self) -> dict[str, Any]:
        """What stands in the row that is leased."""
        return {"leased_by": self.holder, "leased_until": self.until} if self.until > self.now else {}


def take(connection: Connection, party: Party, pay_id: str, lease: Lease) -> bool:
    """Take or renew it; False while another holds it, or without a row."""
    row = (payments.c.party == str(party)) & (payments.c.pay_id == pay_id)
    free = (payments.c.leased_by == lease.holder) | (payments.c.leased_until <= lease.now)
    values = {"leased_by": lease.holder, "leased_until": lease.until}
    return connection.execute(update(payments).where(row, free).values(**values)).rowcount == 1


def end(connection: Connection, party: Party, pay_id: str, holder: str) -> None:
    """Give it back, if it is the holder's."""
    row = (payments.c.party == str(party)) & (payments.c.pay_id == pay_id)
    statement = update(payments).where(row, payments.c.leased_by == holder)
    connection.execute(statement.values(leased_by=None, leased_until=0))


def take_open(
    connection: Connection, party: Party, lease: Lease, limit: int, only: Collection[State] = ()
) -> Sequence[Row[Any]]:
    """Lease the open rows that nobody holds, least recently taken first, passing over those being written to."""
    states = sorted(str(state) for state in open_states(party) if not only or state in only)
    is_open = (payments.c.party == str(party)) & payments.c.state.in_(states)
    order = (payments.c.turn, payments.c.created_at, payments.c.pay_id)
    free = select(payments).where(is_open, payments.c.leased_until <= lease.now).order_by(*order).limit(limit)
    rows = connection.execute(free.with_for_update(skip_locked=True)).all()
    if rows:
        turn = int(connection.execute(select(func.max(payments.c.turn)).where(is_open)).scalar() or 0) + 1
        taken = update(payments).where(payments.c.party == str(party), payments.c.pay_id.in_([r.pay_id for r in rows]))
        connection.execute(taken.values(leased_by=lease.holder, leased_until=lease.until, turn=turn))
    return rows
