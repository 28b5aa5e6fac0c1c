"""Row 80: prices that change while the gateway runs, and what registered providers may add to them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.inference.providers import HELLO, Providers, said, stock
from x402.errors import MisconfiguredError
from x402.gateway.inference.catalogue import Catalogue, Model
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.inference.shelf import Shelf, with_offers
from x402.quote import Order, quote
from x402.telemetry import Fact, Telemetry

Make = Callable[..., httpx.AsyncClient]
NEW_YEAR = 1_767_225_600


def text(price: str, later: str = "") -> str:
    return (
        f'version = "v{price}"\n[[models]]\nname = "m"\n'
        f"[models.pricing]\nprompt = {price}\ncompletion = {price}\n{later}\n"
        '[models.params]\napi_base = "http://a.test/v1"\n'
    )


def read_from(path: Path) -> Callable[[int], Catalogue]:
    return lambda now: read_catalogue(path.read_text(), environment={}, now=now)


async def test_row_080_a_changed_file_is_sold_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text("1"))
    facts: list[Fact] = []
    catalogue = read_from(path)(0)
    shelf = Shelf(catalogue, read_from(path), clock=lambda: 0, path=path, telemetry=Telemetry([facts.append]))
    assert not await shelf.look()
    path.write_text(text("22"))
    assert await shelf.look()
    assert catalogue.resolve("m").price.prompt.value == 22
    path.write_text(text("333") + "nonsense = 1")
    assert not await shelf.look()
    assert catalogue.resolve("m").price.prompt.value == 22
    assert [fact.name for fact in facts] == ["prices.changed", "prices.refused"]
    path.unlink()
    assert not await shelf.look()
    assert catalogue.resolve("m").price.prompt.value == 22


async def test_row_080_a_dated_price_begins_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text("1", "[[models.later]]\nsince = 2026-01-01T00:00:00Z\nprompt = 2\ncompletion = 3"))
    now = [NEW_YEAR - 1]
    catalogue = read_from(path)(now[0])
    shelf = Shelf(catalogue, read_from(path), clock=lambda: now[0], path=path)
    assert (catalogue.changes_at, catalogue.prices.version) == (NEW_YEAR, "v1")
    assert not await shelf.look()
    now[0] += 1
    assert await shelf.look()
    assert catalogue.resolve("m").price.completion.value == 3
    assert (catalogue.changes_at, catalogue.prices.version) == (0, f"v1+{NEW_YEAR}"), "another list has another name"


async def test_row_080_a_quote_keeps_its_price_when_the_list_changes(shop: Any, town: Any, make: Make) -> None:
    catalogue = stock({"a": "1"}, top='version = "old"')
    client = make(Providers({"a": said("hello", 3, 2)}), catalogue=catalogue)
    body = {"model": "m", "messages": HELLO}
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
    catalogue.restock(stock({"a": "50"}, top='version = "new"'))
    dearer = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
    assert dearer.accepts[0].amount > 40 * challenge.accepts[0].amount
    answer = await client.post("/api/v1/chat/completions", json=body, headers=shop.payer.pay(challenge))
    charge = town.receipt_of(answer).extra["charge"]
    assert (answer.status_code, charge["prices"], charge["quoted"]) == (200, "old", str(challenge.accepts[0].amount))


async def test_what_is_asked_for_is_read_at_once() -> None:
    reads: list[int] = []

    def read(now: int) -> Catalogue:
        reads.append(now)
        return stock({"a": "2"})

    shelf = Shelf(stock({"a": "1"}), read, clock=lambda: 7)
    assert not await shelf.wait(0.001)
    shelf.ask()
    assert await shelf.wait(60)
    assert await shelf.look(again=True)
    assert reads == [7]


@pytest.mark.parametrize(
    ("later", "why"),
    [
        ("[[models.later]]\nprompt = 1\ncompletion = 1", "since is a time"),
        ("[[models.later]]\nsince = 2026-01-01\nprompt = 1\ncompletion = 1", "since is a time"),
        ("[[models.later]]\nsince = 2026-01-01T00:00:00\nprompt = 1\ncompletion = 1", "since is a time"),
        ("later = 7", "unknown key later"),
    ],
)
def test_a_dated_price_says_what_is_wrong(later: str, why: str) -> None:
    with pytest.raises(MisconfiguredError, match=why):
        read_catalogue(text("1", later), environment={}, now=0)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("weight = -1", "weight is a whole number"),
        ("regions = 7", "list of texts"),
        ("aliases = [1]", "list of texts"),
    ],
)
def test_an_entry_says_what_is_wrong(extra: str, why: str) -> None:
    with pytest.raises(MisconfiguredError, match=why):
        stock({"a": "1"}, a=extra)


@pytest.mark.parametrize(
    ("params", "why"), [('format = "soap"', "format is one of"), ("concurrency = 0", "concurrency is")]
)
def test_an_upstream_says_what_is_wrong(params: str, why: str) -> None:
    with pytest.raises(MisconfiguredError, match=why):
        stock({"a": "1"}, params=params)


@pytest.mark.parametrize(
    "top", ["batch_discount_percent = 101", "cache_discount_percent = -1", "priority_percent = 5000"]
)
def test_a_rule_says_what_is_wrong(top: str) -> None:
    with pytest.raises(MisconfiguredError):
        stock({"a": "1"}, top=top)


def offer(provider: str, price: str, extra: str = "") -> Model:
    return stock({provider: price}, **{provider: extra}).resolve("m")


def test_an_offer_joins_a_name_that_it_does_not_worsen() -> None:
    sold = with_offers(stock({"a": "2"}, a="context_length = 1000"), [offer("b", "1", "context_length = 1000")])
    assert [provider.id for provider in sold.resolve("m").providers] == ["a", "b"]
    assert sold.resolve("m").price.prompt.value == 2


@pytest.mark.parametrize(
    "wide", ["context_length = 1", "max_output_tokens = 1", "tokenizer_factor = 9", "image_tokens = 90000",
             "default_output_tokens = 1"]
)  # fmt: skip
def test_an_offer_that_would_make_quotes_wrong_is_bought_by_its_own_name(wide: str) -> None:
    sold = with_offers(stock({"a": "2"}), [offer("b", "1", wide)])
    assert [provider.id for provider in sold.resolve("m").providers] == ["a"]
    assert sold.resolve("b:m").providers[0].id == "b"
    assert quote(Order("b:m", 10, 10), sold.prices).bound > 0


def test_nobody_makes_a_name_dearer_for_all() -> None:
    sold = with_offers(stock({"a": "2"}), [offer("dear", "2.1"), offer("cheap", "1.9")])
    assert sold.resolve("m").price.prompt.value == Decimal(2)
    assert sold.resolve("dear:m").price.prompt.value == Decimal("2.1")
    others = with_offers(stock({"a": "2"}), [])
    assert others.resolve("m").price == sold.resolve("m").price
    strangers = with_offers(read_catalogue(text("1").replace('"m"', '"x"'), environment={}, now=0),
                            [offer("one", "1"), offer("three", "3"), offer("four", "4")])  # fmt: skip
    assert [provider.id for provider in strangers.resolve("m").providers] == ["one", "three"]
    assert strangers.resolve("four:m").price.prompt.value == 4


def test_nobody_takes_a_name_that_means_something_already() -> None:
    own = read_catalogue(
        text("2").replace('"m"', '"openai/gpt-4o"\naliases = ["best"]\nprovider_name = "house"'), environment={}, now=0
    )

    def stranger(name: str, provider: str = "evil") -> Model:
        listed = text("1").replace('"m"', f'"{name}"\nprovider_name = "{provider}"')
        return read_catalogue(listed, environment={}, now=0).models[0]

    names = ("gpt-4o", "best", "house:openai/gpt-4o", "evil/gpt-4o", "evil/new")
    sold = with_offers(own, [stranger(name) for name in names])
    for name in ("gpt-4o", "best", "openai/gpt-4o", "house:openai/gpt-4o", "house:gpt-4o"):
        assert [provider.id for provider in sold.resolve(name).providers] == ["house"], name
    for name in ("evil:best", "evil:evil/gpt-4o", "evil/gpt-4o", "evil/new", "new"):
        assert [provider.id for provider in sold.resolve(name).providers] == ["evil"], name
