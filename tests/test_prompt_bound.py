"""Prompt bounds: never too low, and a clear refusal of what cannot be bounded."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.prompt_bound import (
    MESSAGE_TOKENS,
    REQUEST_TOKENS,
    TOOL_TOKENS,
    TOOLS_TOKENS,
    bound_prompt_tokens,
    bound_text_tokens,
    count_images,
)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_bound_the_tokens_of_a_text(text: str) -> None:
    assert bound_text_tokens(text) == len(text.encode())
    assert bound_text_tokens(text, tokenizer_factor=Decimal("1.5")) == ceil(len(text.encode()) * 1.5)
    assert bound_text_tokens(text, count=len) == len(text)


def test_a_plain_conversation_is_bounded() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße"}]
    text = len("rolesystemBe brief.roleuserGrüße".encode())
    assert bound_prompt_tokens(messages) == REQUEST_TOKENS + 2 * MESSAGE_TOKENS + text
    assert bound_prompt_tokens(messages, count=lambda text: 1) == REQUEST_TOKENS + 2 * MESSAGE_TOKENS + 6


def test_tools_and_schemas_are_counted() -> None:
    messages = [{"role": "user", "content": "hi"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": [1, 2.5, None]}}}
    plain = bound_prompt_tokens(messages)
    with_tools = bound_prompt_tokens(messages, [tool, tool])
    assert with_tools - plain == TOOLS_TOKENS + 2 * (TOOL_TOKENS + len(json.dumps(tool, indent=4)))
    assert bound_prompt_tokens(messages, schemas=[tool, None]) - plain == len(json.dumps(tool, indent=4))


def test_every_text_in_a_message_is_counted() -> None:
    secret = "x" * 1000
    places: list[dict[str, Any]] = [
        {"role": "user", "content": secret},
        {"role": "user", "name": secret},
        {"role": "user", "content": [{"type": "text", "text": secret}]},
        {"role": "user", "content": [{"type": "reasoning", "summary": [{"text": secret}]}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": secret, "format": "wav"}}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": secret}}]},
        {"role": "assistant", "refusal": secret},
        {secret: "x", "role": "user"},
    ]
    for message in places:
        assert bound_prompt_tokens([message]) >= 1000 + REQUEST_TOKENS


def test_images_are_counted_apart() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    content: list[Any] = [{"type": "text", "text": "what?"}, picture, picture]
    messages = [{"role": "user", "content": content}]
    assert count_images(messages) == 2
    assert bound_prompt_tokens(messages) < 1000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "f-1"}},
        {"type": "video_url", "video_url": {"url": "https://example.com/v"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "opus"}},
        {"type": "hologram"},
    ],
)
def test_what_cannot_be_bounded_is_not_priced(part: dict[str, Any]) -> None:
    with pytest.raises(MalformedError) as caught:
        bound_prompt_tokens([{"role": "user", "content": [part]}])
    assert caught.value.code == "unpriceable_content"


NO_MESSAGES: list[Any] = [None, "hi", b"hi", {"role": "user"}, ["hi"], [None]]
NO_CONTENT: list[Any] = [7, b"x", "\ud800", [7], [{}], [{"type": 1}], [{"type": "input_audio"}], {"type": "text"}]
NO_MESSAGES += [[{"content": content}] for content in NO_CONTENT]


@pytest.mark.parametrize("messages", NO_MESSAGES, ids=repr)
def test_messages_of_no_shape_are_refused(messages: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        bound_prompt_tokens(messages)
    assert caught.value.code == "invalid_messages"


@pytest.mark.parametrize("messages", [None, "hi", ["hi"], [{"content": 7}], [{"content": [7]}]], ids=repr)
def test_images_are_not_counted_in_messages_of_no_shape(messages: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        count_images(messages)
    assert caught.value.code == "invalid_messages"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_no_json_makes_the_bound_raise_anything_else(value: Any) -> None:
    for messages, tools in ((value, ()), ([{"role": "user", "content": value}], ()), ([], [value])):
        with suppress(MalformedError):
            assert bound_prompt_tokens(messages, tools) >= REQUEST_TOKENS


def test_deep_nesting_is_refused_not_crashed() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MalformedError):
        bound_prompt_tokens([], [deep])
