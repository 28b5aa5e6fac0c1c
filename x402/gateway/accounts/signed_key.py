"""Keys that a wallet issues to itself: `aimo-sk-<tag>-<base58 of 130 bytes>` (aimo §2.6).

    byte 0       version: 1 as AiMo's node reads it, 2 is ours
    byte 1       wallet: 0 is Solana
    2..33        the signer's Ed25519 public key
    34..97       its signature
    98..129      created_at and valid_for (i64, milliseconds), usage_limit (u64, 0 is none), scopes (u64, one bit each)

Version 1 signs the last 32 bytes and nothing else, so whoever sees such a key may use it at any other node, under any
tag. Version 2 has the same layout, and signs a text that a person can read, which names the gateway and the tag.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import StrEnum

from solders.pubkey import Pubkey
from solders.signature import Signature

from x402.errors import MalformedError

CODE = "invalid_api_key"
KEY_BYTES = 130
THEIRS, OURS = 1, 2
_SOLANA = 0
_LAYOUT = struct.Struct(">BB32s64s")
_TERMS = struct.Struct(">qqQQ")
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {mark: value for value, mark in enumerate(_ALPHABET)}
_LONGEST = 200
"""More characters than 130 bytes have in base58."""


class Scope(StrEnum):
    """What a key may be used for; the order is that of the bits in a signed key."""

    CHAT = "completion_model"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    BILLING = "billing"
    KEYS = "keys"


_BITS = tuple(Scope)
_KNOWN_BITS = {THEIRS: 1, OURS: (1 << len(_BITS)) - 1}
"""AiMo's layout has one scope; a bit that is not known makes a key unreadable rather than mightier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What the wallet signs: for how long, how often, for what. Times in unix milliseconds; 0 uses is no limit."""

    created_at_ms: int
    valid_for_ms: int
    usage_limit: int = 0
    scopes: frozenset[Scope] = frozenset({Scope.CHAT})

    def __post_init__(self) -> None:
        for name, value, most in (
            ("created_at", self.created_at_ms, 2**62),
            ("valid_for", self.valid_for_ms, 2**62),
            ("usage_limit", self.usage_limit, 2**64 - 1),
        ):
            if type(value) is not int or not 0 <= value <= most:
                raise MalformedError(CODE, f"{name} is a whole number from 0 to {most}")

    @property
    def ends_at_ms(self) -> int:
        """The last millisecond in which the key is good."""
        return self.created_at_ms + self.valid_for_ms

    def packed(self) -> bytes:
        """The 32 bytes of the layout; all that version 1 signs."""
        bits = sum(1 << _BITS.index(scope) for scope in self.scopes)
        return _TERMS.pack(self.created_at_ms, self.valid_for_ms, self.usage_limit, bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKey:
    """A key of that layout, its signature unchecked. `signer` is base58."""

    tag: str
    version: int
    signer: str
    signature: bytes = b""
    terms: KeyTerms

    def message(self, gateway: str) -> bytes:
        """What the wallet has to sign; `gateway` is the origin at which the key is good (`https://host[:port]`)."""
        if self.version == THEIRS:
            return self.terms.packed()
        lines = (
            "x402 API key, version 2",
            f"Gateway: {gateway}",
            f"Tag: {self.tag}",
            f"Wallet: solana {self.signer}",
            f"Created at: {self.terms.created_at_ms}",
            f"Valid for ms: {self.terms.valid_for_ms}",
            f"Usage limit: {self.terms.usage_limit}",
            f"Scopes: {' '.join(scope for scope in _BITS if scope in self.terms.scopes)}",
        )
        return "\n".join(lines).encode()

    def is_signed(self, gateway: str) -> bool:
        """Whether the signer signed exactly this key."""
        if len(self.signature) != 64:
            return False
        signer = Pubkey.from_string(self.signer)
        return bool(Signature(self.signature).verify(signer, self.message(gateway)))

    def signed_with(self, signature: bytes) -> SignedKey:
        """The same key with a signature."""
        if len(signature) != 64:
            raise MalformedError(CODE, "an Ed25519 signature has 64 bytes")
        return replace(self, signature=signature)

    def packed(self) -> bytes:
        """The 130 bytes, whose SHA-256 is what a revocation names."""
        signer = bytes(Pubkey.from_string(self.signer))
        return _LAYOUT.pack(self.version, _SOLANA, signer, self.signature) + self.terms.packed()

    def __str__(self) -> str:
        return f"aimo-sk-{self.tag}-{to_base58(self.packed())}"


def read_signed_key(tag: str, secret: str) -> SignedKey | None:
    """The key whose last part is `secret`; None for text that is nothing of that length at all.

    Raises `MalformedError("invalid_api_key")` for 130 bytes that say something unknown.
    """
    try:
        raw = from_base58(secret)
    except MalformedError:
        return None
    if len(raw) != KEY_BYTES:
        return None
    version, wallet, signer, signature = _LAYOUT.unpack(raw[: _LAYOUT.size])
    created, valid_for, usage_limit, bits = _TERMS.unpack(raw[_LAYOUT.size :])
    if version not in _KNOWN_BITS or wallet != _SOLANA:
        raise MalformedError(CODE, f"a signed key of version {version} for wallet {wallet} is not known here")
    if bits & ~_KNOWN_BITS[version]:
        raise MalformedError(CODE, "the key names scopes that are not known here")
    scopes = frozenset(scope for place, scope in enumerate(_BITS) if bits >> place & 1)
    terms = KeyTerms(created_at_ms=created, valid_for_ms=valid_for, usage_limit=usage_limit, scopes=scopes)
    return SignedKey(tag=tag, version=version, signer=str(Pubkey(signer)), signature=signature, terms=terms)


def to_base58(raw: bytes) -> str:
    """Bitcoin's base58, without a checksum."""
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text


def from_base58(text: str) -> bytes:
    """The bytes behind it. Raises `MalformedError` for other characters, and for more than a key has."""
    if len(text) > _LONGEST or any(mark not in _DIGITS for mark in text):
        raise MalformedError(CODE, "this is no base58")
    number = 0
    for mark in text:
        number = number * 58 + _DIGITS[mark]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
