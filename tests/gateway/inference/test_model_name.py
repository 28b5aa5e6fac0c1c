"""Rows 20 and 66: every way to name a model, and what comes back for a name that is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from x402.errors import MalformedError
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.model_name import is_key, split_name
from x402.gateway.inference.price_file import read_catalogue

KEY = "8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq"
OTHER = str(Pubkey(bytes([7] * 32)))


def entry(name: str, provider: str = "", extra: str = "") -> str:
    given = f'provider_name = "{provider}"\nprovider_id = "{provider}"\n' if provider else ""
    return f'[[models]]\nname = "{name}"\n{given}{extra}\n[models.pricing]\nprompt = 1\ncompletion = 1\n'


def catalogue(*entries: str) -> Catalogue:
    return read_catalogue("".join(entries), environment={}, now=0)


SHOP = catalogue(
    entry("deepseek/deepseek-chat", KEY),
    entry("deepseek/deepseek-chat", "akash"),
    entry("deepseek/deepseek-r1:free", KEY),
    entry("openai/gpt-4o-2024-08-06", "openai", 'aliases = ["gpt-4o", "openai/gpt-4o"]'),
    entry("echo:free", "house"),
)


@pytest.mark.parametrize(
    ("name", "found", "providers"),
    [
        (f"{KEY}:deepseek/deepseek-chat", f"{KEY}:deepseek/deepseek-chat", [KEY]),
        (f"{KEY}:deepseek-chat", f"{KEY}:deepseek/deepseek-chat", [KEY]),
        (f"{KEY}:deepseek-r1:free", f"{KEY}:deepseek/deepseek-r1:free", [KEY]),
        ("akash:deepseek-chat", "akash:deepseek/deepseek-chat", ["akash"]),
        ("echo:free", "echo:free", ["house"]),
        ("deepseek-r1:free", "deepseek/deepseek-r1:free", [KEY]),
        ("deepseek/deepseek-chat", "deepseek/deepseek-chat", [KEY, "akash"]),
        ("deepseek-chat", "deepseek/deepseek-chat", [KEY, "akash"]),
    ],
)
def test_row_020_every_spelling_of_a_name_is_read(name: str, found: str, providers: Sequence[str]) -> None:
    model = SHOP.resolve(name)
    assert model.id == found
    assert [provider.id for provider in model.providers] == providers


def test_row_066_a_direct_name_is_one_provider_at_its_own_price() -> None:
    direct, shared = SHOP.resolve(f"{KEY}:deepseek-chat"), SHOP.resolve("deepseek-chat")
    assert [provider.id for provider in direct.providers] == [KEY]
    assert len(shared.providers) == 2
    assert SHOP.price_list(direct) is SHOP.prices


@pytest.mark.parametrize(
    ("name", "code", "suggested"),
    [
        (f"{OTHER}:deepseek-chat", "model_not_found", f"{KEY}:deepseek/deepseek-chat"),
        (f"{KEY}:gpt-9", "model_not_found", f"{KEY}:deepseek/deepseek-chat"),
        ("deepseek-chta", "model_not_found", "deepseek/deepseek-chat"),
        ("google/deepseek-chat", "model_not_found", "deepseek/deepseek-chat"),
        ("akash:nothing", "model_not_found", "akash:deepseek/deepseek-chat"),
    ],
)
def test_row_020_an_unknown_name_brings_the_nearest(name: str, code: str, suggested: str) -> None:
    with pytest.raises(MalformedError) as caught:
        SHOP.resolve(name)
    assert caught.value.code == code
    assert suggested in caught.value.details["suggestions"]


def test_row_020_a_name_of_two_vendors_is_ambiguous_with_its_candidates() -> None:
    twins = catalogue(entry("a/twin"), entry("b/twin"))
    with pytest.raises(MalformedError) as caught:
        twins.resolve("twin")
    assert (caught.value.code, caught.value.details["suggestions"]) == ("ambiguous_model", ["a/twin", "b/twin"])


def test_row_100_an_alias_pins_what_a_name_without_a_date_means() -> None:
    assert SHOP.resolve("gpt-4o").id == SHOP.resolve("openai/gpt-4o").id == "openai/gpt-4o-2024-08-06"
    moved = catalogue(
        entry("openai/gpt-4o-2024-08-06"), entry("openai/gpt-4o-2024-11-20", extra='aliases = ["gpt-4o"]')
    )
    assert moved.resolve("gpt-4o").id == "openai/gpt-4o-2024-11-20"
    assert moved.resolve("gpt-4o-2024-08-06").id == "openai/gpt-4o-2024-08-06"


@given(st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=40))
def test_any_key_and_any_rest_are_split_at_the_first_colon(key: bytes, rest: str) -> None:
    provider = str(Pubkey(key))
    assert is_key(provider)
    assert split_name(f"{provider}:{rest}") == (provider, rest)


@given(
    st.one_of(st.text(max_size=60), st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=60))
)
def test_what_is_no_key_stays_whole(text: str) -> None:
    if not is_key(text.partition(":")[0]):
        assert split_name(text) == ("", text)


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":a", KEY, f"{KEY}:", f"{KEY[:-1]}0:x", f"{KEY}{KEY}:x", "1" * 31 + ":x"]
)
def test_almost_keys_are_none(text: Any) -> None:
    assert split_name(text) == ("", text)
