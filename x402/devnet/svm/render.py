"""Accounts, transactions and errors in the shapes of Solana's JSON-RPC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from solders.account import Account
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0

from x402.devnet.svm.bank import message_of
from x402.devnet.svm.encoding import base58_decode, base58_encode, encode_data
from x402.devnet.svm.history import Json, Landed
from x402.devnet.svm.tokens import TOKEN_PROGRAMS, amount_json, parsed_token_data

MEMO_PROGRAMS = frozenset(
    {"MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"}
)
_TOKEN_PROGRAM_NAMES = {str(program): name for program, name in TOKEN_PROGRAMS.items()}
_TRANSFER, _TRANSFER_CHECKED = 3, 12

_ERROR_TEXTS = {
    "AccountInUse": "Account in use",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AddressLookupTableNotFound": "Transaction loads an address table account that doesn't exist",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "SanitizeFailure": "Transaction failed to sanitize accounts offsets correctly",
    "SignatureFailure": "Transaction did not pass signature verification",
}
_INSTRUCTION_TEXTS = {
    "ComputationalBudgetExceeded": "Computational budget exceeded",
    "IncorrectProgramId": "incorrect program id for instruction",
    "InsufficientFunds": "insufficient funds for instruction",
    "InvalidAccountData": "invalid account data for instruction",
    "InvalidInstructionData": "invalid instruction data",
    "MissingRequiredSignature": "missing required signature for instruction",
    "ProgramFailedToComplete": "Program failed to complete",
}


def error_text(error: Json) -> str:
    """What a node says for a `TransactionError` in JSON form."""
    if isinstance(error, str):
        return _ERROR_TEXTS.get(error, error)
    match error:
        case {"InstructionError": [index, {"Custom": int(code)}]}:
            return f"Error processing Instruction {index}: custom program error: {code:#x}"
        case {"InstructionError": [index, str(name)]}:
            return f"Error processing Instruction {index}: {_INSTRUCTION_TEXTS.get(name, name)}"
        case {"InsufficientFundsForRent": {"account_index": index}}:
            return f"Transaction results in an account ({index}) with insufficient funds for rent"
    return json.dumps(error)


def account_json(svm: LiteSVM, account: Account | None, encoding: str, piece: tuple[int, int] | None = None) -> Json:
    """A `UiAccount`, or None for no account; `piece` is the offset and length of a `dataSlice`.

    Raises ValueError for an unknown encoding and for data that is too long for base58.
    """
    if account is None:
        return None
    data = None
    if encoding == "jsonParsed":
        data = parsed_token_data(svm, account)
        encoding = "base64"
    if data is None:
        raw = account.data
        data = encode_data(raw if piece is None else raw[piece[0] : piece[0] + piece[1]], encoding)
    return {
        "data": data,
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": account.rent_epoch,
        "space": len(account.data),
    }


def transaction_json(landed: Landed, encoding: str) -> Json:
    """The answer of `getTransaction`. Raises ValueError for an unknown encoding."""
    transaction = landed.transaction
    message = message_of(transaction)
    meta: dict[str, Any] = landed.meta
    keys = all_keys(message, meta["loadedAddresses"])
    if meta["returnData"] is None:
        del meta["returnData"]
    body: Json
    if encoding in ("json", "jsonParsed"):
        parsed = encoding == "jsonParsed"
        if parsed:
            meta["innerInstructions"] = parse_inner(meta["innerInstructions"], keys)
            del meta["loadedAddresses"]
        body = {
            "signatures": [str(signature) for signature in transaction.signatures],
            "message": _message_parsed(message, keys) if parsed else _message_json(message),
        }
    elif encoding in ("base64", "base58"):
        raw = landed.raw
        body = encode_data(raw, "base64") if encoding == "base64" else [base58_encode(raw), "base58"]
    else:
        raise ValueError(f"unknown encoding {encoding[:40]!r}")
    return {
        "slot": landed.slot,
        "blockTime": landed.block_time,
        "transaction": body,
        "meta": meta,
        "version": version(message),
    }


def version(message: Message | MessageV0) -> str | int:
    """`"legacy"` or 0, as `getTransaction` reports it."""
    return "legacy" if isinstance(message, Message) else 0


def memo_json(landed: Landed) -> str | None:
    """The memos of a transaction as `getSignaturesForAddress` lists them, such as `[5] hello`."""
    message = message_of(landed.transaction)
    keys = message.account_keys
    memos = [
        f"[{len(instruction.data)}] {bytes(instruction.data).decode('utf-8', 'replace')}"
        for instruction in message.instructions
        if str(keys[instruction.program_id_index]) in MEMO_PROGRAMS
    ]
    return "; ".join(memos) or None


def all_keys(message: Message | MessageV0, loaded: Mapping[str, Sequence[str]]) -> list[str]:
    """A message's static addresses, then those loaded from lookup tables, in the order of its indexes."""
    return [*(str(key) for key in message.account_keys), *loaded["writable"], *loaded["readonly"]]


def parse_inner(groups: Sequence[Any], keys: Sequence[str]) -> list[Json]:
    """Inner instructions in `jsonParsed` form."""
    return [
        {
            "index": group["index"],
            "instructions": [
                _parse_instruction(keys, i["programIdIndex"], i["accounts"], base58_decode(i["data"]), i["stackHeight"])
                for i in group["instructions"]
            ],
        }
        for group in groups
    ]


def _message_json(message: Message | MessageV0) -> Json:
    header = message.header
    rendered: dict[str, Json] = {
        "accountKeys": [str(key) for key in message.account_keys],
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": instruction.program_id_index,
                "accounts": list(instruction.accounts),
                "data": base58_encode(instruction.data),
                "stackHeight": None,
            }
            for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        rendered["addressTableLookups"] = _lookups_json(message)
    return rendered


def _message_parsed(message: Message | MessageV0, keys: Sequence[str]) -> Json:
    static = len(message.account_keys)
    loaded_writable = 0
    if isinstance(message, MessageV0):
        loaded_writable = sum(len(lookup.writable_indexes) for lookup in message.address_table_lookups)
    rendered: dict[str, Json] = {
        "accountKeys": [
            {
                "pubkey": key,
                "signer": index < message.header.num_required_signatures,
                "writable": _is_writable(message, index) if index < static else index - static < loaded_writable,
                "source": "transaction" if index < static else "lookupTable",
            }
            for index, key in enumerate(keys)
        ],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            _parse_instruction(keys, i.program_id_index, list(i.accounts), bytes(i.data), None)
            for i in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        rendered["addressTableLookups"] = _lookups_json(message)
    return rendered


def _is_writable(message: Message | MessageV0, index: int) -> bool:
    header = message.header
    signers = header.num_required_signatures
    end = signers - header.num_readonly_signed_accounts
    if index >= signers:
        end = len(message.account_keys) - header.num_readonly_unsigned_accounts
    return index < end and not message.is_key_called_as_program(index)


def _lookups_json(message: MessageV0) -> Json:
    return [
        {
            "accountKey": str(lookup.account_key),
            "writableIndexes": list(lookup.writable_indexes),
            "readonlyIndexes": list(lookup.readonly_indexes),
        }
        for lookup in message.address_table_lookups
    ]


def _parse_instruction(
    keys: Sequence[str], program_index: int, accounts: Sequence[int], data: bytes, height: int | None
) -> Json:
    program = keys[program_index]
    named = [keys[index] for index in accounts]
    parsed: Json = None
    name = _TOKEN_PROGRAM_NAMES.get(program, "spl-memo")
    if program in MEMO_PROGRAMS:
        parsed = data.decode("utf-8", "replace")
    elif program in _TOKEN_PROGRAM_NAMES:
        parsed = _parse_token_instruction(named, data)
    if parsed is None:
        return {"programId": program, "accounts": named, "data": base58_encode(data), "stackHeight": height}
    return {"program": name, "programId": program, "parsed": parsed, "stackHeight": height}


def _parse_token_instruction(accounts: Sequence[str], data: bytes) -> Json:
    amount = int.from_bytes(data[1:9], "little")
    if len(data) >= 10 and data[0] == _TRANSFER_CHECKED and len(accounts) == 4:
        source, coin, destination, authority = accounts
        return {
            "type": "transferChecked",
            "info": {
                "source": source,
                "mint": coin,
                "destination": destination,
                "authority": authority,
                "tokenAmount": amount_json(amount, data[9]),
            },
        }
    if len(data) == 9 and data[0] == _TRANSFER and len(accounts) == 3:
        source, destination, authority = accounts
        info: Json = {
            "source": source,
            "destination": destination,
            "authority": authority,
            "amount": str(amount),
        }
        return {"type": "transfer", "info": info}
    return None
