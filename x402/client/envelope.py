"""What a seller wraps its answers and its errors in: seven kinds of errors were found, and two of successes. Pure.

Each kind is recognised by what is in it and never by who sent it, so one reader serves every profile (aimo rows 36,
37 and 44-60).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from x402.client.verdict import retry_after
from x402.errors import ApiError, MalformedError, Moved
from x402.wire.headers import PAYMENT_REQUIRED, REQUEST_ID, Pairs, decode_header, values
from x402.wire.nesting import read_json

CODES = {
    400: "invalid_request",
    401: "authentication_failed",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    409: "conflict",
    410: "gone",
    413: "request_too_large",
    422: "invalid_request",
    429: "rate_limit_exceeded",
    503: "unavailable",
}
"""The code of an error that has only a status (E3, E7; aimo rows 46, 50)."""


class Envelope(StrEnum):
    """How a profile's successes arrive: as they are, or perhaps as `{success, data, meta}`."""

    PLAIN = "plain"
    WRAPPED = "wrapped"


def read_object(body: bytes, envelope: Envelope = Envelope.WRAPPED) -> dict[str, Any]:
    """The JSON object of a successful answer, out of its wrapping when it has both `success` and `data` (aimo row 37).

    A profile that is `PLAIN` never unwraps. Raises `MalformedError("invalid_answer")`.
    """
    members = parse(body)
    if members is None:
        raise MalformedError("invalid_answer", "the seller's answer is not a JSON object")
    data = members.get("data")
    wrapped = envelope is Envelope.WRAPPED and members.get("success") is True and isinstance(data, dict)
    return data if wrapped and isinstance(data, dict) else members


def errors_of(status: int, headers: Pairs, body: bytes, *, moved: Moved = Moved.NO) -> ApiError:
    """A seller's error as one type, from any of the seven envelopes (aimo rows 44-50).

    Whether it asks to be paid is told by an offer in its header or body, never by the status (aimo rows 48, 49, 55).
    `moved` is what the caller knows about its payment; a body that says more overrides it.
    """
    pairs = tuple(headers)
    members = parse(body)
    code, message, details = CODES.get(status, "internal_error" if status >= 500 else "request_failed"), "", {}
    if members is None:
        message = body[:500].decode(errors="replace").strip()
    else:
        inner = members.get("error", members.get("detail", members))
        if isinstance(inner, str):
            message = inner
        elif isinstance(inner, dict):
            code, message = _named(inner, code), _words(inner.get("message"))
            details = _details(inner.get("details"))
            moved = _moved(inner, moved)
    asked = _challenge(pairs, members)
    if asked is not None:
        code, details = "payment_required", {"accepts": asked["accepts"]}
    seconds = retry_after(pairs)
    if seconds is not None:
        details = {**details, "retry_after_seconds": seconds}
    words = message[:1000] or f"HTTP {status}"
    return ApiError(
        status, code, words,
        request_id=request_id(pairs, members), moved=moved, details=details, payment_required=asked,
    )  # fmt: skip


def request_id(headers: Pairs, members: Mapping[str, Any] | None = None) -> str | None:
    """The request's id, from the header or from the body's `meta` (aimo rows 59-60)."""
    for value in values(headers, REQUEST_ID):
        return value
    meta = members.get("meta") if members is not None else None
    found = meta.get("request_id") if isinstance(meta, dict) else None
    return found if isinstance(found, str) else None


def parse(body: bytes) -> dict[str, Any] | None:
    """A body's JSON object, or None when it is none."""
    try:
        value = read_json(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _challenge(headers: Pairs, members: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The seller's request for a payment: the body's, or else the header's."""
    if members is not None and isinstance(members.get("accepts"), list):
        return members
    for value in values(headers, PAYMENT_REQUIRED):
        try:
            asked = decode_header(value)
        except MalformedError:
            continue
        if isinstance(asked.get("accepts"), list):
            return asked
    return None


def _named(error: Mapping[str, Any], fallback: str) -> str:
    for name in ("code", "type"):
        if isinstance(error.get(name), str) and error[name]:
            return str(error[name])[:100]
    return fallback


def _words(message: Any) -> str:
    return message if isinstance(message, str) else ""


def _details(details: Any) -> dict[str, Any]:
    if isinstance(details, dict):
        return details
    return {"details": details} if isinstance(details, str) and details else {}


def _moved(error: Mapping[str, Any], moved: Moved) -> Moved:
    stated = error.get("moneyMoved")
    return Moved(stated) if stated in tuple(Moved) else moved
