"""What a subject remembers of the payment that it was made from, so that it can be told from any other."""

from __future__ import annotations

from typing import Any

from x402.lifecycle import Subject
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitation, parse_facilitation
from x402.wire.payment import Payment


def record_of(payment: Payment, requirement: Requirement, proof: bytes) -> dict[str, Any]:
    """What a subject remembers of the payment that it was made from; `proof` is the payer's signature."""
    facilitation = Facilitation(payment=payment, requirement=requirement).as_json()
    return {"facilitation": facilitation, "proof": proof.hex()}


def recall(subject: Subject) -> Facilitation:
    """The payment and requirement that a remembered subject was made from."""
    return parse_facilitation(subject.record["facilitation"])


def is_same_payment(stored: Subject, presented: Subject) -> bool:
    """Whether a payment that carries a known identity is that very payment: same terms, same payer's signature.

    Identities become public on chain; signatures of payments that were not settled do not (faults A24, B14).
    """
    return (
        stored.pay_id == presented.pay_id
        and (stored.payer, stored.payee, stored.asset) == (presented.payer, presented.payee, presented.asset)
        and stored.amount == presented.amount
        and stored.record.get("proof") == presented.record.get("proof")
    )
