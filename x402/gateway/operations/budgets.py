"""Budgets of accounts: how much of one is spent, how much it will be if it goes on so, and who is told (aimo row 82).

A budget tells, it stops nothing: what stops a key is its spend limit, and what stops an account is its balance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from x402.gateway.operations.webhooks import Webhooks
from x402.gateway.problem import ApiProblem
from x402.ports import Clock
from x402.ports.accounts import BillBook, BillFilter
from x402.ports.budgets import Budget, BudgetBook
from x402.telemetry import Telemetry

TOPIC = "budget.threshold"
PERCENTS = (50, 80, 100)
PERIODS = ("day", "month")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """How a budget stands: what is spent since the period began, and what it comes to at its end if it goes on so."""

    budget: Budget
    since: int
    until: int
    spent: int
    projected: int

    @property
    def percent(self) -> int:
        """How much of the budget is spent, rounded down."""
        return self.spent * 100 // self.budget.units

    def as_json(self) -> dict[str, Any]:
        """As the API and the webhook tell it; amounts are atomic USDC as digits."""
        return {
            "account": self.budget.account,
            "period": self.budget.period,
            "limit": str(self.budget.units),
            "thresholds": list(self.budget.percents),
            "since": self.since,
            "until": self.until,
            "spent": str(self.spent),
            "percent": self.percent,
            "projected": str(self.projected),
        }


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets of one gateway's accounts, over its bills."""

    book: BudgetBook
    bills: BillBook
    clock: Clock
    hooks: Webhooks
    telemetry: Telemetry

    async def spending(self, budget: Budget) -> Spending:
        """How a budget stands now."""
        now = self.clock()
        since, until = bounds(budget.period, now)
        sums = await self.bills.sums(BillFilter(account=budget.account, since=since, until=until))
        spent = sum(one.charged for one in sums)
        # In the first moments of a period nothing can be said of its end.
        elapsed = max(now - since, 3600)
        projected = max(spent, spent * (until - since) // elapsed)
        return Spending(budget=budget, since=since, until=until, spent=spent, projected=projected)

    async def step(self) -> int:
        """Tell everybody whose spending has passed one more threshold; how many were told. Raises `UnavailableError`.

        Only the highest threshold that was passed is told, once for each period.
        """
        told, after = 0, ""
        while found := await self.book.every(after=after):
            for budget in found:
                told += await self._tell(await self.spending(budget))
            after = found[-1].account
        return told

    async def _tell(self, spending: Spending) -> bool:
        budget = spending.budget
        passed = max((percent for percent in budget.percents if percent <= spending.percent), default=0)
        if not passed or not await self.book.told(budget.account, since=spending.since, percent=passed):
            return False
        await self.hooks.announce(TOPIC, account=budget.account, data={**spending.as_json(), "threshold": passed})
        self.telemetry.emit(TOPIC, percent=passed)
        return True


def wanted_budget(account: str, period: object, units: object, percents: object) -> Budget:
    """The budget that somebody asks for. Raises `ApiProblem` 400."""
    if period not in PERIODS:
        raise ApiProblem(400, "invalid_value", f"period is one of {', '.join(PERIODS)}", param="period")
    if type(units) is not int or not 0 < units < 2**62:
        raise ApiProblem(400, "invalid_value", "limit is atomic USDC: a million to the dollar", param="limit")
    known = isinstance(percents, list | tuple) and 0 < len(percents) <= 10
    if not known or any(type(one) is not int or not 1 <= one <= 1000 for one in percents):  # type: ignore[attr-defined]
        raise ApiProblem(400, "invalid_value", "thresholds are up to ten percentages", param="thresholds")
    chosen = tuple(sorted(set(percents)))  # type: ignore[call-overload]
    return Budget(account=account, period=str(period), units=units, percents=chosen)


def bounds(period: str, now: int) -> tuple[int, int]:
    """The unix seconds between which a period lies, by the calendar of UTC."""
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return int(start.timestamp()), int((start + timedelta(days=1)).timestamp())
    first = start.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return int(first.timestamp()), int(following.timestamp())
