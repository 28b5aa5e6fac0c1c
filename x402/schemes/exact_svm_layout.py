"""The Solana transaction of scheme `exact`: its programs, its plain-data form, its strict reading, its identity.

Sources: protocol page §4.1-4.3; x402 spec, `scheme_exact_svm`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import SanitizeError, VersionedTransaction

from x402 import networks
from x402.errors import MalformedError
from x402.money import Asset
from x402.schemes import exact_svm_reasons as why
from x402.wire.challenge import Requirement
from x402.wire.strict import decode_base64

SCHEME = "exact"

COMPUTE_BUDGET = "ComputeBudget111111111111111111111111111111"
MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
LIGHTHOUSE = "L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95"
ASSOCIATED_TOKEN = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
SYSTEM = "11111111111111111111111111111111"

SET_COMPUTE_UNIT_LIMIT = 2
SET_COMPUTE_UNIT_PRICE = 3
TRANSFER_CHECKED = 12

MEMO_LIMIT = 256
"""Longest memo, in bytes (x402 spec, `extra.memo`)."""
TRANSACTION_LIMIT = 1232
"""Largest transaction that a Solana packet carries, in bytes."""
LAMPORTS_PER_SIGNATURE = 5_000
MICRO_LAMPORTS = 1_000_000

_ATA_PROGRAM = Pubkey.from_string(ASSOCIATED_TOKEN)
_BASE64_LIMIT = (TRANSACTION_LIMIT + 2) // 3 * 4
_VERSION_0 = b"\x80"
_KEPT = 2048
"""How many payments' readings are kept, the last used: more than are ever on their way at once, in a few megabytes."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One payment, as its signed message says it. Keys are base58, `amount` atomic.

    `payer` is the transfer's authority, `destination` the token account of `pay_to`, `message` the bytes that were
    signed. `compute_limit` is in compute units, `compute_price` in micro-lamports per unit.
    """

    payer: str
    source: str
    mint: str
    destination: str
    pay_to: str
    amount: int
    decimals: int
    memos: tuple[bytes, ...]
    compute_limit: int
    compute_price: int
    fee_payer: str
    blockhash: str
    message: bytes

    @property
    def priority_fee(self) -> int:
        """Lamports that the fee payer pays above the signatures, rounded up as the runtime does."""
        return -(-self.compute_limit * self.compute_price // MICRO_LAMPORTS)

    @property
    def fee(self) -> int:
        """Lamports that the fee payer pays for this transaction, whether it succeeds or fails."""
        return 2 * LAMPORTS_PER_SIGNATURE + self.priority_fee


@dataclass(frozen=True, slots=True)
class SignedTransfer:
    """A payment that passed every offline rule, with the payer's signature (64 bytes) over `transfer.message`."""

    transfer: Transfer
    payer_signature: bytes


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its keys spelled out."""

    program: str
    accounts: tuple[str, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """A transaction as its bytes say it, in plain data. `signers` of the `keys` must sign, the first of them; with
    `lookups` other keys stand in lookup tables, and `instructions` are left out."""

    keys: tuple[str, ...]
    signers: int
    signatures: tuple[bytes, ...]
    instructions: tuple[Instruction, ...]
    lookups: bool
    blockhash: str
    message: bytes


def parse_key(value: object, what: str) -> Pubkey:
    """A 32-byte base58 key. Raises `MalformedError("invalid_address")` that names `what` (fault F12)."""
    if isinstance(value, str):
        try:
            return Pubkey.from_string(value)
        except ValueError:
            pass
    raise MalformedError("invalid_address", f"{what} is not a Solana address (base58 of 32 bytes)")


def offer_key(value: object, what: str) -> Pubkey:
    """As `parse_key` for a member of an offer. Raises `RefusedError`, for the seller to mend."""
    try:
        return parse_key(value, what)
    except MalformedError as error:
        raise why.refusal(why.REQUIREMENT, error.message) from error


@lru_cache(maxsize=8192)
def token_account(owner: str, mint: str, program: str) -> str:
    """The associated token account of a wallet. Raises `ValueError` for what is no key."""
    seeds = [bytes(Pubkey.from_string(key)) for key in (owner, program, mint)]
    return str(Pubkey.find_program_address(seeds, _ATA_PROGRAM)[0])


def pinned_asset(requirement: Requirement) -> Asset:
    """The offer's asset as the networks table knows it: decimals and token program never come from the wire (C12).

    Raises `RefusedError` for a network that is not Solana, an unknown asset, and an offer with `extra.splits`,
    which is another way to pay and must not be mistaken for this one.
    """
    network = networks.find(requirement.network)
    if network is None or network.family != networks.SOLANA:
        raise why.refusal(why.REQUIREMENT, f"{requirement.network} is no Solana network that is known here")
    asset = network.asset(requirement.asset)
    if asset is None:
        raise why.refusal(why.REQUIREMENT, f"{requirement.asset} is no token that is known on {network.title}")
    if requirement.extra.get("splits"):
        raise why.refusal(why.REQUIREMENT, "the offer splits the payment among several sellers, which is not supported")
    return asset


def destination_of(requirement: Requirement) -> str:
    """The token account that an offer is paid to. Raises `RefusedError` for an offer that cannot be paid here."""
    return account_of_seller(requirement, pinned_asset(requirement))


def account_of_seller(requirement: Requirement, asset: Asset) -> str:
    """As `destination_of`, for who knows the offer's pinned asset already."""
    return token_account(str(offer_key(requirement.pay_to, "payTo")), asset.address, asset.token_program)


def wanted_memo(requirement: Requirement) -> bytes | None:
    """The memo that the offer prescribes, or None when it leaves it to the payer. Raises `RefusedError`."""
    memo = requirement.extra.get("memo")
    if memo is None or memo == "":
        return None
    try:
        text = memo.encode() if isinstance(memo, str) else b""
    except UnicodeEncodeError:
        text = b""
    if not 0 < len(text) <= MEMO_LIMIT:
        raise why.refusal(why.REQUIREMENT, f"extra.memo must be a text of at most {MEMO_LIMIT} bytes")
    return text


def decode(payload: Mapping[str, Any]) -> VersionedTransaction:
    """The transaction inside a payment's payload, which has exactly one encoding (faults A05, C15).

    Raises `RefusedError` for anything but canonical base64 of one well-formed legacy or version 0 transaction:
    trailing bytes, overlong lengths, indices out of range and accounts listed twice are refused.
    """
    return _decode_text(_text_of(payload))


def read(payload: Mapping[str, Any]) -> Reading:
    """As `decode`, in plain data. A payment is read at every station of its way, and what its bytes say never changes:
    so the work is done once, while the payment is among those that were read last."""
    return _read_text(_text_of(payload))


def _text_of(payload: Mapping[str, Any]) -> str:
    text = payload.get("transaction")
    if not isinstance(text, str) or len(text) > _BASE64_LIMIT:
        raise why.refusal(why.NOT_DECODED)
    return text


@lru_cache(maxsize=_KEPT)
def _read_text(text: str) -> Reading:
    transaction = _decode_text(text)
    message = message_of(transaction)
    lookups = isinstance(message, MessageV0) and bool(message.address_table_lookups)
    return Reading(
        keys=tuple(str(key) for key in message.account_keys),
        signers=message.header.num_required_signatures,
        signatures=tuple(bytes(signature) for signature in transaction.signatures),
        instructions=() if lookups else tuple(instructions_of(message)),
        lookups=lookups,
        blockhash=str(message.recent_blockhash),
        message=signed_bytes(message),
    )


def _decode_text(text: str) -> VersionedTransaction:
    try:
        return read_transaction(decode_base64(text))
    except MalformedError as error:
        raise why.refusal(why.NOT_DECODED, f"payload.transaction: {error.message}") from error


@lru_cache(maxsize=2 * _KEPT)
def is_signed(key: str, signature: bytes, message: bytes) -> bool:
    """Whether these 64 bytes are the signature of a base58 key over a message. Raises `ValueError` for what is no key
    or of another length. As with `read`, the answer is known once."""
    return Signature(signature).verify(Pubkey.from_string(key), message)


def read_transaction(raw: bytes) -> VersionedTransaction:
    """As `decode`, from the bytes."""
    if len(raw) > TRANSACTION_LIMIT:
        raise why.refusal(why.NOT_DECODED, f"the transaction is larger than {TRANSACTION_LIMIT} bytes")
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
        rewritten = bytes(transaction)
    except (ValueError, SanitizeError) as error:
        raise why.refusal(why.NOT_DECODED) from error
    if rewritten != raw:
        raise why.refusal(why.NOT_DECODED, "the transaction is followed by other bytes or not encoded canonically")
    keys = message_of(transaction).account_keys
    if len(set(keys)) != len(keys):
        raise why.refusal(why.NOT_DECODED, "the transaction lists an account twice")
    return transaction


def message_of(transaction: VersionedTransaction) -> Message | MessageV0:
    """The message of a legacy or version 0 transaction. Raises `RefusedError` for a later version."""
    message = transaction.message
    if not isinstance(message, Message | MessageV0):
        raise why.refusal(why.NOT_DECODED, "only legacy and version 0 transactions are understood")
    return message


def instructions_of(message: Message | MessageV0) -> list[Instruction]:
    """The instructions with keys instead of indices.

    Raises `RefusedError` for a message with address lookup tables, whose keys stand elsewhere (fault C04).
    """
    if isinstance(message, MessageV0) and message.address_table_lookups:
        raise why.refusal(why.LOOKUP_TABLES)
    keys = [str(key) for key in message.account_keys]
    return [
        Instruction(keys[one.program_id_index], tuple(keys[index] for index in one.accounts), bytes(one.data))
        for one in message.instructions
    ]


def signed_bytes(message: Message | MessageV0) -> bytes:
    """What the signatures are over: the serialized message, with its version byte for version 0."""
    # The library's own function for both versions takes three times as long.
    return _VERSION_0 + bytes(message) if isinstance(message, MessageV0) else bytes(message)


def message_id(message: bytes, network: str) -> str:
    """The identity of a payment: CAIP-2 network and SHA-256 (hex) of the signed bytes (design D5).

    Neither signatures, nor base64, nor the x402 version are part of it, so one payment has one identity (fault A05).
    """
    return f"{networks.to_caip2(network)}:{hashlib.sha256(message).hexdigest()}"


def pay_id(transfer: Transfer, network: str) -> str:
    """The identity of a payment that was checked; see `message_id`."""
    return message_id(transfer.message, network)


def identify(payload: Mapping[str, Any], network: str) -> str:
    """The identity of a payment by its payload alone, for parties that check nothing. Raises `RefusedError`."""
    return message_id(signed_bytes(message_of(decode(payload))), network)
