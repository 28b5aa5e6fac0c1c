"""Withdrawals as rows, as statements inside the ledger's transactions: one winner, and never paid out twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from x402.billing import EntryKind, Posting
from x402.ports import account_rows
from x402.ports.accounts import Payout, Withdrawal
from x402.ports.leases import Lease
from x402.ports.schema import withdrawals

_OPEN = (str(Payout.ASKED), str(Payout.SENT))


def find(connection: Connection, id: str) -> Withdrawal | None:
    """A withdrawal by its id."""
    row = connection.execute(select(withdrawals).where(withdrawals.c.id == id)).one_or_none()
    return None if row is None else _withdrawal(row)


def begin(connection: Connection, wanted: Withdrawal, lease: Lease) -> tuple[Withdrawal, bool]:
    """Take the money from its account and write the first memory; or the older one. Raises `TooLittle`."""
    older = find(connection, wanted.id)
    if older is not None:
        return older, False
    posting = Posting(account=wanted.account, kind=EntryKind.WITHDRAW, reference=wanted.id, units=-wanted.units)
    account_rows.post(connection, posting, lease.now)
    row = {
        "id": wanted.id,
        "account": wanted.account,
        "units": wanted.units,
        **_standing(wanted),
        "leased_by": lease.holder,
        "leased_until": lease.until,
        "created_at": lease.now,
        "updated_at": lease.now,
    }
    connection.execute(insert(withdrawals).values(**row))
    return find(connection, wanted.id) or wanted, True


def move(connection: Connection, after: Withdrawal, was: Withdrawal, now: int) -> bool:
    """Write how it stands now, unless it stands otherwise than `was` by now."""
    row = (withdrawals.c.id == after.id) & (withdrawals.c.state == str(was.state))
    same = row & (withdrawals.c.attempt == was.attempt)
    changed = connection.execute(update(withdrawals).where(same).values(**_standing(after), updated_at=now))
    if changed.rowcount != 1:
        return False
    if after.state is Payout.RETURNED:
        posting = Posting(account=after.account, kind=EntryKind.REFUND, reference=after.id, units=after.units)
        account_rows.post(connection, posting, now)
    return True


def take_open(connection: Connection, lease: Lease, limit: int) -> Sequence[Withdrawal]:
    """Lease those that nobody works on, those first that were left longest."""
    free = select(withdrawals).where(withdrawals.c.state.in_(_OPEN), withdrawals.c.leased_until <= lease.now)
    order = (withdrawals.c.leased_until, withdrawals.c.created_at, withdrawals.c.id)
    rows = connection.execute(free.order_by(*order).limit(limit).with_for_update(skip_locked=True)).all()
    if rows:
        taken = update(withdrawals).where(withdrawals.c.id.in_([row.id for row in rows]))
        connection.execute(taken.values(leased_by=lease.holder, leased_until=lease.until))
    return [_withdrawal(row) for row in rows]


def _standing(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "state": str(withdrawal.state),
        "header": withdrawal.header,
        "pay_id": withdrawal.pay_id,
        "attempt": withdrawal.attempt,
        "transaction": withdrawal.transaction,
    }


def _withdrawal(row: Row[tuple[object, ...]]) -> Withdrawal:
    return Withdrawal(
        id=row.id,
        account=row.account,
        units=row.units,
        state=Payout(row.state),
        header=row.header,
        pay_id=row.pay_id,
        attempt=row.attempt,
        transaction=row.transaction,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
