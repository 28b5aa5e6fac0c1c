"""What the operator gives: percent off for those who spend much, and something on top of a deposit (aimo row 78).

    discounts   percent off what an answer out of a balance costs, by what the account spent in the last thirty days
    bonuses     percent of a deposit that is given on top: to be spent first, and never paid out

Pure rules on integers. Whatever is given is rounded down, and a quote's bound is never changed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from x402.billing import Metered
from x402.errors import MisconfiguredError
from x402.money import EXACT_CONTEXT

WINDOW_SECONDS = 30 * 86_400
_STEPS_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Step:
    """From `units` on (atomic USDC) `percent` are given."""

    units: int
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Promotions:
    """Both rules; empty ones give nothing."""

    discounts: tuple[Step, ...] = ()
    bonuses: tuple[Step, ...] = ()

    def discount(self, spent: int) -> Decimal:
        """Percent off for an account that spent so much lately."""
        return _percent(self.discounts, spent)

    def bonus(self, deposit: int) -> int:
        """What is given on top of a deposit, in atomic USDC."""
        return _part(deposit, _percent(self.bonuses, deposit))


def discounted(metered: Metered, percent: Decimal) -> Metered:
    """The same answer at a lower price; the platform's fee shrinks with it."""
    return replace(
        metered,
        charged=metered.charged - _part(metered.charged, percent),
        fee=metered.fee - _part(metered.fee, percent),
    )


def parse_steps(text: str, name: str) -> tuple[Step, ...]:
    """Steps as a setting writes them: `100=5,1000=10` gives 5 percent from 100 dollars on, and 10 from 1000.

    Raises `MisconfiguredError("invalid_settings")` that names the setting.
    """
    steps = []
    for part in text.split(",") if text.strip() else ():
        dollars, equals, percent = part.strip().partition("=")
        numbers = [number.strip() for number in (dollars, percent)]
        if not equals or not all(_is_plain(number) for number in numbers):
            raise MisconfiguredError("invalid_settings", f"{name}: dollars=percent, such as 100=5,1000=10")
        steps.append(Step(int(Decimal(numbers[0]).scaleb(6, EXACT_CONTEXT)), Decimal(numbers[1])))
    rising = all(before.units < after.units for before, after in pairwise(steps))
    if len(steps) > _STEPS_LIMIT or not rising or any(step.percent > 100 for step in steps):
        words = f"{name}: at most {_STEPS_LIMIT} steps, rising, of at most 100 percent"
        raise MisconfiguredError("invalid_settings", words)
    return tuple(steps)


def _is_plain(number: str) -> bool:
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    return digits.isascii() and digits.isdigit() and bool(whole) and len(digits) <= 15


def _percent(steps: Sequence[Step], units: int) -> Decimal:
    return next((step.percent for step in reversed(steps) if units >= step.units), Decimal(0))


def _part(units: int, percent: Decimal) -> int:
    return int(EXACT_CONTEXT.multiply(Decimal(units), percent.scaleb(-2, EXACT_CONTEXT)))
