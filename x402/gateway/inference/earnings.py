"""What providers are paid (aimo row 83): their part of every bill, a bonus for those who kept their promise, in USDC.

    bills ─▶ due ─▶ credited to the provider's account ─▶ withdrawn to its wallet, by the gateway's refund wallet

Each step has a name of its own that exists once: a span of bills is credited once, and a credit is paid out once,
however often a batch is run and wherever it was interrupted. What was credited and not paid out is the provider's all
the same: it may withdraw it, or spend it here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from x402.ports.accounts import AccountBook, TooLittle, Withdrawal
from x402.ports.providers import Earned, ProviderBook, Seen

_DAY_SECONDS = 86_400
_CREDITS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Paid:
    """What a batch did for one span of a provider's bills. `withdrawal` says how the payout stands; `""` when nothing
    is paid out, because the account holds less by now."""

    earned: Earned
    withdrawal: str
    transaction: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return earned_json(self.earned) | {"payout": self.withdrawal or None, "transaction": self.transaction or None}


def with_bonus(due: Sequence[Earned], seen: Sequence[Seen], percent: int) -> Sequence[Earned]:
    """The same with a bonus of so many percent, rounded down, for providers that answered 99.5 of a hundred requests
    on the days of the batch. Who was asked nothing has kept no promise."""
    figures = {one.provider: one for one in seen}
    return [replace(earned, bonus=_bonus(earned, figures.get(earned.provider), percent)) for earned in due]


async def preview(book: ProviderBook, *, until: int, bonus_percent: int) -> Sequence[Earned]:
    """What a batch of everything that was sold before `until` would pay. Writes nothing."""
    due = await book.due(until)
    since = min((earned.since for earned in due), default=until)
    seen = await book.seen(since // _DAY_SECONDS, until // _DAY_SECONDS + 1)
    return with_bonus(due, seen, bonus_percent)


async def pay_out(book: ProviderBook, accounts: AccountBook, *, until: int, bonus_percent: int) -> Sequence[Paid]:
    """Credit what is due and have it paid out; what an earlier batch has credited and not paid out as well.

    The gateway that runs signs and sends (its reconciliation takes up what is asked for here).
    """
    for earned in await preview(book, until=until, bonus_percent=bonus_percent):
        await book.credit(earned)
    return [await _paid(accounts, earned) for earned in await book.credited(limit=_CREDITS_LIMIT)]


async def _paid(accounts: AccountBook, earned: Earned) -> Paid:
    wanted = Withdrawal(id=payout_id(earned), account=earned.account, units=earned.units)
    try:
        standing, _ = await accounts.withdraw(wanted, lease_seconds=0)
    except TooLittle:
        return Paid(earned, "")
    return Paid(earned, str(standing.state), standing.transaction)


def payout_id(earned: Earned) -> str:
    """The one name of a credit's payout."""
    return f"payout-{hashlib.sha256(earned.id.encode()).hexdigest()[:40]}"


def earned_json(earned: Earned) -> dict[str, Any]:
    """What is due or was credited, for programs: atomic USDC as digits, unix seconds."""
    return {
        "provider": earned.provider,
        "account": earned.account,
        "since": earned.since,
        "until": earned.until,
        "answers": earned.answers,
        "earned": str(earned.earned),
        "bonus": str(earned.bonus),
        "units": str(earned.units),
    }


def _bonus(earned: Earned, seen: Seen | None, percent: int) -> int:
    if seen is None or not seen.answered:
        return 0
    kept = 1000 * seen.answered >= 995 * (seen.answered + seen.failed)
    return earned.earned * percent // 100 if kept else 0
