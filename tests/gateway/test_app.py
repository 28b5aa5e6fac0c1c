"""The gateway as its buyers meet it: chat, streams, models, errors, receipts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from x402.devnet.model import ECHO, FREE, STORY, demo_catalogue
from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.app import create_app
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.outfit import catalogue_of
from x402.gateway.paywall import Paywall
from x402.settings import GatewaySettings
from x402.signed_quote import peek

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


PAYEE = "0x" + "1" * 40
HELLO = [{"role": "user", "content": "Hello, world!"}]


Make = Callable[..., httpx.AsyncClient]


def body(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": HELLO, **members}


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_a_plain_answer_is_paid_by_quote(
    shop: Any, town: Any, make: Make, base: str, version: int, network: str
) -> None:
    client = make()
    unpaid = await client.post(f"{base}/chat/completions", json=body(max_tokens=50))
    assert unpaid.status_code == 402
    challenge = town.challenge_of(unpaid)
    assert challenge.resource.url == f"https://gateway.example{base}/chat/completions"
    quoted = peek(challenge.accepts[0].extra["quote"]).quote
    assert (quoted.model, quoted.bound, quoted.output_tokens) == (ECHO, challenge.accepts[0].amount, 50)
    assert "paymentFlow" not in challenge.accepts[0].extra
    header = shop.payer.pay(challenge, network, version=version)
    paid = await client.post(f"{base}/chat/completions", json=body(max_tokens=50), headers=header)
    assert paid.status_code == 200, paid.text
    answer = paid.json()
    assert answer["choices"][0]["message"]["content"] == "You said: Hello, world!"
    receipt = town.receipt_of(paid)
    assert receipt.success
    assert receipt.network == network
    if version == 2:
        charge = receipt.extra["charge"]
        assert charge["quoted"] == str(quoted.bound)
        assert int(charge["actual"]) + int(charge["unused"]) == quoted.bound
        assert charge["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
    again = await client.post(f"{base}/chat/completions", json=body(max_tokens=50), headers=header)
    assert again.content == paid.content


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_is_settled_first_and_ends_with_its_receipt(
    shop: Any, town: Any, make: Make, include_usage: bool
) -> None:
    client = make()
    members = body(stream=True, **({"stream_options": {"include_usage": True}} if include_usage else {}))
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    assert challenge.accepts[0].extra["paymentFlow"] == "upfront"
    header = shop.payer.pay(challenge)
    paid = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert paid.status_code == 200
    assert paid.headers["content-type"].startswith("text/event-stream")
    assert paid.headers["cache-control"] == "no-store"
    receipt = town.receipt_of(paid)
    frames = [frame for frame in paid.text.split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    assert frames[-2].startswith(": x402-receipt ")
    told = json.loads(base64.b64decode(frames[-2].removeprefix(": x402-receipt ")))
    assert told["transaction"] == receipt.transaction
    assert told["extra"]["charge"]["quoted"] == str(challenge.accepts[0].amount)
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert any(chunk["choices"] == [] for chunk in chunks) is include_usage
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == "You said: Hello, world!"
    again = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert again.content == paid.content
    assert len(shop.bank.moved) == 1


async def test_free_models_ask_for_nothing(shop: Any, make: Make) -> None:
    client = make()
    for stream in (False, True):
        response = await client.post("/api/v1/chat/completions", json=body(model=FREE, stream=stream))
        assert response.status_code == 200
        assert "payment-response" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")
    assert "x402-receipt" not in response.text
    assert "verify" not in shop.bank.asked


async def test_B02_a_quote_for_a_small_model_buys_no_big_one(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body(max_tokens=10)))
    header = shop.payer.pay(challenge)
    for changed in (body(max_tokens=1000), body(model=STORY, max_tokens=10), body(max_tokens=10, stream=True)):
        response = await client.post("/api/v1/chat/completions", json=changed, headers=header)
        assert response.status_code == 402
    assert "verify" not in shop.bank.asked


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"model": "demo/eco-1"}, 404, "model_not_found"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"messages": []}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, 400, "unpriceable_content"),
    ],
)
async def test_what_cannot_run_is_never_priced(
    shop: Any, make: Make, members: dict[str, Any], status: int, code: str
) -> None:
    client = make()
    response = await client.post("/api/v1/chat/completions", json=body(**members))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert "payment-required" not in response.headers
    if status == 404:
        assert error["details"]["suggestions"][0] == ECHO


async def test_models_are_listed_with_prices_for_both_kinds_of_reader(make: Make) -> None:
    client = make()
    for base in ("/api/v1", "/api/alpha"):
        listing = (await client.get(f"{base}/models")).json()
        assert listing["object"] == "list"
        echo = next(model for model in listing["data"] if model["id"] == ECHO)
        assert echo["pricing"]["prompt"] == "0.5"
        assert echo["providers"][0]["id"] == "demo"


async def test_request_ids_go_in_and_out(make: Make) -> None:
    client = make()
    assert (await client.get("/health", headers={"X-Request-ID": "mine-1"})).headers["x-request-id"] == "mine-1"
    for odd in ("a b", "x" * 200, ""):
        assert (await client.get("/health", headers={"X-Request-ID": odd})).headers["x-request-id"].startswith("req_")
    unpaid = await client.post("/api/v1/chat/completions", json=body(), headers={"X-Request-ID": "mine-2"})
    assert (unpaid.status_code, unpaid.headers["x-request-id"]) == (402, "mine-2")


async def test_operations_tell_the_truth(shop: Any, make: Make) -> None:
    client = make()
    assert (await client.get("/health")).json() == {"status": "ok"}
    ready = await client.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"] == {"ledger": True, "facilitator": True, "reconciled": False}
    shop.gateway.state.paywall.reconciled.set()
    assert (await client.get("/ready")).json()["ready"] is True
    challenge = await client.post("/api/v1/chat/completions", json=body())
    assert challenge.status_code == 402
    assert b"python_info" not in (await client.get("/metrics")).content
    assert "/api/v1/chat/completions" in (await client.get("/openapi.json")).json()["paths"]


async def test_metrics_count_sales(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    text = (await client.get("/metrics")).text
    assert 'x402_facts_total{fact="sale.delivered",network="eip155:84532"' in text


async def test_F16_browsers_may_call_the_gateway(make: Make) -> None:
    client = make()
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,payment-signature",
    }
    preflight = await client.options("/api/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    response = await client.post("/api/v1/chat/completions", json=body(), headers={"Origin": "https://page.example"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "PAYMENT-REQUIRED" in response.headers["access-control-expose-headers"]


async def test_tools_and_images_pass_through(shop: Any, town: Any, make: Make) -> None:
    client = make()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    members = body(
        tools=[tool],
        tool_choice="required",
        messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}],
    )
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    paid = await client.post("/api/v1/chat/completions", json=members, headers=shop.payer.pay(challenge))
    assert paid.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"


async def test_E02_without_a_facilitator_nothing_is_free(shop: Any, make: Make) -> None:
    shop.bank.kinds = UnavailableError("facilitator_unavailable", "away")
    client = make()
    response = await client.post("/api/v1/chat/completions", json=body())
    assert response.status_code == 503
    assert (await client.get("/ready")).json()["checks"]["facilitator"] is False


def test_settings_say_what_is_missing(tmp_path: Any) -> None:
    with pytest.raises(MisconfiguredError, match="X402_PRICES"):
        catalogue_of(GatewaySettings.model_construct(), environment={}, now=0)
    with pytest.raises(MisconfiguredError, match="X402_EVM_PAY_TO"):
        _ = GatewaySettings.model_construct().pay_to
    with pytest.raises(MisconfiguredError, match="nowhere"):
        catalogue_of(GatewaySettings.model_construct(price_file=tmp_path / "nowhere.toml"), environment={}, now=0)
    listed = GatewaySettings.model_construct(upstream_url="https://u.example/v1", model_names="gpt-4o-mini, ")
    assert [model.id for model in catalogue_of(listed, environment={}, now=1_800_000_000).models] == ["gpt-4o-mini"]


def test_mainnet_is_refused_unless_it_is_meant() -> None:
    options: dict[str, Any] = {
        "catalogue": demo_catalogue("http://model.test/v1"),
        "pay_to": {"base": "0x" + "5e" * 20},
        "ledger": "sqlite://",
    }
    with pytest.raises(MisconfiguredError, match="X402_MAINNET"):
        create_app(GatewaySettings.model_construct(), **options)
    assert create_app(GatewaySettings.model_construct(mainnet=True), **options)


def test_a_model_that_nobody_serves_stops_the_start() -> None:
    environment: dict[str, str] = {}
    text = '[[models]]\nname = "ours/idle"\n[models.pricing]\nprompt = "1"\ncompletion = "2"\n'
    idle = read_catalogue(text, environment=environment, now=1_800_000_000)
    with pytest.raises(MisconfiguredError, match="ours/idle"):
        create_app(
            GatewaySettings.model_construct(), catalogue=idle, facilitator="http://f", pay_to={EVM: "0x" + "1" * 40}
        )


def test_one_network_has_two_names() -> None:
    seller = {"base-sepolia": PAYEE}
    for name in (EVM, "base-sepolia"):
        assert Paywall(FastAPI(), pay_to=seller, facilitator="http://f", network=name)
    with pytest.raises(MisconfiguredError, match="no address on base"):
        Paywall(FastAPI(), pay_to=seller, facilitator="http://f", network="base")
