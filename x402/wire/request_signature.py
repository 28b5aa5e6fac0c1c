"""A request signed with an API key, which then never travels (aimo row 19).

    Authorization: X402-HMAC key=<key id>,t=<unix second>,nonce=<16 to 64 letters or digits>,signature=<64 hex digits>

The signature is HMAC-SHA256 over method, target, the body's SHA-256, time and nonce, under a secret that both sides
derive from the key's text. It is good for five minutes, and once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from x402.errors import MalformedError

SCHEME = "X402-HMAC"
LIFETIME_SECONDS = 300
_FIELDS = re.compile(
    r"key=([A-Za-z0-9_-]{1,64}),t=(\d{1,12}),nonce=([A-Za-z0-9]{16,64}),signature=([0-9a-f]{64})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What such a header says."""

    key_id: str
    at: int
    nonce: str
    signature: str

    def as_header(self) -> str:
        """The value of `Authorization`."""
        return f"{SCHEME} key={self.key_id},t={self.at},nonce={self.nonce},signature={self.signature}"

    def matches(self, secret: bytes, method: str, target: str, body: bytes) -> bool:
        """Whether it was made with this secret for this very request."""
        expected = _signature(secret, method, target, body, self.at, self.nonce)
        return hmac.compare_digest(expected, self.signature)

    @property
    def digest(self) -> str:
        """The name under which it is remembered as used."""
        return hashlib.sha256(f"{self.key_id} {self.signature}".encode()).hexdigest()


def signing_secret(key: str) -> bytes:
    """The secret behind the text of a key; the key can't be told from it."""
    return hmac.digest(key.encode(), b"x402 request signing v1", "sha256")


def sign_request(
    key_id: str, key: str, method: str, target: str, body: bytes, *, at: int, nonce: str
) -> RequestSignature:
    """Sign a request. `target` is its path with the query, as it is sent; `at` is now, in unix seconds."""
    return RequestSignature(key_id, at, nonce, _signature(signing_secret(key), method, target, body, at, nonce))


def read_request_signature(credentials: str) -> RequestSignature:
    """What stands behind the scheme's name. Raises `MalformedError("invalid_request_signature")`."""
    match = _FIELDS.fullmatch(credentials.strip())
    if match is None:
        raise MalformedError(
            "invalid_request_signature", f"{SCHEME} is followed by key=…,t=…,nonce=…,signature=… and nothing else"
        )
    return RequestSignature(match[1], int(match[2]), match[3], match[4])


def _signature(secret: bytes, method: str, target: str, body: bytes, at: int, nonce: str) -> str:
    digest = hashlib.sha256(body).hexdigest()
    text = "\n".join(("x402-request-v1", method.upper(), target, digest, str(at), nonce))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
