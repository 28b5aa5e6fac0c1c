"""Refusals of a check behind which a settlement may hide: the payment itself used it up (faults A06, A10, A11)."""

from __future__ import annotations

from x402.schemes import exact_svm_reasons

CERTAINLY = frozenset({"invalid_exact_evm_nonce_already_used", "permit2_invalid_nonce", exact_svm_reasons.DUPLICATE})
"""Refusals by a chain's simulation that say that the payment was used up."""

PERHAPS = CERTAINLY | {
    "invalid_exact_evm_transaction_simulation_failed",
    "invalid_exact_evm_insufficient_balance",
    "invalid_exact_evm_payload_authorization_valid_before",
    "asset_restricted",
    "invalid_upto_evm_transaction_failed",
    "permit2_insufficient_balance",
    "permit2_allowance_required",
    "permit2_deadline_expired",
    exact_svm_reasons.SIMULATION,
    exact_svm_reasons.INSUFFICIENT_FUNDS,
}
"""Refusals behind which it may have landed all the same: the payment itself may be what emptied the account, and an
expired one is called expired whether it was used or not."""
