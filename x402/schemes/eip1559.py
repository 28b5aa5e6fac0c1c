"""The EIP-1559 transaction (type 2), as the sender of settlements writes it: fixed fields, RLP, one keccak.

An access list is never used. Values are integers in wei, addresses `0x` hex, hashes `0x` hex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import coincurve

from x402.schemes.eip712 import keccak

_TYPE = b"\x02"
_RLP_SHORT = 55


@dataclass(frozen=True, slots=True)
class EvmTransaction:
    """What is signed. `max_fee` and `priority_fee` are wei per gas, `gas` the limit."""

    chain_id: int
    nonce: int
    to: str
    gas: int
    max_fee: int
    priority_fee: int
    data: bytes = b""
    value: int = 0

    def sign(self, key: coincurve.PrivateKey) -> tuple[str, bytes]:
        """The transaction's hash and its raw bytes (EIP-1559, EIP-2718)."""
        return self.sign_with(lambda digest: key.sign_recoverable(digest, hasher=None))

    def sign_with(self, signer: Callable[[bytes], bytes]) -> tuple[str, bytes]:
        """The same by a signer of 32-byte digests; its v may be a parity, or 27 more."""
        fields: list[bytes | Sequence[bytes]] = [
            _integer(self.chain_id),
            _integer(self.nonce),
            _integer(self.priority_fee),
            _integer(self.max_fee),
            _integer(self.gas),
            bytes.fromhex(self.to[2:]),
            _integer(self.value),
            self.data,
            [],
        ]
        signature = signer(keccak(_TYPE + _list(fields)))
        r, s = signature[:32].lstrip(b"\0"), signature[32:64].lstrip(b"\0")
        raw = _TYPE + _list([*fields, _integer(signature[64] % 27), r, s])
        return "0x" + keccak(raw).hex(), raw


def _integer(value: int) -> bytes:
    if value < 0:
        raise ValueError("a transaction's numbers are not negative")
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _list(items: Sequence[bytes | Sequence[bytes]]) -> bytes:
    body = b"".join(_text(item) if isinstance(item, bytes) else _list(item) for item in items)
    return _prefix(0xC0, len(body)) + body


def _text(value: bytes) -> bytes:
    if len(value) == 1 and value[0] < 0x80:
        return value
    return _prefix(0x80, len(value)) + value


def _prefix(offset: int, length: int) -> bytes:
    if length <= _RLP_SHORT:
        return bytes([offset + length])
    size = _integer(length)
    return bytes([offset + _RLP_SHORT + len(size)]) + size
