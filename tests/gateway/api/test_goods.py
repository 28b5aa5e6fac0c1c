"""Embeddings, images and estimates: what they cost, what they bring, what the receipt says."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from x402.devnet.demo_media import embedding
from x402.devnet.model import ECHO, EMBED, FREE, PICTURE, STORY
from x402.signed_quote import peek

Make = Callable[..., httpx.AsyncClient]
HELLO = [{"role": "user", "content": "Hello, world!"}]


async def priced(town: Any, client: httpx.AsyncClient, path: str, members: Any) -> Any:
    unpaid = await client.post(path, json=members)
    assert unpaid.status_code == 402, unpaid.text
    return town.challenge_of(unpaid)


def serving(path: str, answer: Any, seen: list[Any] | None = None) -> Starlette:
    async def serve(request: Request) -> Response:
        if seen is not None:
            seen.append(await request.json())
        return JSONResponse(answer)

    return Starlette(routes=[Route(f"/v1{path}", serve, methods=["POST"])])


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1", "/v1"])
async def test_row_007_embeddings_are_priced_on_the_prompt_alone(shop: Any, town: Any, make: Make, base: str) -> None:
    client, path = make(), f"{base}/embeddings"
    members = {"model": EMBED, "input": "The quick brown fox jumps over the lazy dog"}
    asked = await priced(town, client, path, members)
    quoted = peek(asked.accepts[0].extra["quote"]).quote
    assert [str(line.item) for line in quoted.lines] == ["prompt"]
    assert quoted.lines[0].units == 8 + len(members["input"])
    paid = await client.post(path, json=members, headers=shop.payer.pay(asked))
    answer = paid.json()["data"] if base == "/v1" else paid.json()
    assert answer["data"][0]["embedding"] == pytest.approx(embedding(members["input"]))
    charge = town.receipt_of(paid).extra["charge"]
    assert charge["usage"] == {"prompt_tokens": 9, "completion_tokens": 0}


async def test_row_007_both_formats_dimensions_and_many_inputs(shop: Any, town: Any, make: Make) -> None:
    client, path = make(), "/api/v1/embeddings"
    members = {"model": EMBED, "input": ["one", "two"], "encoding_format": "base64", "dimensions": 8, "user": "me"}
    paid = await client.post(path, json=members, headers=shop.payer.pay(await priced(town, client, path, members)))
    first, second = (base64.b64decode(one["embedding"]) for one in paid.json()["data"])
    assert struct.unpack("<8f", first) == pytest.approx(embedding("one", 8))
    assert len(second) == 32
    tokens = {"model": EMBED, "input": [[1, 2, 3], [4]]}
    quoted = peek((await priced(town, client, path, tokens)).accepts[0].extra["quote"]).quote
    assert quoted.lines[0].units == 8 + 3 + 8 + 1


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": ""}, "input.0"), ({"input": []}, "input"), ({"input": None}, "input"), ({"input": [""]}, "input.0"),
        ({"input": [1.5]}, "input.0"), ({"input": [[-1]]}, "input.0"), ({"input": [[True]]}, "input.0"),
        ({"input": ["x"] * 2049}, "input"), ({"input": {"a": 1}}, "input"), ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"), ({"dimensions": "8"}, "dimensions"), ({"user": 1}, "user"),
        ({"model": 7}, "model"),
    ],
)  # fmt: skip
async def test_row_007_what_cannot_be_embedded_is_refused_before_a_price(
    make: Make, members: dict[str, Any], param: str
) -> None:
    answer = await make().post("/api/v1/embeddings", json={"model": EMBED, "input": "x", **members})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert "payment-required" not in answer.headers


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1", "/v1"])
async def test_row_006_images_are_priced_each(shop: Any, town: Any, make: Make, base: str) -> None:
    client, path = make(), f"{base}/images/generations"
    members = {"model": PICTURE, "prompt": "A sunset", "size": "1024x1024", "n": 2}
    asked = await priced(town, client, path, members)
    assert asked.accepts[0].amount == 80_000
    paid = await client.post(path, json=members, headers=shop.payer.pay(asked))
    answer = paid.json()["data"] if base == "/v1" else paid.json()
    assert [one["url"].partition("/pictures/")[2] != "" for one in answer["data"]] == [True, True]
    charge = town.receipt_of(paid).extra["charge"]
    assert (charge["actual"], charge["usage"]["images"]) == ("80000", 2)


@pytest.mark.parametrize(
    ("members", "amount"),
    [
        ({}, 80_000), ({"size": "auto"}, 80_000), ({"size": "1024x1024"}, 40_000), ({"size": "1024x1792"}, 80_000),
        ({"size": "1024x1024", "quality": "hd"}, 80_000), ({"size": "1024x1024", "quality": "standard"}, 40_000),
        ({"size": "256x256"}, 10_000), ({"quality": "hd"}, 80_000), ({"size": "1024x1024", "n": 10}, 400_000),
        ({"n": None, "size": "256x256"}, 10_000),
    ],
)  # fmt: skip
async def test_row_006_size_quality_and_number_make_the_price(
    town: Any, make: Make, members: dict[str, Any], amount: int
) -> None:
    asked = await priced(town, make(), "/api/v1/images/generations", {"model": PICTURE, "prompt": "x", **members})
    assert {offer.amount for offer in asked.accepts} == {amount}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": ""}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": "x" * 32_001}, "prompt"), ({"n": 0}, "n"),
        ({"n": 11}, "n"), ({"size": "big"}, "size"), ({"size": 1024}, "size"), ({"quality": "best"}, "quality"),
        ({"response_format": "png"}, "response_format"), ({"stream": True}, "stream"),
    ],
)  # fmt: skip
async def test_row_006_what_cannot_be_drawn_is_refused_before_a_price(
    make: Make, members: dict[str, Any], param: str
) -> None:
    answer = await make().post("/api/v1/images/generations", json={"model": PICTURE, "prompt": "x", **members})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_row_006_only_images_that_came_are_charged(shop: Any, town: Any, make: Make) -> None:
    members = {"model": PICTURE, "prompt": "x", "size": "1024x1024", "n": 3}
    client, path = (
        make(serving("/images/generations", {"data": [{"url": "https://i.test/1"}]})),
        "/api/v1/images/generations",
    )
    paid = await client.post(path, json=members, headers=shop.payer.pay(await priced(town, client, path, members)))
    charge = town.receipt_of(paid).extra["charge"]
    assert (charge["quoted"], charge["actual"], charge["unused"]) == ("120000", "40000", "80000")


@pytest.mark.parametrize(
    ("path", "members", "answer", "status"),
    [
        ("/images/generations", {"model": PICTURE, "prompt": "x"}, {"data": []}, 502),
        ("/images/generations", {"model": PICTURE, "prompt": "x"}, {"data": [{"url": ""}]}, 502),
        ("/images/generations", {"model": PICTURE, "prompt": "x"}, {"images": []}, 503),
        ("/embeddings", {"model": EMBED, "input": "x"}, {"data": []}, 503),
        ("/embeddings", {"model": EMBED, "input": "x"}, [], 503),
    ],
)
async def test_row_086_what_is_no_answer_is_not_paid_for(
    shop: Any, town: Any, make: Make, path: str, members: Any, answer: Any, status: int
) -> None:
    client, path = make(serving(path, answer)), f"/api/v1{path}"
    asked = await priced(town, client, path, members)
    failed = await client.post(path, json=members, headers=shop.payer.pay(asked))
    assert failed.status_code == status
    assert shop.bank.moved == {}


async def test_row_029_row_031_what_is_ours_stays_here_and_the_rest_goes_on(shop: Any, town: Any, make: Make) -> None:
    seen: list[Any] = []
    members = {"model": EMBED, "input": "x", "metadata": {"a": 1}, "sort": "price", "provider": {}, "custom": 7}
    client = make(serving("/embeddings", {"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 1}}, seen))
    asked = await priced(town, client, "/api/v1/embeddings", members)
    paid = await client.post("/api/v1/embeddings", json=members, headers=shop.payer.pay(asked))
    assert paid.status_code == 200
    assert seen == [{"model": EMBED, "input": "x", "custom": 7}]


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1", "/v1"])
@pytest.mark.parametrize(
    ("members", "endpoint", "items"),
    [
        ({"model": STORY, "messages": HELLO, "max_tokens": 50, "n": 2}, "chat.completions", ["prompt", "completion"]),
        ({"model": EMBED, "input": "x"}, "embeddings", ["prompt"]),
        ({"model": PICTURE, "prompt": "x", "n": 2}, "images", ["image"]),
        ({"model": FREE, "messages": HELLO}, "chat.completions", []),
    ],
)
async def test_an_estimate_is_the_quote_without_a_payment(
    town: Any, make: Make, base: str, members: dict[str, Any], endpoint: str, items: list[str]
) -> None:
    client = make()
    told = (await client.post(f"{base}/estimate", json=members)).json()
    told = told["data"] if base == "/v1" else told
    assert (told["endpoint"], told["model"]) == (endpoint, members["model"])
    assert [line["item"] for line in told["lines"]] == items
    paths = {"chat.completions": "chat/completions", "embeddings": "embeddings", "images": "images/generations"}
    if told["free"]:
        assert told["amount"] == "0"
        return
    asked = await priced(town, client, f"{base}/{paths[endpoint]}", members)
    assert str(asked.accepts[0].amount) == told["amount"]


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"model": ECHO}, 400, "invalid_request"),
        ({"model": ECHO, "messages": HELLO, "input": "x"}, 400, "invalid_request"),
        ({"model": "nothing", "messages": HELLO}, 404, "model_not_found"),
        ({"model": EMBED, "messages": HELLO}, 422, "unsuitable_model"),
    ],
)
async def test_what_cannot_be_sold_has_no_estimate(make: Make, members: Any, status: int, code: str) -> None:
    answer = await make().post("/api/v1/estimate", json=members)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await make().post("/api/v1/estimate", content=b"{")).status_code == 400
