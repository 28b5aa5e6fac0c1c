"""What a facilitator spends on fees at most, and on whom: per payer, per caller and in total, per UTC day.

    verify   ask                                 nothing is booked
    settle   admit ─▶ sign, send ─▶ correct      by what the chain took
               │ the highest fee that the transaction can cost, before it is signed
               └ in the ledger, so that replicas share one budget and a restart forgets nothing

Whoever makes a facilitator pay for transactions that move nothing runs out of budget and is refused before anything is
signed (faults C06-C09, D05, D11, D13, invariant I7). A payment that is known already is none of this file's business:
it gets its answer again, whatever the budgets say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal

from x402 import networks
from x402.errors import LimitedError, Mender, RefusedError, UnavailableError
from x402.facilitator.callers import ANYBODY, LARGEST_FEES, Caller
from x402.lifecycle import Party, Subject
from x402.money import EXACT_CONTEXT, show_units
from x402.ports import Clock, Ledger
from x402.telemetry import Telemetry

_DAY_SECONDS = 86_400
_SEEN_SECONDS = 300
"""So long a failure counts that was seen on chain and not again since: another replica may know how it went on."""
_COINS = {networks.EIP155: (18, "ETH"), networks.SOLANA: (9, "SOL")}

_SPENT = {
    "total": "fee_budget_spent",
    "caller": "caller_fee_budget_spent",
    "payer": "payer_fee_budget_spent",
}
_WHOSE = {"total": "of all payments", "caller": "of this seller", "payer": "of this payer"}
LIMITED = {
    "fee_budget_spent": Mender.FACILITATOR,
    "caller_fee_budget_spent": Mender.FACILITATOR,
    "payer_fee_budget_spent": Mender.FACILITATOR,
    "payer_failed_too_often": Mender.PAYER,
}
"""The refusals that end by themselves, and who can do something about them before that."""


@dataclass(frozen=True, slots=True)
class FeeShare:
    """The part of a payment's value that its fee may be: `share` of 1, at `coin_price` dollars for a whole ETH or SOL,
    which the operator states."""

    share: Decimal
    coin_price: Decimal


@dataclass(frozen=True, slots=True)
class Caps:
    """What one network may cost. Fees in wei or lamports per UTC day, None for no cap; `min_amount` is the smallest
    payment in dollars; `fee_share` bounds the fee of each single payment."""

    total: int | None = None
    caller: int | None = None
    payer: int | None = None
    min_amount: Decimal = Decimal(0)
    fee_share: FeeShare | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """How many failed settlements of one payer are borne within `seconds`; 0 bears any number."""

    most: int = 1
    seconds: int = 3600


@dataclass(frozen=True, slots=True)
class _Account:
    """One budget: whose it is, its name in the ledger, and its cap."""

    scope: str
    name: str
    cap: int


@dataclass(frozen=True, slots=True)
class _Booking:
    """What was booked for one payment, on which day, against which accounts."""

    day: int
    caps: Mapping[str, int]
    units: int


class Allowance:
    """The budgets of one facilitator. `caps` are by CAIP-2 network; a network without any is not limited."""

    def __init__(
        self,
        ledger: Ledger,
        caps: Mapping[str, Caps],
        clock: Clock,
        *,
        failures: Failures | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._ledger = ledger
        self._caps = dict(caps)
        self._clock = clock
        self._failures = failures or Failures()
        self._telemetry = telemetry or Telemetry()
        self._booked: dict[str, _Booking] = {}
        self._today = 0
        self._corrections: set[asyncio.Task[None]] = set()
        self._failing: dict[str, dict[str, int]] = {}

    async def ask(self, subject: Subject, fee: int, caller: Caller = ANYBODY) -> None:
        """Raise what `admit` would raise, as far as can be known without booking anything."""
        self._check_worth(subject, fee)
        now, accounts = self._clock(), self._accounts(subject, caller)
        if not accounts and not self._failures.most:
            return
        names = [account.name for account in accounts]
        failed, spent = await self._ledger.burden(
            subject.payer, now - self._failures.seconds, now // _DAY_SECONDS, names
        )
        self._bear(subject, failed)
        for account, units in zip(accounts, spent, strict=True):
            if units + fee > account.cap:
                raise self._spent(account)

    async def admit(self, subject: Subject, fee: int, caller: Caller = ANYBODY) -> None:
        """Book the highest fee of a settlement, in wei or lamports, before it is signed.

        Raises `LimitedError` when it is more than a budget has left or its payer failed too often, `RefusedError` when
        the payment is worth too little, and `UnavailableError` when nothing could be written down: nobody is let in
        unseen (fault E02). Nothing is booked then.
        """
        self._check_worth(subject, fee)
        if self._failures.most:
            since = self._clock() - self._failures.seconds
            self._bear(subject, await self._ledger.failures_of(Party.FACILITATOR, subject.payer, since))
        accounts = self._accounts(subject, caller)
        if accounts:
            exceeded = await self._book(subject, _Booking(self._clock() // _DAY_SECONDS, _caps_of(accounts), 0), fee)
            if exceeded is not None:
                raise self._spent(next(account for account in accounts if account.name == exceeded))

    async def afford(self, subject: Subject, fee: int) -> bool:
        """Book that a settlement may cost `fee` in all, after its bid was raised; False when no budget has it.

        What an earlier process booked for it is unknown here, so the whole fee is booked once more.
        """
        accounts = self._accounts(subject, ANYBODY)
        known = self._booked.get(subject.pay_id)
        if known is None and not accounts:
            return True
        booking = known or _Booking(self._clock() // _DAY_SECONDS, _caps_of(accounts), 0)
        return await self._book(subject, booking, fee) is None

    async def _book(self, subject: Subject, booking: _Booking, fee: int) -> str | None:
        """The account that has too little left, or None once the difference is booked."""
        if fee > booking.units:
            exceeded = await self._ledger.spend(booking.day, booking.caps, fee - booking.units)
            if exceeded is not None:
                return exceeded
            if booking.day != self._today:
                # What is older than a day stays as it was estimated.
                self._booked = {name: held for name, held in self._booked.items() if held.day >= booking.day - 1}
                self._today = booking.day
            self._booked[subject.pay_id] = replace(booking, units=fee)
        return None

    async def correct(self, subject: Subject, fee: int) -> None:
        """Replace what was booked by what the chain took, 0 for what was never sent.

        What an earlier process booked, and what can't be written now, stays as it was: estimated, and never too low.
        """
        booking = self._booked.pop(subject.pay_id, None)
        if booking is None:
            return
        if fee:
            self._telemetry.emit("fees.spent", network=subject.network, fee=fee)
        if fee == booking.units:
            return
        boundless = dict.fromkeys(booking.caps, LARGEST_FEES)
        with suppress(UnavailableError):
            await self._ledger.spend(booking.day, boundless, fee - booking.units)

    def correct_soon(self, subject: Subject, cost: Callable[[], Awaitable[int | None]]) -> None:
        """`correct`, once it is known what the chain took; nobody waits for it but `drain`."""
        if subject.pay_id not in self._booked:
            return

        async def correct() -> None:
            with suppress(UnavailableError):
                fee = await cost()
                if fee is not None:
                    await self.correct(subject, fee)

        task = asyncio.create_task(correct())
        self._corrections.add(task)
        task.add_done_callback(self._corrections.discard)

    def note(self, subject: Subject, *, failing: bool) -> None:
        """Count a payment as its payer's failure while it is `failing`, by what this process sees on chain; one that
        is written down as refused is counted by the ledger."""
        now = self._clock()
        seen = self._failing.pop(subject.payer, {})
        seen.pop(subject.pay_id, None)
        if failing:
            seen[subject.pay_id] = now
        if seen:
            self._failing[subject.payer] = seen
        oldest = next(iter(self._failing), None)
        if oldest is not None and max(self._failing[oldest].values()) < now - _SEEN_SECONDS:
            # Each note takes one away that counts no more, so that those of other replicas don't pile up.
            del self._failing[oldest]

    async def drain(self) -> None:
        """Wait for the corrections under way, before the ledger is closed."""
        await asyncio.gather(*self._corrections, return_exceptions=True)

    def retry_after(self, code: str) -> int | None:
        """In how many seconds a refusal with this code may end by itself; None for a refusal that does not."""
        if code not in LIMITED:
            return None
        if code == "payer_failed_too_often":
            return self._failures.seconds
        return self._until_tomorrow()

    def _check_worth(self, subject: Subject, fee: int) -> None:
        """Whether the payment is worth its fee."""
        caps, worth = self._of(subject.network), _dollars(subject)
        if worth < caps.min_amount:
            raise RefusedError(
                "amount_below_minimum",
                f"${worth:f} is less than the ${caps.min_amount:f} that are settled here at least",
                mender=Mender.SELLER,
            )
        if caps.fee_share is not None:
            self._check_share(subject, fee, worth, caps.fee_share)

    def _bear(self, subject: Subject, failed: int) -> None:
        """Whether a payer with so many failures, and those that the chain shows already, is to be borne."""
        since = self._clock() - _SEEN_SECONDS
        failed += sum(seen >= since for seen in self._failing.get(subject.payer, {}).values())
        if failed >= self._failures.most > 0:
            raise LimitedError(
                "payer_failed_too_often",
                f"{failed} of {subject.payer}'s payments passed every check and then failed on chain",
                mender=Mender.PAYER,
                retry_after_seconds=self._failures.seconds,
            )

    def _check_share(self, subject: Subject, fee: int, worth: Decimal, bound: FeeShare) -> None:
        decimals, _ = _COINS[subject.network.partition(":")[0]]
        cost = EXACT_CONTEXT.multiply(Decimal(fee).scaleb(-decimals, EXACT_CONTEXT), bound.coin_price)
        if cost > EXACT_CONTEXT.multiply(worth, bound.share):
            raise RefusedError(
                "fee_above_share",
                f"the fee may be ${cost:.6f}, too much for a payment of ${worth:f}",
                mender=Mender.SELLER,
            )

    def _accounts(self, subject: Subject, caller: Caller) -> list[_Account]:
        network, caps = subject.network, self._of(subject.network)
        limits = (
            ("total", "", caps.total),
            ("caller", caller.name, caller.fees_per_day.get(network, caps.caller)),
            ("payer", subject.payer, caps.payer),
        )
        return [
            _Account(scope, f"{network} {scope} {whose}".strip(), cap)
            for scope, whose, cap in limits
            if cap is not None
        ]

    def _spent(self, account: _Account) -> LimitedError:
        decimals, coin = _COINS[account.name.partition(":")[0]]
        return LimitedError(
            _SPENT[account.scope],
            f"the fees {_WHOSE[account.scope]} for today (UTC), {show_units(account.cap, decimals)} {coin}, are spent "
            "or nearly so",
            mender=Mender.FACILITATOR,
            retry_after_seconds=self._until_tomorrow(),
        )

    def _until_tomorrow(self) -> int:
        return _DAY_SECONDS - self._clock() % _DAY_SECONDS

    def _of(self, network: str) -> Caps:
        return self._caps.get(network, _NO_CAPS)


_NO_CAPS = Caps()


def _caps_of(accounts: Iterable[_Account]) -> dict[str, int]:
    return {account.name: account.cap for account in accounts}


def _dollars(subject: Subject) -> Decimal:
    """What a payment is worth; one in an unknown asset is refused by the scheme, whatever it is worth."""
    asset = networks.get(subject.network).asset(subject.asset)
    return Decimal(subject.amount).scaleb(-(asset.decimals if asset else 0), EXACT_CONTEXT)
