"""What a facilitator spends on fees at most, and on whom: per payer, per caller and in total, per UTC day.

    verify   terms ─▶ ask                       nothing is booked
    settle   terms ─▶ ask ─▶ admit ─▶ send ─▶ correct
                              │ the highest fee that the transaction can cost, before it is signed
                              └ in the ledger, so that replicas share one budget and a restart forgets nothing

Whoever makes a facilitator pay for transactions that move nothing runs out of budget and is refused before anything is
signed (faults C06-C09, D05, D11, D13, invariant I7). A payment that is known already is none of this file's business:
it gets its answer again, whatever the budgets say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from x402 import networks
from x402.errors import LimitedError, Mender, RefusedError, UnavailableError
from x402.facilitator.callers import ANYBODY, LARGEST_FEES, Caller
from x402.lifecycle import Party, Subject
from x402.money import EXACT_CONTEXT, show_units
from x402.ports import Clock, Ledger
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement

_DAY_SECONDS = 86_400
_COINS = {networks.EIP155: (18, "ETH"), networks.SOLANA: (9, "SOL")}

LIMITED = {
    "fee_budget_spent": Mender.FACILITATOR,
    "caller_fee_budget_spent": Mender.FACILITATOR,
    "payer_fee_budget_spent": Mender.PAYER,
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
    """One budget: the refusal when it is spent, its name in the ledger, whose it is, and its cap."""

    code: str
    name: str
    whose: str
    cap: int = LARGEST_FEES


@dataclass(frozen=True, slots=True)
class _Booking:
    """What was booked for one payment, on which day, against which accounts."""

    day: int
    accounts: tuple[str, ...]
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

    def terms(self, requirement: Requirement) -> None:
        """Raise `RefusedError` for an offer that is worth less than its fee (faults C09, D13)."""
        least = self._of(requirement.network).min_amount
        worth = _dollars(requirement.amount, requirement.network, requirement.asset)
        if worth < least:
            raise RefusedError(
                "amount_below_minimum",
                f"${worth:f} is less than the ${least:f} that are settled here at least",
                mender=Mender.SELLER,
            )

    async def ask(self, subject: Subject, caller: Caller = ANYBODY) -> None:
        """Raise `LimitedError` for a payer that failed too often, or when a budget has nothing left. Books nothing.

        Raises `UnavailableError` when the ledger can't be read: nobody is let in unseen (fault E02).
        """
        await self._bear(subject)
        day = self._clock() // _DAY_SECONDS
        for account in self._accounts(subject, caller):
            if await self._ledger.spent(day, account.name) >= account.cap:
                raise self._spent(account)

    async def admit(self, subject: Subject, fee: int, caller: Caller = ANYBODY) -> None:
        """Book the highest fee of a settlement, in wei or lamports, before it is signed; for a payment that is booked
        already, what it may cost more.

        Raises `LimitedError` when it is more than a budget has left, `RefusedError` when it is more than the payment
        is worth, and `UnavailableError` when it could not be written down; then nothing is booked.
        """
        self._check_share(subject, fee)
        accounts = self._accounts(subject, caller)
        if not accounts:
            return
        booking = self._booked.get(subject.pay_id)
        day, before = (booking.day, booking.units) if booking else (self._clock() // _DAY_SECONDS, 0)
        if fee <= before:
            return
        caps = {account.name: account.cap for account in accounts}
        exceeded = await self._ledger.spend(day, caps, fee - before)
        if exceeded is not None:
            raise self._spent(next(account for account in accounts if account.name == exceeded))
        self._booked[subject.pay_id] = _Booking(day, tuple(caps), fee)

    async def correct(self, subject: Subject, fee: int) -> None:
        """Replace what was booked by what the chain took, 0 for what was never sent.

        What an earlier process booked, and what can't be written now, stays as it was: estimated, and never too low.
        """
        booking = self._booked.pop(subject.pay_id, None)
        if fee:
            self._telemetry.emit("fees.spent", network=subject.network, fee=fee)
        if booking is None or fee == booking.units:
            return
        boundless = dict.fromkeys(booking.accounts, LARGEST_FEES)
        try:
            await self._ledger.spend(booking.day, boundless, fee - booking.units)
        except UnavailableError:
            return

    def retry_after(self, code: str) -> int | None:
        """In how many seconds a refusal with this code may end by itself; None for a refusal that does not."""
        if code not in LIMITED:
            return None
        if code == "payer_failed_too_often":
            return self._failures.seconds
        return _DAY_SECONDS - self._clock() % _DAY_SECONDS

    async def _bear(self, subject: Subject) -> None:
        if not self._failures.most:
            return
        since = self._clock() - self._failures.seconds
        failed = await self._ledger.failures_of(Party.FACILITATOR, subject.payer, since)
        if failed >= self._failures.most:
            raise self._limited(
                "payer_failed_too_often",
                f"{failed} of {subject.payer}'s payments passed every check and then failed on chain",
            )

    def _check_share(self, subject: Subject, fee: int) -> None:
        bound = self._of(subject.network).fee_share
        if bound is None:
            return
        decimals, _ = _COINS[subject.network.partition(":")[0]]
        cost = EXACT_CONTEXT.multiply(Decimal(fee).scaleb(-decimals, EXACT_CONTEXT), bound.coin_price)
        worth = _dollars(subject.amount, subject.network, subject.asset)
        if cost > EXACT_CONTEXT.multiply(worth, bound.share):
            raise RefusedError(
                "fee_above_share",
                f"the fee may be ${cost:.6f}, too much for a payment of ${worth:f}",
                mender=Mender.SELLER,
            )

    def _accounts(self, subject: Subject, caller: Caller) -> list[_Account]:
        network, caps = subject.network, self._of(subject.network)
        of_caller = caller.fees_per_day.get(network, caps.caller)
        limits = (
            (_Account("fee_budget_spent", f"{network} total", "of all payments"), caps.total),
            (_Account("caller_fee_budget_spent", f"{network} caller {caller.name}", "of this seller"), of_caller),
            (_Account("payer_fee_budget_spent", f"{network} payer {subject.payer}", "of this payer"), caps.payer),
        )
        return [replace(account, cap=cap) for account, cap in limits if cap is not None]

    def _spent(self, account: _Account) -> LimitedError:
        decimals, coin = _COINS[account.name.partition(":")[0]]
        most = show_units(account.cap, decimals)
        return self._limited(
            account.code, f"the fees {account.whose} for today (UTC), {most} {coin}, are spent or nearly so"
        )

    def _limited(self, code: str, message: str) -> LimitedError:
        return LimitedError(code, message, mender=LIMITED[code], retry_after_seconds=self.retry_after(code) or 1)

    def _of(self, network: str) -> Caps:
        return self._caps.get(network, _NO_CAPS)


_NO_CAPS = Caps()


def _dollars(units: int, network: str, asset: str) -> Decimal:
    """What a payment is worth; what is paid in an unknown asset is refused by the scheme, whatever it is worth."""
    known = networks.get(network).asset(asset)
    return Decimal(units).scaleb(-(known.decimals if known else 0), EXACT_CONTEXT)
