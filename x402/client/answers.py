"""What a model seller answers, in every envelope that was found in the wild (aimo rows 34-60). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from x402 import networks
from x402.client.envelope import Envelope, errors_of, parse, read_object, request_id
from x402.errors import MalformedError
from x402.money import show_units
from x402.quote import Quote
from x402.signed_quote import peek
from x402.wire.challenge import BalanceEmpty, Challenge, Requirement, read_challenge
from x402.wire.headers import BILL, Pairs, decode_header, values
from x402.wire.receipt import Receipt, parse_receipt

RECEIPT_COMMENT = "x402-receipt "
"""How an SSE comment begins that carries a receipt: then follows the base64 of its JSON."""


_OPTIONAL = frozenset(
    {
        "b64_json", "content", "finish_reason", "function_call", "index", "logprobs", "refusal", "revised_prompt",
        "role", "system_fingerprint", "tool_calls", "url", "usage",
    }
)  # fmt: skip
"""Members of OpenAI's objects that programs read without asking whether they are there."""


class Fields(Mapping[str, Any]):
    """A JSON object, read by item or by attribute: `answer.choices[0].message.content`.

    By attribute, members that OpenAI's own objects always have are None when they are absent (aimo row 41).
    """

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
            if name in _OPTIONAL:
                return None
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


class Answer(Fields):
    """A seller's answer, with what was paid for it: a `receipt` of a payment, or the `bill` of a balance (`account`,
    `quoted` and `charged`, in atomic USDC)."""

    __slots__ = ("bill", "receipt", "request_id")

    def __init__(
        self,
        members: Mapping[str, Any],
        *,
        receipt: Receipt | None,
        request_id: str | None,
        bill: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(members)
        self.receipt = receipt
        self.request_id = request_id
        self.bill = None if bill is None else Fields(bill)

    @property
    def usage(self) -> Fields | None:
        """Token counts as the seller reports them, or None."""
        usage = self._members.get("usage")
        return Fields(usage) if isinstance(usage, dict) else None


class Completion(Answer):
    """A plain OpenAI chat completion."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The text of the first choice, `""` when there is none."""
        return _text(self._members, "message")


class Chunk(Fields):
    """One piece of a streamed completion; `text` is what it adds to the first choice."""

    __slots__ = ()

    @property
    def text(self) -> str:
        return _text(self._members, "delta")


class ModelList(list[Fields]):
    """What is sold; `data` is the list itself, as OpenAI's package has it."""

    @property
    def data(self) -> list[Fields]:
        """The models."""
        return self


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


def read_completion(
    headers: Pairs, body: bytes, receipt: Receipt | None, envelope: Envelope = Envelope.WRAPPED
) -> Completion:
    """A chat completion. Raises `MalformedError("invalid_answer")`."""
    pairs, members = tuple(headers), read_object(body, envelope)
    return Completion(members, receipt=receipt, request_id=request_id(pairs, parse(body)), bill=bill_in(pairs))


def read_answer(headers: Pairs, body: bytes, receipt: Receipt | None, envelope: Envelope = Envelope.WRAPPED) -> Answer:
    """Any other answer: images, embeddings, a balance. Raises `MalformedError("invalid_answer")`."""
    pairs, members = tuple(headers), read_object(body, envelope)
    return Answer(members, receipt=receipt, request_id=request_id(pairs, parse(body)), bill=bill_in(pairs))


def read_models(body: bytes, envelope: Envelope = Envelope.WRAPPED) -> ModelList:
    """The entries of a model list, in any of the shapes that were found (aimo §2.5): under `data` or bare.

    An entry of AiMo's own shape has a `name` only; it is its `id` then. Raises `MalformedError("invalid_answer")`.
    """
    if body.lstrip()[:1] == b"[":
        body = b'{"data":' + body + b"}"
    entries = read_object(body, envelope).get("data")
    if not isinstance(entries, list):
        raise MalformedError("invalid_answer", "the model list has no `data`")
    return ModelList(Fields({"id": entry.get("name"), **entry}) for entry in entries if isinstance(entry, dict))


def read_chunk(data: str) -> Chunk:
    """One `data` of a stream. Raises `ApiError` for an error event, `MalformedError("invalid_stream")`."""
    members = parse(data.encode())
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


def bill_in(headers: Pairs) -> Mapping[str, Any] | None:
    """What an answer out of a balance was billed, or None; a bill that cannot be read is none."""
    for value in values(headers, BILL):
        try:
            return decode_header(value)
        except MalformedError:
            return None
    return None


def receipt_in(comment: str) -> Receipt | None:
    """The receipt in an SSE comment, or None when the comment is none. Raises `MalformedError`."""
    if not comment.startswith(RECEIPT_COMMENT):
        return None
    return parse_receipt(decode_header(comment.removeprefix(RECEIPT_COMMENT).strip(), code="invalid_settlement"))


def _wrap(value: Any) -> Any:
    if isinstance(value, dict):
        return Fields(value)
    return [_wrap(entry) for entry in value] if isinstance(value, list) else value


def joined(pieces: Iterable[str]) -> str:
    """A text from its pieces. Where a character came in two halves they are one again; one whose other half never came
    is the mark for that."""
    text = "".join(pieces)
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(members: Mapping[str, Any], where: str) -> str:
    try:
        text = members["choices"][0][where]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return text if isinstance(text, str) else ""


def _peek(token: str) -> Quote | None:
    try:
        return peek(token).quote
    except MalformedError:
        return None
