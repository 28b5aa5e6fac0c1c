"""Settling a checked Solana payment: the second signature, the seller's account, and what the chain's words mean."""

from __future__ import annotations

import json
import re
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature

from x402.chain import SvmAccount, SvmTransaction
from x402.errors import MisconfiguredError, RefusedError
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import SignedTransfer, Transfer, is_signed, pinned_asset
from x402.wire.challenge import Requirement

_ACCOUNT_SIZE = 165
_STATE_AT = 108
_INITIALIZED, _FROZEN = 1, 2
_EXTENDED_ACCOUNT = 2

_GUARD_ERRORS = range(6000, 7000)
_TOKEN_ERRORS = {
    3: "the token account belongs to another mint",
    4: "the authority neither owns the payer's token account nor may spend this amount from it",
    9: "the payer's or the seller's token account is not initialized",
    17: "the payer's or the seller's token account is frozen",
    18: "the token has other decimals than the transfer states",
}
_INSTRUCTION_ERRORS = {
    "InvalidAccountData": "the payer's or the seller's token account does not exist or is not one of this asset",
    "UninitializedAccount": "the payer's or the seller's token account does not exist",
    "AccountNotInitialized": "the payer's or the seller's token account does not exist",
    "IncorrectProgramId": "the payer's or the seller's token account is not one of this token program",
    "InvalidAccountOwner": "the payer's or the seller's token account is not one of this token program",
    "InsufficientFunds": "the payer's token account holds less than the amount",
    "ComputationalBudgetExceeded": "the compute unit limit is too low for the transfer",
    "ProgramFailedToComplete": "the compute unit limit is too low for the transfer",
}
_TRANSACTION_ERRORS = {
    "BlockhashNotFound": "the transaction's blockhash has expired or is not known yet; sign a new payment",
    "SignatureFailure": "a signature does not fit the transaction",
    "ProgramAccountNotFound": "a program that the transaction calls is not on this network",
    "InvalidAccountForFee": "the fee payer is not an ordinary wallet",
}
_FEE_PAYER_ERRORS = frozenset({"AccountNotFound", "InsufficientFundsForFee"})
_UNCLEAR = "an error that is not understood"
_NAME = re.compile(r"[A-Za-z]{1,64}", re.ASCII)


def message_to_sign(signed: SignedTransfer) -> bytes:
    """The bytes that the fee payer signs: the ones that the payer signed."""
    return signed.transfer.message


def cosign(signed: SignedTransfer, fee_payer_signature: bytes) -> tuple[str, bytes]:
    """The transaction's id (base58) and its final bytes.

    Raises `MisconfiguredError` when the signature is not the fee payer's over this message: such a transaction would
    never land under the id that was written down for it.
    """
    transfer = signed.transfer
    if len(fee_payer_signature) != Signature.LENGTH or not is_signed(
        transfer.fee_payer, fee_payer_signature, transfer.message
    ):
        raise MisconfiguredError(
            "invalid_fee_payer_signature",
            f"the signer of {transfer.fee_payer} gave a signature that does not fit its key",
        )
    raw = b"\x02" + fee_payer_signature + signed.payer_signature + transfer.message
    return str(Signature(fee_payer_signature)), raw


def is_id_of(transaction: str, signed: SignedTransfer) -> bool:
    """Whether a base58 id is the one under which this transfer lands: its fee payer's signature over the message."""
    try:
        signature = Signature.from_string(transaction)
    except ValueError:
        return False
    return is_signed(signed.transfer.fee_payer, bytes(signature), signed.transfer.message)


def destination_problem(account: SvmAccount | None, requirement: Requirement) -> RefusedError | None:
    """Why the seller's token account cannot take the payment, or None when it can (fault C13).

    `account` is the associated token account of `requirement.pay_to` as the chain shows it. An owner that was changed
    by SetAuthority would send the money to somebody else. Raises `RefusedError` for an asset that is not known.
    """
    asset = pinned_asset(requirement)
    # Somebody may have sent lamports to the address before the token account was created there.
    if account is None or not account.data:
        return why.refusal(
            why.DESTINATION_MISSING,
            f"{requirement.pay_to} has no token account for {asset.symbol}; the seller creates it once, for example "
            f"with: spl-token create-account {asset.address} --owner {requirement.pay_to}",
        )
    data = account.data
    plain = len(data) == _ACCOUNT_SIZE
    extended = len(data) > _ACCOUNT_SIZE and data[_ACCOUNT_SIZE] == _EXTENDED_ACCOUNT
    if account.owner != asset.token_program or not (plain or extended):
        return why.refusal(why.DESTINATION_INVALID)
    if data[_STATE_AT] == _FROZEN:
        return why.refusal(why.DESTINATION_FROZEN)
    if data[_STATE_AT] != _INITIALIZED or str(Pubkey(data[:32])) != asset.address:
        return why.refusal(why.DESTINATION_INVALID)
    owner = str(Pubkey(data[32:64]))
    if owner != requirement.pay_to:
        return why.refusal(
            why.DESTINATION_OWNER,
            f"the token account of {requirement.pay_to} was handed over to {owner}; the seller moves to another wallet",
        )
    return None


def moved(transaction: SvmTransaction, transfer: Transfer) -> bool:
    """Whether a landed transaction really paid: no error, and the seller's token account grew by the amount.

    A confirmed transaction may have failed (fault A14), and a successful one may have moved less (fault C05).
    """
    if transaction.error is not None:
        return False
    return any(
        balance.account == transfer.destination
        and balance.mint == transfer.mint
        # Old nodes leave the owner out.
        and balance.owner in ("", transfer.pay_to)
        and balance.after - balance.before >= transfer.amount
        for balance in transaction.balances
    )


def explain(error: str, *, landed: bool = False) -> tuple[str, str]:
    """Canonical reason and words for a node's `TransactionError` in JSON, from simulating or (`landed`) from landing.

    `duplicate_settlement` means that the very transaction is on chain already: look it up, do not refuse it. Whatever
    the text, there is an answer.
    """
    general = why.FAILED if landed else why.SIMULATION
    name, index, inner = _parse(error)
    if name == "AlreadyProcessed":
        return why.DUPLICATE, why.REASONS[why.DUPLICATE].words
    if name in _FEE_PAYER_ERRORS or (name == "InsufficientFundsForRent" and index == 0):
        return why.FEE_PAYER_EMPTY, why.REASONS[why.FEE_PAYER_EMPTY].words
    if name != "InstructionError":
        return general, _TRANSACTION_ERRORS.get(name, f"the network answered {name}")
    if inner in (1, "InsufficientFunds"):
        return why.INSUFFICIENT_FUNDS, why.REASONS[why.INSUFFICIENT_FUNDS].words
    if isinstance(inner, int):
        if inner in _GUARD_ERRORS:
            return general, f"instruction {index + 1}, a guard that the wallet added, stopped the transaction ({inner})"
        return general, _TOKEN_ERRORS.get(inner, f"instruction {index + 1} failed with error {inner}")
    return general, _INSTRUCTION_ERRORS.get(inner, f"instruction {index + 1} failed with {inner}")


def _parse(error: str) -> tuple[str, int, str | int]:
    """Name, instruction or account index, and inner error of a `TransactionError`; -1 and "" where it has none."""
    value: Any
    try:
        value = json.loads(error)
    except (ValueError, RecursionError):
        value = error
    name, detail = _variant(value)
    if name != "InstructionError":
        index = detail.get("account_index") if isinstance(detail, dict) else None
        return name, index if type(index) is int else -1, ""
    if not isinstance(detail, list) or len(detail) != 2 or type(detail[0]) is not int:
        return _UNCLEAR, -1, ""
    inner, argument = _variant(detail[1])
    return name, detail[0], argument if inner == "Custom" and type(argument) is int else inner


def _variant(value: Any) -> tuple[str, Any]:
    """Name and content of a Rust enum in JSON: `"Name"` or `{"Name": content}`. Foreign text never gets through."""
    content: Any = None
    if isinstance(value, dict) and len(value) == 1:
        ((value, content),) = value.items()
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value, content
    return _UNCLEAR, None
