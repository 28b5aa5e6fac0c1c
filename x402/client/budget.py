"""How much may be spent, and where: limits that are checked before anything is signed (faults B11, B12).

The sums that limits are compared with come from the journal, inside the transaction that reserves the amount, so that
threads and processes of one machine share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Self

from x402.client.choose import dollars
from x402.errors import DeclinedError
from x402.settings import ClientSettings

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS

Price = Decimal | str | int | None

Spent = Callable[[int, str, str], Decimal]
"""`spent(seconds, host, payee)`: US dollars signed away in the last `seconds`, at one host or at all hosts for `""`,
to one payee or to all payees for `""`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds in US dollars, each written as `"1.00"`, a `Decimal` or an int; None means no bound.

    `per_hour` and `per_day` roll and cover everybody; `per_host` and `per_payee` are what one host, or one receiving
    address, may get in a rolling day. A payment counts from the moment before it is signed, until it is proven that it
    never moved money. Without `per_call` a call may cost $1.
    """

    per_call: Price = None
    per_hour: Price = None
    per_day: Price = None
    per_host: Price = None
    per_payee: Price = None

    def __post_init__(self) -> None:
        for bound in fields(self):
            object.__setattr__(self, bound.name, dollars(getattr(self, bound.name)))

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """The limits that the environment names."""
        return cls(
            per_call=settings.max_per_call,
            per_hour=settings.max_per_hour,
            per_day=settings.max_per_day,
            per_host=settings.max_per_host,
            per_payee=settings.max_per_payee,
        )

    def windows(self, host: str, payee: str) -> tuple[tuple[str, Decimal, int, str, str], ...]:
        """Every bound that a payment must fit into besides `per_call`: its words, the bound, and which sum it is
        compared with (seconds, host, payee)."""
        every = (
            ("an hour", self.per_hour, HOUR_SECONDS, "", ""),
            ("a day", self.per_day, DAY_SECONDS, "", ""),
            (f"{host} in a day", self.per_host, DAY_SECONDS, host, ""),
            (f"{payee} in a day", self.per_payee, DAY_SECONDS, "", payee),
        )
        return tuple(
            (words, bound, seconds, where, whom)
            for words, bound, seconds, where, whom in every
            if isinstance(bound, Decimal)
        )

    def check(self, usd: Decimal, host: str, payee: str, spent: Spent) -> None:
        """Raise `DeclinedError("budget_exceeded")` when one more payment of `usd` would pass a bound."""
        if isinstance(self.per_call, Decimal) and usd > self.per_call:
            raise _exceeded("one call", self.per_call, Decimal(0), usd)
        for words, bound, seconds, where, whom in self.windows(host, payee):
            already = spent(seconds, where, whom)
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
