"""Rates and price lists: four units of a token's price, each exact, and no float among them (fault F10)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.price import COUNT_LIMIT, DIGITS_LIMIT, TOKEN_UNITS, ModelPrice, PriceList, PriceUnit, Rate
from x402.quote import Order, quote

ATOMIC_PER = {
    PriceUnit.PER_TOKEN: Fraction(1),
    PriceUnit.PER_1K: Fraction(10**6, 10**3),
    PriceUnit.PER_1M: Fraction(10**6, 10**6),
    PriceUnit.USDC_9: Fraction(10**6, 10**9),
    PriceUnit.EACH: Fraction(10**6),
    PriceUnit.PERCENT: Fraction(1, 100),
}
"""Written out again from the definitions: atomic USDC (millionths of a dollar) per token, piece or atomic."""

plain_numbers = st.decimals(0, 10**6, places=9) | st.decimals(0, 10**6, places=0) | st.just(Decimal(0))


@given(plain_numbers, st.sampled_from(PriceUnit))
def test_every_unit_converts_exactly(value: Decimal, unit: PriceUnit) -> None:
    assert Fraction(Rate(value, unit).atomic) == Fraction(value) * ATOMIC_PER[unit]


@pytest.mark.parametrize(
    ("rate", "usd_per_million"),
    [
        (Rate.of("0.03", PriceUnit.PER_1K), "30"),  # AiMo's GPT-4 row
        (Rate.of("0.002", PriceUnit.PER_1K), "2"),  # AiMo's GPT-3.5 row
        (Rate.of("1000", PriceUnit.PER_TOKEN), "1000"),  # AiMo's registration example: $0.001 per token
        (Rate.of("200", PriceUnit.USDC_9), "0.2"),
        (Rate.of("1.2", PriceUnit.PER_1M), "1.2"),
    ],
)
def test_the_units_in_circulation_agree(rate: Rate, usd_per_million: str) -> None:
    assert rate.atomic * 1_000_000 == Decimal(usd_per_million) * 1_000_000


def test_a_piece_costs_what_it_says() -> None:
    assert Rate.of("0.040", PriceUnit.EACH).atomic == 40_000  # AiMo's DALL·E 3 row


@pytest.mark.parametrize("value", [0.1, 1.0, float("inf"), True, None, b"1"])
def test_a_float_is_never_a_rate(value: Any) -> None:
    with pytest.raises(TypeError, match="never a"):
        Rate.of(value, PriceUnit.PER_1M)
    with pytest.raises(TypeError, match="never a"):
        Rate(value, PriceUnit.PER_1M)


NO_RATES: list[Any] = ["-1", "1e3", "", "NaN", ".5", "١", " 1", "1" * 25, "0." + "1" * 25, -1, 10**24, 10**10_000]
NO_RATES += [Decimal(text) for text in ("NaN", "-0.1", "inf", "1E+24", "1E-25", "1E+999999")]


@pytest.mark.parametrize("value", NO_RATES, ids=lambda value: "int" if isinstance(value, int) else repr(value)[:20])
def test_what_is_no_rate_is_refused(value: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        Rate.of(value, PriceUnit.PER_1M)
    assert caught.value.code == "invalid_price"


def test_the_arithmetic_is_exact_at_its_widest() -> None:
    widest = Decimal("9" * DIGITS_LIMIT + "." + "9" * DIGITS_LIMIT)
    for unit in TOKEN_UNITS:
        model = ModelPrice(model="m", prompt=Rate(widest, unit), request=Rate(widest, PriceUnit.EACH))
        listed = PriceList("1", (model,), widest)
        with pytest.raises(MalformedError) as caught:
            quote(Order("m", COUNT_LIMIT, 0), listed)
        assert caught.value.code == "invalid_count"
    tiny = Decimal(1).scaleb(-DIGITS_LIMIT)
    wide = ModelPrice(model="m", prompt=Rate(widest, PriceUnit.USDC_9), completion=Rate(tiny, PriceUnit.USDC_9))
    fee = Decimal("0." + "9" * DIGITS_LIMIT)
    lines = quote(
        Order("m", 1, 1), PriceList("1", (replace(wide, prompt=Rate(widest / 10**20, PriceUnit.USDC_9)),), fee)
    ).lines
    subtotal = sum((Fraction(line.amount) for line in lines[:-1]), Fraction(0))
    assert Fraction(lines[-1].amount) == subtotal * Fraction(fee) / 100


def test_prices_state_fitting_units() -> None:
    with pytest.raises(MalformedError, match="a token's price cannot be each"):
        ModelPrice(model="m", prompt=Rate.of(1, PriceUnit.EACH))
    with pytest.raises(MalformedError, match="the price of a piece cannot be per_1m"):
        ModelPrice(model="m", image=Rate.of(1, PriceUnit.PER_1M))
    with pytest.raises(MalformedError, match="tokenizer_factor"):
        ModelPrice(model="m", tokenizer_factor=Decimal(0))


@pytest.mark.parametrize("model", ["", "a b", "x" * 129, "naïve", "a\n"])
def test_what_is_no_model_id_is_refused(model: str) -> None:
    with pytest.raises(MalformedError) as caught:
        ModelPrice(model=model)
    assert caught.value.code == "invalid_model"


def test_a_price_list_has_one_price_per_model() -> None:
    small = ModelPrice(model="small", prompt=Rate.of("0.15", PriceUnit.PER_1M))
    listed = PriceList("2025-11-20", (small,), Decimal(3))
    assert listed.find("small") is listed.models[0]
    assert listed.find("SMALL") is None
    with pytest.raises(MalformedError) as caught:
        quote(Order("other", 1), listed)
    assert caught.value.code == "model_not_found"
    with pytest.raises(MalformedError, match="two prices"):
        PriceList("1", listed.models * 2)
    with pytest.raises(MalformedError, match="version"):
        PriceList("version one", listed.models)
    with pytest.raises(TypeError):
        PriceList("1", listed.models, 0.03)  # type: ignore[arg-type]
