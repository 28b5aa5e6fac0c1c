"""What a facilitator demands of a Solana payment before it adds its signature, offline and in the order of §4.4.

The order is the newer TypeScript SDK's; stricter rules stand where they belong in it. The one thing that decides over
the facilitator's funds: its keys appear in no instruction, except in Lighthouse assertions, which only read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from x402.money import Asset
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import (
    COMPUTE_BUDGET,
    LIGHTHOUSE,
    MEMO,
    MEMO_LIMIT,
    MICRO_LAMPORTS,
    SCHEME,
    SET_COMPUTE_UNIT_LIMIT,
    SET_COMPUTE_UNIT_PRICE,
    SYSTEM,
    TRANSFER_CHECKED,
    Instruction,
    Reading,
    SignedTransfer,
    Transfer,
    account_of_seller,
    is_signed,
    pinned_asset,
    read,
    token_account,
    wanted_memo,
)
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

ASSERTIONS = frozenset(range(2, 18)) - {16}
"""Lighthouse opcodes that only read (Jac0xb/lighthouse, `programs/lighthouse/src/instruction.rs`, Borsh order).

0 MemoryWrite and 1 MemoryClose spend and collect rent with the signer's authority (fault C02). 16
AssertMerkleTreeAccount hands its accounts on to another program; no wallet guards a payment with it.
"""

_ADVANCE_NONCE = struct.pack("<I", 4)
_SIGNERS = 2
_LONGEST = 7


@dataclass(frozen=True, slots=True)
class SvmLimits:
    """What the fee payer sponsors at most; a value at the limit is accepted (fault C06).

    `compute_limit` in compute units, `compute_price` in micro-lamports per unit, `priority_fee` in lamports for their
    product, `guards` in Lighthouse assertions. `memo_required` refuses payments without a memo, which collide when
    they are equal (fault C10); clients from before the memo need it off.
    """

    compute_limit: int = 200_000
    compute_price: int = 5_000_000
    priority_fee: int = 50_000
    guards: int = 6
    memo_required: bool = True


DEFAULT_LIMITS = SvmLimits()


@dataclass(frozen=True, slots=True)
class _Terms:
    """The offer, read once: everything that the transaction is compared with."""

    requirement: Requirement
    asset: Asset
    fee_payer: str
    memo: bytes | None
    destination: str


def check(
    payment: Payment, requirement: Requirement, *, managed: frozenset[str], limits: SvmLimits = DEFAULT_LIMITS
) -> SignedTransfer:
    """The transfer inside a payment that meets an offer, by every rule that needs no chain.

    `managed` are all keys of this facilitator (base58); none of them may be touched by the transaction. What remains
    for the chain: the blockhash is alive, the balance suffices, the seller's account is fit (`destination_problem`).
    Raises `RefusedError` with the canonical reason, and nothing else, whatever the payload holds.
    """
    terms = _terms(payment, requirement, managed)
    reading = read(payment.payload)
    _check_signers(reading, terms)
    steps = _without_guards(_plain_instructions(reading), limits)
    if not 3 <= len(steps) <= _LONGEST:
        raise why.refusal(
            why.INSTRUCTION_COUNT, f"3 to {_LONGEST} instructions besides guards are expected, not {len(steps)}"
        )
    limit, price = _compute_budget(steps[0], steps[1], limits)
    amount, decimals = _transfer_data(steps[2], terms)
    _check_transfer(steps[2], amount, decimals, terms, managed)
    source, mint, destination, authority = steps[2].accounts
    if reading.keys[1 : reading.signers] != (authority,):
        raise why.refusal(why.AUTHORITY)
    memos = _memos(steps[3:], terms, limits)
    _check_isolation([*steps[:2], *steps[3:]], managed)
    transfer = Transfer(
        payer=authority,
        source=source,
        mint=mint,
        destination=destination,
        pay_to=requirement.pay_to,
        amount=amount,
        decimals=decimals,
        memos=memos,
        compute_limit=limit,
        compute_price=price,
        fee_payer=terms.fee_payer,
        blockhash=reading.blockhash,
        message=reading.message,
    )
    return SignedTransfer(transfer, reading.signatures[1])


def _terms(payment: Payment, requirement: Requirement, managed: frozenset[str]) -> _Terms:
    """Steps 1-4: the payment and the offer speak of the same scheme and network, and the fee payer is ours."""
    if payment.scheme != SCHEME or requirement.scheme != SCHEME:
        raise why.refusal(why.UNSUPPORTED_SCHEME)
    if payment.network != requirement.network:
        raise why.refusal(why.NETWORK_MISMATCH)
    fee_payer = requirement.extra.get("feePayer")
    if not isinstance(fee_payer, str) or not fee_payer:
        raise why.refusal(why.MISSING_FEE_PAYER)
    if fee_payer not in managed:
        raise why.refusal(why.FEE_PAYER_NOT_MANAGED)
    asset = pinned_asset(requirement)
    return _Terms(requirement, asset, fee_payer, wanted_memo(requirement), account_of_seller(requirement, asset))


def _check_signers(reading: Reading, terms: _Terms) -> None:
    """Steps 6-8: at most two signers, the fee payer first, and every other signature valid (fault C15)."""
    wanted = reading.signers
    if wanted > _SIGNERS:
        raise why.refusal(why.EXCESSIVE_SIGNERS, f"{wanted} signatures are required, {_SIGNERS} are accepted")
    if reading.keys[0] != terms.fee_payer:
        raise why.refusal(why.FEE_PAYER_MISMATCH)
    for key, signature in zip(reading.keys[1:wanted], reading.signatures[1:wanted], strict=True):
        if not is_signed(key, signature, reading.message):
            raise why.refusal(why.SIGNATURE)


def _plain_instructions(reading: Reading) -> tuple[Instruction, ...]:
    """Step 9: no account is hidden in a lookup table (C04), and the transaction dies with its blockhash (C08)."""
    if reading.lookups:
        raise why.refusal(why.LOOKUP_TABLES)
    if any(one.program == SYSTEM and one.data[:4] == _ADVANCE_NONCE for one in reading.instructions):
        raise why.refusal(why.DURABLE_NONCE)
    return reading.instructions


def _without_guards(instructions: Iterable[Instruction], limits: SvmLimits) -> list[Instruction]:
    """The payment's own instructions. Wallets put guards before and after the transfer (fault C14)."""
    steps: list[Instruction] = []
    guards = 0
    for one in instructions:
        if one.program != LIGHTHOUSE:
            steps.append(one)
            continue
        guards += 1
        if not one.data or one.data[0] not in ASSERTIONS:
            raise why.refusal(why.GUARD)
    if guards > limits.guards:
        raise why.refusal(why.GUARD_COUNT, f"{guards} Lighthouse guards, at most {limits.guards} are accepted")
    return steps


def _compute_budget(first: Instruction, second: Instruction, limits: SvmLimits) -> tuple[int, int]:
    """Steps 11-12: unit limit and price, each and together within what is sponsored (fault C06)."""
    if not _is(first, COMPUTE_BUDGET, SET_COMPUTE_UNIT_LIMIT, 5):
        raise why.refusal(why.COMPUTE_LIMIT)
    (limit,) = struct.unpack_from("<I", first.data, 1)
    if limit > limits.compute_limit:
        raise why.refusal(
            why.COMPUTE_LIMIT_TOO_HIGH,
            f"the compute unit limit is {limit}, at most {limits.compute_limit} is sponsored",
        )
    if not _is(second, COMPUTE_BUDGET, SET_COMPUTE_UNIT_PRICE, 9):
        raise why.refusal(why.COMPUTE_PRICE)
    (price,) = struct.unpack_from("<Q", second.data, 1)
    if price > limits.compute_price:
        raise why.refusal(
            why.COMPUTE_PRICE_TOO_HIGH,
            f"the compute unit price is {price} micro-lamports, at most {limits.compute_price} is sponsored",
        )
    if limit * price > limits.priority_fee * MICRO_LAMPORTS:
        raise why.refusal(
            why.PRIORITY_FEE, f"the priority fee is above the {limits.priority_fee} lamports that are sponsored"
        )
    return limit, price


def _is(instruction: Instruction, program: str, opcode: int, size: int) -> bool:
    return instruction.program == program and len(instruction.data) == size and instruction.data[0] == opcode


def _transfer_data(transfer: Instruction, terms: _Terms) -> tuple[int, int]:
    """Step 13: a TransferChecked of the asset's own token program (fault C12). Four accounts: no multisig."""
    if not _is(transfer, terms.asset.token_program, TRANSFER_CHECKED, 10) or len(transfer.accounts) != 4:
        raise why.refusal(why.NO_TRANSFER)
    amount, decimals = struct.unpack_from("<QB", transfer.data, 1)
    return amount, decimals


def _check_transfer(transfer: Instruction, amount: int, decimals: int, terms: _Terms, managed: frozenset[str]) -> None:
    """Steps 14-17: from somebody else's account, to the seller's, of exactly the amount (fault C01)."""
    source, mint, destination, authority = transfer.accounts
    ours = {token_account(key, terms.asset.address, terms.asset.token_program) for key in managed}
    if authority in managed or source in managed or source in ours:
        raise why.refusal(why.FEE_PAYER_TRANSFERS)
    if mint != terms.asset.address:
        raise why.refusal(why.MINT)
    if destination != terms.destination:
        raise why.refusal(why.RECIPIENT)
    if source == destination:
        raise why.refusal(why.SELF_TRANSFER)
    if amount != terms.requirement.amount:
        raise why.refusal(why.AMOUNT, f"the transfer is of {amount}, the offer asks for {terms.requirement.amount}")
    if decimals != terms.asset.decimals:
        raise why.refusal(why.DECIMALS)


def _memos(rest: Sequence[Instruction], terms: _Terms, limits: SvmLimits) -> tuple[bytes, ...]:
    """Steps 18-19: nothing but one memo follows; memos are bytes and never decoded (faults C03, C10, C11)."""
    for position, one in enumerate(rest):
        if one.program != MEMO:
            raise why.refusal(why.UNKNOWN_INSTRUCTION[position])
    if len(rest) > 1 or (not rest and (limits.memo_required or terms.memo is not None)):
        raise why.refusal(why.MEMO_COUNT)
    memos = tuple(one.data for one in rest)
    if terms.memo is not None and memos != (terms.memo,):
        raise why.refusal(why.MEMO_MISMATCH)
    if any(not 0 < len(memo) <= MEMO_LIMIT for memo in memos):
        raise why.refusal(why.MEMO_LENGTH)
    return memos


def _check_isolation(instructions: Iterable[Instruction], managed: frozenset[str]) -> None:
    """No instruction but a guard names one of our keys, nor runs one as a program (x402 spec 2.1.1; fault C02)."""
    for one in instructions:
        if not managed.isdisjoint((one.program, *one.accounts)):
            raise why.refusal(why.NOT_ISOLATED)
