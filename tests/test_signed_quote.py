"""Quote tokens: what we signed reads back, for that request and that long; anything else is refused (B02, G02)."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from x402.errors import MalformedError, MisconfiguredError, RefusedError
from x402.price import DIGITS_LIMIT
from x402.quote import ModelPrice, Order, PriceList, PriceUnit, Quote, Rate, quote, request_digest
from x402.signed_quote import peek, read, sign
from x402.signed_token import TOKEN_LIMIT

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
NOW, TTL = 1_763_600_000, 300
DIGEST = request_digest("POST", "/api/v1/chat/completions", b'{"model":"small"}')

numbers = st.decimals(0, 10**6, places=9) | st.decimals(0, 10**6, places=0)
token_rates = st.builds(Rate, numbers, st.sampled_from([PriceUnit.PER_1M, PriceUnit.PER_1K, PriceUnit.USDC_9]))
piece_rates = st.builds(Rate, numbers, st.just(PriceUnit.EACH))
models = st.builds(
    ModelPrice,
    model=st.just("small"),
    prompt=token_rates,
    completion=token_rates,
    image=piece_rates,
    request=piece_rates,
)
price_lists = st.builds(PriceList, st.just("2025-11-20"), st.tuples(models), st.decimals(0, 300, places=2))
orders = st.builds(
    Order, st.just("small"), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 9)
)


def price_list(model: str = "small", prompt: str = "0.15", completion: str = "0.60") -> PriceList:
    rates = (Rate.of(prompt, PriceUnit.PER_1M), Rate.of(completion, PriceUnit.PER_1M))
    return PriceList("2025-11-20", (ModelPrice(model=model, prompt=rates[0], completion=rates[1]),), Decimal(3))


def signed(quoted: Quote | None = None, digest: str = DIGEST) -> str:
    quoted = quoted or quote(Order("small", 812, 256), price_list())
    return sign(quoted, key=KEY, request_digest=digest, issued_at=NOW, ttl_seconds=TTL)


@given(orders, price_lists, st.integers(0, 2**40), st.integers(1, 10**6))
def test_a_signed_quote_reads_back(order: Order, listed: PriceList, issued: int, ttl: int) -> None:
    quoted = quote(order, listed)
    token = sign(quoted, key=KEY, request_digest=DIGEST, issued_at=issued, ttl_seconds=ttl)
    assert read(token, keys=[KEY], now=issued + ttl - 1, request_digest=DIGEST) == quoted
    assert peek(token).quote == quoted == quote(order, listed)
    content = peek(token)
    assert (content.request_digest, content.issued_at, content.expires_at) == (DIGEST, issued, issued + ttl)
    assert sign(content.quote, key=KEY, request_digest=DIGEST, issued_at=issued, ttl_seconds=ttl) == token


def test_a_token_is_short_and_plain_text() -> None:
    pinned = "8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq:deepseek-chat-v3"
    listed = price_list(pinned, "3.00", "15.00")
    token = signed(quote(Order(pinned, 123_456, 16_384, n=2), listed))
    assert len(token) <= 500
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert len(signed()) < 400


def test_the_widest_quote_can_be_read_back() -> None:
    widest = Decimal("9" * DIGITS_LIMIT + "." + "9" * DIGITS_LIMIT)
    narrow = Decimal("0." + "9" * DIGITS_LIMIT)
    token_rate, piece_rate = Rate(narrow, PriceUnit.PER_TOKEN), Rate(narrow, PriceUnit.EACH)
    model = ModelPrice(
        model="m" * 128, prompt=token_rate, completion=token_rate, image=piece_rate, request=piece_rate, image_tokens=0
    )
    listed = PriceList("v" * 32, (model,), narrow)
    quoted = quote(Order("m" * 128, 10**15, 10**14, 9, 10**8), listed)
    token = sign(quoted, key=KEY, request_digest=DIGEST, issued_at=10**15, ttl_seconds=10**6)
    assert len(quoted.lines) == 5
    assert len(token) + 5 * len(str(widest)) <= TOKEN_LIMIT
    assert read(token, keys=[KEY], now=10**15, request_digest=DIGEST) == quoted


def test_a_token_that_is_too_long_is_not_looked_at() -> None:
    for token in ("A" * TOKEN_LIMIT + ".A", "A" * 10_000_000):
        with pytest.raises(MalformedError, match="at most"):
            peek(token)


def test_a_later_format_is_named() -> None:
    with pytest.raises(MalformedError, match="unknown format"):
        peek(token_of(content_of(signed()) | {"v": 2}))


def test_keys_rotate() -> None:
    token = signed()
    assert read(token, keys=[OTHER_KEY, KEY], now=NOW, request_digest=DIGEST) == peek(token).quote
    with pytest.raises(MalformedError) as caught:
        read(token, keys=[OTHER_KEY], now=NOW, request_digest=DIGEST)
    assert caught.value.code == "invalid_quote"


@pytest.mark.parametrize("keys", [[], [b""], [b"short"], [KEY, b"short"]])
def test_weak_keys_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(MisconfiguredError):
        read(signed(), keys=keys, now=NOW, request_digest=DIGEST)
    for key in keys[-1:]:
        with pytest.raises(MisconfiguredError):
            sign(peek(signed()).quote, key=key, request_digest=DIGEST, issued_at=NOW, ttl_seconds=TTL)


def test_a_quote_expires() -> None:
    token = signed()
    assert read(token, keys=[KEY], now=NOW + TTL - 1, request_digest=DIGEST)
    with pytest.raises(RefusedError) as caught:
        read(token, keys=[KEY], now=NOW + TTL, request_digest=DIGEST)
    assert caught.value.code == "quote_expired"


def test_a_cheap_quote_does_not_buy_a_dear_request() -> None:
    """Fault B02: the quote of a small request, presented with a large one."""
    dear = request_digest("POST", "/api/v1/chat/completions", b'{"model":"large","max_tokens":100000}')
    with pytest.raises(RefusedError) as caught:
        read(signed(), keys=[KEY], now=NOW, request_digest=dear)
    assert caught.value.code == "quote_request_mismatch"


def test_any_changed_bit_is_refused() -> None:
    token = signed().encode()
    for index in range(len(token)):
        for bit in range(8):
            changed = bytearray(token)
            changed[index] ^= 1 << bit
            with pytest.raises(MalformedError) as caught:
                read(changed.decode("latin-1"), keys=[KEY], now=NOW, request_digest=DIGEST)
            assert caught.value.code == "invalid_quote"


@pytest.mark.parametrize(
    "change", [lambda t: t + "=", lambda t: t + "A", lambda t: t[:-1], lambda t: t + ".x", lambda t: " " + t]
)
def test_a_token_has_one_spelling(change: Any) -> None:
    with pytest.raises(MalformedError):
        read(change(signed()), keys=[KEY], now=NOW, request_digest=DIGEST)


def token_of(content: Any, text: str | None = None) -> str:
    raw = (text or json.dumps(content, separators=(",", ":"))).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode() + ".AAAAAAAAAAAAAAAAAAAAAA"


def content_of(token: str) -> dict[str, Any]:
    body = token.partition(".")[0]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return content


FORGERIES: list[dict[str, Any]] = [
    {"v": 2},
    {"v": True},
    {"bound": 283},
    {"bound": 1},
    {"bound": "284"},
    {"bound": 284.0},
    {"model": ""},
    {"model": 7},
    {"model": "sm\u0430ll"},
    {"lines": []},
    {"lines": None},
    {"lines": [["prompt", 812, "0.15", "per_1m"]]},
    {"lines": [["prompt", True, "0.15", "per_1m"]], "bound": 1},
    {"lines": [["prompt", 1, 0.15, "per_1m"]], "bound": 1},
    {"lines": [["prompt", 1, "00.15", "per_1m"]], "bound": 1},
    {"lines": [["prompt", 1, "1e-1", "per_1m"]], "bound": 1},
    {"lines": [["prompt", 1, "0.15", "each"]], "bound": 150_000},
    {"lines": [["prompt", 1, "1", "per_1m"]] * 2, "bound": 2},
    {"lines": [["fee", 1, "3", "percent"], ["prompt", 1, "1", "per_1m"]], "bound": 1},
    {"lines": [["tip", 1, "1", "per_1m"]], "bound": 1},
    {"lines": [["prompt", 1, "1"]], "bound": 1},
    {"choices": 0},
    {"output": -1},
    {"prices": "a b"},
    {"request": "00"},
    {"request": None},
    {"issued": "1"},
    {"expires": NOW},
    {"extra": 1},
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=str)
def test_a_buyer_sees_through_a_forged_quote(forgery: dict[str, Any]) -> None:
    honest = content_of(signed())
    assert peek(token_of(honest)).quote == peek(signed()).quote
    with pytest.raises(MalformedError) as caught:
        peek(token_of(honest | forgery))
    assert caught.value.code == "invalid_quote"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        '"x"',
        "{",
        "NaN",
        "[" * 1100,
        "9" * 1100,
        '{"v":1,"v":1}',
        "\ud800".encode("utf-8", "replace").decode(),
    ],
)
def test_a_body_that_is_no_quote_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        peek(token_of(None, text or " "))


@given(st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{1,80}\.[A-Za-z0-9_-]{1,30}", fullmatch=True))
@example("é.A")
@example("A" * TOKEN_LIMIT + ".A")
def test_no_text_makes_the_reader_raise_anything_else(text: str) -> None:
    for attempt in (peek, lambda token: read(token, keys=[KEY], now=NOW, request_digest=DIGEST)):
        with pytest.raises(MalformedError):
            attempt(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=4)))
def test_no_content_makes_the_reader_raise_anything_else(value: Any) -> None:
    honest = content_of(signed())
    for name in honest:
        token = token_of(honest | {name: value})
        with suppress(MalformedError):
            assert content_of(signed(peek(token).quote)).keys() == honest.keys()
            assert type(value) is type(honest[name])


def test_a_digest_of_another_form_is_not_signed() -> None:
    for digest in ("", "00", DIGEST.upper(), DIGEST + "0", "g" * 64):
        with pytest.raises(MalformedError):
            signed(digest=digest)
