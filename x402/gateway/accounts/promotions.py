"""What the operator gives: percent off for those who spend much, and something on top of a deposit (aimo row 78).

    discounts   percent off what an answer costs, however it is paid, by what the account spent in the last thirty days
    bonuses     percent of a deposit that is given on top: to be spent first, and never paid out

Pure rules on integers. Whatever is given is rounded down, and a quote's bound is never changed by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from x402.discount import STEPS_LIMIT, Step, part_of, percent_at
from x402.errors import MisconfiguredError
from x402.money import EXACT_CONTEXT


@dataclass(frozen=True, slots=True)
class Promotions:
    """Both rules; empty ones give nothing."""

    discounts: tuple[Step, ...] = ()
    bonuses: tuple[Step, ...] = ()

    def bonus(self, deposit: int) -> int:
        """What is given on top of a deposit, in atomic USDC."""
        return part_of(deposit, percent_at(self.bonuses, deposit))


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
    if len(steps) > STEPS_LIMIT or not rising or any(step.percent > 100 for step in steps):
        words = f"{name}: at most {STEPS_LIMIT} steps, rising, of at most 100 percent"
        raise MisconfiguredError("invalid_settings", words)
    return tuple(steps)


def _is_plain(number: str) -> bool:
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    return digits.isascii() and digits.isdigit() and bool(whole) and len(digits) <= 15
