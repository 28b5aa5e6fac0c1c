"""Paying back what is owed: the money moved, no answer came of it, and nobody fetched another (fault G10).

A refund is an ordinary payment from the seller's refund wallet to the payer, of exactly what was paid, settled by the
seller's facilitator:

    OWED ─▶ booked against the day's cap ─▶ REFUNDING (the signed bytes are durable) ─▶ settle ─▶ REFUNDED

From REFUNDING on no answer is made any more, and the same bytes are presented until they have settled; when others may
be signed stands in `disbursement.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from x402 import networks
from x402.errors import MisconfiguredError
from x402.gateway.disbursement import Blockhash, Debt, Disbursements, Signed
from x402.gateway.kinds import Kinds
from x402.gateway.offers import identity_of
from x402.gateway.policy import units_of
from x402.gateway.purse import Purse
from x402.gateway.register import ME, Register
from x402.lifecycle import Entry, Event, Subject, UnlawfulEvent
from x402.stages import Owed, Refunded, Refunding, Restored, Settled

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Refunds:
    """One seller's refunds, paid from his refund wallet."""

    payments: Disbursements

    @property
    def register(self) -> Register:
        """The seller's memory of payments."""
        return self.payments.register

    def covers(self, network: str) -> bool:
        """Whether what is owed on a network can be paid back."""
        return self.payments.covers(network)

    async def pay_back(self, entry: Entry) -> bool:
        """Go on with what is owed, or with a refund that is under way; False while its end is not known.

        The caller holds the row's lease. Raises `UnavailableError` and `UnlawfulEvent`, with nothing lost.
        """
        if isinstance(entry.stage, Owed | Restored):
            if not self._is_due(entry):
                return True
            begun = await self._begin(entry, entry.stage)
            if begun is None:
                return False
            entry = begun
        if not isinstance(entry.stage, Refunding):
            return True
        return await self._settle(entry, entry.stage)

    def _is_due(self, entry: Entry) -> bool:
        rests_until = entry.updated_at + self.register.policy.refund_after_seconds
        return self.covers(entry.subject.network) and self.register.clock() >= rests_until

    async def _begin(self, entry: Entry, owed: Owed | Restored) -> Entry | None:
        """The row after the first refund was signed; None when it can't be paid now."""
        subject, ledger = _owed(entry), self.register.ledger
        payment = await self.payments.sign(_debt(subject))
        day = self.register.clock() // _DAY_SECONDS
        cap = units_of(self.register.policy.refund_per_day, subject.network, subject.asset)
        account = {f"refunds {subject.network} {subject.asset}": cap}
        if await ledger.spend(day, account, subject.amount) is not None:
            self.register.emit("sale.refund_capped", subject)
            return None
        # A crash from here on may waste a part of the day's cap, and never a coin.
        stage = Refunding(owed.transaction, payment.as_header(), identity_of(payment))
        try:
            return await ledger.advance(ME, subject.pay_id, Event.REFUND, stage)
        except UnlawfulEvent:
            await ledger.spend(day, account, -subject.amount)
            raise

    async def _settle(self, entry: Entry, refunding: Refunding) -> bool:
        register, pay_id = self.register, entry.subject.pay_id
        signed = Signed(
            header=refunding.header, pay_id=refunding.pay_id, attempt=refunding.attempt, since=entry.updated_at
        )
        verdict = await self.payments.present(signed)
        if isinstance(verdict, Settled):
            refunded = Refunded(refunding.transaction, verdict.transaction)
            await register.ledger.advance(ME, pay_id, Event.SETTLE, refunded)
            register.emit("sale.refunded", entry.subject)
            return True
        register.emit("sale.refund_pending", entry.subject)
        payment = await self.payments.again(_debt(_owed(entry)), signed, verdict)
        if payment is not None:
            attempt = refunding.attempt + 1
            stage = Refunding(refunding.transaction, payment.as_header(), identity_of(payment), attempt)
            await register.ledger.advance(ME, pay_id, Event.REPLACE, stage)
        return False


def _debt(owed: Subject) -> Debt:
    return Debt(
        name=f"x402 refund {owed.pay_id}", network=owed.network, asset=owed.asset, to=owed.payer, units=owed.amount
    )


def _owed(entry: Entry) -> Subject:
    """The payment with what has moved of it, which is what goes back."""
    return replace(entry.subject, amount=entry.amount)


def refunds_of(register: Register, purse: Purse, kinds: Kinds, blockhashes: Mapping[str, Blockhash]) -> Refunds:
    """Refunds of a seller. Raises `MisconfiguredError` for a Solana key without a node: there nothing but the chain
    proves that a refund is dead, and other bytes would pay again."""
    solana = [network for network in blockhashes if network in register.belief.witnesses]
    if purse.addresses.get(networks.SOLANA) and not solana:
        raise MisconfiguredError("no_node", "X402_REFUND_SVM_PRIVATE_KEY: set X402_SVM_RPC_URL as well")
    return Refunds(Disbursements(register, purse, kinds, blockhashes))
