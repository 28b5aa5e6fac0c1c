"""Solana payments made by hand, so that every rule can be broken on its own."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from x402 import networks
from x402.errors import RefusedError
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import SignedTransfer, token_account
from x402.schemes.exact_svm_rules import DEFAULT_LIMITS, SvmLimits, check
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

FIXTURE = json.loads((Path(__file__).parents[2] / "fixtures" / "svm_exact.json").read_text())
LAYOUTS = FIXTURE["layouts"]

PAYER, SPONSOR, SELLER, OTHER_SPONSOR, STRANGER = (Keypair.from_seed(bytes([seed]) * 32) for seed in range(1, 6))
MANAGED = frozenset({str(SPONSOR.pubkey()), str(OTHER_SPONSOR.pubkey())})
MINT = networks.get(networks.SOLANA_DEVNET).usd.address
AMOUNT = 1_000
BLOCKHASH = Hash(bytes([9]) * 32)

LIMIT, PRICE, TRANSFER, MEMO_AT = 0, 1, 2, 3
BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
GUARD = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
SYSTEM = Pubkey.from_string("11111111111111111111111111111111")
TOKEN = Pubkey.from_string(networks.TOKEN_PROGRAM)
TOKEN_2022 = Pubkey.from_string(networks.TOKEN_2022_PROGRAM)


def offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact",
        "network": networks.SOLANA_DEVNET,
        "amount": AMOUNT,
        "asset": MINT,
        "pay_to": str(SELLER.pubkey()),
        "max_timeout_seconds": 60,
        "extra": {"feePayer": str(SPONSOR.pubkey())},
    }
    return Requirement(**(members | changes))


def with_extra(**extra: Any) -> Requirement:
    return offer(extra={"feePayer": str(SPONSOR.pubkey())} | extra)


def account(owner: Keypair, program: Pubkey = TOKEN) -> Pubkey:
    return Pubkey.from_string(token_account(str(owner.pubkey()), MINT, str(program)))


def compute_limit(units: int) -> Instruction:
    return Instruction(BUDGET, b"\x02" + struct.pack("<I", units), [])


def compute_price(micro_lamports: int) -> Instruction:
    return Instruction(BUDGET, b"\x03" + struct.pack("<Q", micro_lamports), [])


def transfer(
    *,
    source: Pubkey | None = None,
    mint: str = MINT,
    destination: Pubkey | None = None,
    authority: Pubkey | None = None,
    amount: int = AMOUNT,
    decimals: int = 6,
    program: Pubkey = TOKEN,
    tail: bytes = b"",
    more: tuple[AccountMeta, ...] = (),
) -> Instruction:
    accounts = [
        AccountMeta(source or account(PAYER, program), False, True),
        AccountMeta(Pubkey.from_string(mint), False, False),
        AccountMeta(destination or account(SELLER, program), False, True),
        AccountMeta(authority or PAYER.pubkey(), True, False),
        *more,
    ]
    return Instruction(program, struct.pack("<BQB", 12, amount, decimals) + tail, accounts)


def memo(text: bytes = b"0123456789abcdef", *signers: Pubkey) -> Instruction:
    return Instruction(MEMO, text, [AccountMeta(key, True, False) for key in signers])


def guard(opcode: int = 5, size: int = 17, target: Pubkey | None = None) -> Instruction:
    """A Lighthouse instruction; wallets aim them at the fee payer's lamports."""
    metas = [AccountMeta(target or SPONSOR.pubkey(), False, False)]
    return Instruction(GUARD, (bytes([opcode, 4]) + bytes(size))[:size], metas)


def steps() -> list[Instruction]:
    return [compute_limit(20_000), compute_price(1), transfer(), memo()]


def swapped(position: int, instruction: Instruction) -> list[Instruction]:
    changed = steps()
    changed[position] = instruction
    return changed


def signed(message: Message | MessageV0, *signers: Keypair) -> bytes:
    """The transaction with the given signatures, and zeros where the signer is not given (the sponsor's slot)."""
    keys = message.account_keys[: message.header.num_required_signatures]
    content = bytes(to_bytes_versioned(message))
    by_key = {signer.pubkey(): signer.sign_message(content) for signer in signers}
    return bytes(VersionedTransaction.populate(message, [by_key.get(key, Signature.default()) for key in keys]))


def compiled(instructions: list[Instruction], sponsor: Keypair = SPONSOR) -> MessageV0:
    return MessageV0.try_compile(sponsor.pubkey(), instructions, [], BLOCKHASH)


def transaction(instructions: list[Instruction], *signers: Keypair) -> bytes:
    return signed(compiled(instructions), *(signers or (PAYER,)))


def paying(raw: bytes, requirement: Requirement | None = None) -> Payment:
    return Payment.of(requirement or offer(), {"transaction": base64.b64encode(raw).decode()})


def accepted(
    raw: bytes | list[Instruction], requirement: Requirement | None = None, limits: SvmLimits = DEFAULT_LIMITS
) -> SignedTransfer:
    data = raw if isinstance(raw, bytes) else transaction(raw)
    requirement = requirement or offer()
    return check(paying(data, requirement), requirement, managed=MANAGED, limits=limits)


def refused(
    raw: bytes | list[Instruction], requirement: Requirement | None = None, limits: SvmLimits = DEFAULT_LIMITS
) -> str:
    with pytest.raises(RefusedError) as caught:
        accepted(raw, requirement, limits)
    assert caught.value.code in why.REASONS
    assert caught.value.message
    return caught.value.code
