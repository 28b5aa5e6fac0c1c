"""Any x402 message in words: which kind it is, what each member means, and what is wrong with it.

Pure: the text and the time come in, an `Explanation` goes out. Nothing here believes a signature that it did not check.
"""

from __future__ import annotations

import re
from typing import Any

from x402.cli import explain_offer, explain_payment, explain_receipt
from x402.cli.explanation import Explanation
from x402.errors import MalformedError
from x402.wire.headers import decode_header
from x402.wire.strict import BODY_LIMIT, parse_object

TEXT_LIMIT = 2 * BODY_LIMIT
RECEIPT_COMMENT = ": x402-receipt "

_HEADER_LINE = re.compile(r"[A-Za-z][A-Za-z-]{2,63}:\s*(\S+)")
_QUOTE_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


def explain(text: str, *, now: int) -> Explanation:
    """What a header value, header line, JSON body, quote token or stream comment says.

    `now` is in unix seconds. Raises `MalformedError`: `unrecognised` for what is no x402 message, and the reader's own
    code for one that is broken.
    """
    bare = text.strip()
    if len(bare) > TEXT_LIMIT:
        raise MalformedError("unrecognised", f"no x402 message is longer than {TEXT_LIMIT} characters")
    if bare.startswith(RECEIPT_COMMENT.strip()):
        bare = bare.removeprefix(RECEIPT_COMMENT.strip()).strip()
    line = _HEADER_LINE.fullmatch(bare)
    if line is not None:
        bare = line[1]
    if bare.startswith("{"):
        return explain_message(parse_object(bare), now=now)
    if _QUOTE_TOKEN.fullmatch(bare) is not None:
        return explain_offer.explain_quote_token(bare, now=now)
    try:
        message = decode_header(bare, code="unrecognised")
    except MalformedError as error:
        raise MalformedError(
            "unrecognised", f"this is no URL, no JSON object and no x402 header value ({error.message})"
        ) from error
    return explain_message(message, now=now)


def explain_message(message: dict[str, Any], *, now: int) -> Explanation:
    """What a JSON object says, told apart by its members. Raises as `explain` does."""
    if "accepts" in message:
        return explain_offer.explain_challenge(message, now=now)
    if "paymentPayload" in message:
        return explain_payment.explain_facilitation(message, now=now)
    if "payload" in message:
        return explain_payment.explain_payment(message, now=now)
    if "success" in message:
        return explain_receipt.explain_receipt(message)
    if "isValid" in message:
        return explain_receipt.explain_verification(message)
    if "kinds" in message:
        return explain_receipt.explain_supported(message)
    if "payTo" in message:
        return explain_offer.explain_challenge({"accepts": [message]}, now=now)
    members = ", ".join(sorted(message)[:8]) or "none"
    raise MalformedError("unrecognised", f"a JSON object, but no x402 message; its members: {members}")
