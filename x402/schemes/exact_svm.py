"""Scheme `exact` on Solana: one TransferChecked, signed by the payer, sponsored by the facilitator (protocol page §4).

The client's part is here; the facilitator's stands beside it in `exact_svm_rules` (before signing) and
`exact_svm_settlement` (after). Everything is pure: blockhash, memo bytes and signatures are arguments.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable

from solders.hash import Hash
from solders.instruction import AccountMeta
from solders.instruction import Instruction as Built
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from x402.chain import Blockhash
from x402.errors import MalformedError, MisconfiguredError
from x402.money import Asset
from x402.schemes import exact_svm_layout as layout
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import SignedTransfer as SignedTransfer
from x402.schemes.exact_svm_layout import Transfer as Transfer
from x402.schemes.exact_svm_layout import destination_of as destination_of
from x402.schemes.exact_svm_layout import identify as identify
from x402.schemes.exact_svm_layout import offer_key, parse_key, pinned_asset, token_account, wanted_memo
from x402.schemes.exact_svm_layout import pay_id as pay_id
from x402.schemes.exact_svm_reasons import REASONS as REASONS
from x402.schemes.exact_svm_reasons import canonical as canonical
from x402.schemes.exact_svm_rules import SvmLimits as SvmLimits
from x402.schemes.exact_svm_rules import check as check
from x402.schemes.exact_svm_settlement import cosign as cosign
from x402.schemes.exact_svm_settlement import destination_problem as destination_problem
from x402.schemes.exact_svm_settlement import explain as explain
from x402.schemes.exact_svm_settlement import message_to_sign as message_to_sign
from x402.schemes.exact_svm_settlement import moved as moved
from x402.wire.challenge import Requirement

SCHEME = layout.SCHEME
COMPUTE_UNIT_LIMIT = 20_000
"""Compute units that a payment reserves; it uses a few thousand (protocol page §4.1)."""
COMPUTE_UNIT_PRICE = 1
"""Micro-lamports per compute unit that our client bids."""
MEMO_NONCE_BYTES = 16
"""Random bytes that keep two equal payments distinct (fault C10)."""
DYNAMIC_EXTRA = frozenset({"recentBlockhash", "lastValidBlockHeight"})
"""Members of an offer's `extra` that change from 402 to 402 and are left out when offers are compared."""

_PAYER_SLOT = 1


def offer_extra(fee_payer: str, *, memo: str = "", blockhash: Blockhash | None = None) -> dict[str, str]:
    """The `extra` of an offer: the facilitator's fee payer, and optionally a memo and a blockhash for the client."""
    extra = {"feePayer": fee_payer}
    if memo:
        extra["memo"] = memo
    if blockhash is not None:
        extra["recentBlockhash"] = blockhash.hash
        extra["lastValidBlockHeight"] = str(blockhash.last_valid_block_height)
    return extra


def hinted_blockhash(requirement: Requirement) -> str | None:
    """The blockhash that an offer hints at, or None; it spares the client a chain of its own."""
    hint = requirement.extra.get("recentBlockhash")
    try:
        return str(parse_key(hint, "recentBlockhash"))
    except MalformedError:
        return None


def build(requirement: Requirement, payer: str, blockhash: str, memo: bytes) -> bytes:
    """The unsigned transaction that pays an offer (protocol page §4.3), with both signature slots empty.

    `memo` are at least 16 random bytes, used unless the offer prescribes a memo. Raises `RefusedError` for an offer
    that cannot be paid: unknown asset, no fee payer, the payer as its own seller or sponsor, an amount above 64 bits;
    `MalformedError` for a payer or blockhash that is none; `ValueError` for too short a memo.
    """
    if len(memo) < MEMO_NONCE_BYTES:
        raise ValueError(f"the memo needs {MEMO_NONCE_BYTES} random bytes")
    if requirement.scheme != SCHEME:
        raise why.refusal(why.UNSUPPORTED_SCHEME)
    asset = pinned_asset(requirement)
    sponsor = requirement.extra.get("feePayer")
    if not sponsor:
        raise why.refusal(why.MISSING_FEE_PAYER)
    fee_payer = offer_key(sponsor, "extra.feePayer")
    authority = parse_key(payer, "the payer")
    if authority == fee_payer:
        raise why.refusal(why.FEE_PAYER_TRANSFERS, "the payer cannot be the sponsor of its own payment")
    source = token_account(str(authority), asset.address, asset.token_program)
    destination = destination_of(requirement)
    if source == destination:
        raise why.refusal(why.SELF_TRANSFER)
    if requirement.amount > asset.largest:
        raise why.refusal(why.REQUIREMENT, "the amount does not fit 64 bits")
    prescribed = wanted_memo(requirement)
    instructions = [
        _compute_budget(layout.SET_COMPUTE_UNIT_LIMIT, struct.pack("<I", COMPUTE_UNIT_LIMIT)),
        _compute_budget(layout.SET_COMPUTE_UNIT_PRICE, struct.pack("<Q", COMPUTE_UNIT_PRICE)),
        _transfer(asset, source, destination, authority, requirement.amount),
        Built(Pubkey.from_string(layout.MEMO), prescribed or memo.hex().encode(), []),
    ]
    recent = Hash(bytes(parse_key(blockhash, "the blockhash")))
    message = MessageV0.try_compile(fee_payer, instructions, [], recent)
    return bytes(VersionedTransaction.populate(message, [Signature.default()] * 2))


def sign(transaction: bytes, signer: Callable[[bytes], bytes]) -> bytes:
    """The transaction with the payer's signature; `signer` signs the message bytes and gives 64 bytes.

    Raises `MisconfiguredError` when the signature is not the payer's, `RefusedError` for what is no transaction.
    """
    parsed = layout.read_transaction(transaction)
    message = layout.message_of(parsed)
    signed = layout.signed_bytes(message)
    signature = signer(signed)
    payer = message.account_keys[_PAYER_SLOT]
    if len(signature) != Signature.LENGTH or not Signature(signature).verify(payer, signed):
        raise MisconfiguredError("invalid_wallet_signature", f"the wallet does not sign for {payer}")
    signatures = list(parsed.signatures)
    signatures[_PAYER_SLOT] = Signature(signature)
    return bytes(VersionedTransaction.populate(message, signatures))


def payload(transaction: bytes) -> dict[str, str]:
    """What travels as `payload` of a payment, in v1 and v2 alike."""
    return {"transaction": base64.b64encode(transaction).decode()}


def _compute_budget(opcode: int, argument: bytes) -> Built:
    return Built(Pubkey.from_string(layout.COMPUTE_BUDGET), bytes([opcode]) + argument, [])


def _transfer(asset: Asset, source: str, destination: str, authority: Pubkey, amount: int) -> Built:
    data = struct.pack("<BQB", layout.TRANSFER_CHECKED, amount, asset.decimals)
    accounts = [
        AccountMeta(Pubkey.from_string(source), is_signer=False, is_writable=True),
        AccountMeta(Pubkey.from_string(asset.address), is_signer=False, is_writable=False),
        AccountMeta(Pubkey.from_string(destination), is_signer=False, is_writable=True),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Built(Pubkey.from_string(asset.token_program), data, accounts)
