"""The encodings of Solana's JSON-RPC: base58, base64, and base64 over a zstd frame."""

from __future__ import annotations

import base64

from x402.devnet.svm.history import Json

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: digit for digit, letter in enumerate(_ALPHABET)}

_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]

BASE58_LIMIT = 128
"""The longest account data, in bytes, that a node is willing to put into base58."""

_ZSTD_BLOCK = 128 * 1024


def base58_encode(data: bytes) -> str:
    """Bitcoin-alphabet base58; leading zero bytes become `1`."""
    number = int.from_bytes(data, "big")
    pairs: list[str] = []
    while number:
        # Two letters at a time: long numbers are divided half as often.
        number, digits = divmod(number, 58 * 58)
        pairs.append(_PAIRS[digits])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(pairs)).lstrip("1")


def base58_decode(text: str) -> bytes:
    """The inverse of `base58_encode`. Raises ValueError for a letter outside the alphabet."""
    number = 0
    for letter in text:
        digit = _DIGITS.get(letter)
        if digit is None:
            raise ValueError(f"{letter!r} is no base58 letter")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def zstd_frame(data: bytes) -> bytes:
    """A valid zstd frame that stores `data` uncompressed (RFC 8878 section 3.1.1, raw blocks).

    The standard library of the supported Pythons has no zstd, and a devnet has no need to save bytes.
    """
    frame = bytearray(b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little"))
    blocks = [data[i : i + _ZSTD_BLOCK] for i in range(0, len(data), _ZSTD_BLOCK)] or [b""]
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return bytes(frame)


def encode_data(data: bytes, encoding: str) -> Json:
    """Account data in one of the wire's encodings.

    Raises ValueError for an unknown encoding, and for data that is too long for base58.
    """
    if encoding == "base64":
        return [base64.b64encode(data).decode(), "base64"]
    if encoding == "base64+zstd":
        return [base64.b64encode(zstd_frame(data)).decode(), "base64+zstd"]
    if encoding not in ("base58", "binary"):
        raise ValueError(f"unknown encoding {encoding[:40]!r}")
    if len(data) > BASE58_LIMIT:
        raise ValueError(
            f"Encoded binary (base 58) data should be less than {BASE58_LIMIT} bytes, please use Base64 encoding."
        )
    text = base58_encode(data)
    return text if encoding == "binary" else [text, "base58"]
