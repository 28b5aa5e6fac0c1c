"""Signed payments for tests, made by the builders that the client uses, with keys that are worth nothing."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import coincurve
from solders.keypair import Keypair

from x402 import networks
from x402.money import Asset
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.schemes import approval_sponsoring, eip712, exact_evm, exact_svm, gas_sponsoring, upto_evm
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.exact_evm import Authorization
from x402.schemes.upto_evm import Permit
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

LIFETIME_SECONDS = 600


def evm_asset() -> Asset:
    """USDC on Base Sepolia."""
    return networks.get(BASE_SEPOLIA).usd


def address() -> str:
    """A fresh EVM address."""
    return eip712.checksum("0x" + secrets.token_hex(20))


@dataclass(frozen=True)
class EvmPayer:
    """Somebody with an EVM key."""

    key: coincurve.PrivateKey = field(default_factory=coincurve.PrivateKey)

    @property
    def address(self) -> str:
        return eip712.address_of(self.key.public_key)

    def authorize(self, requirement: Requirement, *, nonce: bytes = b"", lifetime: int = 600) -> Authorization:
        """What `pay` signs."""
        nonce = nonce or secrets.token_bytes(32)
        return exact_evm.build(requirement, self.address, now=int(time.time()), nonce=nonce, lifetime_seconds=lifetime)

    def sign(self, requirement: Requirement, authorization: Authorization) -> Payment:
        """A v2 payment of exactly this authorization."""
        payload = exact_evm.payload(authorization, evm_asset(), lambda digest: eip712.sign(self.key, digest))
        return Payment.of(requirement, payload)

    def pay(self, requirement: Requirement, *, nonce: bytes = b"", lifetime: int = 600) -> Payment:
        """A v2 payment of an offer."""
        return self.sign(requirement, self.authorize(requirement, nonce=nonce, lifetime=lifetime))

    def permit(self, requirement: Requirement, *, nonce: bytes = b"", lifetime: int = 600) -> Permit:
        """What `permit_up_to` signs."""
        nonce = nonce or secrets.token_bytes(32)
        return upto_evm.build(requirement, self.address, now=int(time.time()), nonce=nonce, lifetime_seconds=lifetime)

    def sign_permit(self, requirement: Requirement, permit: Permit, **members: Any) -> Payment:
        """A v2 payment of exactly this permit."""
        payload = upto_evm.payload(permit, evm_asset(), lambda digest: eip712.sign(self.key, digest))
        return Payment.of(requirement, payload, **members)

    def pay_up_to(self, requirement: Requirement, *, nonce: bytes = b"", lifetime: int = 600) -> Payment:
        """A v2 payment of at most an offer's amount."""
        return self.sign_permit(requirement, self.permit(requirement, nonce=nonce, lifetime=lifetime))

    def pay_sponsored(self, requirement: Requirement, *, permit_nonce: int = 0, **changed: Any) -> Payment:
        """The same with an EIP-2612 permit for Permit2; `changed` members of the extension are put in afterwards."""
        permit = self.permit(requirement)
        extensions = gas_sponsoring.sign(
            self.address,
            permit.maximum,
            permit_nonce,
            permit.deadline,
            evm_asset(),
            lambda digest: eip712.sign(self.key, digest),
        )
        extensions[gas_sponsoring.EXTENSION]["info"].update(changed)
        return self.sign_permit(requirement, permit, extensions=extensions)

    def pay_approved(self, requirement: Requirement, call: EvmTransaction, **changed: Any) -> Payment:
        """The same with a transaction that approves Permit2; `changed` as in `pay_sponsored`."""
        extensions = approval_sponsoring.sign(
            self.address, evm_asset(), call, lambda digest: eip712.sign(self.key, digest)
        )
        extensions[approval_sponsoring.EXTENSION]["info"].update(changed)
        return self.sign_permit(requirement, self.permit(requirement), extensions=extensions)


@dataclass(frozen=True)
class SvmPayer:
    """Somebody with a Solana key."""

    keypair: Keypair = field(default_factory=Keypair)

    @property
    def address(self) -> str:
        return str(self.keypair.pubkey())

    def pay(self, requirement: Requirement, blockhash: str) -> Payment:
        """A v2 payment of an offer."""
        unsigned = exact_svm.build(requirement, self.address, blockhash, secrets.token_bytes(16))
        signed = exact_svm.sign(unsigned, lambda message: bytes(self.keypair.sign_message(message)))
        return Payment.of(requirement, exact_svm.payload(signed))


def evm_requirement(pay_to: str = "", amount: int = 1000, **members: Any) -> Requirement:
    """An offer in USDC on Base Sepolia."""
    shape: dict[str, Any] = {
        "scheme": "exact",
        "network": BASE_SEPOLIA,
        "amount": amount,
        "asset": evm_asset().address,
        "pay_to": pay_to or address(),
        "max_timeout_seconds": LIFETIME_SECONDS,
        "extra": {"name": "USDC", "version": "2"},
    }
    return Requirement(**(shape | members))


def upto_requirement(facilitator: str, pay_to: str = "", amount: int = 1000, **members: Any) -> Requirement:
    """An offer of the scheme upto in USDC on Base Sepolia."""
    extra = {"name": "USDC", "version": "2", "assetTransferMethod": "permit2", "facilitatorAddress": facilitator}
    return evm_requirement(pay_to, amount, **({"scheme": "upto", "extra": extra} | members))


def svm_requirement(pay_to: str, fee_payer: str, amount: int = 1000, **members: Any) -> Requirement:
    """An offer in USDC on Solana devnet."""
    shape: dict[str, Any] = {
        "scheme": "exact",
        "network": SOLANA_DEVNET,
        "amount": amount,
        "asset": networks.get(SOLANA_DEVNET).usd.address,
        "pay_to": pay_to,
        "max_timeout_seconds": 60,
        "extra": {"feePayer": fee_payer},
    }
    return Requirement(**(shape | members))


def with_payload(payment: Payment, **members: Any) -> Payment:
    """The payment with other members in its scheme payload."""
    return payment.model_copy(update={"payload": payment.payload | members})


def as_version_1(payment: Payment) -> Payment:
    """The same signed payload in the v1 envelope."""
    return payment.model_copy(update={"version": 1, "accepted": None})
