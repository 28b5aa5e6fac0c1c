"""Money that goes from an account back to the wallet that it belongs to, and to nobody else (fault G10).

    asked for ─▶ ASKED (taken from the account) ─▶ SENT (the signed bytes are durable) ─▶ settle ─▶ PAID
                                                       └─ provably never left ─▶ RETURNED (back in the account)

The wallet that pays is the seller's refund wallet, the way that of `disbursement.py`; a day's cap bounds it.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, replace

from x402.errors import ConflictError, LimitedError, Mender, UnavailableError, X402Error
from x402.gateway.disbursement import Debt, Disbursements, Signed
from x402.gateway.offers import identity_of
from x402.gateway.policy import units_of
from x402.gateway.problem import ApiProblem
from x402.gateway.terms import asset_on
from x402.ports.accounts import AccountBook, Payout, TooLittle, Withdrawal
from x402.stages import Settled

_DAY_SECONDS = 86_400
_MICRO = 6
_OURS = "wd_"
"""How the ids of what an account's owner asked for begin; payouts to providers have others, and a cap of their own."""
_TOLD = {Payout.PAID: "balance.withdrawn", Payout.RETURNED: "balance.withdrawal_returned"}

_log = logging.getLogger("x402.gateway")


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """Withdrawals from one seller's accounts. `sold_on` are the networks on which he is paid; `payments` is None where
    no refund wallet is."""

    book: AccountBook
    payments: Disbursements | None
    sold_on: Container[str]

    async def ask(self, account: str, units: int | None, name: str = "") -> Withdrawal:
        """Pay out `units` of an account (atomic USDC), or all of it, and tell how that stands.

        The same `name` is the same withdrawal. Raises `ApiProblem` for an account that has no wallet here or too little
        in it and for more than a whole day's cap, `LimitedError` when this day's is reached, `ConflictError` for a name
        that stands for another amount.
        """
        payments = self._able(account)
        id = _id_of(account, name)
        older = await self.book.withdrawal(id)
        if older is not None:
            return _same(older, units)
        wanted = units if units is not None else (await self.book.balance(account)).withdrawable
        least = units_of(payments.register.policy.withdraw_min, *_token(account))
        if _in_token(wanted, account) < max(1, least):
            raise ApiProblem(
                400, "withdrawal_too_small", f"at least {payments.register.policy.withdraw_min} US dollars are paid out"
            )
        spent = await self._cap(payments, account, wanted)
        seconds = payments.register.policy.lease_seconds
        try:
            begun, won = await self.book.withdraw(
                Withdrawal(id=id, account=account, units=wanted), lease_seconds=seconds
            )
        except TooLittle as error:
            await spent.give_back()
            raise ApiProblem(
                409,
                "insufficient_credits",
                "there is not that much to pay out; what was a gift can only be spent",
                mender=Mender.PAYER,
                details={"available": str(error.available), "required": str(error.wanted)},
            ) from error
        except Exception:
            # Where nobody can say whether the row is written, the cap stays booked: that wastes a part of it at most.
            with suppress(X402Error):
                if await self.book.withdrawal(id) is None:
                    await spent.give_back()
            raise
        if not won:
            await spent.give_back()
            return _same(begun, units)
        payments.register.telemetry.emit("balance.withdrawing", units=wanted)
        return await self._proceed(payments, begun)

    async def reconcile(self) -> int:
        """Go on with what is under way; returns how many are still undecided. What can't be paid from here, such as a
        payout on a network that is not sold on, is left as it is."""
        if self.payments is None:
            return 0
        undecided = 0
        for withdrawal in await self.book.open_withdrawals(lease_seconds=self.payments.register.policy.lease_seconds):
            standing = await self._proceed(self.payments, withdrawal)
            undecided += standing.state in (Payout.ASKED, Payout.SENT)
        return undecided

    def _able(self, account: str) -> Disbursements:
        network, _, address = account.rpartition(":")
        if ":" not in network or not address or network not in self.sold_on:
            raise ApiProblem(400, "not_withdrawable", "this account belongs to no wallet on a network of this seller")
        if self.payments is None or not self.payments.covers(network):
            raise ApiProblem(
                503, "withdrawals_closed", "this seller pays nothing out on this network now", mender=Mender.SELLER
            )
        return self.payments

    async def _cap(self, payments: Disbursements, account: str, units: int) -> _Booked:
        register = payments.register
        booked = _booked(payments, account, units, register.clock())
        if booked.amount > booked.cap:
            raise ApiProblem(
                400,
                "withdrawal_too_large",
                f"at most {register.policy.withdraw_per_day} US dollars are paid out in a day; ask for less",
            )
        if await register.ledger.spend(booked.day, {booked.name: booked.cap}, booked.amount) is not None:
            raise LimitedError(
                "withdrawals_capped",
                "this seller has paid out what he pays out in a day; ask again tomorrow",
                retry_after_seconds=_DAY_SECONDS - register.clock() % _DAY_SECONDS,
            )
        return booked

    async def _proceed(self, payments: Disbursements, standing: Withdrawal) -> Withdrawal:
        """Go on from wherever a withdrawal stands; what fails on the way is tried again later."""
        try:
            # Reconciliation comes here with whatever is open, also what another process or an operator has begun.
            self._able(standing.account)
            if standing.state is Payout.ASKED:
                standing = await self._sign(payments, standing)
            if standing.state is Payout.SENT:
                standing = await self._present(payments, standing)
        except Exception as error:  # noqa: BLE001 - whatever failed, what others are owed goes on
            if not isinstance(error, X402Error):
                _log.error("a withdrawal could not go on: %s", type(error).__name__)
            payments.register.telemetry.emit("balance.withdrawal_delayed", units=standing.units)
        return standing

    async def _sign(self, payments: Disbursements, asked: Withdrawal) -> Withdrawal:
        payment = await payments.sign(_debt(asked))
        sent = replace(asked, state=Payout.SENT, header=payment.as_header(), pay_id=identity_of(payment), attempt=1)
        return await self._moved(payments, sent, asked)

    async def _present(self, payments: Disbursements, sent: Withdrawal) -> Withdrawal:
        signed = Signed(header=sent.header, pay_id=sent.pay_id, attempt=sent.attempt, since=sent.updated_at)
        verdict = await payments.present(signed)
        if isinstance(verdict, Settled):
            return await self._moved(payments, replace(sent, state=Payout.PAID, transaction=verdict.transaction), sent)
        if await payments.is_dead(signed, verdict):
            return await self._moved(payments, replace(sent, state=Payout.RETURNED), sent)
        payment = await payments.again(_debt(sent), signed, verdict)
        if payment is None:
            return sent
        attempt = sent.attempt + 1
        other = replace(sent, header=payment.as_header(), pay_id=identity_of(payment), attempt=attempt)
        return await self._moved(payments, other, sent)

    async def _moved(self, payments: Disbursements, after: Withdrawal, was: Withdrawal) -> Withdrawal:
        """How it stands in the book now; when another process was faster, that is what counts."""
        if await self.book.move(after, was=was):
            if after.state in _TOLD:
                payments.register.telemetry.emit(_TOLD[after.state], units=after.units)
            if after.state is Payout.RETURNED and after.id.startswith(_OURS):
                # It has left nobody's wallet. A crash before this wastes a part of that day's cap, and never a coin.
                with suppress(X402Error):
                    await _booked(payments, after.account, after.units, after.created_at).give_back()
        known = await self.book.withdrawal(after.id)
        if known is None:
            raise UnavailableError("ledger_unavailable", "the ledger lost a row between two statements")
        return known


@dataclass(frozen=True, slots=True)
class _Booked:
    payments: Disbursements
    day: int
    name: str
    cap: int
    amount: int

    async def give_back(self) -> None:
        await self.payments.register.ledger.spend(self.day, {self.name: self.cap}, -self.amount)


def _booked(payments: Disbursements, account: str, units: int, moment: int) -> _Booked:
    """What a withdrawal counts against the cap of the day of `moment`."""
    network, asset = _token(account)
    cap = units_of(payments.register.policy.withdraw_per_day, network, asset)
    name = f"withdrawals {network} {asset}"
    return _Booked(payments, moment // _DAY_SECONDS, name, cap, _in_token(units, account))


def _id_of(account: str, name: str) -> str:
    if not name:
        return f"{_OURS}{secrets.token_hex(20)}"
    digest = hashlib.sha256("\n".join((account, name)).encode()).hexdigest()
    return f"{_OURS}{digest[:40]}"


def _same(older: Withdrawal, units: int | None) -> Withdrawal:
    if units is not None and units != older.units:
        raise ConflictError("idempotency_conflict", "you gave this name to a withdrawal of another amount")
    return older


def _token(account: str) -> tuple[str, str]:
    network = account.rpartition(":")[0]
    return network, asset_on(network).address


def _in_token(units: int, account: str) -> int:
    """Atomic USDC in atomic units of the network's token, rounded down."""
    decimals = asset_on(account.rpartition(":")[0]).decimals
    if decimals >= _MICRO:
        return int(units * 10 ** (decimals - _MICRO))
    return int(units // 10 ** (_MICRO - decimals))


def _debt(withdrawal: Withdrawal) -> Debt:
    network, asset = _token(withdrawal.account)
    return Debt(
        name=f"x402 withdrawal {withdrawal.id}",
        network=network,
        asset=asset,
        to=withdrawal.account.rpartition(":")[2],
        units=_in_token(withdrawal.units, withdrawal.account),
    )
