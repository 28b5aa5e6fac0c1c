"""The four systems that one gateway is (aimo §1.7, rows 62-65): where each one is mounted, and how it speaks.

    devnet-x402  /api/alpha  a payment is the credential; v1 challenge in the body, E4 errors with AiMo's types
    devnet-key   /api/v1     `Authorization: Bearer aimo-sk-…`; E4 errors, or E7 for `Accept: text/plain`
    beta-siwx    /api/v1     `Sign-In-With-X`; E2 errors, v2 challenge in the body
    ours         /api/v1     neither of the two: OpenAI's errors, both challenges
    legacy       /v1         E1 errors, and answers wrapped as `{"success", "data", "meta"}`

Which one of the three on `/api/v1` is meant, the request's credentials say. Every profile takes payments, in all
dialects of the payment header: who pays needs no other credential.
"""

from __future__ import annotations

from dataclasses import dataclass

from x402.gateway.envelope import Dialect, Envelope
from x402.gateway.sale import HeaderPairs
from x402.wire.headers import REQUEST_ID, SIGN_IN_WITH_X, values

KEY_PREFIX = "aimo-sk-"
"""How a gateway's own keys begin (aimo row 14). Stock OpenAI clients always send some bearer, so another one says
nothing about who asks."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One system: its name, its base path, the shape of its errors, and whether its answers are wrapped."""

    name: str
    base: str
    dialect: Dialect
    wrapped: bool = False


ALPHA = Profile("devnet-x402", "/api/alpha", Dialect.DEVNET)
KEY = Profile("devnet-key", "/api/v1", Dialect.KEY)
BETA = Profile("beta-siwx", "/api/v1", Dialect.BETA)
OURS = Profile("ours", "/api/v1", Dialect.OPENAI)
LEGACY = Profile("legacy", "/v1", Dialect.LEGACY, wrapped=True)

MOUNTED = (ALPHA, OURS, LEGACY)
"""One profile for each base path."""


def profile_of(target: str, headers: HeaderPairs) -> Profile:
    """The profile in which a request is answered: by its path, and on `/api/v1` by its credentials."""
    if _below(target, ALPHA.base):
        return ALPHA
    if _below(target, LEGACY.base):
        return LEGACY
    if not _below(target, OURS.base):
        return OURS
    if values(headers, SIGN_IN_WITH_X):
        return BETA
    return KEY if bearer_key(headers) else OURS


def bearer_key(headers: HeaderPairs) -> str:
    """The gateway key that a request presents as its bearer; empty when it presents none."""
    for value in values(headers, "Authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token.strip().startswith(KEY_PREFIX):
            return token.strip()
    return ""


def envelope_of(target: str, headers: HeaderPairs) -> Envelope:
    """The shape of what a request is answered."""
    profile = profile_of(target, headers)
    dialect = Dialect.TEXT if profile is KEY and _wants_text(headers) else profile.dialect
    return Envelope(dialect, next(iter(values(headers, REQUEST_ID)), ""))


def _below(target: str, base: str) -> bool:
    return target == base or target.startswith((base + "/", base + "?"))


def _wants_text(headers: HeaderPairs) -> bool:
    accepted = ",".join(values(headers, "Accept"))
    return "text/plain" in accepted and "json" not in accepted and "*/*" not in accepted
