"""Who pays what to whom: the identity of a payment, read from its payload alone, whatever its scheme.

Both seller and facilitator key their memory by it (design D5). Reading an identity proves nothing about the payment
beyond what the scheme can check without a chain.
"""

from __future__ import annotations

from x402 import networks
from x402.errors import RefusedError
from x402.lifecycle import Subject
from x402.schemes.evm_payment import EvmPayment
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.memory import record_of
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment


def subject_of(payment: Payment, requirement: Requirement, *, fingerprint: str = "") -> Subject:
    """The subject of a payment for an offer; `fingerprint` binds it to one request.

    Raises `RefusedError` when the payload is no payment of the offer's scheme and network.
    """
    _check_scheme(payment, requirement)
    if requirement.network.startswith(networks.EIP155 + ":"):
        authorized = evm_scheme(requirement.scheme).read_offered(payment, requirement)
        return evm_subject(authorized, payment, requirement, fingerprint=fingerprint)
    if requirement.scheme != "exact":
        raise RefusedError("unsupported_scheme", f"scheme {requirement.scheme[:40]!r} is not supported")
    # Who takes no money on Solana needs none of its libraries.
    from x402.schemes import exact_svm_subject

    return exact_svm_subject.read(payment, requirement, fingerprint=fingerprint)


def payer_of(payment: Payment, requirement: Requirement) -> str:
    """Who pays, and nothing else of the subject. Raises what `subject_of` raises."""
    _check_scheme(payment, requirement)
    if requirement.network.startswith(networks.EIP155 + ":"):
        return evm_scheme(requirement.scheme).read_offered(payment, requirement).payer
    return subject_of(payment, requirement).payer


def _check_scheme(payment: Payment, requirement: Requirement) -> None:
    if payment.scheme != requirement.scheme or payment.network != requirement.network:
        raise RefusedError("invalid_scheme", f"paid by {payment.scheme} on {payment.network}, not what was offered")


def evm_subject(signed: EvmPayment, payment: Payment, requirement: Requirement, *, fingerprint: str = "") -> Subject:
    """The subject of a signed payment on an EVM network; its amount is what is to move."""
    return Subject(
        pay_id=signed.pay_id,
        network=requirement.network,
        asset=signed.asset.address,
        payer=signed.payer,
        payee=signed.payee,
        amount=signed.amount,
        expires_at=min(signed.valid_before, 2**62),
        fingerprint=fingerprint,
        record=record_of(payment, requirement, _canonical(signed.signature)),
    )


def _canonical(signature: bytes) -> bytes:
    """The signature with v in {27, 28}, so that both spellings of one signature are one (fault D07)."""
    if len(signature) == 65 and signature[64] < 27:
        return signature[:64] + bytes([signature[64] + 27])
    return signature
