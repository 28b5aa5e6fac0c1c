"""The EIP-1559 transaction (type 2), as the sender of settlements writes it: fixed fields, RLP, one keccak.

An access list is never used. Values are integers in wei, addresses `0x` hex, hashes `0x` hex. What somebody else has
signed is read in exactly the one spelling in which it would be written here, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import coincurve

from x402.errors import MalformedError
from x402.schemes.eip712 import checksum, keccak

_TYPE = b"\x02"
_RLP_SHORT = 55
_MEMBERS = 12
"""Of a signed transaction: nine that are signed, the parity, r and s."""


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
        signature = signer(self.digest())
        raw = self._raw(signature)
        return "0x" + keccak(raw).hex(), raw

    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        return keccak(_TYPE + _list(self._fields()))

    def _fields(self) -> list[bytes | Sequence[bytes]]:
        return [
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

    def _raw(self, signature: bytes) -> bytes:
        r, s = signature[:32].lstrip(b"\0"), signature[32:64].lstrip(b"\0")
        return _TYPE + _list([*self._fields(), _integer(signature[64] % 27), r, s])


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """Bytes that a node would take, what they say, and the 65-byte signature in them; `name` is the hash."""

    transaction: EvmTransaction
    signature: bytes
    name: str
    raw: bytes


def read_transaction(raw: bytes) -> SignedTransaction:
    """A transaction that somebody has signed; who that was is the caller's to recover.

    Raises `MalformedError("invalid_transaction")` for another type, an access list, a contract's creation, and any
    spelling but the shortest.
    """
    if not raw.startswith(_TYPE):
        raise _unreadable("only transactions of type 2 are read")
    members = _members(raw[len(_TYPE) :])
    if len(members) != _MEMBERS:
        raise _unreadable(f"{_MEMBERS} members are required")
    *_, to, _, data, _, parity, r, s = members
    if len(to) != 20 or max(len(r), len(s)) > 32 or parity not in (b"", b"\x01"):
        raise _unreadable("an address of 20 bytes and a signature are required")
    chain_id, nonce, tip, highest, gas, _, value = (int.from_bytes(member, "big") for member in members[:7])
    transaction = EvmTransaction(chain_id, nonce, checksum("0x" + to.hex()), gas, highest, tip, data, value)
    signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + (parity or b"\0")
    if transaction._raw(signature) != raw:
        raise _unreadable("it is not in the one spelling that a node takes")
    return SignedTransaction(transaction, signature, "0x" + keccak(raw).hex(), raw)


def _members(encoded: bytes) -> list[bytes]:
    """The members of a list of texts; an empty list among them is an empty text. The caller compares the spelling."""
    body, rest = _cut(encoded, 0xC0)
    members: list[bytes] = []
    while body and len(members) <= _MEMBERS:
        if body[0] == 0xC0:
            member, body = b"", body[1:]
        elif body[0] < 0x80:
            member, body = body[:1], body[1:]
        else:
            member, body = _cut(body, 0x80)
        members.append(member)
    if rest or body:
        raise _unreadable("there is more than one transaction")
    return members


def _cut(encoded: bytes, offset: int) -> tuple[bytes, bytes]:
    """What an RLP prefix announces, and what comes behind it."""
    first = encoded[0] - offset if encoded else -1
    if not 0 <= first < 0x40:
        raise _unreadable("the prefix is of another kind")
    if first <= _RLP_SHORT:
        start, size = 1, first
    else:
        start = 1 + first - _RLP_SHORT
        size = int.from_bytes(encoded[1:start], "big")
    if len(encoded) < start + size:
        raise _unreadable("it breaks off")
    return encoded[start : start + size], encoded[start + size :]


def _unreadable(words: str) -> MalformedError:
    return MalformedError("invalid_transaction", f"no signed transaction: {words}")


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
