"""The demo model: deterministic, OpenAI-shaped, and truthful about what it used."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.devnet.model import ECHO, EMBED, FREE, PICTURE, STORY, count, create_app, demo_catalogue, split
from x402.quote import Order, Usage, bound_prompt_tokens, quote

HELLO = [{"role": "user", "content": "Hello, world!"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://model.test/v1") as client:
        yield client


async def ask(client: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    response = await client.post("/chat/completions", json={"model": ECHO, "messages": HELLO, **members})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def stream(client: httpx.AsyncClient, **members: Any) -> list[Any]:
    body = {"model": ECHO, "messages": HELLO, "stream": True, **members}
    response = await client.post("/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


@given(st.text())
def test_tokens_are_the_text_again_and_never_more_than_its_bytes(text: str) -> None:
    assert "".join(split(text)) == text
    assert count(text) <= len(text.encode())


async def test_an_answer_has_the_usual_shape(client: httpx.AsyncClient) -> None:
    answer = await ask(client)
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "You said: Hello, world!"}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == count("You said: Hello, world!")
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_limits_cut_the_answer(client: httpx.AsyncClient, name: str) -> None:
    answer = await ask(client, model=STORY, n=2, **{name: 7})
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert count(answer["choices"][0]["message"]["content"]) == 7
    assert answer["usage"]["completion_tokens"] == 14


async def test_stop_sequences_end_it(client: httpx.AsyncClient) -> None:
    answer = await ask(client, model=STORY, stop=["coin", "sea"])
    assert answer["choices"][0]["message"]["content"].strip() == "A courier found a"


async def test_a_stream_says_the_same_as_the_whole(client: httpx.AsyncClient) -> None:
    whole = await ask(client)
    chunks = await stream(client, stream_options={"include_usage": True})
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in await stream(client))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_tools_are_called_when_asked_for(client: httpx.AsyncClient, choice: Any) -> None:
    answer = await ask(client, tools=[TOOL], tool_choice=choice)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "demo", "days": 1}'}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    chunks = await stream(client, tools=[TOOL], tool_choice=choice)
    assert chunks[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "get_weather"
    plain = await ask(client, tools=[TOOL], tool_choice="auto")
    assert plain["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model": 1}', b'{"model": "demo/echo-1", "messages": []}'])
async def test_nonsense_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/chat/completions", content=body)).status_code == 400


async def test_unknown_models_are_404(client: httpx.AsyncClient) -> None:
    response = await client.post("/chat/completions", json={"model": "gpt-4", "messages": HELLO})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    listed = [model["id"] for model in (await client.get("/models")).json()["data"]]
    assert listed == [ECHO, STORY, FREE, EMBED, PICTURE]


@pytest.mark.parametrize("model", [ECHO, STORY])
@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_its_usage_never_exceeds_a_quote(client: httpx.AsyncClient, model: str, tools: list[Any]) -> None:
    catalogue = demo_catalogue("http://model.test/v1")
    for text in ("", "x", "Wörter, 中文 and 🙂🙂🙂", "a b " * 500):
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
        quoted = quote(Order(model, bound_prompt_tokens(messages, tools), 50, 2), catalogue.prices)
        required = {"tools": tools, "tool_choice": "required"} if tools else {}
        answer = await ask(client, model=model, messages=messages, max_tokens=50, n=2, **required)
        usage = answer["usage"]
        charge = quoted.actual(Usage(usage["prompt_tokens"], usage["completion_tokens"]))
        assert charge.over == ()
        assert 0 < charge.total <= quoted.bound


def test_the_demo_is_priced_and_named_a_demo() -> None:
    catalogue = demo_catalogue("http://model.test/v1")
    assert catalogue.resolve("free-1").price.free
    assert catalogue.resolve("demo:demo/echo-1").providers[0].upstream is not None
    assert all("demo" in model.display_name.lower() for model in catalogue.models)
