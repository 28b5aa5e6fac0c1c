"""Rows 67 to 71: who is asked first, who stands in, and who is never asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.gateway.inference.catalogue import Catalogue, Model, Provider
from x402.gateway.inference.health import Health
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.inference.selection import NO_WISHES, Sort, Wishes, eligible, line_up, read_wishes
from x402.gateway.problem import ApiProblem
from x402.quote import Order, quote


class Hands:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shop(prices: dict[str, str], **extra: str) -> Catalogue:
    """One model `m` with a provider of each name, at that many dollars for a million tokens in and out."""
    entries = [
        f'[[models]]\nname = "m"\nprovider_name = "{name}"\n{extra.get(name, "")}\n'
        f"[models.pricing]\nprompt = {price}\ncompletion = {price}\n"
        for name, price in prices.items()
    ]
    return read_catalogue("".join(entries), environment={}, now=0)


def model(prices: dict[str, str], **extra: str) -> Model:
    return shop(prices, **extra).resolve("m")


def names(line: Sequence[Provider]) -> list[str]:
    return [provider.id for provider in line]


def first(dice: int) -> Any:
    return lambda below: min(dice, below - 1)


def health() -> tuple[Health, Hands]:
    hands = Hands()
    return Health(hands), hands


def line(of: Model, wishes: Wishes = NO_WISHES, known: Health | None = None, dice: Any = None) -> list[str]:
    return names(line_up(of.providers, wishes, known or health()[0], dice or first(0)))


def test_row_067_price_comes_first_and_shares_by_its_inverse_square() -> None:
    chance = random.Random(7)
    sold = model({"two": "2", "one": "1", "four": "4"})
    drawn = Counter(line(sold, dice=chance.randrange)[0] for _ in range(4000))
    assert set(drawn) == {"one", "two"}, "four times the cheapest only stands in"
    assert 0.77 < drawn["one"] / 4000 < 0.83, "1 to 1/4 is four fifths"


def test_row_069_the_others_stand_in_by_price_and_the_unstable_come_last() -> None:
    sold, (known, hands) = model({"a": "1", "b": "2", "c": "3", "d": "9"}), health()
    assert line(sold, known=known) == ["a", "b", "c", "d"]
    known.failed("a:m")
    assert line(sold, known=known) == ["b", "c", "d", "a"]
    hands.now += 29.9
    assert line(sold, known=known)[-1] == "a"
    hands.now += 0.1
    assert line(sold, known=known)[0] == "a", "half a minute later it is tried again"


def test_row_069_one_answer_ends_an_outage() -> None:
    sold, (known, _) = model({"a": "1", "b": "2"}), health()
    known.failed("a:m")
    known.answered("a:m", 0.1)
    assert line(sold, known=known)[0] == "a"


def test_row_068_sort_throughput() -> None:
    sold, (known, _) = model({"slow": "1", "fast": "3", "new": "2"}), health()
    known.delivered("slow:m", 10, 1.0)
    known.delivered("fast:m", 90, 1.0)
    wishes = read_wishes({"sort": "throughput"})
    assert line(sold, wishes, known) == ["fast", "slow", "new"]
    assert line(sold, read_wishes({"provider": {"sort": "throughput"}}), known) == ["fast", "slow", "new"]
    known.failed("fast:m")
    assert line(sold, wishes, known) == ["slow", "new", "fast"]


def test_row_068_sort_latency_and_price_turn_balancing_off() -> None:
    sold, (known, _) = model({"a": "1", "b": "2", "c": "3"}), health()
    known.answered("a:m", 0.9)
    known.answered("c:m", 0.1)
    assert line(sold, read_wishes({"sort": "latency"}), known, first(10**9)) == ["c", "a", "b"]
    assert line(sold, read_wishes({"sort": "price"}), known, first(10**9)) == ["a", "b", "c"]


def test_row_068_order_and_fallbacks() -> None:
    sold = model({"a": "1", "b": "2", "c": "3"})
    wishes = read_wishes({"provider": {"order": ["C", "b"]}})
    assert line(sold, wishes) == ["c", "b", "a"]
    strict = read_wishes({"provider": {"order": ["c", "b"], "allow_fallbacks": False}})
    assert line(eligible(sold, strict), strict) == ["c", "b"]
    alone = read_wishes({"provider": {"allow_fallbacks": False}})
    assert line(eligible(sold, alone), alone) == ["a"]


def test_row_071_regions_exclude_and_a_preferred_region_goes_first() -> None:
    sold = model({"a": "1", "b": "2"}, a='regions = ["us"]', b='regions = ["EU", "ch"]')
    wishes = read_wishes({"provider": {"regions": ["eu"]}})
    assert names(eligible(sold, wishes).providers) == ["b"]
    assert line(sold, read_wishes({}, preferred_region="eu")) == ["b", "a"]
    assert line(sold, read_wishes({}, preferred_region="mars")) == ["a", "b"]
    known, _ = health()
    known.failed("b:m")
    assert line(sold, read_wishes({}, preferred_region="eu"), known) == ["a", "b"]


def test_a_narrower_choice_is_priced_for_those_who_are_left() -> None:
    catalogue = shop({"a": "1", "b": "5"})
    cheap = eligible(catalogue.resolve("m"), read_wishes({"provider": {"max_price": {"prompt": "2"}}}))
    assert names(cheap.providers) == ["a"]
    whole = quote(Order("m", 1000, 1000), catalogue.price_list(catalogue.resolve("m")))
    quoted = quote(Order("m", 1000, 1000), catalogue.price_list(cheap))
    assert (whole.bound, quoted.bound) == (10_000, 2_000)
    assert (quoted.model, quoted.price_list) == ("m", catalogue.prices.version)


@pytest.mark.parametrize("stated", [0.5, "0.5", 1, "4.9"])
def test_the_highest_price_may_be_stated_in_any_spelling(stated: Any) -> None:
    sold = model({"a": "0.5", "b": "5"})
    assert names(eligible(sold, read_wishes({"provider": {"max_price": {"completion": stated}}})).providers) == ["a"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"sort": "cheapest"}, "sort"),
        ({"sort": "price", "provider": {"sort": "latency"}}, "sort"),
        ({"provider": {"sort": ["price"]}}, "sort"),
        ({"provider": {"order": "a"}}, "provider.order"),
        ({"provider": {"order": [1]}}, "provider.order"),
        ({"provider": {"order": ["a"] * 33}}, "provider.order"),
        ({"provider": {"regions": [""]}}, "provider.regions"),
        ({"provider": {"allow_fallbacks": "no"}}, "provider.allow_fallbacks"),
        ({"provider": {"max_price": {"prompts": 1}}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": 1e-30}}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": True}}}, "provider.max_price"),
        ({"provider": {"max_price": 7}}, "provider.max_price"),
        ({"provider": []}, None),
        ({"provider": {"unknown": 1}}, None),
    ],
)
def test_a_wish_that_is_none_names_the_member(members: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert read_wishes(members) == Wishes()
        return
    with pytest.raises(ApiProblem) as caught:
        read_wishes(members)
    assert (caught.value.status_code, caught.value.param) == (400, param)


def test_a_provider_that_the_model_does_not_have_is_said() -> None:
    with pytest.raises(ApiProblem) as caught:
        eligible(model({"a": "1"}), read_wishes({"provider": {"order": ["b"]}}))
    assert (caught.value.status_code, caught.value.code) == (400, "unknown_provider")
    assert caught.value.details["suggestions"] == ["a"]
    with pytest.raises(ApiProblem) as caught:
        eligible(model({"a": "1"}), read_wishes({"provider": {"regions": ["eu"]}}))
    assert (caught.value.status_code, caught.value.code) == (404, "no_provider_fits")


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 50), min_size=1),
    st.sampled_from([None, *Sort]),
    st.integers(0),
    st.sets(st.sampled_from("abcdefgh")),
)
def test_everybody_is_asked_once_and_the_healthy_first(
    prices: dict[str, int], sort: Sort | None, seed: int, ill: set[str]
) -> None:
    sold, (known, _) = model({name: str(price) for name, price in prices.items()}), health()
    for name in ill:
        known.failed(f"{name}:m")
    asked = line(sold, Wishes(sort=sort), known, random.Random(seed).randrange)
    assert sorted(asked) == sorted(prices)
    states = [name in ill for name in asked]
    assert states == sorted(states)


def test_a_weight_of_the_operator_counts_and_none_only_stands_in() -> None:
    chance = random.Random(1)
    sold = model({"a": "1", "b": "1", "c": "1"}, a="weight = 3", c="weight = 0")
    drawn = Counter(line(sold, dice=chance.randrange)[0] for _ in range(2000))
    assert set(drawn) == {"a", "b"}
    assert 0.7 < drawn["a"] / 2000 < 0.8
    assert line(model({"c": "1", "d": "2"}, c="weight = 0", d="weight = 0")) == ["c", "d"]
