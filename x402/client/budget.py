"""How much may be spent, and where: limits that are checked before anything is signed (faults B11, B12).

The sums that limits are compared with come from the journal, inside the transaction that reserves the amount, so that
threads and processes of one machine share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from x402.client.choose import dollars
from x402.errors import DeclinedError

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS

Price = Decimal | str | int | None

Spent = Callable[[int, str], Decimal]
"""`spent(seconds, host)`: US dollars signed away in the last `seconds` at one host, or at all hosts for `""`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds in US dollars, each written as `"1.00"`, a `Decimal` or an int; None means no bound.

    `per_hour` and `per_day` roll and cover all hosts; `per_host` is what one host may get in a rolling day. A payment
    counts from the moment before it is signed, until it is proven that it never moved money.
    """

    per_call: Price = None
    per_hour: Price = None
    per_day: Price = None
    per_host: Price = None

    def __post_init__(self) -> None:
        for name in ("per_call", "per_hour", "per_day", "per_host"):
            object.__setattr__(self, name, dollars(getattr(self, name)))

    def check(self, usd: Decimal, host: str, spent: Spent) -> None:
        """Raise `DeclinedError("budget_exceeded")` when one more payment of `usd` to `host` would pass a bound."""
        if isinstance(self.per_call, Decimal) and usd > self.per_call:
            raise _exceeded("one call", self.per_call, Decimal(0), usd)
        windows: tuple[tuple[str, Price, int, str], ...] = (
            ("an hour", self.per_hour, HOUR_SECONDS, ""),
            ("a day", self.per_day, DAY_SECONDS, ""),
            (f"{host} in a day", self.per_host, DAY_SECONDS, host),
        )
        for words, bound, seconds, where in windows:
            if isinstance(bound, Decimal):
                already = spent(seconds, where)
                if already + usd > bound:
                    raise _exceeded(words, bound, already, usd)


def cap_per_call(*bounds: Price, default: Decimal) -> Decimal:
    """The lowest of the bounds that are set, or `default` when none is."""
    stated = [bound for bound in bounds if isinstance(bound, Decimal)]
    return min(stated) if stated else default


def _exceeded(words: str, bound: Decimal, already: Decimal, usd: Decimal) -> DeclinedError:
    return DeclinedError(
        "budget_exceeded",
        f"${usd} more would pass the limit of ${bound} for {words} (${already} is spent or reserved)",
        details={"limit": str(bound), "spent": str(already), "asked": str(usd)},
    )
