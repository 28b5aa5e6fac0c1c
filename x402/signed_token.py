"""A JSON object as a token that only its maker can make: base64url, a dot, and base64url of an HMAC-SHA256 cut to 16
bytes. Anybody can read it; nobody has to keep it (design D10, fault G02).
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from x402.errors import MalformedError, MisconfiguredError

KEY_LENGTH_MIN = 16
"""Fewest bytes of a signing key."""
TOKEN_LIMIT = 1536
"""Longest token that is read, in characters."""

_MAC_LENGTH = 16
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


def seal(content: Mapping[str, Any], *, key: bytes, purpose: bytes) -> str:
    """The object as a token. A token of one `purpose` is none for another.

    Raises `MisconfiguredError("weak_quote_key")` for a key of fewer than 16 bytes.
    """
    body = spell(content)
    return f"{body}.{_mac(key, purpose, body)}"


def unseal(token: str, *, keys: Sequence[bytes], purpose: bytes, code: str) -> dict[str, Any]:
    """What one of the keys signed; several allow rotation. Raises `MalformedError(code)` for what none of them did."""
    if not keys:
        raise MisconfiguredError("weak_quote_key", "no key to read what was signed here")
    body, mac = split(token, code=code)
    # Every key is tried, in constant time each, so that timing tells neither the MAC nor the key.
    matches = [hmac.compare_digest(_mac(key, purpose, body), mac) for key in keys]
    if not any(matches):
        raise MalformedError(code, "it was not signed here, or was changed on the way")
    return content_of(body, code=code)


def split(token: str, *, code: str) -> tuple[str, str]:
    """The two texts of a token, unchecked. Raises `MalformedError(code)`."""
    match = _TOKEN.fullmatch(token) if isinstance(token, str) and len(token) <= TOKEN_LIMIT else None
    if match is None:
        raise MalformedError(code, f"a token is two base64url texts with a dot between, of {TOKEN_LIMIT} at most")
    return match[1], match[2]


def content_of(body: str, *, code: str) -> dict[str, Any]:
    """The object in a token's first text, unchecked. Raises `MalformedError(code)`."""
    try:
        content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, RecursionError) as error:
        raise MalformedError(code, "it holds no JSON") from error
    if not isinstance(content, dict):
        raise MalformedError(code, "it holds no JSON object")
    return content


def spell(content: Mapping[str, Any]) -> str:
    """An object as the first text of a token."""
    return base64url(json.dumps(content, separators=(",", ":")).encode())


def base64url(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 4648, 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _mac(key: bytes, purpose: bytes, body: str) -> str:
    if len(key) < KEY_LENGTH_MIN:
        raise MisconfiguredError("weak_quote_key", f"a quote key has at least {KEY_LENGTH_MIN} bytes")
    return base64url(hmac.digest(key, purpose + body.encode(), "sha256")[:_MAC_LENGTH])
