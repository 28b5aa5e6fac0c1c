"""What providers are paid (aimo row 83): their part of every bill, a bonus for those who kept their promise, in USDC.

    bills ─▶ due ─▶ credited to the provider's account ─▶ withdrawn to its wallet, by the gateway's refund wallet

What is due is everything earned so far less everything credited so far, so a bill that is written late is in the next
batch, and none is in two. A credit is paid out once, however often a batch is run and wherever it was interrupted. What
was credited and not paid out is the provider's all the same: it may withdraw it, or spend it here.

Payouts have limits of their own, because it is the operator who asks for them: below `least` nothing is credited, and
the bills wait for more; beyond a day's cap credits wait for the next day. A dry run goes the way of the run, and writes
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from x402.ports import Ledger
from x402.ports.accounts import AccountBook, Payout, TooLittle, Withdrawal
from x402.ports.providers import Earned, ProviderBook, Seen

WAITS = "waits"
"""Too little to be worth a transaction's fee: not credited yet."""
CAPPED = "capped"
"""Credited, and beyond what is paid out in a day."""
SPENT = ""
"""The account holds less by now: nothing is left to be paid out."""

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutLimits:
    """`least` is what is credited at least, and `per_day` what is paid out at most in one day on one network, both in
    atomic USDC; the day's sums stand in `ledger`."""

    ledger: Ledger
    least: int = 0
    per_day: int
    now: int

    @property
    def _day(self) -> int:
        return self.now // _DAY_SECONDS

    async def room(self, network: str) -> int:
        """What may still go out today."""
        return self.per_day - await self.ledger.spent(self._day, _cap(network))

    async def book(self, network: str, units: int) -> bool:
        """Count it among what goes out today; False when that is too much. Negative units are given back."""
        return await self.ledger.spend(self._day, {_cap(network): self.per_day}, units) is None


@dataclass(frozen=True, slots=True)
class Paid:
    """What a batch does for one credit, or for what is due and not credited yet. `payout` is how its withdrawal stands,
    or `WAITS`, `CAPPED` or `SPENT`."""

    earned: Earned
    payout: str
    transaction: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return earned_json(self.earned) | {"payout": self.payout or None, "transaction": self.transaction or None}


def with_bonus(due: Sequence[Earned], seen: Sequence[Seen], percent: int) -> Sequence[Earned]:
    """The same with a bonus of so many percent, rounded down, for providers that answered 99.5 of a hundred requests
    on the days of the batch. Who was asked nothing has kept no promise."""
    figures = {one.provider: one for one in seen}
    return [replace(earned, bonus=_bonus(earned, figures.get(earned.provider), percent)) for earned in due]


async def due_by(book: ProviderBook, *, until: int, bonus_percent: int) -> Sequence[Earned]:
    """What was sold before `until` and is not credited yet. Writes nothing."""
    due = await book.due(until)
    since = min((earned.since for earned in due), default=until)
    seen = await book.seen(since // _DAY_SECONDS, until // _DAY_SECONDS + 1)
    return with_bonus(due, seen, bonus_percent)


async def preview(
    book: ProviderBook, accounts: AccountBook, *, until: int, bonus_percent: int, limits: PayoutLimits
) -> Sequence[Paid]:
    """What `pay_out` would tell now. Writes nothing."""
    due = await due_by(book, until=until, bonus_percent=bonus_percent)
    ready = [earned for earned in due if earned.units >= limits.least]
    fresh: defaultdict[str, int] = defaultdict(int)
    for earned in ready:
        fresh[earned.account] += earned.units
    room: dict[str, int] = {}
    told = []
    for earned in sorted([*await book.outstanding(), *ready], key=lambda one: one.turn):
        known = await accounts.withdrawal(earned.payout_id)
        if known is not None:
            told.append(Paid(earned, str(known.state), known.transaction))
            continue
        network, account = earned.network, earned.account
        if network not in room:
            room[network] = await limits.room(network)
        if (await accounts.balance(account)).withdrawable + fresh[account] < earned.units:
            told.append(Paid(earned, SPENT))
        elif room[network] < earned.units:
            told.append(Paid(earned, CAPPED))
        else:
            room[network] -= earned.units
            fresh[account] -= earned.units
            told.append(Paid(earned, str(Payout.ASKED)))
    return [*told, *(Paid(earned, WAITS) for earned in due if earned not in ready)]


async def pay_out(
    book: ProviderBook, accounts: AccountBook, *, until: int, bonus_percent: int, limits: PayoutLimits
) -> Sequence[Paid]:
    """Credit what is due and have it paid out; what an earlier batch has credited and not paid out as well.

    The gateway that runs signs and sends (its reconciliation takes up what is asked for here).
    """
    due = await due_by(book, until=until, bonus_percent=bonus_percent)
    for earned in due:
        if earned.units >= limits.least:
            await book.credit(earned)
    told = [await _paid(accounts, earned, limits) for earned in await book.outstanding()]
    return [*told, *(Paid(earned, WAITS) for earned in due if earned.units < limits.least)]


async def _paid(accounts: AccountBook, earned: Earned, limits: PayoutLimits) -> Paid:
    known = await accounts.withdrawal(earned.payout_id)
    if known is not None:
        return Paid(earned, str(known.state), known.transaction)
    if (await accounts.balance(earned.account)).withdrawable < earned.units:
        return Paid(earned, SPENT)
    if not await limits.book(earned.network, earned.units):
        return Paid(earned, CAPPED)
    wanted = Withdrawal(id=earned.payout_id, account=earned.account, units=earned.units)
    try:
        standing, begun = await accounts.withdraw(wanted, lease_seconds=0)
    except TooLittle:
        await limits.book(earned.network, -earned.units)
        return Paid(earned, SPENT)
    if not begun:
        # Another batch was faster, and has counted it.
        await limits.book(earned.network, -earned.units)
    return Paid(earned, str(standing.state), standing.transaction)


def _cap(network: str) -> str:
    return f"payouts {network}"


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
