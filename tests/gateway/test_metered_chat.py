"""Chat completions that are paid for by their tokens: scheme upto at the gateway of models (faults G03, G04, B16)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from x402.lifecycle import Party

PATH = "/api/v1/chat/completions"


def body(**members: Any) -> dict[str, Any]:
    return {"model": "demo/echo-1", "messages": [{"role": "user", "content": "one two three"}], **members}


def upstream(words: int, *, usage: dict[str, int] | None = None, breaks: bool = False) -> Starlette:
    """A model that says `words` words, whatever it was allowed."""

    async def chat(_: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            for _ in range(words):
                yield _event({"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}]})
            if breaks:
                return
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if usage is not None:
                yield _event({"choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def _event(chunk: dict[str, Any]) -> bytes:
    whole = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "demo/echo-1", **chunk}
    return f"data: {json.dumps(whole)}\n\n".encode()


async def buy(shop: Any, town: Any, client: Any, asked: dict[str, Any]) -> tuple[Any, int]:
    """The answer to a request that is paid up to its maximum, and the maximum."""
    unpaid = await client.post(PATH, json=asked)
    challenge = town.challenge_of(unpaid)
    offer = next(offer for offer in challenge.accepts if offer.scheme == "upto")
    headers = shop.payer.pay(challenge, scheme="upto")
    return await client.post(PATH, json=asked, headers=headers), offer.amount


def taken(shop: Any) -> list[int]:
    return [units for _, units in shop.bank.payees.values()]


def words_in(text: str) -> int:
    return text.count('"word"')


async def test_B16_a_chat_costs_its_own_tokens(make: Any, shop: Any, town: Any) -> None:
    client = make()
    response, maximum = await buy(shop, town, client, body(max_tokens=500))
    assert response.status_code == 200, response.text
    receipt = town.receipt_of(response)
    charge = receipt.extra["charge"]
    assert 0 < int(receipt.amount) < maximum
    assert receipt.amount == charge["actual"]
    assert taken(shop) == [int(receipt.amount)]


async def test_B16_a_streamed_chat_costs_its_own_tokens(make: Any, shop: Any, town: Any) -> None:
    client = make(upstream(5, usage={"prompt_tokens": 3, "completion_tokens": 5}))
    response, maximum = await buy(shop, town, client, body(max_tokens=500, stream=True))
    assert response.status_code == 200, response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert ": x402-receipt " in response.text
    (units,) = taken(shop)
    assert 0 < units < maximum
    # The upstream's own count, and not ours, is what is charged in the end.
    again = make(upstream(5, usage={"prompt_tokens": 3, "completion_tokens": 10}))
    await buy(shop, town, again, body(max_tokens=500, stream=True))
    assert taken(shop)[1] > units


async def test_G03_an_endless_stream_is_cut_and_costs_the_maximum_at_most(make: Any, shop: Any, town: Any) -> None:
    client = make(upstream(2_000))
    response, maximum = await buy(shop, town, client, body(max_tokens=20, stream=True))
    assert response.status_code == 200
    assert '"finish_reason": "length"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert words_in(response.text) <= 2 * 20 + 17
    (units,) = taken(shop)
    assert units <= maximum
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_G03_control_a_stream_within_its_bound_is_whole(make: Any, shop: Any, town: Any) -> None:
    client = make(upstream(20))
    response, _ = await buy(shop, town, client, body(max_tokens=20, stream=True))
    assert words_in(response.text) == 20
    assert '"length"' not in response.text


@pytest.mark.parametrize("words", [1, 8])
async def test_G04_a_stream_that_breaks_off_costs_what_was_said(make: Any, shop: Any, town: Any, words: int) -> None:
    client = make(upstream(words, breaks=True))
    response, maximum = await buy(shop, town, client, body(max_tokens=500, stream=True))
    assert words_in(response.text) == words
    assert "[DONE]" not in response.text
    assert all(0 < units < maximum for units in taken(shop))


async def test_B17_usage_beyond_the_bound_costs_the_maximum(make: Any, shop: Any, town: Any) -> None:
    client = make(upstream(3, usage={"prompt_tokens": 10**6, "completion_tokens": 10**6}))
    _, maximum = await buy(shop, town, client, body(max_tokens=20, stream=True))
    assert taken(shop) == [maximum]


async def test_an_empty_stream_costs_nothing(make: Any, shop: Any, town: Any) -> None:
    client = make(upstream(0))
    response, _ = await buy(shop, town, client, body(max_tokens=20, stream=True))
    assert response.status_code == 200
    assert taken(shop) == []
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
