"""What a model seller answers, in every envelope that was found in the wild (aimo rows 34-60). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic_core import from_json

from x402 import networks
from x402.client.verdict import retry_after
from x402.errors import ApiError, MalformedError, Moved
from x402.money import show_units
from x402.quote import Quote
from x402.signed_quote import peek
from x402.wire.challenge import BalanceEmpty, Challenge, Requirement, read_challenge
from x402.wire.headers import REQUEST_ID, Pairs, decode_header, values
from x402.wire.receipt import Receipt, parse_receipt

RECEIPT_COMMENT = "x402-receipt "
"""How an SSE comment begins that carries a receipt: then follows the base64 of its JSON."""
_CODES = {
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


class Fields(Mapping[str, Any]):
    """A JSON object, read by item or by attribute: `answer.choices[0].message.content`."""

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = dict(members)

    def __getitem__(self, name: str) -> Any:
        return _wrap(self._members[name])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return _wrap(self._members[name])
        except KeyError:
            raise AttributeError(f"the answer has no member {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._members!r})"

    def as_json(self) -> dict[str, Any]:
        """The plain JSON object."""
        return dict(self._members)


class Completion(Fields):
    """A plain OpenAI chat completion, with what was paid for it."""

    __slots__ = ("receipt", "request_id")

    def __init__(self, members: Mapping[str, Any], *, receipt: Receipt | None, request_id: str | None) -> None:
        super().__init__(members)
        self.receipt = receipt
        self.request_id = request_id

    @property
    def text(self) -> str:
        """The text of the first choice, `""` when there is none."""
        return _text(self._members, "message")

    @property
    def usage(self) -> Fields | None:
        """Token counts as the seller reports them, or None."""
        usage = self._members.get("usage")
        return Fields(usage) if isinstance(usage, dict) else None


class Chunk(Fields):
    """One piece of a streamed completion; `text` is what it adds to the first choice."""

    __slots__ = ()

    @property
    def text(self) -> str:
        return _text(self._members, "delta")


@dataclass(frozen=True, slots=True)
class Quotation:
    """What a call would cost, asked without paying. `quote` is the seller's itemised bound, when it sends one.

    `free` means that the seller answered without asking for money.
    """

    challenge: Challenge | None
    quote: Quote | None
    free: bool = False

    @property
    def offers(self) -> tuple[Requirement, ...]:
        """The ways in which it can be paid."""
        return self.challenge.accepts if self.challenge is not None else ()

    @property
    def usd(self) -> Decimal | None:
        """The lowest price in US dollars among offers whose asset is known; 0 when it is free."""
        if self.free:
            return Decimal(0)
        prices: list[Decimal] = []
        for offer in self.offers:
            network = networks.find(offer.network)
            asset = network.asset(offer.asset) if network is not None else None
            if asset is not None:
                prices.append(Decimal(show_units(offer.amount, asset.decimals)))
        return min(prices, default=None)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a successful answer, out of its wrapping when it has one (aimo row 37).

    Raises `MalformedError("invalid_answer")`.
    """
    members = _object(body)
    if members is None:
        raise MalformedError("invalid_answer", "the seller's answer is not a JSON object")
    data = members.get("data")
    return data if members.get("success") is True and isinstance(data, dict) else members


def read_completion(headers: Pairs, body: bytes, receipt: Receipt | None) -> Completion:
    """A chat completion. Raises `MalformedError("invalid_answer")`."""
    return Completion(read_object(body), receipt=receipt, request_id=request_id(headers, _object(body)))


def read_models(body: bytes) -> list[Fields]:
    """The entries of a model list. Raises `MalformedError("invalid_answer")`."""
    entries = read_object(body).get("data")
    if not isinstance(entries, list):
        raise MalformedError("invalid_answer", "the model list has no `data`")
    return [Fields(entry) for entry in entries if isinstance(entry, dict)]


def read_chunk(data: str) -> Chunk:
    """One `data` of a stream. Raises `ApiError` for an error event, `MalformedError("invalid_stream")`."""
    members = _object(data.encode())
    if members is None:
        raise MalformedError("invalid_stream", "an event of the stream is not a JSON object")
    if isinstance(members.get("error"), dict | str) and "choices" not in members:
        raise errors_of(200, (), data.encode())
    return Chunk(members)


def read_quotation(status: int, headers: Pairs, body: bytes) -> Quotation:
    """What an unpaid request was answered. Raises `ApiError`, or `MalformedError` for an unreadable 402."""
    pairs = tuple(headers)
    if status < 300:
        return Quotation(None, None, free=True)
    if status != 402:
        raise errors_of(status, pairs, body)
    challenge = read_challenge(pairs, body)
    if isinstance(challenge, BalanceEmpty):
        raise errors_of(status, pairs, body)
    tokens = [offer.extra["quote"] for offer in challenge.accepts if isinstance(offer.extra.get("quote"), str)]
    return Quotation(challenge, _peek(tokens[0]) if tokens else None)


def receipt_in(comment: str) -> Receipt | None:
    """The receipt in an SSE comment, or None when the comment is none. Raises `MalformedError`."""
    if not comment.startswith(RECEIPT_COMMENT):
        return None
    return parse_receipt(decode_header(comment.removeprefix(RECEIPT_COMMENT).strip(), code="invalid_settlement"))


def errors_of(status: int, headers: Pairs, body: bytes, *, moved: Moved = Moved.NO) -> ApiError:
    """A seller's error as one type, from any of the seven envelopes (aimo rows 44-50).

    `moved` is what the caller knows about its payment; a body that says more overrides it.
    """
    pairs = tuple(headers)
    members = _object(body)
    code, message, details = _CODES.get(status, "internal_error" if status >= 500 else "request_failed"), "", {}
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
        if isinstance(members.get("accepts"), list):
            code, details = "payment_required", {"accepts": members["accepts"]}
    seconds = retry_after(pairs)
    if seconds is not None:
        details = {**details, "retry_after_seconds": seconds}
    words = message[:1000] or f"HTTP {status}"
    return ApiError(status, code, words, request_id=request_id(pairs, members), moved=moved, details=details)


def request_id(headers: Pairs, members: Mapping[str, Any] | None = None) -> str | None:
    """The request's id, from the header or from the body's `meta` (aimo rows 59-60)."""
    for value in values(headers, REQUEST_ID):
        return value
    meta = members.get("meta") if members is not None else None
    found = meta.get("request_id") if isinstance(meta, dict) else None
    return found if isinstance(found, str) else None


def _wrap(value: Any) -> Any:
    if isinstance(value, dict):
        return Fields(value)
    return [_wrap(entry) for entry in value] if isinstance(value, list) else value


def _text(members: Mapping[str, Any], where: str) -> str:
    try:
        text = members["choices"][0][where]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return text if isinstance(text, str) else ""


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        # Not the json module: under a raised recursion limit its scanner overflows the stack on a deep document.
        value = from_json(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


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


def _peek(token: str) -> Quote | None:
    try:
        return peek(token).quote
    except MalformedError:
        return None
