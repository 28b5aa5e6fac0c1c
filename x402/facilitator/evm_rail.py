"""One EVM network: one round trip to verify, one transaction to settle, logs to be sure. Schemes say what is signed and
what it does (`schemes/evm_scheme.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402 import networks
from x402.confirmation import Confirmations
from x402.errors import RefusedError, UnavailableError
from x402.evidence import Standing
from x402.evidence.evm import EvmWitness, authorization_of
from x402.facilitator.approval_relay import ApprovalRelay
from x402.facilitator.evm_again import Afford, EvmAgain
from x402.facilitator.evm_check import EvmCheck
from x402.facilitator.evm_queue import EvmQueue
from x402.facilitator.evm_sender import EvmSender, Gas
from x402.facilitator.rail import Checked, prove
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, Subject
from x402.ports import Clock, EvmChain, Ledger, NotSent
from x402.schemes import approval_sponsoring, gas_sponsoring, upto_evm_rules
from x402.schemes.evm_payment import EvmPayment
from x402.schemes.evm_scheme import SCHEMES, EvmScheme, evm_scheme
from x402.schemes.subject import evm_subject
from x402.stages import NOTHING_DUE, Intended, Refused, Reversed, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_SEND_AGAIN_SECONDS = 2.0
"""So long the chain is watched for bytes that no node has said to have, before they are sent again."""


@dataclass(frozen=True, slots=True)
class EvmChecked(Checked):
    """With what was read from it; `plain` when it is known to be a key's, and of an account without
    code."""

    signed: EvmPayment | None = None
    plain: bool = False


class EvmRail:
    """Implements `facilitator.rail.Rail`."""

    def __init__(
        self,
        network: str,
        chain: EvmChain,
        signers: Sequence[EvmSigner],
        clock: Clock,
        *,
        gas: Gas | None = None,
        confirmations: Confirmations | None = None,
        afford: Afford | None = None,
        relay: ApprovalRelay | None = None,
    ) -> None:
        self.network = network
        self.balances: Mapping[str, int] = {}
        self._chain = chain
        self._clock = clock
        self._gas = gas or Gas()
        self.reserve = self._gas.reserve
        self._sender = EvmSender(network, chain, signers, clock, self._gas)
        self._check = EvmCheck(chain, self._sender.addresses[0])
        self._confirmations = confirmations or Confirmations()
        self._witness = EvmWitness(network, chain)
        self._queue = EvmQueue(chain, self._sender, self._gas, clock)
        self._again = EvmAgain(
            chain, self._sender, self._check, self._witness, self._queue, self._gas, clock, afford or _anything
        )
        self._relay = relay
        if relay is not None:
            relay.data_fee = self._sender.data_fee
        self.extensions: Sequence[str] = (gas_sponsoring.EXTENSION,)
        self._proven = False

    async def aclose(self) -> None:
        await self._chain.aclose()

    async def start(self) -> None:
        await self._chain.check_chain_id()
        self._proven = True

    async def kinds(self) -> Sequence[Kind]:
        try:
            self.balances = await self._sender.balances()
            richest = max(self.balances, key=lambda address: self.balances[address])
            await self._look_at_relay()
        except UnavailableError:
            return ()
        if self.balances[richest] < self.reserve:
            return ()
        return tuple(self._kind(scheme, richest) for scheme in SCHEMES.values())

    async def _look_at_relay(self) -> None:
        """Offer to send approvals for as long as there is gas to give."""
        self.extensions = (gas_sponsoring.EXTENSION,)
        if self._relay is None:
            return
        held = await self._relay.balance()
        self.balances = {**self.balances, self._relay.address: held}
        if held >= max(self._relay.limits.wei, self.reserve):
            self.extensions = (gas_sponsoring.EXTENSION, approval_sponsoring.EXTENSION)

    def _kind(self, scheme: EvmScheme, address: str) -> Kind:
        extra = {"facilitatorAddress": address} if scheme.named_facilitator else {}
        return Kind(scheme=scheme.name, network=self.network, extra=extra)

    def signers(self) -> list[str]:
        return self._sender.addresses

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        signed = evm_scheme(requirement.scheme).read(payment, requirement)
        return EvmChecked(evm_subject(signed, payment, requirement), payment, requirement, signed=signed)

    async def check(self, payment: Payment, requirement: Requirement, *, settling: bool = False) -> Checked:
        scheme = evm_scheme(requirement.scheme)
        signed = scheme.check(payment, requirement, now=self._clock(), settling=settling)
        if signed.sender and not self._sender.knows(signed.sender):
            raise RefusedError(
                "upto_facilitator_mismatch", f"only {signed.sender} may settle this payment, and that is not us",
                details={"payer": signed.payer},
            )  # fmt: skip
        await self._prove()
        subject = evm_subject(signed, payment, requirement)
        try:
            seen = await self._check.inspect(scheme, signed, self._gas.of(signed), settling=settling)
        except RefusedError as error:
            if self._relay is None or error.code != upto_evm_rules.ALLOWANCE_REQUIRED:
                raise
            plan = await self._relay.plan(payment, signed, settling=settling)
            if plan is None:
                raise
            # What the payer can pay with is this payment's alone, until the approval is there.
            return EvmChecked(subject, payment, requirement, signed.amount, preparation=plan, signed=signed)
        nothing_due = scheme.named_facilitator and signed.amount == 0
        return EvmChecked(subject, payment, requirement, seen.balance, nothing_due, signed=signed, plain=seen.plain)

    async def fee(self, checked: Checked) -> int:
        signed = _signed(checked)
        # Both are known but for once in a while, so asking them side by side would cost two tasks for nothing.
        fees, data_fee = await self._chain.fees(), await self._sender.data_fee()
        before = checked.preparation.cost if checked.preparation is not None else 0
        return before + self._gas.of(signed) * self._sender.bid(fees)[0] + data_fee

    async def cost(self, transaction: str, shares: int = 1) -> int | None:
        receipt = await self._chain.receipt(transaction, timeout=0)
        return -(-receipt.fee // shares) or None if receipt is not None else None

    async def intend(self, checked: Checked, ledger: Ledger) -> tuple[Entry, bool]:
        plain = isinstance(checked, EvmChecked) and checked.plain
        return await self._queue.place(checked.subject, _signed(checked), ledger, together=plain)

    async def submit(self, intended: Intended) -> None:
        await self._again.submit(intended)

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        return await self._again.replace(entry, intended, ledger)

    async def decide(
        self, entry: Entry, intended: Intended, ledger: Ledger, *, timeout: float
    ) -> Settled | Refused | None:
        if not intended.transaction:
            return Refused(NOTHING_DUE, "nothing was used, so nothing is taken")
        seconds = min(_SEND_AGAIN_SECONDS, timeout) if self._again.unheard(intended) else timeout
        verdict = await self._judge(entry, intended, seconds)
        if verdict is None and seconds < timeout:
            with suppress(NotSent):
                await self._again.submit(intended)
            verdict = await self._judge(entry, intended, timeout - seconds)
        if intended.shares > 1 and not isinstance(verdict, Settled):
            after = await self._again.alone(entry, intended, ledger)
            if after is not None and isinstance(after.stage, Intended):
                entry, intended = after, after.stage
                verdict = await self._judge(entry, intended, timeout)
        if isinstance(verdict, Settled):
            return verdict if await self.is_deep(entry.subject, verdict) else None
        if verdict is None and not await self._again.is_taken(entry.subject, intended):
            await self._again.send(entry, intended, ledger)
        return verdict

    async def _judge(self, entry: Entry, intended: Intended, timeout: float) -> Settled | Refused | None:
        try:
            return await self._witness.judge(
                entry.subject, intended.transactions, last_valid=intended.last_valid, since=entry.created_at,
                timeout=timeout,
            )  # fmt: skip
        finally:
            self._queue.landed(intended.transaction)

    async def failure(self, entry: Entry, intended: Intended) -> str | None:
        return await self._witness.failure(entry.subject, intended.transactions)

    async def spent_by(self, subject: Subject) -> Settled | Refused | None:
        return await self._witness.spent_by(subject)

    def is_open_to_all(self, subject: Subject) -> bool:
        return not authorization_of(subject).sender

    def may_land(self, entry: Entry) -> bool:
        return self._clock() < entry.subject.expires_at

    async def standing(self, entry: Entry, stage: Settled | Reversed) -> Standing | None:
        block = stage.block if isinstance(stage, Settled) else 0
        return await self._witness.standing(entry.subject, Settled(stage.transaction, block))

    async def restore(self, entry: Entry, stage: Reversed) -> Refused | None:
        verdict = await self._witness.judge(entry.subject, (stage.transaction,), since=entry.created_at)
        if isinstance(verdict, Refused):
            return verdict
        if verdict is None and stage.raw:
            try:
                await self._chain.send(stage.raw, stage.transaction)
            except (NotSent, UnavailableError):
                # Whether it comes back is the chain's to say, until the authorization has expired.
                return None
        return None

    async def heal(self, ledger: Ledger) -> None:
        await self._sender.heal(ledger)
        if self._relay is not None:
            await self._relay.resume()

    async def is_deep(self, subject: Subject, settled: Settled) -> bool:
        """Whether a transfer is buried as deep as its amount asks for (fault A16)."""
        asset = networks.get(subject.network).asset(subject.asset) or authorization_of(subject).asset
        required = self._confirmations.required(subject.amount, asset)
        if required <= 1:
            return True
        standing = await self._witness.standing(subject, settled)
        return standing is not None and (standing.final or standing.confirmations >= required)

    async def _prove(self) -> None:
        if not self._proven:
            await prove(self)


def _signed(checked: Checked) -> EvmPayment:
    known = checked.signed if isinstance(checked, EvmChecked) else None
    return known or evm_scheme(checked.requirement.scheme).read(checked.payment, checked.requirement)


async def _anything(subject: Subject, fee: int) -> bool:
    """Who has no budgets affords everything."""
    return True
