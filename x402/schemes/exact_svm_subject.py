"""Who pays what to whom on Solana: the identity of a partially signed transfer, for `subject.py`."""

from __future__ import annotations

from x402.lifecycle import Subject
from x402.schemes import exact_svm_layout, exact_svm_rules
from x402.schemes.exact_svm_layout import SignedTransfer
from x402.schemes.memory import record_of
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

ANY_FEE = exact_svm_rules.SvmLimits(
    compute_limit=2**32 - 1, compute_price=2**64 - 1, priority_fee=2**64 - 1, guards=16, memo_required=False
)
"""What a fee payer sponsors is its own facilitator's decision."""


def read(payment: Payment, requirement: Requirement, *, fingerprint: str = "") -> Subject:
    """The subject of a payment for an offer on Solana. Raises `RefusedError` when the payload is none."""
    managed = frozenset({str(requirement.extra.get("feePayer", ""))})
    signed = exact_svm_rules.check(payment, requirement, managed=managed, limits=ANY_FEE)
    return svm_subject(signed, payment, requirement, fingerprint=fingerprint)


def svm_subject(
    signed: SignedTransfer, payment: Payment, requirement: Requirement, *, fingerprint: str = ""
) -> Subject:
    """The subject of a partially signed Solana transfer; only the chain knows when its blockhash dies."""
    transfer = signed.transfer
    return Subject(
        pay_id=exact_svm_layout.pay_id(transfer, requirement.network),
        network=requirement.network,
        asset=transfer.mint,
        payer=transfer.payer,
        payee=transfer.pay_to,
        amount=transfer.amount,
        fingerprint=fingerprint,
        record=record_of(payment, requirement, signed.payer_signature),
    )
