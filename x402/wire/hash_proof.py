"""`X-PAYMENT: <network>:<transaction>`: the word of a client that has paid on chain already (aimo §2.2, dialect 2).

Everybody can read a transaction's id on the chain, so it proves nothing alone: either the transaction carries a memo
that names the request, or its payer has signed for that in a header of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from x402 import networks
from x402.errors import MalformedError
from x402.wire.headers import PAYMENT_SIGNATURE, X_PAYMENT, Pairs, only

SCHEME = "hash-proof"
"""How such a payment is called inside. No payment that travels as JSON may call itself so."""
BINDING = "X-PAYMENT-BINDING"
"""The header with the payer's signature over `binding_text`: EIP-191 in hex, or Ed25519 in base58."""
MEMO_DIGITS = 32
"""So many of the request digest's first hex digits a memo names the request with."""

_CODE = "invalid_hash_proof"
_EVM_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_SVM_SIGNATURE = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}", re.ASCII)
_BINDING_LIMIT = 200


@dataclass(frozen=True, slots=True)
class HashProof:
    """A transaction (hex in lower case, or base58) on a network (CAIP-2), and the payer's signature or `""`."""

    network: str
    transaction: str
    binding: str = field(default="", repr=False)


def read_hash_proof(headers: Pairs) -> HashProof | None:
    """The hash proof in a request's headers; None when its payment header is none, or something else.

    Raises `MalformedError("invalid_hash_proof")` for one that cannot be read, or that comes beside another payment.
    """
    pairs = list(headers)
    said = only(pairs, X_PAYMENT)
    # Base64 has no colon, so no other payment looks like this.
    if said is None or ":" not in said:
        return None
    if only(pairs, PAYMENT_SIGNATURE) is not None:
        raise MalformedError(_CODE, f"send {PAYMENT_SIGNATURE} or {X_PAYMENT}, not both")
    name, _, transaction = said.strip(" \t").rpartition(":")
    network = networks.find(name)
    if network is None:
        raise MalformedError(_CODE, f"unknown network {name[:80]!r}: write <network>:<transaction>")
    shape = _SVM_SIGNATURE if network.family == networks.SOLANA else _EVM_HASH
    if shape.fullmatch(transaction) is None:
        raise MalformedError(_CODE, f"this is no id of a transaction on {network.title}")
    binding = (only(pairs, BINDING) or "").strip(" \t")
    if len(binding) > _BINDING_LIMIT:
        raise MalformedError(_CODE, f"{BINDING} is longer than {_BINDING_LIMIT} characters")
    spelled = transaction if network.family == networks.SOLANA else transaction.lower()
    return HashProof(network.id, spelled, binding)


def binding_text(network: str, transaction: str, request_digest: str) -> str:
    """What a payer signs to spend its transaction on one request (`x402.quote.request_digest`)."""
    return f"x402 hash proof\nnetwork: {network}\ntransaction: {transaction}\nrequest: {request_digest}"
