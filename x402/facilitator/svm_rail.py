"""Scheme `exact` on one Solana cluster: simulate to verify, co-sign and rebroadcast to settle, balances to be sure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from x402.confirmation import Confirmations
from x402.errors import MisconfiguredError, RefusedError, UnavailableError
from x402.evidence import Standing
from x402.evidence.svm import SvmWitness, held, judge_landed, pinned, transfer_of
from x402.facilitator.rail import Checked, prove
from x402.facilitator.signer import SvmSigner
from x402.lifecycle import Entry, Party, Subject, begin
from x402.ports import Clock, Ledger, NotSent, SvmChain
from x402.schemes import exact_svm, exact_svm_reasons, exact_svm_rules, exact_svm_settlement
from x402.schemes.exact_svm_layout import SignedTransfer
from x402.schemes.exact_svm_rules import SvmLimits
from x402.schemes.exact_svm_subject import svm_subject
from x402.schemes.subject import subject_of
from x402.stages import Intended, Refused, Reversed, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_BLOCKHASH_LIFETIME_BLOCKS = 150
_BLOCKHASH_LIFETIME_SECONDS = 120
_REBROADCAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Lamports:
    """`reserve` is the balance in lamports below which a fee payer stops offering (fault E08)."""

    reserve: int = 1_000_000


@dataclass(frozen=True, slots=True)
class SvmChecked(Checked):
    """With the transfer as it is signed, and the block height at some time after that; 0 where nobody asked for it."""

    signed: SignedTransfer | None = None
    height: int = 0


class SvmRail:
    """Implements `facilitator.rail.Rail`."""

    def __init__(
        self,
        network: str,
        chain: SvmChain,
        signers: Sequence[SvmSigner],
        clock: Clock,
        *,
        limits: SvmLimits = exact_svm_rules.DEFAULT_LIMITS,
        lamports: Lamports | None = None,
        confirmations: Confirmations | None = None,
    ) -> None:
        if not signers:
            raise MisconfiguredError("no_signer", f"{network} needs at least one key that pays fees")
        self.network = network
        self._chain = chain
        self._clock = clock
        self._signers = {signer.address: signer for signer in signers}
        self._limits = limits
        self.reserve = (lamports or Lamports()).reserve
        self.balances: Mapping[str, int] = {}
        self.extensions: Sequence[str] = ()
        self._confirmations = confirmations or Confirmations()
        self._witness = SvmWitness(network, chain)
        self._proven = False

    async def aclose(self) -> None:
        await self._chain.aclose()

    async def start(self) -> None:
        await self._chain.check_cluster(self.network)
        self._proven = True

    async def kinds(self) -> Sequence[Kind]:
        try:
            accounts = await self._chain.accounts(self.signers())
        except UnavailableError:
            return ()
        self.balances = {
            address: 0 if account is None else account.lamports
            for address, account in zip(self.signers(), accounts, strict=True)
        }
        for address, lamports in self.balances.items():
            if lamports >= self.reserve:
                return (Kind(scheme="exact", network=self.network, extra=exact_svm.offer_extra(address)),)
        return ()

    def signers(self) -> list[str]:
        return list(self._signers)

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        return Checked(subject_of(payment, requirement), payment, requirement)

    async def check(self, payment: Payment, requirement: Requirement, *, settling: bool = False) -> Checked:
        signed = self._signed(payment, requirement)
        transfer = signed.transfer
        await self._prove()
        simulate = self._chain.simulate(_unsigned(signed), verify_signatures=False)
        accounts = self._chain.accounts([transfer.destination, transfer.source])
        height = 0
        if settling:
            # Asked for together with the check, it costs no round trip of its own.
            simulation, (destination, source), height = await asyncio.gather(
                simulate, accounts, self._chain.block_height()
            )
        else:
            simulation, (destination, source) = await asyncio.gather(simulate, accounts)
        problem = exact_svm_settlement.destination_problem(destination, requirement)
        if problem is not None:
            raise problem
        if simulation.error is not None:
            reason, message = exact_svm_settlement.explain(simulation.error)
            mender = exact_svm_reasons.REASONS[reason].mender
            raise RefusedError(reason, message, mender=mender, details={"payer": transfer.payer})
        subject = svm_subject(signed, payment, requirement)
        balance = held(source, transfer.mint)
        return SvmChecked(subject, payment, requirement, balance, signed=signed, height=height)

    async def fee(self, checked: Checked) -> int:
        return self._signed_of(checked).transfer.fee

    async def cost(self, transaction: str, shares: int = 1) -> int | None:
        seen = self._witness.fee_of(transaction)
        if seen:
            return seen
        landed = await self._chain.transaction(transaction)
        return landed.fee or None if landed is not None else None

    async def intend(self, checked: Checked, ledger: Ledger) -> tuple[Entry, bool]:
        signed = self._signed_of(checked)
        seen = checked.height if isinstance(checked, SvmChecked) else 0
        height = seen or await self._chain.block_height()
        transaction, raw = self._cosign(signed)
        # The blockhash was there before the height was asked for, so nothing can land above this one.
        last_valid = height + _BLOCKHASH_LIFETIME_BLOCKS
        intended = Intended(transaction, raw, last_valid, signed.transfer.fee_payer, signed_at=self._clock())
        self._witness.expect(checked.subject, signed)
        return await ledger.begin(begin(Party.FACILITATOR, checked.subject, intended))

    async def submit(self, intended: Intended) -> None:
        try:
            await self._chain.send(intended.raw, intended.transaction)
        except UnavailableError:
            # The bytes may be on their way all the same; the chain will tell.
            return

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        """The payer has signed who pays the fees and until when: no other bytes can pay."""
        return None

    async def decide(
        self, entry: Entry, intended: Intended, ledger: Ledger, *, timeout: float
    ) -> Settled | Refused | None:
        remaining = timeout
        while True:
            seconds = min(_REBROADCAST_SECONDS, remaining)
            verdict = await self._witness.judge(
                entry.subject, (intended.transaction,), last_valid=intended.last_valid, timeout=seconds
            )
            if isinstance(verdict, Settled):
                return verdict if await self.is_deep(entry.subject, verdict) else None
            if verdict is not None:
                return verdict
            remaining -= seconds
            await self._send_again(intended.raw, intended.transaction)
            if remaining <= 0:
                return None

    async def failure(self, entry: Entry, intended: Intended) -> str | None:
        # One that failed is final within seconds, and refused then.
        return None

    async def spent_by(self, subject: Subject) -> Settled | Refused | None:
        signed = transfer_of(subject)
        if signed.transfer.fee_payer not in self._signers:
            return await self._witness.spent_by(subject)
        # Ed25519 signatures are deterministic: only this transaction can ever have carried the payer's.
        transaction, _ = self._cosign(signed)
        landed = await self._chain.transaction(transaction)
        return None if landed is None else judge_landed(landed, signed)

    def is_open_to_all(self, subject: Subject) -> bool:
        # Its fee payer has to sign it as well.
        return False

    def may_land(self, entry: Entry) -> bool:
        return self._clock() < entry.created_at + _BLOCKHASH_LIFETIME_SECONDS

    async def standing(self, entry: Entry, stage: Settled | Reversed) -> Standing | None:
        slot = stage.block if isinstance(stage, Settled) else 0
        return await self._witness.standing(entry.subject, Settled(stage.transaction, slot))

    async def restore(self, entry: Entry, stage: Reversed) -> Refused | None:
        valid = await self._chain.is_blockhash_valid(transfer_of(entry.subject).transfer.blockhash)
        if valid:
            await self._send_again(stage.raw, stage.transaction)
            return None
        standing = await self._witness.standing(entry.subject, Settled(stage.transaction))
        if standing is None or not standing.gone:
            return None
        return Refused(exact_svm_reasons.FAILED, "a fork took the transfer back, and its blockhash has expired")

    async def heal(self, ledger: Ledger) -> None:
        """Solana transactions carry no sequence: none of them waits for another."""

    async def _send_again(self, raw: bytes, transaction: str) -> None:
        """The same bytes again. A refusal now proves nothing: an earlier copy may have landed, or be in another pool
        (fault C16). Of a stranger's transfer there are none."""
        if not raw:
            return
        try:
            await self._chain.send(raw, transaction)
        except (NotSent, UnavailableError):
            return

    async def is_deep(self, subject: Subject, settled: Settled) -> bool:
        """Whether a transfer is confirmed as well as its amount asks for (fault A16)."""
        required = self._confirmations.required(subject.amount, pinned(self.network, subject.asset))
        if required <= 1:
            return True
        standing = await self._witness.standing(subject, settled)
        return standing is not None and standing.final

    async def _prove(self) -> None:
        if not self._proven:
            await prove(self)

    def _cosign(self, signed: SignedTransfer) -> tuple[str, bytes]:
        signature = self._signers[signed.transfer.fee_payer].sign_message(exact_svm_settlement.message_to_sign(signed))
        return exact_svm_settlement.cosign(signed, signature)

    def _signed_of(self, checked: Checked) -> SignedTransfer:
        known = checked.signed if isinstance(checked, SvmChecked) else None
        return known or self._signed(checked.payment, checked.requirement)

    def _signed(self, payment: Payment, requirement: Requirement) -> SignedTransfer:
        managed = frozenset(self._signers)
        # Clients of version 1 know no memo; their equal payments collide, and the seller's claim tells them apart.
        limits = self._limits if payment.version != 1 else replace(self._limits, memo_required=False)
        return exact_svm_rules.check(payment, requirement, managed=managed, limits=limits)


def _unsigned(signed: SignedTransfer) -> bytes:
    """The transaction with the payer's signature and an empty slot for ours, as simulation takes it."""
    return b"\x02" + bytes(64) + signed.payer_signature + signed.transfer.message
