"""What one request costs at most, what it did cost, and the signed quote that holds the price still in between.

The same pure functions serve both sides: the seller prices a request with `quote(order, prices)`, the buyer reads the
seller's token with `signed_quote.peek(token)` and, given the price list, computes the very same value. All sums are
exact decimals of atomic USDC (6 decimals); there is one rounding, up, at the end (design D10, D11; aimo §2.4).

A quote is kept by nobody. The seller signs it, it rides in the challenge's `extra["quote"]` and comes back with the
payment, so a flood of quotes costs no memory (fault G02), and the digest of the request inside it stops a cheap quote
from buying a dear request (faults B01, B02).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from x402.discount import Step, part_of, percent_at
from x402.errors import MalformedError
from x402.money import EXACT_CONTEXT, round_up
from x402.price import TOKEN_UNITS, ModelPrice, PriceList, PriceUnit, Rate, check_count, check_model
from x402.prompt_bound import bound_prompt_tokens, bound_text_tokens, count_images

__all__ = [
    "Charge",
    "Item",
    "Line",
    "ModelPrice",
    "Order",
    "PriceList",
    "PriceUnit",
    "Quote",
    "Rate",
    "Usage",
    "add_up",
    "bound_prompt_tokens",
    "bound_text_tokens",
    "count_images",
    "itemise",
    "quote",
    "request_digest",
]

_METHOD = re.compile(r"[A-Za-z][A-Za-z-]{0,31}", re.ASCII)
_ESCAPE_OR_BYTE = re.compile(rb"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_LITERAL = _UNRESERVED | frozenset(b":/?[]@!$&'()*+,;=")


class Item(StrEnum):
    """What a line is for."""

    PROMPT = "prompt"
    COMPLETION = "completion"
    IMAGE = "image"
    REQUEST = "request"
    FEE = "fee"


_UNITS = {
    Item.PROMPT: TOKEN_UNITS,
    Item.COMPLETION: TOKEN_UNITS,
    Item.IMAGE: frozenset({PriceUnit.EACH}),
    Item.REQUEST: frozenset({PriceUnit.EACH}),
    Item.FEE: frozenset({PriceUnit.PERCENT}),
}


@dataclass(frozen=True, slots=True)
class Line:
    """`units` of an item at a rate; `amount` is exact atomic USDC. A fee has one unit: all lines before it."""

    item: Item
    units: int
    rate: Rate
    amount: Decimal

    def __post_init__(self) -> None:
        check_count(self.item, self.units)
        if self.rate.unit not in _UNITS[self.item]:
            raise MalformedError("invalid_price", f"the price of a {self.item} cannot be {self.rate.unit}")


@dataclass(frozen=True, slots=True)
class Order:
    """What is being bought, as read from the request.

    `prompt_tokens_bound` comes from `bound_prompt_tokens`, `max_output_tokens` is the request's own limit per choice
    (None when it has none), `n` the number of choices. `images` are those sent or, when `made`, those to be made, with
    the `features` (size, quality) that their price hangs on.
    """

    model: str
    prompt_tokens_bound: int
    max_output_tokens: int | None = None
    n: int = 1
    images: int = 0
    features: frozenset[str] = frozenset()
    made: bool = False

    def __post_init__(self) -> None:
        check_model(self.model)
        check_count("prompt_tokens_bound", self.prompt_tokens_bound)
        if self.max_output_tokens is not None:
            check_count("max_output_tokens", self.max_output_tokens)
        check_count("n", self.n, least=1)
        check_count("images", self.images)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the upstream reports that it used. Raises as `check_count` for anything but sensible counts."""

    prompt_tokens: int
    completion_tokens: int
    images: int = 0

    def __post_init__(self) -> None:
        check_count("prompt_tokens", self.prompt_tokens)
        check_count("completion_tokens", self.completion_tokens)
        check_count("images", self.images)

    def of(self, item: Item) -> int:
        """How many units of an item were used; a request is one."""
        counts = {Item.PROMPT: self.prompt_tokens, Item.COMPLETION: self.completion_tokens, Item.IMAGE: self.images}
        return counts.get(item, 1)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a served request costs: `total` atomic USDC, never above the quote's `bound`.

    `over` names the items of which more was reported than quoted. They are charged as quoted, and deserve an alarm:
    the gateway enforces the bounds upstream, so an honest provider cannot exceed them (fault B17).
    """

    lines: tuple[Line, ...]
    total: int
    bound: int
    over: tuple[Item, ...] = ()

    @classmethod
    def zero(cls, bound: int) -> Charge:
        """Nothing is owed, for instance for an empty or failed completion (aimo row 86)."""
        return cls((), 0, bound)

    @property
    def unused(self) -> int:
        """The part of the bound that was not needed, in atomic USDC: what a prepaid bound gives back as credit."""
        return self.bound - self.total


@dataclass(frozen=True, slots=True)
class Quote:
    """An itemised upper bound. Items that cost nothing have no line; `bound` is atomic USDC, 0 only for a free model.

    `output_tokens` is the most that one choice may have: the seller enforces it upstream, stated or not by the
    request. `price_list` is the version of the list that priced it, and `discounts` what is taken off the charge of
    who has spent that much, never off the bound.
    """

    model: str
    lines: tuple[Line, ...]
    bound: int
    output_tokens: int
    choices: int
    price_list: str
    discounts: tuple[Step, ...] = ()

    @property
    def free(self) -> bool:
        """Whether the request is served without a payment."""
        return self.bound == 0

    @property
    def usd(self) -> Decimal:
        """The bound in whole dollars, as `Amount.of` takes it for an asset of any number of decimals."""
        return Decimal(self.bound).scaleb(-6, EXACT_CONTEXT)

    def actual(self, usage: Usage, at: ModelPrice | None = None, *, spent: int = 0) -> Charge:
        """The charge for real usage, itemised like the quote and rounded up once, less the discount of a payer who has
        `spent` so much lately (atomic USDC; its receipt says how much).

        Each item is charged up to its quoted units, so the total never exceeds `bound`. Tokens and requests are charged
        `at` the price of who served, where that is lower than the quoted one. Whether an empty completion is charged
        at all is the caller's rule; `Charge.zero` says that it is not.
        """
        rows: list[tuple[Item, int, Rate]] = []
        over: list[Item] = []
        for line in self.lines:
            used = line.units if line.item is Item.FEE else usage.of(line.item)
            if used > line.units:
                over.append(line.item)
            rows.append((line.item, min(used, line.units), _lower(line, at)))
        lines = itemise(rows)
        total = add_up(lines)
        return Charge(lines, total - part_of(total, percent_at(self.discounts, spent)), self.bound, tuple(over))


def quote(order: Order, prices: PriceList) -> Quote:
    """The itemised upper bound of an order. Raises `MalformedError("model_not_found")` for a model without a price,
    and `MalformedError("invalid_count")` for an order beyond all measure.

    The prompt is bounded by the model's context, and the answer by the request's limit (or the operator's default)
    and the model's own limits.
    """
    price = prices.get(order.model)
    context = price.context_length
    prompt = order.prompt_tokens_bound + (0 if order.made else order.images * price.image_tokens)
    output = price.default_output_tokens if order.max_output_tokens is None else order.max_output_tokens
    if context is not None:
        prompt = min(prompt, context)
    for limit in (price.max_output_tokens, context):
        if limit is not None:
            output = min(output, limit)
    rows = [
        (Item.PROMPT, prompt, price.prompt),
        (Item.COMPLETION, output * order.n, price.completion),
        (Item.IMAGE, order.images, price.image_rate(order.features) if order.made else price.image),
        (Item.REQUEST, 1, price.request),
        (Item.FEE, 1, Rate(prices.fee_percent, PriceUnit.PERCENT)),
    ]
    lines = () if price.free else itemise([row for row in rows if row[1] and row[2].value])
    bound = 0 if price.free else check_count("bound", max(1, add_up(lines)))
    return Quote(order.model, lines, bound, output, order.n, prices.version)


def _lower(line: Line, at: ModelPrice | None) -> Rate:
    """The rate of a line, or that of another price where it is lower. Images keep theirs: it goes by their kind."""
    if at is None or line.item not in (Item.PROMPT, Item.COMPLETION, Item.REQUEST):
        return line.rate
    other: Rate = getattr(at, str(line.item))
    return other if other.atomic < line.rate.atomic else line.rate


def request_digest(method: str, path_with_query: str, body: bytes) -> str:
    """Hex SHA-256 that identifies one request: its method, its target and its body (fault B02).

    The target is canonical first (RFC 3986, 6.2.2): percent escapes in upper case, unreserved characters unescaped,
    everything else escaped; the fragment and an empty query are dropped. Pass the raw target: a path that was already
    unescaped is another path. Query order and dot segments are left as they are. Raises
    `MalformedError("invalid_request")` for a method or target that is none.
    """
    if _METHOD.fullmatch(method) is None:
        raise MalformedError("invalid_request", "the method is no HTTP method")
    try:
        raw = path_with_query.partition("#")[0].encode()
    except UnicodeEncodeError as error:
        raise MalformedError("invalid_request", "the request target is not valid Unicode") from error
    target = _ESCAPE_OR_BYTE.sub(_canonical_byte, raw).removesuffix(b"?") or b"/"
    text = b"\n".join((method.upper().encode(), target, hashlib.sha256(body).hexdigest().encode()))
    return hashlib.sha256(text).hexdigest()


def _canonical_byte(match: re.Match[bytes]) -> bytes:
    escaped, literal = match.groups()
    if literal is not None:
        return bytes(literal) if literal[0] in _LITERAL else b"%%%02X" % literal[0]
    byte = int(escaped, 16)
    return bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte


def itemise(rows: Iterable[tuple[Item, int, Rate]]) -> tuple[Line, ...]:
    """Lines with their exact amounts; a fee applies to everything before it."""
    lines: list[Line] = []
    total = Decimal(0)
    for item, units, rate in rows:
        base = total if item is Item.FEE else Decimal(units)
        amount = EXACT_CONTEXT.multiply(base, rate.atomic)
        total = EXACT_CONTEXT.add(total, amount)
        lines.append(Line(item, units, rate, amount))
    return tuple(lines)


def add_up(lines: Iterable[Line]) -> int:
    """The sum in atomic USDC, rounded up: the only rounding on the way from a rate to a price."""
    total = Decimal(0)
    for line in lines:
        total = EXACT_CONTEXT.add(total, line.amount)
    return round_up(total)
