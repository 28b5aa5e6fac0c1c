"""Range checks before any price: known members by their ranges, unknown ones pass (aimo rows 20-33)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.gateway.inference.chat_request import parse_chat
from x402.gateway.problem import ApiProblem
from x402.quote import ModelPrice

HELLO = [{"role": "user", "content": "Hello"}]


def read(**members: Any) -> Any:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **members}).encode())


BAD: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "1"),
    ("temperature", True),
    ("top_p", 1.01),
    ("top_p", -1),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -2.5),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 1.5),
    ("max_tokens", "10"),
    ("max_tokens", 10**12),
    ("max_completion_tokens", 0),
    ("n", 0),
    ("n", 17),
    ("n", True),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", 1),
    ("stop", [""]),
    ("stop", [1]),
    ("stream", "yes"),
    ("stream", 1),
    ("user", 5),
    ("tools", {}),
    ("tools", ["x"]),
    ("tools", [{}] * 129),
    ("tool_choice", 1),
    ("stream_options", []),
    ("metadata", "x"),
    ("seed", 1.5),
    ("top_logprobs", 21),
    ("messages", []),
    ("messages", "hi"),
    ("messages", None),
    ("messages", [1]),
    ("messages", [{"role": "robot", "content": "x"}]),
    ("messages", [{"role": ["user"], "content": "x"}]),
    ("messages", [{"role": {"user": 1}, "content": "x"}]),
    ("messages", [{"role": None, "content": "x"}]),
    ("messages", [{"content": "x"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": 7}]),
    ("messages", [{"role": "user", "content": [{"no": "type"}]}]),
    ("messages", HELLO * 2049),
    ("model", ""),
    ("model", None),
    ("model", "x" * 129),
    ("model", 5),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: str(value)[:30])
def test_members_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ApiProblem) as caught:
        read(**{name: value})
    assert caught.value.status_code == 400
    assert str(caught.value.param).startswith(name)
    assert caught.value.kind == "invalid_request_error"


GOOD: list[dict[str, Any]] = [
    {"temperature": 0, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2},
    {"temperature": 2.0, "n": 16, "max_tokens": 1, "stop": "x"},
    {"temperature": None, "max_tokens": None, "stop": None, "tools": None, "stream": None},
    {"stop": ["a", "b", "c", "d"], "user": "me", "seed": -1, "logprobs": True, "top_logprobs": 20},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, *HELLO]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    {"unknown": {"deep": [1, 2]}, "reasoning_effort": "low"},
]


@pytest.mark.parametrize("members", GOOD, ids=str)
def test_sensible_requests_pass(members: dict[str, Any]) -> None:
    assert read(**members).model == "m"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"a":1,"a":2}', b'{"x":NaN}', b"\xff", b'{"x":' + b"[" * 99]
)
def test_what_is_no_json_object_is_400(body: bytes) -> None:
    with pytest.raises(ApiProblem) as caught:
        parse_chat(body)
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_request")


@given(st.binary(max_size=300) | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with pytest.raises(ApiProblem):
        parse_chat(body)


@given(
    st.dictionaries(
        st.sampled_from([name for name, _ in BAD] + ["extra"]),
        st.none()
        | st.booleans()
        | st.integers(-5, 10**12)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
        | st.lists(
            st.none() | st.text(max_size=3) | st.dictionaries(st.text(max_size=3), st.none(), max_size=2), max_size=3
        ),
        max_size=5,
    )
)
def test_members_of_any_kind_are_read_or_refused(members: dict[str, Any]) -> None:
    outcomes: list[int] = []
    try:
        outcomes.append(read(**members).order(ModelPrice(model="m")).n)
    except ApiProblem as problem:
        outcomes.append(problem.status_code)
    assert outcomes[0] == 400 or 1 <= outcomes[0] <= 16


def test_both_limits_at_once_are_refused() -> None:
    with pytest.raises(ApiProblem):
        read(max_tokens=1, max_completion_tokens=1)
    assert read(max_completion_tokens=7).max_output_tokens == 7


def test_what_may_reach_the_prompt_is_counted() -> None:
    price = ModelPrice(model="m")
    bare = read().order(price).prompt_tokens_bound
    for extra in (
        {"documents": ["x" * 500]},
        {"response_format": {"type": "json_schema", "schema": {"x": "y" * 500}}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 500}}]},
        {"functions": [{"description": "x" * 500}]},
    ):
        assert read(**extra).order(price).prompt_tokens_bound >= bare + 500, extra
    for silent in ({"temperature": 1.5}, {"metadata": {"note": "x" * 500}}, {"sort": "price"}, {"user": "x" * 400}):
        assert read(**silent).order(price).prompt_tokens_bound == bare, silent
    heavy = ModelPrice(model="m", tokenizer_factor=Decimal(2))
    assert read().order(heavy).prompt_tokens_bound > bare


def test_content_without_a_bound_is_refused_before_a_price() -> None:
    request = read(messages=[{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}])
    with pytest.raises(ApiProblem) as caught:
        request.order(ModelPrice(model="m"))
    assert (caught.value.status_code, caught.value.code) == (400, "unpriceable_content")


def test_what_is_forwarded_keeps_the_bound_and_leaves_ours_here() -> None:
    body = read(metadata={"a": 1}, sort="price", provider={"order": []}, custom=1).forward("upstream-name", 50)
    assert body == {"model": "upstream-name", "messages": HELLO, "custom": 1, "max_tokens": 50}
    assert read(max_tokens=20).forward("u", 50)["max_tokens"] == 20
    assert read(max_tokens=90).forward("u", 50)["max_tokens"] == 50
    limited = read(max_completion_tokens=90).forward("u", 50)
    assert (limited["max_completion_tokens"], "max_tokens" in limited) == (50, False)
    streamed = read(stream=True, stream_options={"other": 1}).forward("u", 50)
    assert streamed["stream_options"] == {"other": 1, "include_usage": True}
