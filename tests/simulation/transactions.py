"""EIP-1559 transactions as a chain reads them: RLP, and the sender from the signature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from x402.schemes import eip712
from x402.schemes.eip712 import keccak

Item = bytes | list["Item"]


def encode(item: Any) -> bytes:
    """RLP of bytes, or of a list of them."""
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _head(len(item), 0x80) + item
    body = b"".join(encode(one) for one in item)
    return _head(len(body), 0xC0) + body


def _head(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(size)]) + size


def decode(data: bytes) -> Item:
    """The one item that the bytes are. Raises `ValueError` for anything else."""
    item, end = _read(data, 0)
    if end != len(data):
        raise ValueError("more bytes than one item")
    return item


def _read(data: bytes, at: int) -> tuple[Item, int]:
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    offset = 0xC0 if first >= 0xC0 else 0x80
    start, length = at + 1, first - offset
    if length > 55:
        size = length - 55
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    end = start + length
    if end > len(data):
        raise ValueError("the item is cut off")
    if offset == 0x80:
        return data[start:end], end
    items: list[Item] = []
    while start < end:
        item, start = _read(data, start)
        items.append(item)
    return items, end


@dataclass(frozen=True, slots=True)
class SentTransaction:
    """A transaction as a chain sees it. Fees in wei per gas; `call` is the calldata."""

    hash: str
    sender: str
    nonce: int
    max_fee: int
    priority_fee: int
    gas: int
    to: str
    call: bytes
    chain_id: int = 0


@lru_cache(maxsize=4096)
def read_transaction(raw: bytes) -> SentTransaction:
    """The transaction in signed bytes, its sender recovered. Raises `ValueError`."""
    if raw[:1] != b"\x02":
        raise ValueError("no type-2 transaction")
    members = decode(raw[1:])
    if not isinstance(members, list) or len(members) != 12:
        raise ValueError("a type-2 transaction has twelve members")
    chain_id, nonce, priority, fee, gas, _, parity = (_number(members[at]) for at in (0, 1, 2, 3, 4, 6, 9))
    to, call, r, s = (bytes(members[at]) for at in (5, 7, 10, 11))  # type: ignore[arg-type]
    digest = keccak(b"\x02" + encode(members[:9]))
    sender = eip712.recover(digest, r.rjust(32, b"\0") + s.rjust(32, b"\0") + bytes([parity]))
    if sender is None:
        raise ValueError("nobody signed this")
    identity = "0x" + keccak(raw).hex()
    return SentTransaction(identity, sender, nonce, fee, priority, gas, "0x" + to.hex(), call, chain_id)


def _number(item: Item) -> int:
    if isinstance(item, list):
        raise ValueError("a list stands where a number belongs")
    return int.from_bytes(item, "big")
