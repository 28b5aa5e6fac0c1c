"""What the gateway says about itself: OpenAPI, Postman, pages, signposts, status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml

from x402.devnet.model import ECHO
from x402.errors import UnavailableError
from x402.gateway.api.schemas import SCHEMAS
from x402.gateway.api.status import page

Make = Callable[..., httpx.AsyncClient]
PAID = {
    f"{base}{path}": body
    for base in ("/api/alpha", "/api/v1", "/v1")
    for path, body in (
        ("/chat/completions", "ChatRequest"),
        ("/embeddings", "EmbeddingsRequest"),
        ("/images/generations", "ImagesRequest"),
        ("/batch", "BatchRequest"),
    )
} | {"/v1/inference": "ChatRequest", "/api/v1/session/deposit": "DepositRequest"}


async def test_row_011_the_paid_paths_carry_their_402_and_payment_headers(make: Make) -> None:
    document = (await make().get("/openapi.json")).json()
    assert document["openapi"] == "3.0.3"
    assert {
        path for path, known in document["paths"].items() if "402" in known.get("post", {}).get("responses", {})
    } == {*PAID}
    for path, body in PAID.items():
        operation = document["paths"][path]["post"]
        asked = operation["responses"]["402"]
        assert "PAYMENT-REQUIRED" in asked["headers"]
        assert "PAYMENT-RESPONSE" in operation["responses"]["200"]["headers"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{body}")
        assert {"payment": []} in operation["security"]
        assert operation["x-payment-info"]["protocols"] == ["x402"]
    assert document["components"]["securitySchemes"]["payment"]["name"] == "PAYMENT-SIGNATURE"
    assert set(SCHEMAS) <= set(document["components"]["schemas"])
    ids = [one["operationId"] for known in document["paths"].values() for one in known.values()]
    assert len(ids) == len(set(ids))


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(member) for member in value.values()))
    return set().union(*(references(member) for member in value)) if isinstance(value, list) else set()


async def test_row_011_every_reference_leads_somewhere_and_yaml_says_the_same(make: Make) -> None:
    client = make()
    document = (await client.get("/openapi.json")).json()
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    text = await client.get("/openapi.yaml")
    assert text.headers["content-type"].startswith("application/yaml")
    assert yaml.safe_load(text.text) == document


async def test_row_011_a_described_chat_is_sold_as_described(make: Make) -> None:
    """The schema's own limits are those that are checked."""
    properties = SCHEMAS["ChatRequest"]["properties"]
    client = make()
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "n"):
        least, most = properties[name]["minimum"], properties[name]["maximum"]
        for value, status in ((least, 402), (most, 402), (least - 1, 400), (most + 1, 400)):
            asked = {"model": ECHO, "messages": [{"role": "user", "content": "x"}], name: value}
            answer = await client.post("/api/v1/chat/completions", json=asked)
            assert answer.status_code == status, (name, value)


async def test_row_012_the_postman_collection_has_every_operation(make: Make) -> None:
    client = make()
    document, made = (await client.get("/openapi.json")).json(), (await client.get("/postman.json")).json()
    assert made["info"]["schema"].endswith("/v2.1.0/collection.json")
    names = [one["name"] for folder in made["item"] for one in folder["item"]]
    wanted = [f"{method.upper()} {path}" for path, known in document["paths"].items() for method in known]
    assert sorted(names) == sorted(wanted)
    legacy = next(folder for folder in made["item"] if folder["name"] == "legacy")
    chat = next(one for one in legacy["item"] if one["name"] == "POST /v1/chat/completions")
    assert chat["request"]["url"]["raw"] == "{{baseUrl}}/v1/chat/completions"
    assert '"messages"' in chat["request"]["body"]["raw"]
    shown = next(one for one in legacy["item"] if one["name"].startswith("GET /v1/models/{"))
    assert shown["request"]["url"]["path"][-1].startswith(":model")


async def test_row_012_the_playground_comes_from_the_gateway_alone(make: Make) -> None:
    client = make()
    shown = await client.get("/docs")
    assert shown.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "http" not in shown.text.replace("http-equiv", "")
    for name, kind in (
        ("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript"), ("start.js", "text/javascript"),
    ):  # fmt: skip
        asset = await client.get(f"/docs/{name}")
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(kind)
        assert name in shown.text
    for odd in ("..", "../pyproject.toml", "%2e%2e%2fpostman.py", "index.html"):
        assert (await client.get(f"/docs/{odd}")).status_code == 404


@pytest.mark.parametrize("url", ["https://gateway.example", ""])
async def test_what_is_sold_is_found(make: Make, url: str) -> None:
    client = make(public_url=url)
    origin = url or "http://gateway.test"
    told = (await client.get("/.well-known/x402", headers={"Host": "evil.example"})).json()
    assert told["version"] == 1
    assert set(told["resources"]) == {origin + path for path in PAID}
    assert told["networks"] == ["eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"]
    words = await client.get("/llms.txt", headers={"Host": "evil.example"})
    assert words.headers["content-type"] == "text/markdown; charset=utf-8"
    assert f"`{ECHO}` (chat, vision)" in words.text
    assert f"{origin}/api/v1/estimate" in words.text
    assert "Base Sepolia or Solana" in words.text
    assert "evil" not in words.text + str(told)


async def test_row_012_the_status_page_is_live(shop: Any, make: Make) -> None:
    client = make()
    told = await client.get("/status")
    assert (told.status_code, told.json()["status"]) == (200, "degraded")
    shop.gateway.state.paywall.reconciled.set()
    told = await client.get("/status")
    assert told.json()["status"] == "up"
    assert {model["health"]["status"] for model in told.json()["providers"][0]["models"]} == {"unknown"}
    shown = await client.get("/status", headers={"Accept": "text/html,*/*"})
    assert shown.headers["content-type"].startswith("text/html")
    assert "The gateway is up" in shown.text
    assert "<script" not in shown.text
    shop.bank.kinds = UnavailableError("facilitator_unavailable", "away")
    down = await make().get("/status")
    assert (down.status_code, down.json()["status"], down.json()["checks"]["facilitator"]) == (503, "down", False)


def test_the_page_shows_names_as_text() -> None:
    health = {"status": "up", "latency_ms": 12, "availability_percent": 99.5, "requests": 200}
    provider = {"display_name": "<script>alert(1)</script>", "models": [{"id": "<b>", "health": health}]}
    shown = page({"status": "up", "checks": {"ledger": True, "odd": False}, "providers": [provider]})
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;: &lt;b&gt;" in shown
    assert "up, 12 ms, 99.5 % of 200" in shown
