"""What accounts mean to spend, in the ledger's database (aimo row 82)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Row, delete, select, update

from x402.ports.ledger import SqlLedger
from x402.ports.operator_schema import budgets
from x402.ports.schema import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an account means to spend in a `period` (`day` or `month`, UTC), in atomic USDC, and at which percentages it
    wants to be told. It is told `told_percent` for the period that began at unix second `told_since`."""

    account: str
    period: str
    units: int
    percents: tuple[int, ...]
    told_since: int = 0
    told_percent: int = 0


class BudgetBook(Protocol):
    """All budgets of a gateway. Raises `UnavailableError`."""

    async def put(self, budget: Budget) -> None: ...

    async def get(self, account: str) -> Budget | None: ...

    async def remove(self, account: str) -> bool: ...

    async def every(self, *, after: str = "", limit: int = 500) -> Sequence[Budget]:
        """Budgets by account, those behind `after`."""
        ...

    async def told(self, account: str, *, since: int, percent: int) -> bool:
        """Note that somebody was told; False when that, or more, was noted before: the one who may tell gets True."""
        ...


class SqlBudgets:
    """`BudgetBook` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def put(self, budget: Budget) -> None:
        row = {
            "period": budget.period,
            "units": budget.units,
            "percents": ",".join(map(str, budget.percents)),
            "told_since": 0,
            "told_percent": 0,
        }

        def write(connection: Connection) -> None:
            statement = upsert(connection, budgets).values(account=budget.account, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["account"], set_=row))

        await self._ledger.run(write)

    async def get(self, account: str) -> Budget | None:
        query = select(budgets).where(budgets.c.account == account)

        def read(connection: Connection) -> Budget | None:
            row = connection.execute(query).one_or_none()
            return None if row is None else _budget_of(row)

        return await self._ledger.run(read)

    async def remove(self, account: str) -> bool:
        gone = delete(budgets).where(budgets.c.account == account)
        return await self._ledger.run(lambda connection: connection.execute(gone).rowcount == 1)

    async def every(self, *, after: str = "", limit: int = 500) -> Sequence[Budget]:
        query = select(budgets).where(budgets.c.account > after).order_by(budgets.c.account).limit(limit)
        return await self._ledger.run(lambda connection: [_budget_of(row) for row in connection.execute(query)])

    async def told(self, account: str, *, since: int, percent: int) -> bool:
        older = (budgets.c.told_since < since) | ((budgets.c.told_since == since) & (budgets.c.told_percent < percent))
        note = update(budgets).where(budgets.c.account == account, older)
        values = {"told_since": since, "told_percent": percent}
        return await self._ledger.run(lambda connection: connection.execute(note.values(**values)).rowcount == 1)


def _budget_of(row: Row[Any]) -> Budget:
    return Budget(
        account=row.account,
        period=row.period,
        units=row.units,
        percents=tuple(int(part) for part in row.percents.split(",")),
        told_since=row.told_since,
        told_percent=row.told_percent,
    )
