"""AiMo's older price table, in dollars per thousand tokens and per image, priced to the unit. Aimo row 76."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from x402.gateway.inference.price_file import read_catalogue
from x402.quote import Order, Usage, quote

TABLE = Path(__file__).parents[3] / "fixtures" / "aimo_prices.toml"
PER_1K = {"gpt-4": "0.03", "gpt-3.5-turbo": "0.002", "claude-3": "0.015", "llama-2": "0.001"}


@pytest.mark.parametrize("model", list(PER_1K))
def test_row_076_a_thousand_tokens_cost_what_the_table_says(model: str) -> None:
    prices = read_catalogue(TABLE.read_text(), environment={}, now=0).prices
    told = quote(Order(model, prompt_tokens_bound=600, max_output_tokens=400), prices)
    assert Decimal(told.bound).scaleb(-6) == Decimal(PER_1K[model])
    # What was really used is a part of that, to the token and rounded up once.
    rate = Decimal(PER_1K[model]) / 1000
    for prompt, completion in ((1, 0), (0, 1), (123, 45), (600, 400)):
        exact = (rate * (prompt + completion)).scaleb(6)
        assert told.actual(Usage(prompt, completion)).total == exact.to_integral_value("ROUND_CEILING")


def test_row_076_an_image_costs_what_the_table_says() -> None:
    prices = read_catalogue(TABLE.read_text(), environment={}, now=0).prices
    told = quote(Order("dall-e-3", prompt_tokens_bound=50, max_output_tokens=0, images=3), prices)
    assert told.usd == Decimal("0.120")
    assert told.actual(Usage(50, 0, 2)).total == 80_000
