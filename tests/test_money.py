"""Money: one grammar, exact conversion, one rounding, no floats (faults B07, F09, F10, F11)."""

from __future__ import annotations

import json
import operator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402 import networks
from x402.errors import MalformedError
from x402.money import Amount, Asset, parse_atomic, parse_price, round_up, show_units

VECTORS = json.loads((Path(__file__).parents[1] / "fixtures" / "money.json").read_text())
USDC = networks.get(networks.BASE_SEPOLIA).usd
SPL_USDC = networks.get(networks.SOLANA_DEVNET).usd


def coin(decimals: int) -> Asset:
    return Asset("eip155:1", "0x0", "TEST", decimals, "eip3009")


def own_way(suite: str, case: dict[str, Any]) -> Any:
    """What we do instead where we differ from the official SDK on purpose, else None."""
    given_members = {name: value for name, value in case.items() if name not in ("out", "error")}
    for deviation in VECTORS["deviations"][suite]:
        if {name: value for name, value in deviation.items() if name not in ("ours", "why")} == given_members:
            return deviation["ours"]
    return None


@pytest.mark.parametrize("case", VECTORS["parse_money"], ids=lambda case: repr(case["in"]))
def test_prices_are_read_like_the_official_sdk_reads_them(case: dict[str, Any]) -> None:
    ours = own_way("parse_money", case)
    if ours == "TypeError":
        with pytest.raises(TypeError, match="never a float"):
            parse_price(case["in"])
    elif "error" in case:
        with pytest.raises(MalformedError) as caught:
            parse_price(case["in"])
        assert caught.value.code == "invalid_price"
    else:
        expected = ours or case["out"]
        assert parse_price(case["in"]) == (Decimal(expected["amount"]), expected.get("symbol", ""))


@pytest.mark.parametrize(
    "case", VECTORS["convert_to_token_amount"], ids=lambda case: f"{case['amount']}e{case['decimals']}"
)
def test_prices_become_atomic_units_like_in_the_official_sdk(case: dict[str, Any]) -> None:
    ours = own_way("convert_to_token_amount", case)
    if ours is None:
        assert Amount.of(case["amount"], coin(case["decimals"])).units == int(case["out"])
    else:
        with pytest.raises(MalformedError) as caught:
            Amount.of(case["amount"], coin(case["decimals"]))
        assert caught.value.code == ours


def test_every_deviation_names_a_vector() -> None:
    for suite, deviations in VECTORS["deviations"].items():
        assert sum(own_way(suite, case) is not None for case in VECTORS[suite]) == len(deviations)


def test_each_of_the_first_million_micro_prices_is_exact() -> None:
    of, usdc = Amount.of, USDC
    triples = [f"{n:03d}" for n in range(1000)]
    prices = chain((f"$0.{high}{low}" for high in triples for low in triples), ["$1.000000"])
    wrong = [price for n, price in enumerate(prices) if of(price, usdc).units != n]
    assert wrong == []


@given(st.integers(0, 2**256 - 1), st.integers(0, 30))
def test_an_amount_survives_its_own_decimal_form(units: int, decimals: int) -> None:
    amount = Amount(units, coin(decimals))
    assert Amount.of(amount.decimal, amount.asset) == amount
    # The longest price that is read from text has 96 characters; 2^256 with 30 decimals has 79.
    assert Amount.of(show_units(units, decimals), amount.asset) == amount


@pytest.mark.parametrize("number", [0.1, 1.0, float("nan"), True])
def test_a_float_is_never_money(number: Any) -> None:
    with pytest.raises(TypeError):
        Amount.of(number, USDC)
    with pytest.raises(TypeError):
        Amount(number, USDC)


NO_PRICES: list[Any] = ["", "free", "$", "-1", "+1", "1e3", "1.", ".5", "1,5", "0x10", "１", "1 USD extra", "1\n"]
NO_PRICES += ["NaN", "inf", "9" * 97, Decimal("NaN"), Decimal("Infinity"), Decimal(-1), -1, None, b"1", [1]]


@pytest.mark.parametrize("price", NO_PRICES, ids=repr)
def test_what_is_no_price_is_refused(price: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        Amount.of(price, USDC)
    assert caught.value.code == "invalid_price"


def test_a_price_in_another_coin_is_refused() -> None:
    assert Amount.of("1.50 usdc", USDC).units == 1_500_000
    assert Amount.of("1.50 USD", USDC).units == 1_500_000
    with pytest.raises(MalformedError, match="USDT"):
        Amount.of("1.50 USDT", USDC)


@pytest.mark.parametrize("text", ["0", "1", "10000", str(2**256 - 1)])
def test_an_atomic_amount_is_read(text: str) -> None:
    assert parse_atomic(text) == int(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "01",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "1_000",
        "0x1",
        "١",
        "１",
        str(2**256),
        "1" * 79,
        1,
        1.0,
        None,
    ],
)
def test_what_is_no_atomic_amount_is_refused(text: object) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_atomic(text)
    assert caught.value.code == "invalid_amount"


@given(st.one_of(st.text(), st.integers(), st.none(), st.binary(), st.decimals()))
def test_no_input_makes_the_readers_raise_anything_else(value: Any) -> None:
    for reader in (parse_atomic, parse_price):
        with suppress(MalformedError):
            reader(value)


@given(st.decimals(min_value=0, max_value=10**30, allow_nan=False, allow_infinity=False))
def test_rounding_goes_up_by_less_than_one_unit(amount: Decimal) -> None:
    assert 0 <= round_up(amount) - Fraction(amount) < 1


@pytest.mark.parametrize(
    ("units", "decimals", "shown"),
    [(10_000, 6, "0.01"), (1, 6, "0.000001"), (0, 6, "0"), (1_500_000, 6, "1.5"), (-10_000, 6, "-0.01"), (7, 0, "7")],
)
def test_units_are_shown_without_an_exponent(units: int, decimals: int, shown: str) -> None:
    assert show_units(units, decimals) == shown
    assert Decimal(shown).scaleb(decimals) == units


def test_amounts_add_subtract_and_compare_within_one_asset_only() -> None:
    small, large = Amount(1, USDC), Amount(3, USDC)
    assert (small + large).units == 4
    assert (large - small).units == 2
    assert small < large
    assert large >= small
    assert str(large) == "0.000003 USDC"
    for act in (operator.add, operator.sub, operator.lt):
        with pytest.raises(TypeError, match="different assets"):
            act(small, Amount(1, SPL_USDC))
    assert small != Amount(1, SPL_USDC)


def test_an_amount_is_never_negative_and_fits_its_token() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Amount(1, USDC) - Amount(2, USDC)
    assert Amount(2**64 - 1, SPL_USDC).units == 2**64 - 1
    with pytest.raises(ValueError, match="does not fit"):
        Amount(2**64, SPL_USDC)
    with pytest.raises(ValueError, match="does not fit"):
        Amount(2**256, USDC)


@pytest.mark.parametrize("price", ["9" * 96, 10**100, Decimal("1e5000"), Decimal("1e999999"), Decimal("1e-999999")])
def test_F11_a_price_beyond_all_measure_is_a_typed_refusal(price: str | int | Decimal) -> None:
    with pytest.raises(MalformedError, match="the price is"):
        Amount.of(price, networks.get("base").usd)


def test_F10_a_long_decimal_is_never_rounded() -> None:
    usdc = networks.get("base").usd
    assert Amount.of(Decimal("0.000001" + "0" * 130), usdc).units == 1
    with pytest.raises(MalformedError, match="finer"):
        Amount.of(Decimal("0.000001" + "0" * 130 + "1"), usdc)
