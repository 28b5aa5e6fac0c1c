"""What the facilitator spends on fees per day and account, as statements inside the ledger's transactions.

Amounts are the chain's own units (wei, lamports), kept as digits because they fit no integer column (faults D04, D05).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, select, update

from x402.ports.schema import spending, upsert

DAYS_KEPT = 35


def spend(connection: Connection, day: int, accounts: Mapping[str, int], units: int) -> str | None:
    """Book `units` against every account, or none: the first account whose cap would be exceeded, or None."""
    connection.execute(delete(spending).where(spending.c.day < day - DAYS_KEPT))
    # Every transaction locks in the same order, so that two of them never wait for each other.
    before = {account: _locked(connection, day, account) for account in sorted(accounts)}
    for account, cap in accounts.items():
        if units > 0 and before[account] + units > cap:
            return account
    for account, spent_units in before.items():
        row = (spending.c.day == day) & (spending.c.account == account)
        connection.execute(update(spending).where(row).values(units=str(max(0, spent_units + units))))
    return None


def spent(connection: Connection, day: int, account: str) -> int:
    """What is booked."""
    row = (spending.c.day == day) & (spending.c.account == account)
    return int(connection.execute(select(spending.c.units).where(row)).scalar() or 0)


def _locked(connection: Connection, day: int, account: str) -> int:
    statement = upsert(connection, spending).values(day=day, account=account, units="0")
    connection.execute(statement.on_conflict_do_nothing())
    row = (spending.c.day == day) & (spending.c.account == account)
    return int(connection.execute(select(spending.c.units).where(row).with_for_update()).scalar_one())
