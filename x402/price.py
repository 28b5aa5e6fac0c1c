"""What a seller asks for a model: rates that carry their unit, per-model prices, and the price list.

Four units for the price of a token are in circulation (aimo §2.4) and they differ by up to nine powers of ten, so a
bare number is never a price here. All of them become `Decimal` atomic USDC (6 decimals) per unit, exactly: every
conversion is a power of ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from x402.errors import MalformedError
from x402.money import EXACT_CONTEXT

COUNT_LIMIT = 2**53 - 1
"""Largest count of tokens, choices or images; every JSON reader holds it exactly."""

DIGITS_LIMIT = 24
"""Most digits of a rate before, and after, its decimal point. It keeps all arithmetic far inside `EXACT_CONTEXT`."""

DEFAULT_OUTPUT_TOKENS = 1024
DEFAULT_IMAGE_TOKENS = 2048

_VERSION = re.compile(r"[A-Za-z0-9._:+-]{1,32}", re.ASCII)
_MODEL_LENGTH_LIMIT = 128


class PriceUnit(StrEnum):
    """What a rate's number counts."""

    PER_TOKEN = "per_token"
    """Atomic USDC per token (AiMo's provider registration)."""
    PER_1K = "per_1k"
    """USD per thousand tokens (AiMo's older price table)."""
    PER_1M = "per_1m"
    """USD per million tokens, today's habit; the same number as atomic USDC per token."""
    USDC_9 = "usdc_9"
    """Billionths of a USDC per token (AiMo's older proxy settings)."""
    EACH = "each"
    """USD per piece: per image, or per request."""
    PERCENT = "percent"
    """Percent of the other lines; the unit of a fee."""


TOKEN_UNITS = frozenset({PriceUnit.PER_TOKEN, PriceUnit.PER_1K, PriceUnit.PER_1M, PriceUnit.USDC_9})

_SHIFT = {
    PriceUnit.PER_TOKEN: 0,
    PriceUnit.PER_1K: 3,
    PriceUnit.PER_1M: 0,
    PriceUnit.USDC_9: -3,
    PriceUnit.EACH: 6,
    PriceUnit.PERCENT: -2,
}


@dataclass(frozen=True, slots=True)
class Rate:
    """A non-negative number in a unit.

    Raises `TypeError` for a float (fault F10) and `MalformedError("invalid_price")` for what is negative, not finite,
    or longer than `DIGITS_LIMIT`.
    """

    value: Decimal
    unit: PriceUnit

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", exact(self.value))

    @classmethod
    def of(cls, value: str | int | Decimal, unit: PriceUnit) -> Rate:
        """The rate of a plain number such as `"0.15"`, `3` or `Decimal("0.15")`."""
        return cls(exact(value), unit)

    @property
    def atomic(self) -> Decimal:
        """Atomic USDC per token, image or request; for a fee, atomic USDC per atomic USDC."""
        return self.value.scaleb(_SHIFT[self.unit], EXACT_CONTEXT)

    def __str__(self) -> str:
        return format(self.value, "f")


def exact(value: str | int | Decimal) -> Decimal:
    """A finite, non-negative decimal of bounded length; raises as `Rate` does."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(f'a price is a string or a Decimal, never a {type(value).__name__}: write "0.1", not 0.1')
    if isinstance(value, int) and abs(value) >= 10**DIGITS_LIMIT:
        raise MalformedError("invalid_price", f"a price has at most {DIGITS_LIMIT} digits before its decimal point")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,24}(\.[0-9]{1,24})?", value, re.ASCII) is None:
        raise MalformedError("invalid_price", 'a price is a plain decimal number such as "0.15"')
    number = Decimal(value)
    if not number.is_finite() or number.is_signed():
        raise MalformedError("invalid_price", "a price is a finite, non-negative number")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -DIGITS_LIMIT or number.adjusted() >= DIGITS_LIMIT:
        raise MalformedError("invalid_price", f"a price has at most {DIGITS_LIMIT} digits on either side of its point")
    return number


FREE_TOKEN = Rate(Decimal(0), PriceUnit.PER_1M)
FREE_PIECE = Rate(Decimal(0), PriceUnit.EACH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """The price of one model, and the bounds that make a quote an upper bound.

    `default_output_tokens` is what an answer may have when the request does not say; `max_output_tokens` and
    `context_length` are the model's own limits (None when unknown). `tokenizer_factor` is the most tokens that one
    UTF-8 byte of text can become: 1 for byte-level BPE, more for tokenizers that expand text (SentencePiece with
    NFKC). `image_tokens` is the most prompt tokens that the upstream counts for one image, beside the image rate.
    """

    model: str
    prompt: Rate = FREE_TOKEN
    completion: Rate = FREE_TOKEN
    image: Rate = FREE_PIECE
    request: Rate = FREE_PIECE
    default_output_tokens: int = DEFAULT_OUTPUT_TOKENS
    max_output_tokens: int | None = None
    context_length: int | None = None
    tokenizer_factor: Decimal = Decimal(1)
    image_tokens: int = DEFAULT_IMAGE_TOKENS
    image_kinds: tuple[tuple[str, Rate], ...] = ()
    """Rates of images to be made, by size, quality or both: `("1024x1792", …)`, `("hd 1024x1792", …)`."""

    def __post_init__(self) -> None:
        check_model(self.model)
        for rate in (self.prompt, self.completion):
            if rate.unit not in TOKEN_UNITS:
                raise MalformedError("invalid_price", f"{self.model}: a token's price cannot be {rate.unit}")
        for rate in (self.image, self.request, *(rate for _, rate in self.image_kinds)):
            if rate.unit is not PriceUnit.EACH:
                raise MalformedError("invalid_price", f"{self.model}: the price of a piece cannot be {rate.unit}")
        check_count("default_output_tokens", self.default_output_tokens, least=1)
        check_count("image_tokens", self.image_tokens)
        for name in ("max_output_tokens", "context_length"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=1)
        object.__setattr__(self, "tokenizer_factor", exact(self.tokenizer_factor))
        if not self.tokenizer_factor:
            raise MalformedError("invalid_price", f"{self.model}: tokenizer_factor must be greater than 0")

    @property
    def free(self) -> bool:
        """Whether nothing is asked for anything; such a model is served without a payment."""
        kinds = (rate for _, rate in self.image_kinds)
        return not any(rate.value for rate in (self.prompt, self.completion, self.image, self.request, *kinds))

    def image_rate(self, features: frozenset[str]) -> Rate:
        """The rate of one image with these features, its size and quality as far as the request states them.

        The most particular kind that they name counts; where they name none fully, the dearest that they leave
        possible; then the rate of any image. Raises `MalformedError("unpriced_image")` when there is none: what has
        no price is not sold for nothing.
        """
        kinds = [(frozenset(name.split()), rate) for name, rate in self.image_kinds]
        named = [(len(words), rate.atomic, rate) for words, rate in kinds if words <= features]
        if named:
            return max(named, key=lambda entry: entry[:2])[2]
        possible = [rate for words, rate in kinds if features <= words]
        if possible or not kinds or self.image.value:
            return max((*possible, self.image), key=lambda rate: rate.atomic)
        stated = ", ".join(name for name, _ in self.image_kinds)
        raise MalformedError("unpriced_image", f"{self.model} has no price for such an image; it sells {stated}")


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices in force. `version` names this list in every quote; `fee_percent` is added on top of each quote.

    Raises `MalformedError("invalid_price")` for two prices of one model, or a version that is not 1 to 32 characters
    of `A-Z a-z 0-9 . _ : + -`.
    """

    version: str
    models: tuple[ModelPrice, ...]
    fee_percent: Decimal = Decimal(0)
    _by_id: dict[str, ModelPrice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_version(self.version)
        object.__setattr__(self, "fee_percent", exact(self.fee_percent))
        object.__setattr__(self, "models", tuple(self.models))
        by_id = {price.model: price for price in self.models}
        if len(by_id) != len(self.models):
            raise MalformedError("invalid_price", "a model has two prices in one list")
        object.__setattr__(self, "_by_id", by_id)

    def __iter__(self) -> Iterator[ModelPrice]:
        return iter(self.models)

    def find(self, model: str) -> ModelPrice | None:
        """The price of exactly this model id, or None."""
        return self._by_id.get(model)

    def get(self, model: str) -> ModelPrice:
        """Like `find`, but raises `MalformedError("model_not_found")`."""
        price = self._by_id.get(model)
        if price is None:
            raise MalformedError("model_not_found", f"no price is known for the model {model[:80]!r}")
        return price


def check_version(version: str) -> str:
    """The version itself. Raises `MalformedError("invalid_price")` unless it fits the form that `PriceList` states."""
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
        raise MalformedError("invalid_price", "a price list's version has 1 to 32 characters of A-Z a-z 0-9 . _ : + -")
    return version


def check_model(model: str) -> None:
    """Raise `MalformedError("invalid_model")` unless it is a model id: 1 to 128 printable ASCII characters."""
    if not isinstance(model, str) or not 1 <= len(model) <= _MODEL_LENGTH_LIMIT:
        raise MalformedError("invalid_model", f"a model id has 1 to {_MODEL_LENGTH_LIMIT} characters")
    if not model.isascii() or not model.isprintable() or " " in model:
        raise MalformedError("invalid_model", "a model id is printable ASCII without spaces")


def check_count(name: str, value: int, *, least: int = 0) -> int:
    """The value itself. Raises `TypeError` for what is no int, `MalformedError("invalid_count")` out of range."""
    if type(value) is not int:
        raise TypeError(f"{name} is an int, not {type(value).__name__}")
    if not least <= value <= COUNT_LIMIT:
        raise MalformedError("invalid_count", f"{name} must be between {least} and {COUNT_LIMIT}")
    return value
