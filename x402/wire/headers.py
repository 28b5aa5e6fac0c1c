"""Header names and the base64(JSON) that they carry (x402 v2 spec, HTTP transport; protocol page §1.2)."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from x402.errors import MalformedError
from x402.wire.strict import HEADER_LIMIT, decode_base64, dump_json, parse_object

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"
X_PAYMENT = "X-PAYMENT"
X_PAYMENT_RESPONSE = "X-PAYMENT-RESPONSE"
EXTENSION_RESPONSES = "EXTENSION-RESPONSES"
SIGN_IN_WITH_X = "SIGN-IN-WITH-X"
PREFERRED_NETWORK = "X-Preferred-Network"
REQUEST_ID = "X-Request-ID"
IDEMPOTENCY_KEY = "Idempotency-Key"
BILL = "X-402-Bill"
"""What an answer out of a balance is billed: base64 of JSON, amounts in atomic USDC as digits."""

PAYMENT_HEADERS = (PAYMENT_SIGNATURE, X_PAYMENT)
EXPOSED_HEADERS = (PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, REQUEST_ID, BILL)
"""What a browser must be allowed to read (fault F16)."""

Pairs = Iterable[tuple[str, str]]
"""Header fields as they arrived: names in any case, repeated fields repeated."""


def encode_header(message: dict[str, Any]) -> str:
    """A message as a header value: padded standard base64 of compact JSON."""
    return base64.b64encode(dump_json(message).encode()).decode()


def decode_header(value: str, *, code: str = "invalid_payload") -> dict[str, Any]:
    """The message in a header value. Raises `MalformedError(code)`; size, alphabet and JSON are strict."""
    if len(value) > HEADER_LIMIT:
        raise MalformedError(
            code, f"the header is longer than {HEADER_LIMIT} characters", details={"limit": HEADER_LIMIT}
        )
    return parse_object(decode_base64(value.strip(" \t"), code=code), limit=HEADER_LIMIT, code=code)


def values(headers: Pairs, name: str) -> list[str]:
    """Every value of a header field, in order of arrival; names compare without case."""
    wanted = name.lower()
    return [value for field, value in headers if field.lower() == wanted]


def only(headers: Pairs, name: str, *, code: str = "invalid_payload") -> str | None:
    """The one value of a header field, or None. Raises `MalformedError` when it was sent twice (fault F06)."""
    found = values(headers, name)
    if len(found) > 1:
        raise MalformedError(code, f"{name} was sent {len(found)} times; send it once")
    return found[0] if found else None
