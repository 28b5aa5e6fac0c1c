"""Multicall3's `aggregate3`: many calls in one, each of which may fail alone (fixed ABI layout, no library).

aggregate3((address target, bool allowFailure, bytes callData)[]) returns ((bool success, bytes returnData)[])
"""

from __future__ import annotations

from collections.abc import Sequence

from x402.chain import CallResult, revert_text
from x402.schemes.eip712 import address_word, keccak, uint256

AGGREGATE3 = keccak(b"aggregate3((address,bool,bytes)[])")[:4]
_WORD = 32
_MAY_FAIL = uint256(1)
_BYTES_AT = uint256(3 * _WORD)

Call = tuple[str, bytes]
"""A contract's address and the calldata for it."""


def aggregate3(calls: Sequence[Call]) -> bytes:
    """Calldata that makes these calls in their order, whichever of them fail."""
    heads: list[bytes] = []
    tails: list[bytes] = []
    at = _WORD * len(calls)
    for target, data in calls:
        tail = b"".join(
            (address_word(target), _MAY_FAIL, _BYTES_AT, uint256(len(data)), data, bytes(-len(data) % _WORD))
        )
        heads.append(uint256(at))
        tails.append(tail)
        at += len(tail)
    return b"".join((AGGREGATE3, uint256(_WORD), uint256(len(calls)), *heads, *tails))


def results(data: bytes, count: int) -> Sequence[CallResult] | None:
    """What each of `count` calls returned, or None when the data is no such list."""
    if _number(data, 0) != _WORD or _number(data, _WORD) != count:
        return None
    found = []
    for index in range(count):
        offset = _number(data, 2 * _WORD + _WORD * index)
        if offset is None or offset > len(data):
            return None
        start = 2 * _WORD + offset
        succeeded, bytes_at = _number(data, start), _number(data, start + _WORD)
        if succeeded not in (0, 1) or bytes_at != 2 * _WORD:
            return None
        length = _number(data, start + 2 * _WORD)
        body = start + 3 * _WORD
        if length is None or body + length > len(data):
            return None
        said = data[body : body + length]
        found.append(CallResult(True, said) if succeeded else CallResult(False, revert=revert_text(said) or ""))
    return found


def read(call: bytes) -> Sequence[Call] | None:
    """The calls that an `aggregate3` makes, or None for any other calldata; the reverse of `aggregate3`."""
    words = call[4:]
    count = _number(words, _WORD)
    if call[:4] != AGGREGATE3 or _number(words, 0) != _WORD or count is None or count > len(words):
        return None
    calls: list[Call] = []
    for index in range(count):
        offset = _number(words, 2 * _WORD + _WORD * index)
        if offset is None or offset > len(words):
            return None
        start = 2 * _WORD + offset
        target, length = _number(words, start), _number(words, start + 3 * _WORD)
        body = start + 4 * _WORD
        if target is None or length is None or body + length > len(words):
            return None
        calls.append((f"0x{target:040x}", words[body : body + length]))
    return calls


def _number(data: bytes, at: int) -> int | None:
    """The word at an offset, or None beyond the end."""
    word = data[at : at + _WORD]
    return int.from_bytes(word, "big") if len(word) == _WORD else None
