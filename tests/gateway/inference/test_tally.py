"""What an answer has used so far, and what that comes to: never above the quote, nothing for nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from x402.gateway.inference.tally import Tally
from x402.quote import Item, ModelPrice, Order, PriceList, PriceUnit, Quote, Rate, Usage, quote

PRICES = PriceList(
    "p1",
    (ModelPrice(model="m", prompt=Rate.of("1", PriceUnit.PER_1M), completion=Rate.of("2", PriceUnit.PER_1M)),),
)
FEE = PriceList("p2", PRICES.models, Rate.of("3", PriceUnit.PERCENT).value)


def bill(quoted: Quote | None = None, **members: Any) -> Tally:
    return Tally(quoted or quote(Order("m", 100, 50), PRICES), "chat.completions", **members)


def test_row_038_the_receipt_line_adds_up() -> None:
    tally = bill()
    tally.hear(7, Usage(40, 20))
    assert tally.as_json() == {
        "model": "m",
        "quoted": "200",
        "actual": "80",
        "unused": "120",
        "prices": "p1",
        "usage": {"prompt_tokens": 40, "completion_tokens": 20},
    }


def test_B17_absurd_usage_is_charged_as_quoted_and_told() -> None:
    tally = bill()
    tally.hear(1, Usage(10**9, 10**9))
    line = tally.as_json()
    assert (line["actual"], line["over"]) == ("200", ["prompt", "completion"])
    assert tally.metered().charged == 200


def test_row_043_without_a_usage_our_own_count_holds_and_is_called_incomplete() -> None:
    tally = bill()
    assert (tally.metered().charged, tally.metered().complete) == (0, False)
    tally.hear(10)
    metered = tally.metered()
    assert (metered.prompt_tokens, metered.completion_tokens, metered.charged) == (25, 10, 45)
    assert not metered.complete
    assert "usage" not in tally.as_json()
    tally.hear(0, Usage(30, 12))
    assert (tally.metered().charged, tally.metered().complete) == (54, True)


def test_row_086_nothing_said_costs_nothing() -> None:
    for heard in (Usage(40, 0), Usage(40, 20), None):
        tally = bill()
        tally.hear(0, heard)
        tally.nothing()
        assert (tally.metered().charged, tally.as_json()["unused"]) == (0, "200")


def test_the_sale_hears_every_change() -> None:
    sale: Any = SimpleNamespace(metered=None)
    tally = bill(sale=sale, provider="p")
    tally.tell()
    first = sale.metered
    tally.hear(1)
    assert (first.charged, sale.metered.charged, sale.metered.provider) == (0, 27, "p")


def test_the_fee_is_a_part_of_the_charge() -> None:
    tally = bill(quote(Order("m", 100, 50), FEE))
    tally.hear(0, Usage(100, 50))
    assert (tally.metered().charged, tally.metered().fee) == (206, 6)


@given(
    prompt=st.integers(0, 10**5), output=st.integers(1, 10**5), said=st.integers(0, 10**6),
    used=st.none() | st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)  # fmt: skip
def test_B17_no_count_ever_charges_above_the_quote(
    prompt: int, output: int, said: int, used: tuple[int, int] | None
) -> None:
    quoted = quote(Order("m", prompt, output), FEE)
    tally = bill(quoted)
    tally.hear(said, None if used is None else Usage(*used))
    metered = tally.metered()
    assert 0 <= metered.fee <= metered.charged <= quoted.bound
    assert Item.FEE in {line.item for line in quoted.lines}
