"""The model list in both shapes at once, narrowed by its query, with live health; and the providers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from x402.devnet.model import ECHO, EMBED, FREE, PICTURE, STORY
from x402.gateway.inference.price_file import read_catalogue

Make = Callable[..., httpx.AsyncClient]
EVERY = [ECHO, STORY, FREE, EMBED, PICTURE]
PRICES = """
version = "p1"
[[models]]
name = "vendor/draw"
output_modalities = ["image"]
[models.pricing]
images = { "1024x1024" = 0.04, "hd 1024x1024" = 0.08 }
[models.params]
api_base = "http://one.test/v1"
[[models]]
name = "vendor/draw"
provider_name = "Second Hand"
output_modalities = ["image"]
[models.pricing]
image = 0.06
[models.params]
api_base = "http://two.test/v1"
"""


async def ids(client: httpx.AsyncClient, **query: Any) -> list[str]:
    return [model["id"] for model in (await client.get("/api/v1/models", params=query)).json()["data"]]


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1", "/v1"])
async def test_row_008_one_list_for_both_kinds_of_reader(make: Make, base: str) -> None:
    listing = (await make().get(f"{base}/models")).json()
    if base == "/v1":
        assert listing["success"] is True
        assert listing["meta"]["request_id"]
        listing = listing["data"]
    assert listing["object"] == "list"
    story = next(model for model in listing["data"] if model["id"] == STORY)
    assert (story["object"], story["owned_by"], story["created"]) == ("model", "demo", 0)
    assert (story["name"], story["context_length"]) == (STORY, 8192)
    assert story["architecture"] == {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    assert story["providers"][0]["pricing"]["completion"] == "8"
    assert story["capabilities"] == ["chat", "vision"]
    one = (await make().get(f"{base}/models/{STORY}")).json()
    assert (one["data"] if base == "/v1" else one) == story


async def test_row_008_a_model_is_found_by_any_name(make: Make) -> None:
    client = make()
    for name in (STORY, "story-1", f"demo:{STORY}"):
        assert (await client.get(f"/api/v1/models/{name}")).json()["display_name"] == "Story (demo)"
    missing = await client.get("/api/v1/models/demo/sotry-1")
    assert (missing.status_code, missing.json()["error"]["details"]["suggestions"][0]) == (404, STORY)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({}, EVERY), ({"capability": "chat"}, [ECHO, STORY, FREE]), ({"capability": "embeddings"}, [EMBED]),
        ({"capability": "images"}, [PICTURE]), ({"modality": "image"}, [ECHO, STORY, FREE, PICTURE]),
        ({"modality": "embedding"}, [EMBED]), ({"free": "true"}, [FREE]), ({"context": "8193"}, []),
        ({"free": "false"}, [ECHO, STORY, EMBED, PICTURE]), ({"max_price": "1.5"}, [ECHO, FREE, EMBED, PICTURE]),
        ({"max_price": "0"}, [FREE]), ({"context": "8192"}, [ECHO, STORY, FREE]), ({"provider": "demo"}, EVERY),
        ({"provider": "Demo-Model-Server"}, EVERY), ({"provider": "x"}, []), ({"q": "STORY"}, [STORY]),
        ({"capability": "chat", "max_price": "2", "free": "false"}, [ECHO]),
        ({"sort": "price"}, [FREE, EMBED, PICTURE, ECHO, STORY]), ({"sort": "name"}, sorted(EVERY)),
        ({"sort": "context"}, [ECHO, STORY, FREE, EMBED, PICTURE]), ({"unknown": "x"}, EVERY),
    ],
)  # fmt: skip
async def test_row_072_the_list_is_narrowed_by_its_query(make: Make, query: dict[str, str], left: list[str]) -> None:
    assert await ids(make(), **query) == left


@pytest.mark.parametrize(
    "query",
    [
        {"capability": "thinking"}, {"free": "yes"}, {"max_price": "cheap"}, {"max_price": "-1"}, {"max_price": "1e9"},
        {"context": "many"}, {"context": "-1"}, {"context": "9" * 13}, {"sort": "beauty"},
    ],
)  # fmt: skip
async def test_row_072_a_query_that_cannot_be_meant_is_refused(make: Make, query: dict[str, str]) -> None:
    answer = await make().get("/api/v1/models", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


async def test_row_072_health_is_live(make: Make) -> None:
    works = [True]

    async def chat(request: Request) -> Response:
        choice = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return JSONResponse({"choices": [choice]}, 200 if works[0] else 500)

    client = make(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])]))
    asked = {"model": FREE, "messages": [{"role": "user", "content": "x"}]}

    async def state() -> tuple[str, bool, str]:
        model = (await client.get(f"/api/v1/models/{FREE}")).json()
        (provider,) = (await client.get("/api/v1/providers")).json()["data"]
        return model["providers"][0]["health"]["status"], model["available"], provider["status"]

    assert await state() == ("unknown", True, "active")
    assert (await client.post("/api/v1/chat/completions", json=asked)).status_code == 200
    assert await state() == ("up", True, "active")
    works[0] = False
    assert (await client.post("/api/v1/chat/completions", json=asked)).status_code == 503
    assert await state() == ("outage", False, "limited")


async def test_row_072_providers_say_what_they_serve(make: Make) -> None:
    for base in ("/api/alpha", "/api/v1", "/v1"):
        listing = (await make().get(f"{base}/providers")).json()
        (demo,) = (listing["data"] if base == "/v1" else listing)["data"]
        assert (demo["id"], demo["display_name"], demo["status"]) == ("demo", "Demo model server", "active")
        assert demo["capabilities"] == ["chat", "vision", "embeddings", "images"]
        assert [model["id"] for model in demo["models"]] == EVERY


def test_images_of_several_providers_are_sold_at_the_dearer_rate() -> None:
    catalogue = read_catalogue(PRICES, environment={}, now=1_800_000_000)
    price = catalogue.resolve("vendor/draw").price
    assert price.image_rate(frozenset({"1024x1024"})).value == Decimal("0.06")
    assert price.image_rate(frozenset({"1024x1024", "hd"})).value == Decimal("0.08")
    assert price.image_rate(frozenset({"512x512"})).value == Decimal("0.06")
    shown = catalogue.resolve("vendor/draw").as_json()["pricing"]
    assert shown["images"] == {"1024x1024": "0.06", "hd 1024x1024": "0.08"}


async def test_an_image_without_a_price_is_not_sold_for_nothing(make: Make) -> None:
    only = PRICES.partition('[[models]]\nname = "vendor/draw"\nprovider_name')[0]
    client = make(catalogue=read_catalogue(only, environment={}, now=1_800_000_000))
    members = {"model": "vendor/draw", "prompt": "x", "size": "512x512", "quality": "hd"}
    answer = await client.post("/api/v1/images/generations", json=members)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unpriced_image")
    assert "1024x1024" in answer.json()["error"]["message"]
