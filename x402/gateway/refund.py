"""Paying back what is owed: the money moved, no answer came of it, and nobody fetched another (fault G10).

A refund is an ordinary payment from the seller's refund wallet to the payer, of exactly what was paid, settled by the
seller's facilitator:

    OWED ─▶ booked against the day's cap ─▶ REFUNDING (the signed bytes are durable) ─▶ settle ─▶ REFUNDED

From REFUNDING on no answer is made any more, and the same bytes are presented until they have settled, so a crash at
any step pays back once. Other bytes are signed only when the chain can't take both: on EVM networks with the same
nonce, which the token accepts once; with another nonce, and on Solana, only when those before are proven dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from x402 import networks
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, RefusedError, UnavailableError
from x402.evidence import Verdict
from x402.gateway.belief import dead_at, in_process
from x402.gateway.kinds import Kinds
from x402.gateway.offers import SCHEME, identity_of
from x402.gateway.policy import units_of
from x402.gateway.purse import REFUND_LIFETIME_SECONDS, Purse
from x402.gateway.register import ME, Register
from x402.lifecycle import Entry, Event, Subject, UnlawfulEvent
from x402.schemes.eip712 import keccak
from x402.schemes.subject import subject_of
from x402.stages import Owed, Refunded, Refunding, Refused, Settled
from x402.wire.challenge import Requirement
from x402.wire.headers import PAYMENT_SIGNATURE
from x402.wire.payment import Payment, read_payment
from x402.wire.receipt import Receipt

_DAY_SECONDS = 86_400
_AGAIN_AFTER_SECONDS = 60
"""How long a refused refund rests before other bytes are signed: an empty wallet should not fill the ledger."""

Blockhash = Callable[[], Awaitable[str]]
"""A recent blockhash of one Solana network."""


@dataclass(frozen=True, slots=True)
class Refunds:
    """One seller's refunds. `blockhashes` are needed for every Solana network that is paid back on."""

    register: Register
    purse: Purse
    kinds: Kinds
    blockhashes: Mapping[str, Blockhash]

    async def pay_back(self, entry: Entry) -> bool:
        """Go on with what is owed, or with a refund that is under way; False while its end is not known.

        The caller holds the row's lease. Raises `UnavailableError` and `UnlawfulEvent`, with nothing lost.
        """
        if isinstance(entry.stage, Owed):
            if not self._is_due(entry):
                return True
            begun = await self._begin(entry, entry.stage)
            if begun is None:
                return False
            entry = begun
        if not isinstance(entry.stage, Refunding):
            return True
        return await self._settle(entry, entry.stage)

    def covers(self, network: str) -> bool:
        """Whether this wallet can pay back on a network."""
        if networks.get(network).family == networks.SOLANA and network not in self.blockhashes:
            return False
        return bool(self.purse.address(network))

    def _is_due(self, entry: Entry) -> bool:
        rests_until = entry.updated_at + self.register.policy.refund_after_seconds
        return self.covers(entry.subject.network) and self.register.clock() >= rests_until

    async def _begin(self, entry: Entry, owed: Owed) -> Entry | None:
        """The row after the first refund was signed; None when it can't be paid now."""
        subject, ledger = _owed(entry), self.register.ledger
        payment = await self._sign(subject, attempt=1)
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
        register, payment = self.register, _presented(refunding)
        accepted = payment.accepted
        if accepted is None:
            raise MalformedError("invalid_payload", "the ledger holds a refund that names no offer")
        # The refund as a payment of its own, whose life began when its row was last written.
        twin = Entry(ME, subject_of(payment, accepted), refunding, entry.updated_at, entry.updated_at)
        verdict: Verdict = await register.belief.look(register.facilitators.of(accepted), twin)
        if verdict is None:
            verdict = await self._ask(payment, accepted, twin)
        if isinstance(verdict, Settled):
            refunded = Refunded(refunding.transaction, verdict.transaction)
            await register.ledger.advance(ME, entry.subject.pay_id, Event.SETTLE, refunded)
            register.emit("sale.refunded", entry.subject)
            return True
        register.emit("sale.refund_pending", entry.subject)
        if register.clock() >= entry.updated_at + _AGAIN_AFTER_SECONDS:
            dead = isinstance(verdict, Refused) and await self._is_proven(accepted, twin)
            await self._again(entry, refunding, twin, dead=dead)
        return False

    async def _ask(self, payment: Payment, accepted: Requirement, twin: Entry) -> Verdict:
        subject, facilitator = twin.subject, self.register.facilitators.of(accepted)
        try:
            receipt = await facilitator.settle(payment, accepted)
        except Exception as error:  # noqa: BLE001 - whatever failed, the refund may land: it stays under way
            receipt = Receipt.pending("", subject.network, subject.payer, f"{type(error).__name__} while refunding")
        return await self.register.belief.verdict(facilitator, twin, receipt)

    async def _again(self, entry: Entry, refunding: Refunding, twin: Entry, *, dead: bool) -> None:
        """Sign once more, when no chain can take both: those before are proven dead, or share their nonce."""
        expired = self.register.clock() >= dead_at(twin)
        attempt = refunding.attempt + 1
        if twin.subject.network.startswith(networks.EIP155):
            if not expired:
                return
            nonce = refunding.pay_id if not dead else ""
            payment = await self._sign(_owed(entry), attempt=attempt, like=nonce)
        elif dead:
            payment = await self._sign(_owed(entry), attempt=attempt)
        else:
            return
        stage = Refunding(refunding.transaction, payment.as_header(), identity_of(payment), attempt)
        await self.register.ledger.advance(ME, entry.subject.pay_id, Event.REPLACE, stage)

    async def _is_proven(self, accepted: Requirement, twin: Entry) -> bool:
        """Whether a refused refund can never land: a foreign facilitator's word is no proof of that."""
        facilitator = self.register.facilitators.of(accepted)
        return in_process(facilitator) or isinstance(await self.register.belief.look(facilitator, twin), Refused)

    async def _sign(self, owed: Subject, *, attempt: int, like: str = "") -> Payment:
        """The bytes of one attempt. `like` is the identity of another whose EIP-3009 nonce they take over."""
        network = owed.network
        requirement = Requirement(
            scheme=SCHEME,
            network=network,
            amount=owed.amount,
            asset=owed.asset,
            pay_to=owed.payer,
            max_timeout_seconds=REFUND_LIFETIME_SECONDS,
            extra=await self._extra(owed),
        )
        name = f"x402 refund {owed.pay_id}" if attempt == 1 else f"x402 refund {owed.pay_id} {attempt}"
        digest = bytes.fromhex(like.rpartition(":0x")[2]) if like else keccak(name.encode())
        try:
            if network.startswith(networks.EIP155):
                return self.purse.pay_evm(requirement, now=self.register.clock(), nonce=digest)
            blockhash = await self.blockhashes[network]()
            return self.purse.pay_svm(requirement, blockhash=blockhash, memo=digest[:16].hex().encode())
        except (DeclinedError, RefusedError, MalformedError) as error:
            raise UnavailableError("refund_impossible", f"no refund can be signed: {error.message}") from error

    async def _extra(self, owed: Subject) -> dict[str, str]:
        asset = networks.get(owed.network).asset(owed.asset)
        if asset is not None and asset.eip712_name:
            return {"name": asset.eip712_name, "version": asset.eip712_version}
        kind = await self.kinds.find(SCHEME, owed.network)
        if kind is None:
            raise UnavailableError("nothing_supported", f"the facilitator does not settle on {owed.network} now")
        return {"feePayer": str(kind.extra.get("feePayer", ""))}


def refunds_of(register: Register, purse: Purse, kinds: Kinds, blockhashes: Mapping[str, Blockhash]) -> Refunds:
    """Refunds of a seller. Raises `MisconfiguredError` for a Solana key without a node: there nothing but the chain
    proves that a refund is dead, and other bytes would pay again."""
    solana = [network for network in blockhashes if network in register.belief.witnesses]
    if purse.addresses.get(networks.SOLANA) and not solana:
        raise MisconfiguredError("no_node", "X402_REFUND_SVM_PRIVATE_KEY: set X402_SVM_RPC_URL as well")
    return Refunds(register, purse, kinds, blockhashes)


def _owed(entry: Entry) -> Subject:
    """The payment with what has moved of it, which is what goes back."""
    return replace(entry.subject, amount=entry.amount)


def _presented(refunding: Refunding) -> Payment:
    payment = read_payment([(PAYMENT_SIGNATURE, refunding.header)])
    if payment is None:
        raise MalformedError("invalid_payload", "the ledger holds no refund in this row")
    return payment
