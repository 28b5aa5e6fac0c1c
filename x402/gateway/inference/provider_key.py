"""A registered provider's API key, encrypted before it is written down (aimo row 98)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence

from Crypto.Cipher import AES

_NONCE_BYTES, _TAG_BYTES = 12, 16


def seal(key: str, provider: str, secrets_: Sequence[bytes]) -> str:
    """A key for nobody but us, bound to its provider; an empty key stays empty. The first secret seals."""
    if not key:
        return ""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    body, tag = _cipher(secrets_[0], nonce, provider).encrypt_and_digest(key.encode())
    return base64.b64encode(nonce + tag + body).decode()


def unseal(sealed: str, provider: str, secrets_: Sequence[bytes]) -> str | None:
    """The key again, or None when none of the secrets opens it."""
    if not sealed:
        return ""
    try:
        data = base64.b64decode(sealed, validate=True)
    except ValueError:
        return None
    nonce, tag, body = data[:_NONCE_BYTES], data[_NONCE_BYTES:][:_TAG_BYTES], data[_NONCE_BYTES + _TAG_BYTES :]
    for secret in secrets_:
        try:
            plain: bytes = _cipher(secret, nonce, provider).decrypt_and_verify(body, tag)
        except ValueError:
            continue
        return plain.decode()
    return None


def _cipher(secret: bytes, nonce: bytes, provider: str) -> AES.GcmMode:  # type: ignore[name-defined]
    key = hashlib.blake2b(secret, digest_size=32, person=b"x402 provider").digest()
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG_BYTES)
    cipher.update(provider.encode())
    return cipher
