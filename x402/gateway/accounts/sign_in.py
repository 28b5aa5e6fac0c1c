"""Who signs in with a wallet: the header `SIGN-IN-WITH-X` checked, in both of its dialects (aimo §2.8, protocol §6.2).

    x402   answers the nonce of one 402 of ours, within five minutes, once
    AiMo   needs an expiry only; without a nonce it may be sent again until then, on any path of this host, so its life
           is capped here, whatever it says

A sign-in names the account that is charged: one wallet on two chains is two accounts. Nothing is kept of a nonce that
we give out: it carries its time and our signature, so a flood of them costs no memory (fault G02). What was used is
remembered until it could not be valid any more (G07).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from x402 import networks
from x402.errors import MalformedError, Mender
from x402.gateway.accounts import Holder
from x402.gateway.accounts.credits import account_of
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest
from x402.ports import Clock
from x402.ports.accounts import AccountBook
from x402.schemes.sign_in import signer
from x402.wire.headers import SIGN_IN_WITH_X, only
from x402.wire.sign_in import Dialect, SignedSignIn, SignIn, instant, read_header, seconds

EXTENSION = "sign-in-with-x"
NONCE_SECONDS = 300
"""How long a nonce of ours, and the time of issue beside it, may be answered."""
SKEW_SECONDS = 60
MAX_SECONDS = 3600
_MAC_BYTES, _TIME_BYTES, _RANDOM_BYTES = 8, 4, 4
_KINDS = {networks.EIP155: "eip191", networks.SOLANA: "ed25519"}
_TEXT = {"type": "string"}
_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": dict.fromkeys(("domain", "uri", "version", "nonce", "issuedAt", "expirationTime"), _TEXT),
    "required": ["domain", "uri", "version", "nonce", "issuedAt"],
}


class SignInDesk:
    """Checks sign-ins. `key` signs our nonces, `chains` are those we offer; a wallet may name any other of its own.

    `max_seconds` caps how far from now a sign-in may expire: at most an hour.
    """

    def __init__(
        self, book: AccountBook, *, clock: Clock, key: bytes, chains: Sequence[str], max_seconds: int = MAX_SECONDS
    ) -> None:
        self._book = book
        self._clock = clock
        self._key = hashlib.sha256(b"x402 sign-in nonce\n" + key).digest()
        self._chains = tuple(chains)
        self._max_seconds = min(max_seconds, MAX_SECONDS)

    def offer(self, url: str) -> dict[str, Any]:
        """The extension of a 402: what a wallet may sign instead of a payment."""
        parts = urlsplit(url)
        now = self._clock()
        info = {
            "domain": parts.netloc,
            "uri": url,
            "version": "1",
            "nonce": self._nonce(now),
            "issuedAt": instant(now),
            "resources": [url],
        }
        chains = [{"chainId": chain, "type": _KINDS[networks.get(chain).family]} for chain in self._chains]
        return {EXTENSION: {"info": info, "supportedChains": chains, "schema": _SCHEMA}}

    async def holder(self, request: PaidRequest) -> Holder | None:
        """Who signed in; None without the header. Raises `ApiProblem` 401 for a sign-in that does not hold."""
        try:
            value = only(request.headers, SIGN_IN_WITH_X, code="invalid_siwx")
            if value is None:
                return None
            signed = read_header(value)
            account, expires_at = self._checked(signed, request.url)
        except MalformedError as error:
            raise self._refused(request, error.code, error.message) from error
        nonce = signed.sign_in.nonce
        if nonce is not None and not await self._book.use_nonce(account, nonce, expires_at):
            raise self._refused(request, "invalid_siwx_nonce", "this nonce was used before")
        return Holder(account=account)

    def _checked(self, signed: SignedSignIn, url: str) -> tuple[str, int]:
        """The account, and until when the sign-in could be valid. Raises `MalformedError`."""
        sign_in = signed.sign_in
        expected = urlsplit(url)
        if sign_in.domain.lower() != expected.netloc.lower():
            raise MalformedError(
                "invalid_siwx_domain_mismatch", f"the sign-in is for another host than {expected.netloc}"
            )
        self._check_uri(sign_in, expected.netloc)
        if sign_in.family not in _KINDS:
            raise MalformedError("invalid_siwx_unsupported_chain", f"nobody signs in here from {sign_in.chain_id}")
        expires_at = self._check_times(signed)
        self._check_nonce(signed)
        address = signer(sign_in.family, sign_in.address, signed.message, signed.signature)
        if address is None:
            raise MalformedError("invalid_siwx_signature", "the signature is not this address's")
        return account_of(sign_in.chain_id, address), expires_at

    def _check_uri(self, sign_in: SignIn, host: str) -> None:
        # Behind a proxy that ends TLS the scheme may differ, and the host never does.
        try:
            parts = urlsplit(sign_in.uri)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower():
            raise MalformedError("invalid_siwx_uri_mismatch", f"uri: an address on {host} is needed")

    def _check_times(self, signed: SignedSignIn) -> int:
        sign_in, now = signed.sign_in, self._clock()
        issued = None if sign_in.issued_at is None else seconds(sign_in.issued_at)
        if issued is not None and issued > now + SKEW_SECONDS:
            raise MalformedError("invalid_siwx_issued_at_in_future", "the sign-in was issued in the future")
        if sign_in.not_before is not None and seconds(sign_in.not_before) > now + SKEW_SECONDS:
            raise MalformedError("invalid_siwx_not_yet_valid", "the sign-in is not valid yet")
        if signed.dialect is Dialect.X402:
            if issued is None:
                raise MalformedError("invalid_siwx_issued_at", "issuedAt is required")
            if now - issued > NONCE_SECONDS:
                raise MalformedError("invalid_siwx_issued_at_too_old", f"issued more than {NONCE_SECONDS} seconds ago")
        if sign_in.expiration_time is None:
            if signed.dialect is Dialect.AIMO:
                raise MalformedError("invalid_siwx_expiration_time", "Expiration Time is required")
            return now + NONCE_SECONDS + SKEW_SECONDS
        expires_at = seconds(sign_in.expiration_time)
        if expires_at <= now:
            raise MalformedError("invalid_siwx_expired", "the sign-in has expired")
        if expires_at > now + self._max_seconds + SKEW_SECONDS:
            raise MalformedError(
                "invalid_siwx_expiration_time", f"a sign-in lives at most {self._max_seconds} seconds here"
            )
        return expires_at

    def _check_nonce(self, signed: SignedSignIn) -> None:
        """A nonce of the dialect x402 is one of ours; AiMo's clients may choose their own, and use it once."""
        nonce = signed.sign_in.nonce
        if signed.dialect is Dialect.X402 and (nonce is None or not self._is_ours(nonce)):
            raise MalformedError("invalid_siwx_nonce", "this nonce is none of ours, or too old")
        if nonce is not None and len(nonce) > 128:
            raise MalformedError("invalid_siwx_nonce", "a nonce has at most 128 characters")

    def _nonce(self, now: int) -> str:
        """32 hex digits: the second of issue, random bits, and our signature over both."""
        stem = now.to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        return (stem + self._mac(stem)).hex()

    def _is_ours(self, nonce: str) -> bool:
        try:
            raw = bytes.fromhex(nonce)
        except ValueError:
            return False
        stem, mac = raw[: _TIME_BYTES + _RANDOM_BYTES], raw[_TIME_BYTES + _RANDOM_BYTES :]
        if len(raw) != _TIME_BYTES + _RANDOM_BYTES + _MAC_BYTES or not hmac.compare_digest(mac, self._mac(stem)):
            return False
        age = self._clock() - int.from_bytes(stem[:_TIME_BYTES], "big")
        return -SKEW_SECONDS <= age <= NONCE_SECONDS

    def _mac(self, stem: bytes) -> bytes:
        return hmac.digest(self._key, stem, "sha256")[:_MAC_BYTES]

    def _refused(self, request: PaidRequest, code: str, message: str) -> ApiProblem:
        """A 401 that brings what to sign instead."""
        return ApiProblem(
            401,
            code,
            f"{message}; sign in anew",
            kind="authentication_error",
            mender=Mender.CALLER,
            details={"extensions": self.offer(request.url)},
        )
