"""One payment that leaves the seller's own wallet: signed, durable before it is presented, and never paid twice.

Refunds of payments, withdrawals of balances and payouts to providers all go this way. The same bytes are presented
until they have settled, so a crash at any step pays once. Other bytes are signed only when the chain can't take both:
on EVM networks with the same nonce, which the token accepts once; with another nonce, and on Solana, only when those
before are proven dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from x402 import networks
from x402.errors import DeclinedError, MalformedError, RefusedError, UnavailableError
from x402.evidence import Verdict
from x402.gateway.belief import dead_at, in_process
from x402.gateway.kinds import Kinds
from x402.gateway.offers import SCHEME
from x402.gateway.purse import REFUND_LIFETIME_SECONDS, Purse
from x402.gateway.register import ME, Register
from x402.lifecycle import Entry
from x402.schemes.eip712 import keccak
from x402.schemes.subject import subject_of
from x402.stages import Refused, Settling
from x402.wire.challenge import Requirement
from x402.wire.headers import PAYMENT_SIGNATURE
from x402.wire.payment import Payment, read_payment
from x402.wire.receipt import Receipt

AGAIN_AFTER_SECONDS = 60
"""How long a refused payment rests before other bytes are signed: an empty wallet should not fill the ledger."""

Blockhash = Callable[[], Awaitable[str]]
"""A recent blockhash of one Solana network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """What is to be paid. No two debts have one `name`: an EVM nonce, or a Solana memo, is made of it."""

    name: str
    network: str
    asset: str
    to: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The bytes of one attempt as they stand in the ledger, `since` the unix second in which they were written."""

    header: str
    pay_id: str
    attempt: int
    since: int


@dataclass(frozen=True, slots=True)
class Disbursements:
    """Pays from one seller's wallet. `blockhashes` are needed for every Solana network that is paid on."""

    register: Register
    purse: Purse
    kinds: Kinds
    blockhashes: Mapping[str, Blockhash]

    def covers(self, network: str) -> bool:
        """Whether this wallet can pay on a network."""
        if networks.get(network).family == networks.SOLANA and network not in self.blockhashes:
            return False
        return bool(self.purse.address(network))

    async def sign(self, debt: Debt, *, attempt: int = 1, like: str = "") -> Payment:
        """The bytes of one attempt, to be written down before anything is done with them. `like` is the identity of
        another attempt whose EIP-3009 nonce they take over. Raises `UnavailableError`."""
        requirement = Requirement(
            scheme=SCHEME,
            network=debt.network,
            amount=debt.units,
            asset=debt.asset,
            pay_to=debt.to,
            max_timeout_seconds=REFUND_LIFETIME_SECONDS,
            extra=await self._extra(debt),
        )
        name = debt.name if attempt == 1 else f"{debt.name} {attempt}"
        digest = bytes.fromhex(like.rpartition(":0x")[2]) if like else keccak(name.encode())
        try:
            if debt.network.startswith(networks.EIP155):
                return self.purse.pay_evm(requirement, now=self.register.clock(), nonce=digest)
            recent = self.blockhashes.get(debt.network)
            if recent is None:
                raise UnavailableError("no_node", f"no node of {debt.network} is known that gives a blockhash")
            return self.purse.pay_svm(requirement, blockhash=await recent(), memo=digest[:16].hex().encode())
        except (DeclinedError, RefusedError, MalformedError) as error:
            raise UnavailableError("refund_impossible", f"no refund can be signed: {error.message}") from error

    async def present(self, signed: Signed) -> Verdict:
        """What became of the signed bytes, which are presented once more when nobody knows yet."""
        payment, twin = _presented(signed)
        accepted = _accepted(payment)
        facilitator, belief = self.register.facilitators.of(accepted), self.register.belief
        verdict: Verdict = await belief.look(facilitator, twin)
        if verdict is not None:
            return verdict
        subject = twin.subject
        try:
            receipt = await facilitator.settle(payment, accepted)
        except Exception as error:  # noqa: BLE001 - whatever failed, the payment may land: it stays under way
            receipt = Receipt.pending("", subject.network, subject.payer, f"{type(error).__name__} while paying")
        return await belief.verdict(facilitator, twin, receipt)

    async def again(self, debt: Debt, signed: Signed, verdict: Verdict) -> Payment | None:
        """The bytes of the next attempt, or None while no chain could be trusted not to take both."""
        if self.register.clock() < signed.since + AGAIN_AFTER_SECONDS:
            return None
        _, twin = _presented(signed)
        dead = await self.is_dead(signed, verdict)
        if debt.network.startswith(networks.EIP155):
            if self.register.clock() < dead_at(twin):
                return None
            return await self.sign(debt, attempt=signed.attempt + 1, like="" if dead else signed.pay_id)
        return await self.sign(debt, attempt=signed.attempt + 1) if dead else None

    async def is_dead(self, signed: Signed, verdict: Verdict) -> bool:
        """Whether refused bytes can never land: a foreign facilitator's word is no proof of that."""
        if not isinstance(verdict, Refused):
            return False
        payment, twin = _presented(signed)
        facilitator = self.register.facilitators.of(_accepted(payment))
        return in_process(facilitator) or isinstance(await self.register.belief.look(facilitator, twin), Refused)

    async def _extra(self, debt: Debt) -> dict[str, str]:
        asset = networks.get(debt.network).asset(debt.asset)
        if asset is not None and asset.eip712_name:
            return {"name": asset.eip712_name, "version": asset.eip712_version}
        kind = await self.kinds.find(SCHEME, debt.network)
        if kind is None:
            raise UnavailableError("nothing_supported", f"the facilitator does not settle on {debt.network} now")
        return {"feePayer": str(kind.extra.get("feePayer", ""))}


def _presented(signed: Signed) -> tuple[Payment, Entry]:
    """The payment, and the row of a gateway that it would have if it were paid to one."""
    payment = read_payment([(PAYMENT_SIGNATURE, signed.header)])
    if payment is None:
        raise MalformedError("invalid_payload", "the ledger holds no refund in this row")
    return payment, Entry(ME, subject_of(payment, _accepted(payment)), Settling(), signed.since, signed.since)


def _accepted(payment: Payment) -> Requirement:
    if payment.accepted is None:
        raise MalformedError("invalid_payload", "the ledger holds a refund that names no offer")
    return payment.accepted
