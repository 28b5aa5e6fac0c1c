"""Row 74: many requests under one payment, and answers that were given before, each at its price."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response

from tests.gateway.inference.providers import HELLO, Answer, Providers, broken, said, stock
from x402.billing import Bill, Metered, PaidBy
from x402.gateway.inference.answer_cache import AnswerCache
from x402.gateway.inference.batch import total
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.price_rules import PriceRules
from x402.lifecycle import Party
from x402.ports.accounts import BillFilter
from x402.price import ModelPrice, PriceList, PriceUnit, Rate
from x402.quote import Order, Usage, quote
from x402.stages import State

Make = Callable[..., httpx.AsyncClient]


def batch(*bodies: dict[str, Any]) -> dict[str, Any]:
    requests = [
        {"custom_id": f"r{index}", "body": {"model": "m", "messages": HELLO, "max_tokens": 50, **body}}
        for index, body in enumerate(bodies)
    ]
    return {"requests": requests}


async def buy(shop: Any, town: Any, client: httpx.AsyncClient, path: str, body: Any) -> tuple[int, httpx.Response]:
    """The quoted amount, and the answer that was paid with it."""
    challenge = town.challenge_of(await client.post(path, json=body))
    header = shop.payer.pay(challenge)
    return challenge.accepts[0].amount, await client.post(path, json=body, headers=header)


def picky(asked: dict[str, Any]) -> Response:
    """Refuses what says no, is silent about nothing, and says the word again."""
    word = asked["messages"][0]["content"]
    if word == "no":
        return JSONResponse({"error": {"message": "not that word"}}, 400)
    if word == "silence":
        return JSONResponse({"choices": [{"message": {"content": ""}}], "usage": {}})
    return said(word, 10, 5)(asked)


def saying(word: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": word}]}


async def test_row_074_a_batch_is_one_quote_one_payment_and_answers_in_order(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": picky})
    client = make(providers, catalogue=stock({"a": "2"}))
    words = [f"word {index}" for index in range(12)]
    quoted, answer = await buy(shop, town, client, "/api/v1/batch", batch(*(saying(word) for word in words)))
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [one["custom_id"] for one in results] == [f"r{index}" for index in range(12)]
    assert [one["body"]["choices"][0]["message"]["content"] for one in results] == words
    singles = [
        town.challenge_of(
            await client.post("/api/v1/chat/completions", json={"model": "m", "max_tokens": 50, **saying(word)})
        )
        for word in words
    ]
    assert abs(quoted - sum(one.accepts[0].amount for one in singles)) <= 12
    assert answer.json()["charge"]["actual"] == str(12 * 15 * 2)
    assert int(answer.json()["charge"]["unused"]) == quoted - 360
    assert len(shop.bank.moved) == 1


async def test_row_074_what_fails_in_a_batch_costs_nothing(shop: Any, town: Any, make: Make) -> None:
    client = make(Providers({"a": picky}), catalogue=stock({"a": "2"}))
    body = batch(saying("silence"), saying("no"), saying("yes"))
    _, answer = await buy(shop, town, client, "/api/v1/batch", body)
    told = answer.json()
    assert [one["status"] for one in told["results"]] == [502, 400, 200]
    assert told["results"][1]["error"]["message"] == "not that word"
    assert told["charge"]["actual"] == "30"


async def test_row_074_a_batch_that_fails_whole_is_owed_and_served_under_the_same_payment(
    shop: Any, town: Any, make: Make
) -> None:
    providers = Providers({"a": broken()})
    client = make(providers, catalogue=stock({"a": "2"}))
    body = batch(saying("one"), saying("two"))
    challenge = town.challenge_of(await client.post("/api/v1/batch", json=body))
    header = shop.payer.pay(challenge)
    failed = await client.post("/api/v1/batch", json=body, headers=header)
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "batch_failed")
    assert await shop.ledger.totals(Party.GATEWAY, State.OWED)
    providers.answers["a"] = picky
    again = await client.post("/api/v1/batch", json=body, headers=header)
    assert [one["status"] for one in again.json()["results"]] == [200, 200]
    assert len(shop.bank.moved) == 1


async def test_row_074_one_provider_answers_all_of_a_batch(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": broken(), "b": picky})
    client = make(providers, catalogue=stock({"a": "1", "b": "1"}))
    wishes = {"provider": {"order": ["a", "b"]}}
    body = batch(*({**saying(f"w{index}"), **wishes} for index in range(6)))
    _, answer = await buy(shop, town, client, "/api/v1/batch", body)
    assert [one["status"] for one in answer.json()["results"]] == [200] * 6
    assert providers.asked == ["a", *["b"] * 6]


def dying(after: int) -> Answer:
    """Answers so many requests, and then none."""
    left = iter(range(after))
    return lambda asked: picky(asked) if next(left, None) is not None else broken()(asked)


@pytest.mark.parametrize("item", [1, 2, 5, 9])
async def test_row_074_a_provider_that_dies_on_the_way_is_replaced_request_by_request(
    shop: Any, town: Any, make: Make, item: int
) -> None:
    providers = Providers({"a": dying(item), "b": picky})
    client = make(providers, catalogue=stock({"a": "2", "b": "4"}))
    words = [f"word {index}" for index in range(10)]
    wishes = {"provider": {"order": ["a", "b"]}}
    body = batch(*({**saying(word), **wishes} for word in words))
    quoted, answer = await buy(shop, town, client, "/api/v1/batch", body)
    told = answer.json()
    assert [one["status"] for one in told["results"]] == [200] * 10
    assert [one["body"]["choices"][0]["message"]["content"] for one in told["results"]] == words
    # One payment; each answer at the price of who gave it; what was not used is credited.
    charged = item * 30 + (10 - item) * 60
    assert [int(one["charged"]) for one in told["results"]].count(30) == item
    assert (told["charge"]["actual"], told["charge"]["unused"]) == (str(charged), str(quoted - charged))
    assert len(shop.bank.moved) == 1
    book = shop.gateway.state.paywall.members.book
    bills = await book.bills(BillFilter())
    assert sorted((bill.metered.provider, bill.earned, bill.metered.charged) for bill in bills) == [
        ("a", item * 30, charged), ("b", (10 - item) * 60, 0),
    ]  # fmt: skip
    (balance,) = [await book.balance(account) for account in {bill.account for bill in bills}]
    assert balance.units == quoted - charged


async def test_row_074_what_nobody_answers_after_a_death_costs_nothing(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": dying(3), "b": broken()})
    client = make(providers, catalogue=stock({"a": "2", "b": "2"}))
    wishes = {"provider": {"order": ["a", "b"]}}
    body = batch(*({**saying(f"w{index}"), **wishes} for index in range(5)))
    _, answer = await buy(shop, town, client, "/api/v1/batch", body)
    assert sorted(one["status"] for one in answer.json()["results"]) == [200, 200, 200, 503, 503]
    assert answer.json()["charge"]["actual"] == "90"
    (bill,) = await shop.gateway.state.paywall.members.book.bills(BillFilter())
    assert (bill.metered.provider, bill.earned) == ("a", 90)


async def test_row_074_a_request_that_wants_no_other_provider_gets_none(shop: Any, town: Any, make: Make) -> None:
    client = make(Providers({"a": dying(1), "b": picky}), catalogue=stock({"a": "2", "b": "2"}))
    only = {"provider": {"order": ["a"], "allow_fallbacks": False}}
    body = batch({**saying("one"), **only}, {**saying("two"), **only}, saying("three"))
    _, answer = await buy(shop, town, client, "/api/v1/batch", body)
    assert [one["status"] for one in answer.json()["results"]] == [200, 503, 200]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 10**9)), max_size=8), st.integers(0, 10**9))
def test_row_074_shares_add_up_to_what_was_earned(shares: list[tuple[str, int]], earned: int) -> None:
    bill = Bill(
        bill_id="b", at=1, account="a", paid_by=PaidBy.EXACT, earned=earned,
        metered=Metered(model="m", provider="a", charged=earned, shares=tuple(dict(shares).items())),
    )  # fmt: skip
    parts = bill.parts()
    assert sum(part.earned for part in parts) == earned
    assert all(part.earned >= 0 for part in parts)
    assert len({part.bill_id for part in parts}) == len({part.metered.provider for part in parts}) == len(parts)
    assert sum(part.metered.charged for part in parts) == earned
    assert Metered(**json.loads(json.dumps(asdict(bill.metered)))) == bill.metered


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [{}] * 101}, "requests"),
        ({"requests": [7]}, "requests.0"),
        ({"requests": [{"custom_id": "", "body": {}}]}, "requests.0.custom_id"),
        ({"requests": [{"body": {"stream": True}}]}, "requests.0.body.stream"),
        (batch({}, {"model": "nobody"}), "requests.1.body.model"),
        (batch({}, {"temperature": 9}), "requests.1.body.temperature"),
        ({"requests": [{"custom_id": "x", "body": {"model": "m", "messages": HELLO}}] * 2}, "requests"),
    ],
)
async def test_a_batch_that_is_wrong_says_which_request(make: Make, body: Any, param: str) -> None:
    answer = await make(Providers({}), catalogue=stock({"a": "2"})).post("/api/v1/batch", json=body)
    assert answer.json()["error"]["param"] == param
    assert answer.status_code in (400, 404)


async def test_a_batch_asks_one_model(make: Make) -> None:
    catalogue = stock({"a": "2"})
    other = stock({"b": "2"}, b="").resolve("m")
    both = Catalogue([*catalogue.models, replace(other, id="n", price=replace(other.price, model="n"))], version="1")
    answer = await make(Providers({}), catalogue=both).post("/api/v1/batch", json=batch({}, {"model": "n"}))
    assert "same model" in answer.json()["error"]["message"]


async def test_row_074_a_batch_is_cheaper_by_its_rule(shop: Any, town: Any, make: Make) -> None:
    client = make(Providers({"a": picky}), catalogue=stock({"a": "2"}, top="batch_discount_percent = 50"))
    _, answer = await buy(shop, town, client, "/api/v1/batch", batch(saying("one"), saying("two")))
    assert answer.json()["charge"]["actual"] == "30"


RATE = st.decimals(0, 1000, places=3).map(lambda value: Rate(Decimal(value), PriceUnit.PER_1M))


ORDERS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), min_size=1, max_size=20)


@given(ORDERS, RATE, RATE, st.integers(0, 30))
def test_the_quote_of_a_batch_is_the_sum_of_its_quotes(
    orders: list[tuple[int, int]], prompt: Rate, completion: Rate, fee: int
) -> None:
    price = ModelPrice(model="m", prompt=prompt, completion=completion)
    prices = PriceList("1", (price,), Decimal(fee))
    quotes = [quote(Order("m", tokens, limit), prices) for tokens, limit in orders]
    whole = total(quotes)
    # Every quote alone is rounded up, or is the least there is; together they are rounded once.
    assert sum(one.bound for one in quotes) - len(quotes) <= whole.bound <= sum(one.bound for one in quotes)


# Answers that were given before.


async def test_row_074_the_same_request_again_costs_less_and_asks_nobody(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": said("hello", 10, 5)})
    client = make(providers, catalogue=stock({"a": "2"}, top="cache_discount_percent = 75"))
    shop.gateway.state.router.cache = AnswerCache(60, clock=lambda: shop.now)
    body = {"model": "m", "messages": HELLO}
    actual = []
    for step in ("first", "again", "anew", "late"):
        changed = body | ({"provider": {"cache": False}} if step == "anew" else {})
        shop.now += 61 if step == "late" else 0
        challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=changed))
        header = shop.payer.pay(challenge, now=shop.now)
        answer = await client.post("/api/v1/chat/completions", json=changed, headers=header)
        assert answer.json()["choices"][0]["message"]["content"] == "hello", answer.text
        charge = town.receipt_of(answer).extra["charge"]
        actual.append((charge["actual"], "cached" in charge, len(providers.asked)))
    assert actual == [("30", False, 1), ("8", True, 1), ("30", False, 2), ("30", False, 3)]


async def test_row_074_no_payer_hears_what_another_has_bought(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": said("secret", 10, 5)})
    client = make(providers, catalogue=stock({"a": "2"}))
    shop.gateway.state.router.cache = AnswerCache(60, clock=lambda: shop.now)
    body = {"model": "m", "messages": HELLO}
    for network in (town.EVM, town.SVM):
        challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
        header = shop.payer.pay(challenge, network)
        assert (await client.post("/api/v1/chat/completions", json=body, headers=header)).status_code == 200
    assert len(providers.asked) == 2, "another wallet is another payer"


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = AnswerCache(10, clock=lambda: 0, bytes_limit=1600)
    for index in range(20):
        cache.keep(f"k{index}", b"x" * 100, {}, Usage(1, 1))
        cache.find("k0")
    assert cache.find("k0") is not None
    assert cache.find("k1") is None
    assert cache.find("k19") is not None
    cache.keep("big", b"x" * 101, {}, Usage(1, 1))
    assert cache.find("big") is None
    shared = AnswerCache(10, clock=lambda: 0, shared=True)
    assert shared.key("a", "m", {"x": 1}) == shared.key("b", "m", {"x": 1})
    assert cache.key("a", "m", {"x": 1}) != cache.key("b", "m", {"x": 1})
    assert cache.key("a", "m", {"x": 1}) != cache.key("a", "m", {"x": 2})


@given(st.integers(0, 10**12), st.decimals(0, 100, places=4))
def test_a_cached_answer_costs_its_part_rounded_up(charged: int, percent: Decimal) -> None:
    cost = PriceRules(cache_discount_percent=Decimal(percent)).cached(charged)
    exact = Decimal(charged) * (100 - Decimal(percent)) / 100
    assert exact <= cost < exact + 1
