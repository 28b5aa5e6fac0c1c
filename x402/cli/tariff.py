"""A quote in words: line by line, the way a bill is read."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from x402.money import EXACT_CONTEXT, show_units
from x402.price import PriceUnit, Rate
from x402.quote import Item, Line, Quote

_ITEMS = {
    Item.PROMPT: "prompt tokens",
    Item.COMPLETION: "answer tokens",
    Item.IMAGE: "images",
    Item.REQUEST: "request",
    Item.FEE: "fee on all above",
}
_RATES = {
    PriceUnit.PER_TOKEN: "{} atomic USDC per token",
    PriceUnit.PER_1K: "${} per 1K tokens",
    PriceUnit.PER_1M: "${} per 1M tokens",
    PriceUnit.USDC_9: "{} billionths of a USDC per token",
    PriceUnit.EACH: "${} each",
    PriceUnit.PERCENT: "{} %",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a bill: how many of what, at which rate, for how many dollars."""

    units: str
    item: str
    rate: str
    usd: str


def rows(quote: Quote) -> tuple[Row, ...]:
    """The quote's lines; the last row is its bound, the only figure that was rounded."""
    lines = tuple(_row(line) for line in quote.lines)
    return (*lines, Row("", "at most, rounded up", "", "$" + show_units(quote.bound, 6)))


def sentences(quote: Quote) -> tuple[str, ...]:
    """The same lines as plain text."""
    return tuple(" ".join(f"{row.units} {row.item} {row.rate} = {row.usd}".split()) for row in rows(quote))


def as_json(quote: Quote) -> dict[str, Any]:
    """The quote for programs: amounts as strings of atomic USDC, lines exact, the bound whole."""
    return {
        "model": quote.model,
        "bound": str(quote.bound),
        "usd": plain(quote.usd),
        "outputTokens": quote.output_tokens,
        "choices": quote.choices,
        "priceList": quote.price_list,
        "lines": [
            {
                "item": str(line.item),
                "units": line.units,
                "rate": str(line.rate),
                "unit": str(line.rate.unit),
                "amount": plain(line.amount),
            }
            for line in quote.lines
        ],
    }


def plain(number: Decimal) -> str:
    """A decimal without exponent and without zeros at its end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _row(line: Line) -> Row:
    bounded = line.item in (Item.PROMPT, Item.COMPLETION)
    units = "" if line.item is Item.FEE else f"{'≤ ' if bounded else ''}{line.units:,}"
    return Row(units, _ITEMS[line.item], _rate(line.rate), "$" + plain(line.amount.scaleb(-6, EXACT_CONTEXT)))


def _rate(rate: Rate) -> str:
    return _RATES[rate.unit].format(plain(rate.value))
