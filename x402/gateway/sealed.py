"""Secrets that must be read again, at rest: AES-256-GCM under a key that is not in the database (aimo row 98).

What is only compared is kept as a digest instead. Each sealed text is bound to what it is for, so that a row that was
copied over another one opens nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from x402.errors import MisconfiguredError

_NONCE_BYTES, _TAG_BYTES = 12, 16
_FORM = b"\x01"


class Seal:
    """Seals with the first of `keys` and opens with any; each is a secret of at least 16 bytes.

    Without keys nothing can be sealed, because it could not be opened by the next process.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        derived = [hashlib.blake2b(key, digest_size=32, person=b"x402 secrets").digest() for key in keys]
        self._keys = [AESGCM(key) for key in derived]

    def seal(self, purpose: str, secret: bytes) -> bytes:
        """The secret, unreadable. Raises `MisconfiguredError("no_sealing_key")`."""
        if not self._keys:
            raise MisconfiguredError("no_sealing_key", "set X402_ANSWER_KEY: without it no secret can be kept")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._keys[0].encrypt(nonce, secret, purpose.encode())
        return _FORM + nonce + sealed[-_TAG_BYTES:] + sealed[:-_TAG_BYTES]

    def open(self, purpose: str, sealed: bytes) -> bytes | None:
        """The secret; None when it was sealed for something else, or with a key that is gone."""
        head = len(_FORM) + _NONCE_BYTES
        nonce, tag, body = sealed[len(_FORM) : head], sealed[head : head + _TAG_BYTES], sealed[head + _TAG_BYTES :]
        if not sealed.startswith(_FORM) or len(tag) != _TAG_BYTES:
            return None
        for key in self._keys:
            try:
                return key.decrypt(nonce, body + tag, purpose.encode())
            except InvalidTag:
                continue
        return None
