"""One EVM network: one round trip to verify, one transaction to settle, logs to be sure. Schemes say what is signed and
what it does (`schemes/evm_scheme.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from x402.confirmation import Confirmations
from x402.errors import RefusedError, UnavailableError
from x402.evidence import Standing
from x402.evidence.evm import EvmWitness, authorization_of
from x402.facilitator.evm_check import EvmCheck
from x402.facilitator.evm_sender import EvmSender, Gas
from x402.facilitator.rail import Checked, prove
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, Subject, UnlawfulEvent
from x402.ports import Clock, EvmChain, Ledger, NotSent, Sign
from x402.schemes.evm_payment import EvmPayment
from x402.schemes.evm_scheme import SCHEMES, EvmScheme, evm_scheme
from x402.schemes.subject import evm_subject
from x402.stages import NOTHING_DUE, Intended, Refused, Reversed, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_LAST_BID_SECONDS = 10
"""So long before its end nothing more is offered for a payment: a late block would revert it."""

Afford = Callable[[Subject, int], Awaitable[bool]]
"""Whether a payment's settlement may cost so much in all, in wei; what it costs more is booked then."""


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
    ) -> None:
        self.network = network
        self.balances: Mapping[str, int] = {}
        self._chain = chain
        self._clock = clock
        self._gas = gas or Gas()
        self.reserve = self._gas.reserve
        self._afford = afford
        self._sender = EvmSender(network, chain, signers, clock, self._gas)
        self._check = EvmCheck(chain, self._sender.addresses[0])
        self._confirmations = confirmations or Confirmations()
        self._witness = EvmWitness(network, chain)
        self._proven = False

    async def start(self) -> None:
        await self._chain.check_chain_id()
        self._proven = True

    async def kinds(self) -> Sequence[Kind]:
        try:
            self.balances = await self._sender.balances()
        except UnavailableError:
            return ()
        richest = max(self.balances, key=lambda address: self.balances[address])
        if self.balances[richest] < self.reserve:
            return ()
        return tuple(self._kind(scheme, richest) for scheme in SCHEMES.values())

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
        seen = await self._check.inspect(scheme, signed, self._gas_limit(signed), settling=settling)
        nothing_due = scheme.named_facilitator and signed.amount == 0
        subject = evm_subject(signed, payment, requirement)
        return EvmChecked(subject, payment, requirement, seen.balance, nothing_due, signed, seen.plain)

    async def fee(self, checked: Checked) -> int:
        signed = _signed(checked)
        fees, data_fee = await asyncio.gather(self._chain.fees(), self._sender.data_fee())
        return self._gas_limit(signed) * self._sender.bid(fees)[0] + data_fee

    async def cost(self, transaction: str) -> int | None:
        receipt = await self._chain.receipt(transaction, timeout=0)
        return receipt.fee or None if receipt is not None else None

    async def intend(self, checked: Checked, ledger: Ledger) -> tuple[Entry, bool]:
        signed = _signed(checked)
        address = signed.sender or self._sender.next()
        fees, count = await asyncio.gather(self._chain.fees(), self._sender.count(address, ledger))
        sign = self._signing(address, self._sender.bid(fees), signed)
        return await ledger.intend(checked.subject, address, count, sign)

    async def submit(self, intended: Intended) -> None:
        try:
            await self._chain.send(intended.raw, intended.transaction)
        except UnavailableError:
            # The bytes may be in a pool all the same; the chain will tell.
            return
        except NotSent as error:
            self._sender.distrust(intended.sender, str(error))
            raise

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        if not self._may_try_again(intended):
            return None
        signed = authorization_of(entry.subject)
        address = signed.sender or self._sender.next()
        if not self._sender.knows(address):
            return None
        fees, count = await asyncio.gather(self._chain.fees(), self._sender.count(address, ledger))
        bid = self._sender.bid(fees)
        keep = address == intended.sender and intended.nonce is not None and intended.nonce >= count
        if keep and bid == intended.bid:
            # The very same bytes, which may be taken once their sender has gas.
            return None
        sign = self._signing(address, bid, signed, intended)
        return await ledger.replace(entry.subject.pay_id, intended.attempt, address, count, sign, keep_nonce=keep)

    async def decide(
        self, entry: Entry, intended: Intended, ledger: Ledger, *, timeout: float
    ) -> Settled | Refused | None:
        if not intended.transaction:
            return Refused(NOTHING_DUE, "nothing was used, so nothing is taken")
        verdict = await self._witness.judge(
            entry.subject, intended.transactions, last_valid=intended.last_valid, since=entry.created_at,
            timeout=timeout,
        )  # fmt: skip
        if isinstance(verdict, Settled):
            return verdict if await self.is_deep(entry.subject, verdict) else None
        if verdict is None and not await self._is_taken(entry.subject, intended):
            await self._send_again(entry, intended, ledger)
        return verdict

    async def spent_by(self, subject: Subject) -> Settled | Refused | None:
        return await self._witness.spent_by(subject)

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

    async def _is_taken(self, subject: Subject, intended: Intended) -> bool:
        """Whether a block has one of our transactions, or the authorization is used up: then sending could only burn
        gas, until a fork takes the block back."""
        receipts = [self._chain.receipt(transaction, timeout=0) for transaction in intended.transactions]
        spent, *found = await asyncio.gather(self._witness.is_spent(subject), *receipts)
        return bool(spent) or any(receipt is not None for receipt in found)

    async def _send_again(self, entry: Entry, intended: Intended, ledger: Ledger) -> None:
        """A transaction that no block has taken for a while is sent again, with a higher bid where one is allowed; a
        refusal of it proves nothing, because an earlier copy may be in another pool (faults C16, D03)."""
        if not intended.raw:
            # A stranger's transfer, which a fork took back: what pays now is ours to sign.
            await self._replace_unknown(entry, intended, ledger)
            return
        patient = self._clock() < intended.signed_at + self._gas.patience
        better = None if patient else await self._bid_more(entry, intended, ledger)
        try:
            await self.submit(better or intended)
        except NotSent as error:
            if error.ours and better is None:
                await self._replace_unknown(entry, intended, ledger)

    async def _replace_unknown(self, entry: Entry, intended: Intended, ledger: Ledger) -> None:
        """Other bytes, unless the node has those that it was to replace."""
        if await self._chain.knows(intended.transaction):
            return
        try:
            after = await self.replace(entry, intended, ledger)
            if after is not None and isinstance(after.stage, Intended):
                await self.submit(after.stage)
        except (NotSent, UnlawfulEvent):
            # The next round tries again, or another replica or caller has moved this payment on meanwhile.
            return

    async def _bid_more(self, entry: Entry, intended: Intended, ledger: Ledger) -> Intended | None:
        # Only who has its key can sign its nonce again.
        if intended.nonce is None or not self._sender.knows(intended.sender) or not self._may_try_again(intended):
            return None
        bid = self._sender.raised(intended.bid, await self._chain.fees())
        if bid is None:
            return None
        signed = authorization_of(entry.subject)
        if self._afford is not None:
            fee = self._gas_limit(signed) * bid[0] + await self._sender.data_fee()
            if not await self._afford(entry.subject, fee):
                return None
        sign = self._signing(intended.sender, bid, signed, intended)
        try:
            after = await ledger.replace(
                entry.subject.pay_id, intended.attempt, intended.sender, intended.nonce, sign, keep_nonce=True
            )
        except UnlawfulEvent:
            # Another replica has moved this payment on; its attempt is the newer one.
            return None
        return after.stage if isinstance(after.stage, Intended) else None

    def _may_try_again(self, intended: Intended) -> bool:
        return intended.attempt < self._gas.attempts and self._clock() < intended.last_valid - _LAST_BID_SECONDS

    async def is_deep(self, subject: Subject, settled: Settled) -> bool:
        """Whether a transfer is buried as deep as its amount asks for (fault A16)."""
        asset = authorization_of(subject).asset
        required = self._confirmations.required(subject.amount, asset)
        if required <= 1:
            return True
        standing = await self._witness.standing(subject, settled)
        return standing is not None and (standing.final or standing.confirmations >= required)

    def _signing(self, address: str, bid: tuple[int, int], signed: EvmPayment, before: Intended | None = None) -> Sign:
        return self._sender.signing(
            address,
            bid,
            to=signed.contract,
            data=signed.calldata(),
            gas=self._gas_limit(signed),
            last_valid=signed.valid_before,
            before=before,
        )

    async def _prove(self) -> None:
        if not self._proven:
            await prove(self)

    def _gas_limit(self, signed: EvmPayment) -> int:
        """The same for simulation and settlement, so that what passed the one has enough for the other (D05)."""
        limit = self._gas.limit if len(signed.signature) == 65 else self._gas.wallet_limit
        return limit + signed.more_gas


def _signed(checked: Checked) -> EvmPayment:
    known = checked.signed if isinstance(checked, EvmChecked) else None
    return known or evm_scheme(checked.requirement.scheme).read(checked.payment, checked.requirement)
