"""Percent off for those who spend much (aimo row 78): the steps that a quote states, and what they come to.

A payer is not known when its request is priced, so the bound of a quote is never lowered. The steps stand in the signed
quote instead, and what an answer has cost is lowered by the step that the payer's account has reached: less is taken
where the actual price is taken (`upto`, balances), and more comes back where the bound was paid (`exact`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from x402.money import EXACT_CONTEXT
from x402.price import check_count, exact

WINDOW_SECONDS = 30 * 86_400
"""What an account was charged in this time before it pays is what it has spent."""
STEPS_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Step:
    """From `units` on (atomic USDC) `percent` are given."""

    units: int
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Discount:
    """What a payer gets off: `percent`, because its account had `spent` so much (atomic USDC) when it paid."""

    spent: int
    percent: Decimal

    def off(self, units: int) -> int:
        """What is taken off a charge, rounded down."""
        return part_of(units, self.percent)

    def as_json(self) -> dict[str, str]:
        """Both numbers as digits."""
        return {"spent": str(self.spent), "percent": format(self.percent, "f")}

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Discount:
        """What `as_json` wrote."""
        return cls(int(stated["spent"]), exact(str(stated["percent"])))


def percent_at(steps: Sequence[Step], units: int) -> Decimal:
    """The percentage of the highest step that is reached, 0 below all."""
    return next((step.percent for step in reversed(steps) if units >= step.units), Decimal(0))


def part_of(units: int, percent: Decimal) -> int:
    """So many percent of something, rounded down."""
    return int(EXACT_CONTEXT.multiply(Decimal(units), percent.scaleb(-2, EXACT_CONTEXT)))


def steps_json(steps: Sequence[Step]) -> list[list[Any]]:
    """Steps as a token has them: `[[100000000, "5"], …]`."""
    return [[step.units, format(step.percent, "f")] for step in steps]


def read_steps(stated: Sequence[Sequence[Any]]) -> tuple[Step, ...]:
    """Steps of a token. Raises `ValueError` for what are none: they rise, and nobody gets more than everything off."""
    steps = tuple(Step(check_count("discount", units), exact(str(percent))) for units, percent in stated)
    units = [step.units for step in steps]
    if not 0 < len(steps) <= STEPS_LIMIT or units != sorted(set(units)) or any(step.percent > 100 for step in steps):
        raise ValueError("its discounts do not rise")
    return steps
