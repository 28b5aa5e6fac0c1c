"""Why a Solana payment was refused: one canonical code per rule, with words for a person and who can mend it.

Codes are the newer TypeScript SDK's wherever it has one (protocol page §4.4); `canonical` understands the Python and
Go SDKs' spellings as well. `OURS` lists the codes of rules that no SDK has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from x402.errors import Mender, RefusedError


class Reason(NamedTuple):
    """What a code means to a person, and who can put it right."""

    words: str
    mender: Mender


_PAYLOAD = "invalid_exact_svm_payload_"
_LAYOUT = "invalid_exact_svm_payload_transaction_instructions_"

UNSUPPORTED_SCHEME = "invalid_exact_svm_unsupported_scheme"
NETWORK_MISMATCH = "invalid_exact_svm_network_mismatch"
REQUIREMENT = "invalid_payment_requirements"
MISSING_FEE_PAYER = _PAYLOAD + "missing_fee_payer"
FEE_PAYER_NOT_MANAGED = "invalid_exact_svm_fee_payer_not_managed_by_facilitator"
NOT_DECODED = _PAYLOAD + "transaction_could_not_be_decoded"
EXCESSIVE_SIGNERS = _PAYLOAD + "excessive_signers"
FEE_PAYER_MISMATCH = "invalid_exact_svm_fee_payer_mismatch"
SIGNATURE = _PAYLOAD + "signature_invalid"
LOOKUP_TABLES = "invalid_exact_svm_smart_wallet_alt_resolution_not_available"
INSTRUCTION_COUNT = _LAYOUT + "length"
COMPUTE_LIMIT = _LAYOUT + "compute_limit_instruction"
COMPUTE_LIMIT_TOO_HIGH = _LAYOUT + "compute_limit_instruction_too_high"
COMPUTE_PRICE = _LAYOUT + "compute_price_instruction"
COMPUTE_PRICE_TOO_HIGH = _LAYOUT + "compute_price_instruction_too_high"
NO_TRANSFER = _PAYLOAD + "no_transfer_instruction"
FEE_PAYER_TRANSFERS = _PAYLOAD + "transaction_fee_payer_transferring_funds"
MINT = _PAYLOAD + "mint_mismatch"
RECIPIENT = _PAYLOAD + "recipient_mismatch"
AMOUNT = _PAYLOAD + "amount_mismatch"
UNKNOWN_INSTRUCTION = tuple(_PAYLOAD + f"unknown_{nth}_instruction" for nth in ("fourth", "fifth", "sixth", "seventh"))
UNKNOWN_OPTIONAL = _PAYLOAD + "unknown_optional_instruction"
MEMO_COUNT = _PAYLOAD + "memo_count"
MEMO_MISMATCH = _PAYLOAD + "memo_mismatch"
SIMULATION = "invalid_exact_svm_transaction_simulation_failed"
FAILED = "invalid_exact_svm_transaction_failed"
INSUFFICIENT_FUNDS = "insufficient_funds"
DUPLICATE = "duplicate_settlement"

DURABLE_NONCE = _PAYLOAD + "durable_nonce"
GUARD = _PAYLOAD + "guard_not_an_assertion"
GUARD_COUNT = _PAYLOAD + "excessive_guards"
PRIORITY_FEE = _PAYLOAD + "transaction_priority_fee_too_high"
AUTHORITY = _PAYLOAD + "authority_not_signer"
DECIMALS = _PAYLOAD + "decimals_mismatch"
SELF_TRANSFER = _PAYLOAD + "self_transfer"
NOT_ISOLATED = _PAYLOAD + "fee_payer_not_isolated"
MEMO_LENGTH = _PAYLOAD + "memo_length"
DESTINATION_MISSING = "invalid_exact_svm_destination_account_missing"
DESTINATION_INVALID = "invalid_exact_svm_destination_account_invalid"
DESTINATION_OWNER = "invalid_exact_svm_destination_account_owner"
DESTINATION_FROZEN = "invalid_exact_svm_destination_account_frozen"
FEE_PAYER_EMPTY = "invalid_exact_svm_fee_payer_insufficient_balance"

OURS = frozenset(
    {
        DURABLE_NONCE,
        GUARD,
        GUARD_COUNT,
        PRIORITY_FEE,
        AUTHORITY,
        DECIMALS,
        SELF_TRANSFER,
        NOT_ISOLATED,
        MEMO_LENGTH,
        DESTINATION_MISSING,
        DESTINATION_INVALID,
        DESTINATION_OWNER,
        DESTINATION_FROZEN,
        FEE_PAYER_EMPTY,
    }
)
"""Codes of rules that are stricter than any SDK's, so that no SDK has a code for them."""

_BY_PAYER = {
    UNSUPPORTED_SCHEME: "the payment or the offer is not of scheme `exact`",
    NETWORK_MISMATCH: "the payment is for another network than the offer",
    NOT_DECODED: "`payload.transaction` is not the base64 of one legacy or version 0 Solana transaction",
    EXCESSIVE_SIGNERS: "the transaction wants more signatures than the payer's and the fee payer's",
    FEE_PAYER_MISMATCH: "the transaction's first account is not the offer's fee payer",
    SIGNATURE: "the payer's signature does not fit the transaction",
    LOOKUP_TABLES: "the transaction uses address lookup tables, which could hide accounts",
    INSTRUCTION_COUNT: "the transaction has too few or too many instructions",
    COMPUTE_LIMIT: "the first instruction is not SetComputeUnitLimit",
    COMPUTE_LIMIT_TOO_HIGH: "the compute unit limit is higher than the fee payer sponsors",
    COMPUTE_PRICE: "the second instruction is not SetComputeUnitPrice",
    COMPUTE_PRICE_TOO_HIGH: "the compute unit price is higher than the fee payer sponsors",
    NO_TRANSFER: "the third instruction is not a TransferChecked of the asset's token program",
    FEE_PAYER_TRANSFERS: "the transfer would spend the facilitator's own funds",
    MINT: "the transfer moves another token than the offer asks for",
    RECIPIENT: "the transfer does not go to the seller's associated token account",
    AMOUNT: "the transfer is not of exactly the amount that the offer asks for",
    UNKNOWN_OPTIONAL: "an instruction after the transfer is neither a memo nor a wallet guard",
    MEMO_COUNT: "the transaction needs exactly one memo, so that equal payments stay distinct",
    MEMO_MISMATCH: "the memo is not the one that the offer asks for",
    SIMULATION: "the transaction would fail on chain",
    FAILED: "the transaction failed on chain",
    INSUFFICIENT_FUNDS: "the payer's token account holds less than the amount",
    DURABLE_NONCE: "the transaction uses a durable nonce, so it would stay valid without end",
    GUARD: "a Lighthouse instruction is not a plain assertion",
    GUARD_COUNT: "the transaction has more Lighthouse guards than are accepted",
    PRIORITY_FEE: "compute unit limit times price is more than the fee payer sponsors",
    AUTHORITY: "the transfer's authority does not sign the transaction",
    DECIMALS: "the transfer states other decimals than the token has",
    SELF_TRANSFER: "payer and seller are the same token account, so nothing would move",
    NOT_ISOLATED: "an instruction other than a guard names one of the facilitator's keys",
    MEMO_LENGTH: "the memo is empty or longer than 256 bytes",
}

_BY_SELLER = {
    REQUIREMENT: "the offer cannot be paid on Solana as it stands",
    MISSING_FEE_PAYER: "the offer names no fee payer (`extra.feePayer`)",
    FEE_PAYER_NOT_MANAGED: "the offer's fee payer is no key of this facilitator; copy it from `/supported`",
    DESTINATION_MISSING: "the seller has no token account for this asset; create the associated token account once",
    DESTINATION_INVALID: "the seller's token account is not one of this asset; create it again",
    DESTINATION_OWNER: "the seller's token account belongs to another wallet; move to a fresh `payTo` wallet",
    DESTINATION_FROZEN: "the seller's token account is frozen; ask the token's issuer",
}


def _table() -> Mapping[str, Reason]:
    rows = {code: Reason(words, Mender.PAYER) for code, words in _BY_PAYER.items()}
    rows |= {code: Reason(words, Mender.SELLER) for code, words in _BY_SELLER.items()}
    for code, nth in zip(UNKNOWN_INSTRUCTION, ("fourth", "fifth", "sixth", "seventh"), strict=True):
        rows[code] = Reason(f"the {nth} instruction is neither a memo nor a wallet guard", Mender.PAYER)
    rows[FEE_PAYER_EMPTY] = Reason("the facilitator's fee payer has too few SOL", Mender.FACILITATOR)
    rows[DUPLICATE] = Reason("this very transaction has already been processed", Mender.NOBODY)
    return MappingProxyType(rows)


REASONS: Mapping[str, Reason] = _table()
"""Every canonical code that this scheme can give, with words and mender."""

_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "unsupported_scheme": UNSUPPORTED_SCHEME,
        "network_mismatch": NETWORK_MISMATCH,
        "fee_payer_not_managed_by_facilitator": FEE_PAYER_NOT_MANAGED,
        "transaction_simulation_failed": SIMULATION,
        "transaction_failed": FAILED,
        _PAYLOAD + "amount_insufficient": AMOUNT,
        "smart_wallet_alt_resolution_not_available": LOOKUP_TABLES,
        "alt_resolution_not_available": LOOKUP_TABLES,
    }
)


def canonical(reason: str) -> str:
    """The canonical code of a reason in any SDK's spelling, without the detail behind a colon; unknown ones as is."""
    bare = reason.partition(":")[0].strip()
    if bare.startswith("invalid_exact_solana_"):
        bare = "invalid_exact_svm_" + bare.removeprefix("invalid_exact_solana_")
    return _ALIASES.get(bare, bare)


def refusal(code: str, message: str = "") -> RefusedError:
    """The error for a code, with the table's words and mender; `message` replaces the words when it knows more."""
    words, mender = REASONS[code]
    return RefusedError(code, message or words, mender=mender)
