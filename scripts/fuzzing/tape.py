"""Damage by choice: a short tape of bytes decides which member of a valid message is wounded, and how.

A tape costs microseconds, replays exactly, and in Hypothesis' hands shrinks to the few bytes that matter.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


def _nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


NAMES = [
    "x402Version", "scheme", "network", "amount", "maxAmountRequired", "asset", "payTo", "pay_to",
    "maxTimeoutSeconds", "extra", "resource", "url", "description", "mimeType", "accepts", "accepted", "payload",
    "extensions", "error", "success", "transaction", "payer", "errorReason", "isValid", "invalidReason", "kinds",
    "signers", "paymentPayload", "paymentRequirements", "version", "unreadable", "details", "type", "message",
    "info", "id", "authorization", "signature", "from", "to", "value", "validAfter", "validBefore", "nonce",
    "feePayer", "memo", "quote", "messages", "model", "content", "role", "stream", "usage", "choices",
]  # fmt: skip
"""Member names that mean something somewhere, so that a member may turn up where it does not belong."""

JUNK: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 60, 1.5, 1e308, -0.0, 2**63, 2**64, 2**256, -(10**77), 10**79,
    "", " ", "0", "1", "-1", "+1", "01", "1_0", "1e3", "1.0", " 1", "1\n", "٣", "18446744073709551616", "9" * 78,
    str(2**256 - 1), str(2**256), "9" * 5_000, "0x", "0x0", "0xg", "0x" + "0" * 64, "0x" + "f" * 130, "true", "NaN",
    "exact", "upto", "base", "solana", "eip155:8453", "eip155:84532", "eip155:*", "solana:*", "lightning", "null",
    "{}", "[", '{"a":1,"a":2}', "%zz", "\x00", "\r\nX: y", "\ud800", "é😀", "n" * 600, "u" * 5_000, "A" * 20_000,
    "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "11111111111111111111111111111111", "success", "javascript:1",
    [], {}, [[]], {"": ""}, {"a": None}, [None], ["a"], {"info": {"id": "x"}}, {"url": "u"}, {"x402Version": 1},
    {"message": "m"}, [0] * 300, {str(index): index for index in range(200)}, _nested(19), _nested(40), _nested(150),
    float("nan"), float("inf"),
]  # fmt: skip
FRAGMENTS = [
    '"', "{", "}", "[", "]", ":", ",", "null", "NaN", "-Infinity", "1e999", "\\", "\\ud800", "\\u0000", "\x00",
    "\ufeff", "[" * 40, "[" * 3_000, '{"a":' * 25, "9" * 90, "0" * 90, '"amount":"1",', '"x402Version":1,',
    '"x402Version":2,', "é", "😀",
    " ", "\n", "//", "'", "0x1", "1_0", "true", "=", "==", "%", "-", "_", "data: ", "\n\n", "\r\n", "event: x\n",
]  # fmt: skip
BYTES = [
    b"\x00", b"\xff", b"\xff\xfe", b"\x80", b"\x80\x00", b"\x80\x80\x00", b"\xff\xff\x03", b"\xff" * 8, b"\x00" * 8,
    b"\x01", b"\x7f", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00" * 32, b"\xff" * 32, b"\r\n", b"\n\n",
]  # fmt: skip

_JUNK = [marshal.dumps(value) for value in JUNK]


class Tape:
    """Choices read from bytes; an exhausted tape always chooses the first."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit - 1`."""
        return (next(self._bytes, 0) * 256 + next(self._bytes, 0)) % limit if limit > 1 else 0

    def choose(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]


@lru_cache(maxsize=512)
def _marshalled(text: str) -> bytes:
    return marshal.dumps(json.loads(text))


def fresh(text: str) -> Any:
    """A copy of its own of the JSON value that `text` is."""
    return marshal.loads(_marshalled(text))


def junk(tape: Tape) -> Any:
    """A value that hardly belongs where it goes."""
    return marshal.loads(tape.choose(_JUNK))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a message, outermost first."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            keys: Any = list(container)
        elif isinstance(container, list):
            keys = range(len(container))
        else:
            continue
        for key in keys:
            found.append((container, key))
            waiting.append(container[key])
    return found


def damage(wounded: Any, tape: Tape, wounds: int = 3) -> Any:
    """A message, wounded in place one to `wounds` times; what is returned may be something else altogether."""
    for _ in range(1 + tape.below(wounds)):
        options = places(wounded)
        if not options:
            return junk(tape)
        container, key = tape.choose(options)
        match tape.below(9):
            case 0 | 1 | 2:
                container[key] = junk(tape)
            case 3:
                del container[key]
            case 4 if isinstance(container, dict):
                container[tape.choose(NAMES)] = container.pop(key)
            case 5:
                container[key] = [container[key]] if tape.below(2) else {tape.choose(NAMES): container[key]}
            case 6 if isinstance(container, list):
                container.append(junk(tape))
            case 7:
                other, name = tape.choose(options)
                if (isinstance(other, dict) and name in other) or (isinstance(other, list) and name < len(other)):
                    container[key] = marshal.loads(marshal.dumps(other[name]))
            case 8 if isinstance(container[key], str):
                container[key] = tear(container[key], tape)
            case _ if isinstance(container, dict):
                container[tape.choose(NAMES)] = junk(tape)
            case _:
                container.insert(0, junk(tape))
    return wounded


def tear(text: str, tape: Tape) -> str:
    """The text after one to three cuts, doublings and insertions."""
    for _ in range(1 + tape.below(3)):
        start = tape.below(len(text) + 1)
        end = min(len(text), start + tape.below(30))
        match tape.below(5):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] + text[end:]
            case 2:
                text = text[:start] + tape.choose(FRAGMENTS) + text[start:]
            case 3:
                text = text[:start]
            case _:
                text = text[:start] + tape.choose(FRAGMENTS) + text[end:]
    return text


def maul(data: bytes, tape: Tape, wounds: int = 4) -> bytes:
    """Bytes after one to `wounds` flips, cuts, doublings and insertions; now and then something else altogether."""
    if tape.below(64) == 0:
        return bytes(tape.below(256) for _ in range(tape.below(24)))
    mauled = bytearray(data)
    for _ in range(1 + tape.below(wounds)):
        if not mauled:
            break
        at = tape.below(len(mauled))
        match tape.below(7):
            case 0:
                mauled[at] ^= 1 << tape.below(8)
            case 1:
                mauled[at] = tape.below(256)
            case 2:
                del mauled[at : at + 1 + tape.below(40)]
            case 3:
                mauled[at:at] = tape.choose(BYTES)
            case 4:
                mauled[at:at] = mauled[at : at + 1 + tape.below(40)]
            case 5:
                del mauled[at:]
            case _:
                mauled[at] = (mauled[at] + tape.choose((1, 255))) % 256
    return bytes(mauled)
