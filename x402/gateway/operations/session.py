"""Who may look at the dashboard: a wallet on the operator's list, for as long as its session lasts.

A session is a signed cookie and nothing on the server: it says who and until when. It ends with the key that signed
it, and a wallet that is taken off the list has none any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from x402.ports import Clock

COOKIE = "x402_operator"
_MAC_BYTES = 32


class Sessions:
    """Sessions of `operators`: addresses, or CAIP-10 accounts for one network alone."""

    def __init__(self, operators: Sequence[str], *, key: bytes, clock: Clock, seconds: int) -> None:
        self.operators = frozenset(filter(None, (_folded(one.strip()) for one in operators)))
        self.seconds = seconds
        self._key = hashlib.sha256(b"x402 operator session\n" + key).digest()
        self._clock = clock

    def may_look(self, account: str) -> bool:
        """Whether a CAIP-10 account is on the list."""
        folded = _folded(account)
        return folded in self.operators or folded.rpartition(":")[2] in self.operators

    def begin(self, account: str) -> str:
        """The cookie's value for somebody who has signed in."""
        text = f"{self._clock() + self.seconds} {account}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256") + text).decode().rstrip("=")

    def account(self, cookie: str) -> str | None:
        """Whose session it is; None for one that is over, forged, or of somebody who may not look any more."""
        try:
            raw = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
            mac, text = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if not hmac.compare_digest(hmac.digest(self._key, text, "sha256"), mac):
                return None
            ends_at, _, account = text.decode().partition(" ")
        except (binascii.Error, ValueError):
            return None
        return account if int(ends_at) > self._clock() and self.may_look(account) else None


def _folded(account: str) -> str:
    """EVM addresses compare without case, Solana's exactly."""
    return account.lower() if account.rpartition(":")[2].startswith("0x") else account
