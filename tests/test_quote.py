"""Quotes: never too low, itemised, rounded up once; charges never above them; one digest for one request."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402 import networks
from x402.errors import MalformedError
from x402.money import Amount
from x402.price import COUNT_LIMIT, TOKEN_UNITS
from x402.quote import Charge, Item, ModelPrice, Order, PriceList, PriceUnit, Rate, Usage, quote, request_digest

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
counts = st.integers(0, 2_000_000)


@st.composite
def prices(draw: st.DrawFn) -> PriceList:
    token_rates = st.builds(Rate, plain_numbers, st.sampled_from(sorted(TOKEN_UNITS)))
    piece_rates = st.builds(Rate, plain_numbers, st.just(PriceUnit.EACH))
    limits = st.none() | st.integers(1, 200_000)
    model = ModelPrice(
        model="vendor/model",
        prompt=draw(token_rates),
        completion=draw(token_rates),
        image=draw(piece_rates),
        request=draw(piece_rates),
        default_output_tokens=draw(st.integers(1, 10_000)),
        max_output_tokens=draw(limits),
        context_length=draw(limits),
        image_tokens=draw(st.integers(0, 5000)),
    )
    return PriceList("2025-11-20", (model,), draw(st.decimals(0, 300, places=2)))


orders = st.builds(
    Order,
    st.just("vendor/model"),
    counts,
    st.none() | counts,
    n=st.integers(1, 8),
    images=st.integers(0, 20),
)


def price_list(fee: str = "3", **changes: Any) -> PriceList:
    small = ModelPrice(
        model="small", prompt=Rate.of("0.15", PriceUnit.PER_1M), completion=Rate.of("0.60", PriceUnit.PER_1M)
    )
    return PriceList("2025-11-20", (replace(small, **changes),), Decimal(fee))


def test_a_quote_says_what_is_paid_for() -> None:
    quoted = quote(Order("small", 812, 256, n=2), price_list())
    assert [(line.item, line.units, str(line.rate), line.amount) for line in quoted.lines] == [
        (Item.PROMPT, 812, "0.15", Decimal("121.80")),
        (Item.COMPLETION, 512, "0.60", Decimal("307.20")),
        (Item.FEE, 1, "3", Decimal("12.8700")),
    ]
    assert quoted.bound == 442  # 441.87, rounded up once
    assert (quoted.output_tokens, quoted.choices, quoted.price_list, quoted.free) == (256, 2, "2025-11-20", False)
    assert Amount.of(quoted.usd, networks.get(networks.BASE).usd).units == 442


def test_images_and_requests_have_their_own_lines() -> None:
    listed = price_list(
        "0", image=Rate.of("0.040", PriceUnit.EACH), request=Rate.of("0.001", PriceUnit.EACH), image_tokens=100
    )
    quoted = quote(Order("small", 800, 10, images=2), listed)
    assert [(line.item, line.units) for line in quoted.lines] == [
        (Item.PROMPT, 1000),
        (Item.COMPLETION, 10),
        (Item.IMAGE, 2),
        (Item.REQUEST, 1),
    ]
    assert quoted.bound == 150 + 6 + 80_000 + 1_000


@pytest.mark.parametrize(
    ("asked", "default", "most", "context", "bounded"),
    [
        (None, 1024, None, None, 1024),
        (None, 1024, 512, None, 512),
        (None, 1024, None, 100, 100),
        (50_000, 1024, 4096, None, 4096),
        (50_000, 1024, None, 8192, 8192),
        (10, 1024, 4096, 8192, 10),
        (0, 1024, 4096, 8192, 0),
    ],
)
def test_the_answer_is_bounded_by_request_operator_and_model(
    asked: int | None, default: int, most: int | None, context: int | None, bounded: int
) -> None:
    listed = price_list(default_output_tokens=default, max_output_tokens=most, context_length=context)
    assert quote(Order("small", 10, asked), listed).output_tokens == bounded


def test_a_prompt_is_never_longer_than_the_context() -> None:
    assert quote(Order("small", 1_000_000, 1), price_list(context_length=8192)).lines[0].units == 8192


def test_a_free_model_is_free() -> None:
    quoted = quote(Order("small", 5, 5, images=1), PriceList("1", (ModelPrice(model="small"),), Decimal(3)))
    assert quoted.free
    assert (quoted.bound, quoted.lines, quoted.output_tokens) == (0, (), 5)


def test_what_is_not_free_costs_at_least_one_unit() -> None:
    tiny = price_list("0", prompt=Rate.of("0.000001", PriceUnit.PER_1M), completion=Rate.of(0, PriceUnit.PER_1M))
    assert quote(Order("small", 1, 1), tiny).bound == 1
    assert quote(Order("small", 0, 1), tiny).bound == 1
    assert not quote(Order("small", 0, 1), tiny).free


@given(orders, prices())
def test_the_bound_is_the_exact_sum_rounded_up_once(order: Order, listed: PriceList) -> None:
    quoted = quote(order, listed)
    price = listed.models[0]
    limits = [limit for limit in (price.max_output_tokens, price.context_length) if limit is not None]
    output = min([price.default_output_tokens if order.max_output_tokens is None else order.max_output_tokens, *limits])
    prompt = order.prompt_tokens_bound + order.images * price.image_tokens
    if price.context_length is not None:
        prompt = min(prompt, price.context_length)
    counted = (
        (prompt, price.prompt),
        (output * order.n, price.completion),
        (order.images, price.image),
        (1, price.request),
    )
    subtotal = sum((units * Fraction(rate.value) * ATOMIC_PER[rate.unit] for units, rate in counted), Fraction(0))
    exact_total = subtotal * (1 + Fraction(listed.fee_percent) / 100)
    assert quoted.output_tokens == output
    assert quoted.free == price.free
    assert quoted.bound == (0 if price.free else max(1, ceil(exact_total)))
    assert sum((Fraction(line.amount) for line in quoted.lines), Fraction(0)) == exact_total
    assert 0 <= quoted.bound - exact_total <= 1


@given(orders, prices(), st.data())
def test_usage_within_the_bounds_never_costs_more_than_the_bound(
    order: Order, listed: PriceList, data: st.DataObject
) -> None:
    quoted = quote(order, listed)
    most = {line.item: line.units for line in quoted.lines}
    usage = Usage(
        *(data.draw(st.integers(0, most.get(item, 10))) for item in (Item.PROMPT, Item.COMPLETION, Item.IMAGE))
    )
    charge = quoted.actual(usage)
    exact_total = sum((Fraction(line.amount) for line in charge.lines), Fraction(0))
    assert charge.total == ceil(exact_total) <= quoted.bound
    assert charge.unused == quoted.bound - charge.total
    assert charge.over == ()


@given(orders, prices(), counts, counts, st.integers(0, 50))
def test_no_usage_whatever_costs_more_than_the_bound(
    order: Order, listed: PriceList, prompt: int, completion: int, images: int
) -> None:
    quoted = quote(order, listed)
    charge = quoted.actual(Usage(prompt, completion, images))
    assert 0 <= charge.total <= quoted.bound
    used = {Item.PROMPT: prompt, Item.COMPLETION: completion, Item.IMAGE: images}
    assert set(charge.over) == {line.item for line in quoted.lines if used.get(line.item, 0) > line.units}


@given(orders, prices(), st.integers(0, 1000), st.integers(0, 1000))
def test_more_never_costs_less(order: Order, listed: PriceList, prompt: int, output: int) -> None:
    quoted = quote(order, listed)
    larger = replace(
        order,
        prompt_tokens_bound=order.prompt_tokens_bound + prompt,
        max_output_tokens=None if order.max_output_tokens is None else order.max_output_tokens + output,
        n=order.n + 1,
    )
    assert quote(larger, listed).bound >= quoted.bound
    assert quoted.actual(Usage(prompt, output)).total <= quoted.actual(Usage(prompt + 1, output + 1)).total


def test_a_charge_is_itemised_from_real_usage() -> None:
    charge = quote(Order("small", 812, 256), price_list()).actual(Usage(100, 20))
    assert [(line.item, line.units, line.amount) for line in charge.lines] == [
        (Item.PROMPT, 100, Decimal("15.00")),
        (Item.COMPLETION, 20, Decimal("12.00")),
        (Item.FEE, 1, Decimal("0.8100")),
    ]
    assert (charge.total, charge.bound, charge.over) == (28, 284, ())
    assert charge.unused == 256


def test_inflated_usage_is_clamped_and_named() -> None:
    """A provider that reports ten times the tokens is charged as quoted, and seen (fault B17)."""
    quoted = quote(Order("small", 812, 256), price_list())
    charge = quoted.actual(Usage(100, 2560))
    assert charge.over == (Item.COMPLETION,)
    assert charge.lines[1].units == 256
    assert charge.total == quoted.actual(Usage(100, 256)).total < quoted.bound
    everything = quoted.actual(Usage(COUNT_LIMIT, COUNT_LIMIT))
    assert (everything.total, everything.over) == (quoted.bound, (Item.PROMPT, Item.COMPLETION))


def test_nothing_is_owed_for_nothing() -> None:
    zero = Charge.zero(442)
    assert (zero.total, zero.lines, zero.unused, zero.over) == (0, (), 442, ())
    assert quote(Order("small", 812, 256), price_list()).actual(Usage(0, 0)).total == 0


@pytest.mark.parametrize("count", [-1, COUNT_LIMIT + 1])
def test_senseless_counts_are_refused(count: int) -> None:
    for build in (
        lambda: Usage(count, 0),
        lambda: Usage(0, count),
        lambda: Order("m", count),
        lambda: Order("m", 0, n=count),
    ):
        with pytest.raises(MalformedError) as caught:
            build()
        assert caught.value.code == "invalid_count"
    for wrong in (1.0, "1", True, None):
        with pytest.raises(TypeError):
            Usage(wrong, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("post", "/a", b""), ("POST", "/a", b"")),
        (("GET", "/%7euser?q=%61", b""), ("GET", "/~user?q=a", b"")),
        (("GET", "/a%c3%a9", b""), ("GET", "/aé", b"")),
        (("GET", "/a b", b""), ("GET", "/a%20b", b"")),
        (("GET", "/a?", b""), ("GET", "/a", b"")),
        (("GET", "", b""), ("GET", "/", b"")),
        (("GET", "/a#part", b""), ("GET", "/a", b"")),
        (("GET", "/a%zz", b""), ("GET", "/a%25zz", b"")),
    ],
)
def test_one_request_has_one_digest(one: tuple[str, str, bytes], other: tuple[str, str, bytes]) -> None:
    assert request_digest(*one) == request_digest(*other)


def test_different_requests_have_different_digests() -> None:
    requests = [
        ("GET", "/a", b""),
        ("HEAD", "/a", b""),
        ("GET", "/A", b""),
        ("GET", "/a/", b""),
        ("GET", "/a%2Fb", b""),
        ("GET", "/a/b", b""),
        ("GET", "/a?x=1", b""),
        ("GET", "/a?x=1&y=2", b""),
        ("GET", "/a?y=2&x=1", b""),
        ("GET", "/a?x=1%26y=2", b""),
        ("GET", "/a", b"\n"),
        ("GET", "/a\n", b""),
        ("GET", "/a%23part", b""),
        ("GET", "/a%3F", b""),
    ]
    assert len({request_digest(*request) for request in requests}) == len(requests)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=50))
def test_a_canonical_target_stays_canonical(target: str, body: bytes) -> None:
    digest = request_digest("GET", target, body)
    assert len(digest) == 64
    assert digest == request_digest("GET", target.partition("#")[0], body)
    assert digest != request_digest("GET", target, body + b"x")


@pytest.mark.parametrize(("method", "target"), [("", "/"), ("GET /", "/"), ("G\n", "/"), ("GET", "/\ud800")])
def test_what_is_no_request_has_no_digest(method: str, target: str) -> None:
    with pytest.raises(MalformedError) as caught:
        request_digest(method, target, b"")
    assert caught.value.code == "invalid_request"
