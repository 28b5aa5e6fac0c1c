"""A quote as a signed token, so that nobody has to keep it (design D10, fault G02).

The token is base64url of compact JSON, a dot, and base64url of an HMAC-SHA256 cut to 16 bytes. It rides in
`Requirement.extra["quote"]` and comes back with the payment. The seller trusts only what its own key signed; the buyer
decodes the same text without the key and checks that the lines add up.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from x402.discount import read_steps, steps_json
from x402.errors import MalformedError, Mender, RefusedError
from x402.price import PriceUnit, Rate, check_count, check_model, check_version
from x402.quote import Item, Quote, add_up, itemise
from x402.signed_token import base64url, content_of, seal, spell, split, unseal

_CODE = "invalid_quote"
_FORMAT = 1
_PURPOSE = b"x402-engine quote 1\n"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """A quote with what its token binds it to; times are unix seconds."""

    quote: Quote
    request_digest: str
    issued_at: int
    expires_at: int


def sign(quote: Quote, *, key: bytes, request_digest: str, issued_at: int, ttl_seconds: int) -> str:
    """The quote as a token that holds for exactly one request, until `issued_at + ttl_seconds` (unix seconds).

    Raises `MisconfiguredError("weak_quote_key")` for a key of fewer than 16 bytes.
    """
    check_count("issued_at", issued_at)
    check_count("ttl_seconds", ttl_seconds, least=1)
    content = _content(SignedQuote(quote, _checked_digest(request_digest), issued_at, issued_at + ttl_seconds))
    return seal(content, key=key, purpose=_PURPOSE)


def read(token: str, *, keys: Sequence[bytes], now: int, request_digest: str) -> Quote:
    """The quote of a token that one of our keys signed for this request, while it holds.

    Several keys allow rotation. Raises `MalformedError("invalid_quote")` for what none of them signed,
    `RefusedError("quote_expired")` from the second of expiry on, `RefusedError("quote_request_mismatch")` when it was
    signed for another request.
    """
    signed = _parse(unseal(token, keys=keys, purpose=_PURPOSE, code=_CODE), token)
    if now >= signed.expires_at:
        raise RefusedError("quote_expired", "the quoted price has expired; ask for a new one")
    if signed.request_digest != request_digest:
        raise RefusedError("quote_request_mismatch", "the quote was made for another request", mender=Mender.CALLER)
    return signed.quote


def peek(token: str) -> SignedQuote:
    """The content of a token without checking its signature.

    Raises `MalformedError("invalid_quote")` for what cannot be read, and for a quote whose lines do not add up to its
    bound.
    """
    return _parse(content_of(split(token, code=_CODE)[0], code=_CODE), token)


def _checked_digest(digest: str) -> str:
    if _DIGEST.fullmatch(digest) is None:
        raise MalformedError("invalid_quote", "a request digest is 64 lower-case hex digits")
    return digest


def _content(signed: SignedQuote) -> dict[str, Any]:
    quoted = signed.quote
    content = {
        "v": _FORMAT,
        "model": quoted.model,
        "lines": [[line.item, line.units, str(line.rate), line.rate.unit] for line in quoted.lines],
        "bound": quoted.bound,
        "output": quoted.output_tokens,
        "choices": quoted.choices,
        "prices": quoted.price_list,
        "request": base64url(bytes.fromhex(signed.request_digest)),
        "issued": signed.issued_at,
        "expires": signed.expires_at,
    }
    return content | {"discounts": steps_json(quoted.discounts)} if quoted.discounts else content


def _parse(content: dict[str, Any], token: str) -> SignedQuote:
    try:
        signed = _from_content(content)
        # One quote has one text: stray bits, spaces, repeated members and other spellings all fail here.
        canonical = spell(_content(signed)) == token.partition(".")[0]
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MalformedError) as error:
        raise MalformedError("invalid_quote", f"the quote cannot be read: {str(error)[:120]}") from error
    if not canonical:
        raise MalformedError("invalid_quote", "the quote is not in its canonical form")
    return signed


def _from_content(content: Any) -> SignedQuote:
    if content["v"] != _FORMAT:
        raise ValueError("unknown format")
    rows = [
        (Item(item), check_count("units", units), Rate.of(str(rate), PriceUnit(unit)))
        for item, units, rate, unit in content["lines"]
    ]
    order = [list(Item).index(item) for item, _, _ in rows]
    if order != sorted(set(order)):
        raise ValueError("its lines are repeated or out of order")
    lines = itemise(rows)
    bound, model = check_count("bound", content["bound"]), content["model"]
    check_model(model)
    if bound != add_up(lines) and (bound, add_up(lines)) != (1, 0):
        raise ValueError("its lines do not add up to its bound")
    quoted = Quote(
        model,
        lines,
        bound,
        check_count("output", content["output"]),
        check_count("choices", content["choices"], least=1),
        check_version(content["prices"]),
        read_steps(content["discounts"]) if "discounts" in content else (),
    )
    issued, expires = check_count("issued", content["issued"]), check_count("expires", content["expires"])
    if expires <= issued:
        raise ValueError("it expires before it begins")
    digest = base64.urlsafe_b64decode(content["request"] + "=").hex()
    return SignedQuote(quoted, _checked_digest(digest), issued, expires)
