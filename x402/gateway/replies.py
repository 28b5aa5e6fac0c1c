"""What a client gets to see: the 402 in both dialects at once, errors as JSON, and the headers around paid answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from x402.errors import RefusedError, X402Error
from x402.gateway.envelope import Envelope
from x402.gateway.problem import retry_after, status_of
from x402.gateway.sale import HeaderPairs, Reply
from x402.wire.challenge import Challenge
from x402.wire.headers import EXPOSED_HEADERS, PAYMENT_HEADERS, PAYMENT_REQUIRED
from x402.wire.receipt import Receipt
from x402.wire.strict import dump_json

CHALLENGE_LIMIT = 7 * 1024
"""Longest `PAYMENT-REQUIRED` value, in characters: proxies refuse replies with larger headers (fault F05)."""

_VARY = ", ".join((*PAYMENT_HEADERS, "Accept"))
_EXPOSED = ", ".join(EXPOSED_HEADERS)

_NO_STORE = ("Cache-Control", "no-store")

Plain = tuple[int, HeaderPairs, bytes]
"""Status, headers and body of a small reply."""


_OWN = Envelope()


def challenge_reply(
    challenge: Challenge,
    refusal: RefusedError | None = None,
    receipt: Receipt | None = None,
    *,
    envelope: Envelope = _OWN,
) -> Plain:
    """A 402: the v2 challenge in `PAYMENT-REQUIRED`, and in the body what the reader's profile expects there."""
    challenge, header = _fitting(challenge)
    seconds = None if refusal is None else retry_after(refusal)
    waits: HeaderPairs = () if seconds is None else (("Retry-After", str(seconds)),)
    headers: HeaderPairs = ((PAYMENT_REQUIRED, header), *waits, *_receipt_headers(receipt))
    return _small_reply(402, envelope.challenge(challenge, refusal), headers)


def _fitting(challenge: Challenge) -> tuple[Challenge, str]:
    """The challenge with as many offers, the preferred ones first, as fit into a header."""
    header = challenge.as_header()
    while len(header) > CHALLENGE_LIMIT and len(challenge.accepts) > 1:
        challenge = challenge.model_copy(update={"accepts": challenge.accepts[:-1]})
        header = challenge.as_header()
    return challenge, header


def error_reply(error: X402Error, receipt: Receipt | None = None, *, envelope: Envelope = _OWN) -> Plain:
    """Any other error in its reader's shape, with `Retry-After` where sending the same again is of use."""
    seconds = retry_after(error)
    headers: HeaderPairs = () if seconds is None else (("Retry-After", str(seconds)),)
    return _small_reply(status_of(error), envelope.error(error), (*headers, *_receipt_headers(receipt)))


def _small_reply(status: int, body: Mapping[str, Any] | str, headers: HeaderPairs) -> Plain:
    text = isinstance(body, str)
    content = (body if isinstance(body, str) else dump_json(body)).encode()
    kind = "text/plain; charset=utf-8" if text else "application/json"
    own = (("Content-Type", kind), ("Content-Length", str(len(content))))
    return status, guarded((*own, *headers)), content


def paid_headers(reply: Reply) -> HeaderPairs:
    """The headers of a reply to a payment: the handler's own, the receipt, and what caches and browsers must know."""
    receipt = () if reply.receipt is None else (reply.receipt.as_header(reply.version),)
    return guarded((*reply.headers, *receipt))


def _receipt_headers(receipt: Receipt | None) -> HeaderPairs:
    # The dialect of a payment that failed may not be known, so its outcome is told in both.
    return () if receipt is None else (receipt.as_header(2), receipt.as_header(1))


def guarded(headers: HeaderPairs) -> HeaderPairs:
    """Headers that no shared cache keeps, and that a browser's script may read (faults F04, F16)."""
    kept: list[tuple[str, str]] = []
    joined: dict[str, list[str]] = {"vary": [], "access-control-expose-headers": []}
    for field in headers:
        name = field[0].lower()
        if name in joined:
            joined[name].append(field[1])
        elif name != "cache-control":
            kept.append(field)
    vary = ("Vary", ", ".join([*joined["vary"], _VARY]))
    exposed = ("Access-Control-Expose-Headers", ", ".join([*joined["access-control-expose-headers"], _EXPOSED]))
    return (*kept, vary, exposed, _NO_STORE)


def is_preflight(method: str, headers: Sequence[tuple[str, str]]) -> bool:
    """Whether a browser only asks whether it may ask (fault F16)."""
    names = {name.lower() for name, _ in headers}
    return method == "OPTIONS" and {"origin", "access-control-request-method"} <= names


PREFLIGHT: Plain = (
    204,
    guarded((("Access-Control-Allow-Headers", ", ".join(("Content-Type", *PAYMENT_HEADERS))),)),
    b"",
)
"""The answer to such a question: no payment, no handler."""
