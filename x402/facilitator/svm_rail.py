"""Scheme `exact` on one Solana cluster: simulate to verify, co-sign and rebroadcast to settle, balances to be sure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from x402.errors import MisconfiguredError, RefusedError, UnavailableError
from x402.facilitator.rail import Checked, prove, send_again
from x402.facilitator.signer import SvmSigner
from x402.lifecycle import Entry, Subject
from x402.ports import SvmChain
from x402.schemes import exact_svm, exact_svm_reasons, exact_svm_rules, exact_svm_settlement
from x402.schemes.exact_svm_layout import SignedTransfer
from x402.schemes.exact_svm_rules import SvmLimits
from x402.schemes.subject import ANY_FEE, recall, subject_of, svm_subject
from x402.stages import Intended, Refused, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_BLOCKHASH_LIFETIME_BLOCKS = 150
_EXPIRY_MARGIN_BLOCKS = 32
_REBROADCAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Lamports:
    """`reserve` is the balance in lamports below which a fee payer stops offering (fault E08)."""

    reserve: int = 1_000_000


class SvmRail:
    """Implements `facilitator.rail.Rail`."""

    def __init__(
        self,
        network: str,
        chain: SvmChain,
        signers: Sequence[SvmSigner],
        *,
        limits: SvmLimits = exact_svm_rules.DEFAULT_LIMITS,
        lamports: Lamports | None = None,
    ) -> None:
        if not signers:
            raise MisconfiguredError("no_signer", f"{network} needs at least one key that pays fees")
        self.network = network
        self._chain = chain
        self._signers = {signer.address: signer for signer in signers}
        self._limits = limits
        self._lamports = lamports or Lamports()
        self._proven = False

    async def start(self) -> None:
        await self._chain.check_cluster(self.network)
        self._proven = True

    async def kind(self) -> Kind | None:
        try:
            accounts = await self._chain.accounts(self.signers())
        except UnavailableError:
            return None
        for address, account in zip(self.signers(), accounts, strict=True):
            if account is not None and account.lamports >= self._lamports.reserve:
                return Kind(scheme="exact", network=self.network, extra=exact_svm.offer_extra(address))
        return None

    def signers(self) -> list[str]:
        return list(self._signers)

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        return Checked(subject_of(payment, requirement), payment, requirement)

    async def check(self, payment: Payment, requirement: Requirement) -> Checked:
        signed = self._signed(payment, requirement)
        unsigned = _unsigned(signed)
        _, simulation, accounts = await asyncio.gather(
            self._prove(),
            self._chain.simulate(unsigned, verify_signatures=False),
            self._chain.accounts([signed.transfer.destination]),
        )
        problem = exact_svm_settlement.destination_problem(accounts[0], requirement)
        if problem is not None:
            raise problem
        if simulation.error is not None:
            reason, message = exact_svm_settlement.explain(simulation.error)
            mender = exact_svm_reasons.REASONS[reason].mender
            raise RefusedError(reason, message, mender=mender, details={"payer": signed.transfer.payer})
        return Checked(svm_subject(signed, payment, requirement), payment, requirement)

    async def prepare(self, checked: Checked) -> Intended:
        signed = self._signed(checked.payment, checked.requirement)
        height = await self._chain.block_height()
        signature = self._signers[signed.transfer.fee_payer].sign_message(exact_svm_settlement.message_to_sign(signed))
        transaction, raw = exact_svm_settlement.cosign(signed, signature)
        # The blockhash is at most this young, so nothing can land above this height.
        return Intended(transaction, raw, height + _BLOCKHASH_LIFETIME_BLOCKS, signed.transfer.fee_payer)

    async def abandon(self, intended: Intended) -> None:
        """Nothing was reserved: Solana transactions carry no sequence."""

    async def release(self, intended: Intended) -> None:
        """As `abandon`."""

    async def submit(self, intended: Intended) -> None:
        try:
            await self._chain.send(intended.raw, intended.transaction)
        except UnavailableError:
            # The bytes may be on their way all the same; the chain will tell.
            return

    async def decide(self, entry: Entry, intended: Intended, *, timeout: float) -> Settled | Refused | None:
        transfer = _remembered(entry.subject).transfer
        remaining = timeout
        while True:
            slice_seconds = min(_REBROADCAST_SECONDS, remaining)
            status = await self._chain.status(intended.transaction, timeout=slice_seconds)
            if status is not None:
                break
            remaining -= slice_seconds
            if await self._chain.block_height() > intended.last_valid + _EXPIRY_MARGIN_BLOCKS:
                return await self._expired(intended)
            if remaining <= 0:
                return None
            await send_again(self, intended)
        if status.error is not None:
            reason, message = exact_svm_settlement.explain(status.error, landed=True)
            return Refused(reason, message, intended.transaction)
        landed = await self._chain.transaction(intended.transaction)
        if landed is None:
            return None
        if exact_svm_settlement.moved(landed, transfer):
            return Settled(intended.transaction, landed.slot)
        return Refused(
            "post_settlement_transfer_not_confirmed",
            "the transaction succeeded without the transfer that it should have made",
            intended.transaction,
        )

    async def find_settled(self, subject: Subject) -> Settled | None:
        signed = _remembered(subject)
        signer = self._signers.get(signed.transfer.fee_payer)
        if signer is None:
            return None
        # Ed25519 signatures are deterministic: only this transaction can ever have carried the payer's.
        transaction, _ = exact_svm_settlement.cosign(
            signed, signer.sign_message(exact_svm_settlement.message_to_sign(signed))
        )
        landed = await self._chain.transaction(transaction)
        if landed is None or not exact_svm_settlement.moved(landed, signed.transfer):
            return None
        return Settled(transaction, landed.slot)

    async def _expired(self, intended: Intended) -> Refused | None:
        """The blockhash is dead: what is not on chain now will never be. Asked once more, after the height."""
        if await self._chain.status(intended.transaction, timeout=1.0) is not None:
            return None
        return Refused("invalid_exact_svm_transaction_failed", "the transaction's blockhash expired before it landed")

    async def _prove(self) -> None:
        if not self._proven:
            await prove(self)

    def _signed(self, payment: Payment, requirement: Requirement) -> SignedTransfer:
        managed = frozenset(self._signers)
        # Clients of version 1 know no memo; their equal payments collide, and the seller's claim tells them apart.
        limits = self._limits if payment.version != 1 else replace(self._limits, memo_required=False)
        return exact_svm_rules.check(payment, requirement, managed=managed, limits=limits)


def _remembered(subject: Subject) -> SignedTransfer:
    """A payment that was accepted once, whatever keys and limits there are now."""
    facilitation = recall(subject)
    requirement = facilitation.requirement
    managed = frozenset({str(requirement.extra.get("feePayer", ""))})
    return exact_svm_rules.check(facilitation.payment, requirement, managed=managed, limits=ANY_FEE)


def _unsigned(signed: SignedTransfer) -> bytes:
    """The transaction with the payer's signature and an empty slot for ours, as simulation takes it."""
    return b"\x02" + bytes(64) + signed.payer_signature + signed.transfer.message
