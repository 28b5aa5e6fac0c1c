"""Rows 73 and 88: a provider that speaks Anthropic's Messages API, bought as if it spoke OpenAI's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.inference.anthropic import KEY, Vendor, vendor
from x402.gateway.inference.adapters import FORMATS
from x402.gateway.inference.adapters.anthropic_messages import AnthropicMessages
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.inference.upstream import UpstreamClient

Make = Callable[..., httpx.AsyncClient]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
async def house() -> AsyncIterator[Vendor]:
    async with vendor() as found:
        yield found


def catalogue(url: str) -> Catalogue:
    text = (
        '[[models]]\nname = "anthropic/claude-sonnet-4"\ninput_modalities = ["text", "image"]\n[models.pricing]\n'
        f'prompt = 3\ncompletion = 15\n[models.params]\nmodel = "claude-sonnet-4-20250514"\napi_base = "{url}"\n'
        'api_key = "std::env::KEY"\nformat = "anthropic"\n'
    )
    return read_catalogue(text, environment={"KEY": KEY}, now=0)


@pytest.fixture
async def buy(house: Vendor, shop: Any, town: Any, make: Make) -> Callable[..., Any]:
    """Buys an answer with a real payment, over a real connection to the vendor."""
    client = make(catalogue=catalogue(house.url), upstream=UpstreamClient())

    async def buy(**members: Any) -> httpx.Response:
        body = {"model": "claude-sonnet-4", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
        body |= members
        asked = await client.post("/api/v1/chat/completions", json=body)
        if asked.status_code != 402:
            return asked
        header = shop.payer.pay(town.challenge_of(asked))
        return await client.post("/api/v1/chat/completions", json=body, headers=header)

    return buy


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
    return [json.loads(line) for line in lines]


async def test_row_088_a_whole_answer_is_openais(buy: Any, house: Vendor) -> None:
    answer = (await buy()).json()
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello to you"}, "finish_reason": "stop"}
    ]
    assert (answer["object"], answer["model"], answer["id"]) == ("chat.completion", "claude-sonnet-4", "msg_1")
    assert answer["created"] > 1_700_000_000
    # What the vendor's own cache read or wrote is part of the prompt.
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (17, 9, 26)
    assert house.asked[0]["max_tokens"] == 50


async def test_row_088_a_stream_is_openais_and_ends_with_its_usage(buy: Any) -> None:
    answer = await buy(stream=True, stream_options={"include_usage": True})
    events = chunks(answer)
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1]) == "Hello to you "
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 9
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "x402-receipt" in answer.text


async def test_row_073_what_was_asked_arrives_in_the_vendors_words(buy: Any, house: Vendor) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, image(PIXEL), image("https://x.test/a.png")],
        },
        {"role": "assistant", "content": "", "tool_calls": [call("toolu_1", '{"place": "Bern"}'), call("toolu_2", "")]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "rain"},
        {"role": "user", "content": "And now?"},
    ]
    response = await buy(
        messages=messages, temperature=1.7, top_p=0.9, stop="END", user="u-1", seed=7, frequency_penalty=1,
        tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    (asked,) = house.asked
    assert asked["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert (asked["temperature"], asked["top_p"], asked["stop_sequences"]) == (1, 0.9, ["END"])
    assert asked["metadata"] == {"user_id": "u-1"}
    assert asked["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert asked["tools"] == [
        {"name": "weather", "description": "The weather of a place", "input_schema": WEATHER["function"]["parameters"]}
    ]
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert asked["messages"][0]["content"][1:] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
    ]
    assert [block["input"] for block in asked["messages"][1]["content"]] == [{"place": "Bern"}, {}]
    assert [block["type"] for block in asked["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "weather", "arguments": arguments}}


@pytest.mark.parametrize(("tool", "arguments"), [(WEATHER, '{"place": "here"}'), (TIME, "{}")])
async def test_row_073_tool_calls_come_back_whole_and_streamed(buy: Any, tool: Any, arguments: str) -> None:
    wanted = {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": tool["function"]["name"]}}}
    choice = (await buy(**wanted)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (made,) = choice["message"]["tool_calls"]
    assert (made["id"], made["type"]) == ("toolu_1", "function")
    assert json.loads(made["function"]["arguments"]) == json.loads(arguments)
    events = chunks(await buy(stream=True, **wanted))
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["id"] == "toolu_1"
    assert {call["index"] for call in calls} == {0}
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == json.loads(arguments)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_row_073_a_limit_is_a_limit(buy: Any) -> None:
    assert (await buy(max_tokens=2)).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "junk"), [(529, b""), (500, b""), (200, b"data: junk\n\n"), (200, b"[1]")])
async def test_a_vendor_that_fails_is_503_and_charges_nothing(
    buy: Any, house: Vendor, shop: Any, status: int, junk: bytes, stream: bool
) -> None:
    house.status, house.junk = status, junk
    assert (await buy(stream=stream)).json()["error"]["code"] == "model_unavailable"
    assert stream or shop.bank.moved == {}


async def test_G04_a_vendor_that_errs_in_mid_stream_ends_it_without_done(buy: Any, house: Vendor) -> None:
    house.dies = True
    answer = await buy(stream=True)
    assert "Hello" in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [image("http://plain.test/a.png")]}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "tool_calls": [call("a", "{")]}]}, "messages.0.tool_calls"),
        ({"tools": [{"type": "custom"}]}, "tools"),
    ],
)
async def test_what_cannot_be_said_there_is_refused_before_anybody_pays(
    buy: Any, house: Vendor, members: Any, param: str
) -> None:
    answer = await buy(**members)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert answer.json()["error"]["param"] == param
    assert house.asked == []


@given(st.binary(max_size=300), st.integers(1, 40))
def test_no_bytes_make_a_translator_raise_anything_else(data: bytes, step: int) -> None:
    translator = AnthropicMessages().translator(0)
    assert translator is not None
    try:
        for start in range(0, len(data), step):
            translator.feed(data[start : start + step])
        AnthropicMessages().answer(data, 0)
    except (ValueError, RecursionError):
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "index", "delta", "text", "usage", "message", "content"]), inner)
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta", "error"])


@given(st.lists(st.tuples(KINDS, JSON), max_size=4))
def test_no_event_makes_a_translator_raise_anything_else(events: list[tuple[str, Any]]) -> None:
    translator = FORMATS["anthropic"].translator(0)
    assert translator is not None
    for kind, content in events:
        members = content if isinstance(content, dict) else {"delta": content}
        translator.feed(f"data: {json.dumps({**members, 'type': kind})}\n\n".encode())
    translator.feed(b'data: {"type": "message_stop"}\n\n')
