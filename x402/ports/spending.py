"""What the facilitator spends on fees per day and account, as statements inside the ledger's transactions.

Amounts are the chain's own units (wei, lamports), kept as digits because they fit no integer column (faults D04, D05).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, select, update

from x402.ports.prepared import Prepared, value
from x402.ports.schema import spending

DAYS_KEPT = 35

_row = (spending.c.day == value("day")) & (spending.c.account == value("account"))
_FORGET = Prepared(delete(spending).where(spending.c.day < value("day")))
_OPEN = Prepared(lambda insert: insert(spending).on_conflict_do_nothing(), ("day", "account", "units"))
_READ = Prepared(select(spending.c.units).where(_row))
_LOCK = Prepared(select(spending.c.units).where(_row).with_for_update())
_WRITE = Prepared(update(spending).where(_row), ("units",))


def spend(connection: Connection, day: int, accounts: Mapping[str, int], units: int) -> str | None:
    """Book `units` against every account, or none: the first account whose cap would be exceeded, or None."""
    # Every transaction locks in the same order, so that two of them never wait for each other.
    before = {account: _locked(connection, day, account) for account in sorted(accounts)}
    for account, cap in accounts.items():
        if units > 0 and before[account] + units > cap:
            return account
    for account, spent_units in before.items():
        _WRITE.do(connection, day=day, account=account, units=str(max(0, spent_units + units)))
    return None


def spent(connection: Connection, day: int, account: str) -> int:
    """What is booked."""
    return int(_READ.scalar(connection, day=day, account=account) or 0)


def _locked(connection: Connection, day: int, account: str) -> int:
    known = _LOCK.scalar(connection, day=day, account=account)
    if known is None:
        # The day's first: nobody else has opened it, or whoever did so is waited for.
        _FORGET.do(connection, day=day - DAYS_KEPT)
        _OPEN.do(connection, day=day, account=account, units="0")
        known = _LOCK.scalar(connection, day=day, account=account)
    return int(known)
