"""The catalogue: read from TOML without a float, found by every kind of name, listed for every kind of client."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.catalogue import Catalogue, default_price
from x402.gateway.inference.price_file import read_catalogue
from x402.price import PriceUnit
from x402.quote import Order, quote

NOW = 1_763_600_000
ENVIRONMENT = {"AKASH_KEY": "secret-akash", "TWO_KEY": "secret-two"}
FILE = """
version = "2025-11-20"
fee_percent = 3
[router]
url = "https://router.example.com"

[[models]]
name = "deepseek-chat-v3"
display_name = "DeepSeek V3"
provider_name = "Akash ML"
context_length = 65536
max_output_tokens = 8192
[models.pricing]
prompt = 0.1
completion = 1.2
image = 1
[models.params]
model = "deepseek-chat"
api_base = "https://akash.example.com/v1"
api_key = "std::env::AKASH_KEY"

[[models]]
name = "deepseek-chat-v3"
provider_name = "two"
provider_id = "8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq"
context_length = 32768
[models.pricing]
token = "USDC_9"
prompt = 200
completion = 800
[models.params]
api_base = "https://two.example.com/v1"
api_key = "std::env::TWO_KEY"

[[models]]
name = "openai/gpt-4"
created = 1700000000
owned_by = "openai"
input_modalities = ["text", "image"]
tokenizer_factor = 1.5
[models.pricing]
unit = "per_1k"
prompt = "0.03"
completion = "0.03"
request = "0.001"

[[models]]
name = "openai/gpt-4o-mini"

[[models]]
name = "local/echo:free"
[models.pricing]
unit = "per_token"
prompt = 0
completion = 0
"""


def read(text: str = FILE) -> Catalogue:
    return read_catalogue(text, environment=ENVIRONMENT, now=NOW)


CATALOGUE = read()
IDS = {
    name
    for model in CATALOGUE.models
    for name in (model.id, model.id.rpartition("/")[2], *(provider.price.model for provider in model.providers))
}


def one_model(pricing: str = "prompt = 1\ncompletion = 1", extra: str = "", params: str = "") -> str:
    return f'[[models]]\nname = "m"\n{extra}\n[models.pricing]\n{pricing}\n[models.params]\napi_base = "http://x/v1"\n{params}\n'


def test_prices_are_read_without_a_float() -> None:
    catalogue = read()
    assert catalogue.prices.version == "2025-11-20"
    assert catalogue.prices.fee_percent == 3
    first = catalogue.resolve("akash-ml:deepseek-chat-v3").price
    assert (first.prompt.value, first.prompt.unit) == (Decimal("0.1"), PriceUnit.PER_1M)
    assert first.image.atomic == 1_000_000
    second = catalogue.resolve("8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq:deepseek-chat-v3").price
    assert (second.prompt.atomic, second.completion.atomic) == (Decimal("0.2"), Decimal("0.8"))
    gpt = catalogue.resolve("openai/gpt-4").price
    assert gpt.completion.atomic == 30
    assert gpt.request.atomic == 1000
    assert gpt.tokenizer_factor == Decimal("1.5")


def test_a_shared_name_is_priced_so_that_any_provider_may_serve() -> None:
    model = read().resolve("deepseek-chat-v3")
    assert [provider.id for provider in model.providers] == [
        "akash-ml",
        "8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq",
    ]
    assert (model.price.prompt.atomic, model.price.completion.atomic) == (Decimal("0.2"), Decimal("1.2"))
    assert (model.price.context_length, model.price.max_output_tokens) == (32768, 8192)
    for provider in model.providers:
        direct = read().resolve(provider.price.model)
        assert direct.providers == (provider,)
        assert direct.price == provider.price


def test_every_resolved_model_can_be_quoted() -> None:
    catalogue = read()
    for name in ("deepseek-chat-v3", "akash-ml:deepseek-chat-v3", "openai/gpt-4", "gpt-4", "gpt-4o-mini", "echo:free"):
        model = catalogue.resolve(name)
        quoted = quote(Order(model.price.model, 1000, 100), catalogue.prices)
        assert quoted.free is (name == "echo:free")
        assert quoted.price_list == "2025-11-20"


def test_upstreams_take_their_keys_from_the_environment() -> None:
    first, second = read().resolve("deepseek-chat-v3").providers
    assert first.upstream is not None
    assert second.upstream is not None
    assert (first.upstream.model, first.upstream.api_key) == ("deepseek-chat", "secret-akash")
    assert (second.upstream.model, second.upstream.api_key) == ("deepseek-chat-v3", "secret-two")
    assert "secret" not in repr(read().models)
    assert "secret" not in json.dumps(read().listing())


def test_an_unpriced_model_takes_the_public_price() -> None:
    price = read().resolve("openai/gpt-4o-mini").price
    assert price.model == "openai/gpt-4o-mini"
    assert (price.prompt.value, price.completion.value) == (Decimal("0.15"), Decimal("0.6"))


def test_default_prices() -> None:
    bare, vendor = default_price("gpt-4o", now=NOW), default_price("openai/gpt-4o", now=NOW)
    assert bare is not None
    assert vendor is not None
    assert (bare.prompt, bare.completion) == (vendor.prompt, vendor.completion)
    stepped = default_price("google/gemini-2.5-pro", now=NOW)
    assert stepped is not None
    assert (stepped.prompt.value, stepped.completion.value) == (Decimal("2.5"), Decimal("15"))
    embedding = default_price("openai/text-embedding-ada-002", now=NOW)
    assert embedding is not None
    assert embedding.completion.value == 0
    nested = default_price("openrouter/deepseek/deepseek-chat-v3.1", now=NOW)
    assert nested is not None
    for unknown in ("nobody/nothing", "nothing", "/", ""):
        assert default_price(unknown, now=NOW) is None


def test_a_default_price_covers_the_dearest_hour() -> None:
    """DeepSeek is cheaper at night: a gateway that was started at night must not sell at a loss by day."""
    prices = {default_price("deepseek/deepseek-chat", now=NOW + hour * 3600) for hour in range(24)}
    assert len(prices) == 1
    (price,) = prices
    assert price is not None
    assert (price.prompt.value, price.completion.value) == (Decimal("0.27"), Decimal("1.1"))


def test_no_default_price_is_free_or_a_float() -> None:
    from genai_prices.data import providers

    names = [f"{provider.id}/{model.id}" for provider in providers for model in provider.models]
    assert len(names) > 1000
    for name in names[::7]:
        if len(name) <= 128 and name.isascii() and " " not in name:
            price = default_price(name, now=NOW)
            assert price is None or not price.free


def test_the_listing_suits_both_kinds_of_client() -> None:
    listing = read().listing()
    assert listing["object"] == "list"
    shared = listing["data"][0]
    assert shared == {
        "id": "deepseek-chat-v3",
        "object": "model",
        "created": 0,
        "owned_by": "Akash ML",
        "name": "deepseek-chat-v3",
        "display_name": "DeepSeek V3",
        "providers": [
            {
                "id": "akash-ml",
                "name": "Akash ML",
                "pricing": {"prompt": "0.1", "completion": "1.2", "image": "1", "request": None, "unit": "per_1m"},
            },
            {
                "id": "8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq",
                "name": "two",
                "pricing": {"prompt": "0.2", "completion": "0.8", "image": None, "request": None, "unit": "per_1m"},
            },
        ],
        "pricing": {"prompt": "0.2", "completion": "1.2", "image": "1", "request": None, "unit": "per_1m"},
        "context_length": 32768,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }
    gpt = listing["data"][1]
    assert gpt["pricing"] == {"prompt": "30", "completion": "30", "image": None, "request": "0.001", "unit": "per_1m"}
    assert (gpt["created"], gpt["owned_by"], gpt["architecture"]["input_modalities"]) == (
        1700000000,
        "openai",
        ["text", "image"],
    )


def test_no_float_reaches_the_listing() -> None:
    text = json.dumps(read().listing())

    def refuse(number: str) -> None:
        raise AssertionError(f"{number} is a float")

    assert json.loads(text, parse_float=refuse)


def test_names_are_found_and_suggested() -> None:
    catalogue = read()
    assert catalogue.resolve("gpt-4").id == "openai/gpt-4"
    with pytest.raises(MalformedError) as caught:
        catalogue.resolve("gpt-4o-mimi")
    assert caught.value.code == "model_not_found"
    assert caught.value.details["suggestions"][0] == "openai/gpt-4o-mini"
    assert "did you mean openai/gpt-4o-mini" in caught.value.message
    with pytest.raises(MalformedError) as caught:
        catalogue.resolve("zzzzzzzz")
    assert caught.value.details["suggestions"] == []


def test_an_ambiguous_bare_name_lists_its_candidates() -> None:
    text = "".join(
        f'[[models]]\nname = "{vendor}/twin"\n[models.pricing]\nprompt = 1\ncompletion = 1\n' for vendor in ("a", "b")
    )
    with pytest.raises(MalformedError) as caught:
        read(text).resolve("twin")
    assert caught.value.code == "ambiguous_model"
    assert caught.value.details["suggestions"] == ["a/twin", "b/twin"]


@given(st.text(max_size=200))
def test_no_name_makes_the_lookup_raise_anything_else(name: str) -> None:
    if name not in IDS:
        with pytest.raises(MalformedError) as caught:
            CATALOGUE.resolve(name)
        assert caught.value.code == "model_not_found"


def test_a_list_without_a_version_is_named_by_its_text() -> None:
    one, other = read(one_model()), read(one_model("prompt = 1\ncompletion = 2"))
    assert one.prices.version == read(one_model()).prices.version
    assert one.prices.version != other.prices.version


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no [[models]]"),
        ("models = 7", "no [[models]]"),
        ("models = [7]", "number 1 is not a table"),
        ("[[models]]", "name is a text"),
        ("= 1", "not TOML"),
        ('fee_percents = 3\n[[models]]\nname = "m"', "did you mean fee_percent?"),
        (one_model("prompt = 1\ncomplation = 1"), "unknown key complation; did you mean completion?"),
        (one_model("prompt = 1"), "prompt and completion together"),
        (one_model(""), "prompt and completion together"),
        (one_model("prompt = -1\ncompletion = 1"), "non-negative"),
        (one_model("prompt = nan\ncompletion = 1"), "finite"),
        (one_model("prompt = inf\ncompletion = 1"), "finite"),
        (one_model("prompt = true\ncompletion = 1"), "never a bool"),
        (one_model('prompt = "1e3"\ncompletion = 1'), "plain decimal"),
        (one_model('unit = "per_mile"\nprompt = 1\ncompletion = 1'), "the unit of a price"),
        (one_model('unit = "each"\nprompt = 1\ncompletion = 1'), "the unit of a price"),
        (one_model(extra="context_length = 0"), "context_length must be"),
        (one_model(extra='context_length = "64k"'), "context_length is an int"),
        (one_model(extra="tokenizer_factor = 0"), "tokenizer_factor"),
        (one_model(extra="created = 1.5"), "created"),
        (one_model(extra='input_modalities = "text"'), "list of texts"),
        (one_model(params='api_key = "sk-plain-secret"'), "std::env::NAME"),
        (one_model(params='api_key = "std::env::UNSET"'), "UNSET is not set"),
        (one_model() + one_model(), "listed twice"),
        ('[[models]]\nname = "nobody/nothing"', "no default price is known"),
        ('[[models]]\nname = "two words"\n[models.pricing]\nrequest = 1', "printable ASCII"),
        ('version = "a b"\n' + one_model(), "version"),
        ("fee_percent = -1\n" + one_model(), "fee_percent"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        read(text)
    assert caught.value.code == "invalid_catalogue"
    assert why in caught.value.message
    assert "sk-plain-secret" not in caught.value.message


@given(st.text(max_size=60), st.recursive(st.none() | st.text(max_size=5), lambda x: st.lists(x, max_size=2)))
def test_no_text_makes_the_reader_raise_anything_else(text: str, value: Any) -> None:
    for attempt in (
        text,
        one_model(f"prompt = {text}\ncompletion = 1"),
        one_model(extra=f"created = {json.dumps(value)}"),
    ):
        with suppress(MisconfiguredError):
            read(attempt)
