"""Blocks, transactions, receipts and logs as go-ethereum prints them in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eth.abc import LogAPI
from eth_typing import Address

from .chain import Included, Mined
from .pool import Signed

Json = dict[str, Any]


def quantity(value: int) -> str:
    """A number as a hex quantity."""
    return hex(value)


def data(value: bytes) -> str:
    """Bytes as hex data."""
    return "0x" + value.hex()


def word(value: int) -> str:
    """A number as 32 bytes of hex data."""
    return f"0x{value:064x}"


def _bloom(value: int) -> str:
    return f"0x{value:0512x}"


def block(mined: Mined, full: bool) -> Json:
    """A block, with whole transactions if `full`, else with their hashes."""
    header: Any = mined.header
    listed: list[Any]
    if full:
        listed = [transaction(one.signed, mined, one) for one in mined.included]
    else:
        listed = [data(one.signed.hash) for one in mined.included]
    return {
        "number": quantity(mined.number),
        "hash": data(mined.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": _bloom(header.bloom),
        "transactionsRoot": data(header.transaction_root),
        "stateRoot": data(header.state_root),
        "receiptsRoot": data(header.receipt_root),
        "miner": data(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "size": quantity(mined.size),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
        "transactions": listed,
        "withdrawals": [],
        "uncles": [],
    }


def transaction(signed: Signed, mined: Mined | None, included: Included | None) -> Json:
    """A transaction, mined (`mined` and `included` given) or waiting."""
    tx: Any = signed.tx
    v = tx.y_parity if signed.type_id else tx.v
    rendered: Json = {
        "hash": data(signed.hash),
        "type": quantity(signed.type_id),
        "chainId": quantity(tx.chain_id),
        "nonce": quantity(tx.nonce),
        "from": data(signed.sender),
        "to": data(tx.to) if tx.to else None,
        "value": quantity(tx.value),
        "gas": quantity(tx.gas),
        "gasPrice": quantity(signed.fee_cap if included is None else included.price),
        "input": data(tx.data),
        "v": quantity(v),
        "r": quantity(tx.r),
        "s": quantity(tx.s),
        "blockHash": None if mined is None else data(mined.hash),
        "blockNumber": None if mined is None else quantity(mined.number),
        "transactionIndex": None if included is None else quantity(included.index),
    }
    if signed.type_id:
        rendered["yParity"] = quantity(v)
        rendered["accessList"] = [
            {"address": data(address), "storageKeys": [word(key) for key in keys]} for address, keys in tx.access_list
        ]
    if signed.type_id >= 2:
        rendered["maxFeePerGas"] = quantity(signed.fee_cap)
        rendered["maxPriorityFeePerGas"] = quantity(signed.tip_cap)
    if signed.type_id == 4:
        rendered["authorizationList"] = [_authorization(one) for one in tx.authorization_list]
    return rendered


def _authorization(one: Any) -> Json:
    return {
        "chainId": quantity(one.chain_id),
        "address": data(one.address),
        "nonce": quantity(one.nonce),
        "yParity": quantity(one.y_parity),
        "r": quantity(one.r),
        "s": quantity(one.s),
    }


def receipt(mined: Mined, included: Included) -> Json:
    """What a mined transaction did."""
    signed, outcome = included.signed, included.receipt
    return {
        "transactionHash": data(signed.hash),
        "transactionIndex": quantity(included.index),
        "blockHash": data(mined.hash),
        "blockNumber": quantity(mined.number),
        "from": data(signed.sender),
        "to": data(signed.tx.to) if signed.tx.to else None,
        "cumulativeGasUsed": quantity(outcome.gas_used),
        "gasUsed": quantity(included.gas_used),
        "effectiveGasPrice": quantity(included.price),
        "contractAddress": data(included.created) if included.created else None,
        "logs": [log(mined, included, offset, one) for offset, one in enumerate(outcome.logs)],
        "logsBloom": _bloom(outcome.bloom),
        "status": "0x1" if outcome.state_root == b"\x01" else "0x0",
        "type": quantity(signed.type_id),
    }


def log(mined: Mined, included: Included, offset: int, entry: LogAPI) -> Json:
    """One event, the one at `offset` among those of its transaction."""
    return {
        "address": data(entry.address),
        "topics": [word(topic) for topic in entry.topics],
        "data": data(entry.data),
        "blockNumber": quantity(mined.number),
        "blockHash": data(mined.hash),
        "blockTimestamp": quantity(mined.header.timestamp),
        "transactionHash": data(included.signed.hash),
        "transactionIndex": quantity(included.index),
        "logIndex": quantity(included.first_log_index + offset),
        "removed": False,
    }


def matching_logs(mined: Mined, addresses: frozenset[Address], topics: list[frozenset[bytes] | None]) -> Iterator[Json]:
    """The events of a block that pass a filter: any of `addresses` (none: all), and each position's topics."""
    for included in mined.included:
        for offset, entry in enumerate(included.receipt.logs):
            if addresses and entry.address not in addresses:
                continue
            if len(entry.topics) < len(topics):
                continue
            held = [topic.to_bytes(32, "big") for topic in entry.topics]
            if all(want is None or have in want for want, have in zip(topics, held, strict=False)):
                yield log(mined, included, offset, entry)
