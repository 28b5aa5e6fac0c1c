"""Headers around money: caches, sizes, repetitions, browsers (faults F04-F06, F16)."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

from x402 import networks
from x402.wire.facilitation import Kind, Supported

PRICED = {"GET /report": "$0.01"}


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """An app without a router that reads paths carelessly."""
    path = unquote(unquote(scope["path"])).replace("\\", "/").lower()
    segments = [segment.partition(";")[0] for segment in path.split("/")]
    tidy: list[str] = []
    for segment in segments:
        if segment == "..":
            tidy = tidy[:-1]
        elif segment.strip() not in ("", "."):
            tidy.append(segment.strip())
    secret = tidy[:1] == ["report"] or tidy[:2] == ["in", "deep"]
    await send({"type": "http.response.start", "status": 200 if secret else 404, "headers": []})
    await send({"type": "http.response.body", "body": b"secret" if secret else b"nothing"})


async def test_F04_no_cache_keeps_what_is_about_money(shop: Any) -> None:
    @shop.app.get("/cached")
    async def cached() -> PlainTextResponse:
        return PlainTextResponse("secret", headers={"Cache-Control": "public, max-age=3600", "Vary": "Origin"})

    client = shop.open({"GET /cached": "$0.01"})
    unpaid = await client.get("/cached")
    header = shop.payer.pay(await shop.challenge("/cached"))
    paid = await client.get("/cached", headers=header)
    clash = await client.get("/cached?other=1", headers=header)
    assert [unpaid.status_code, paid.status_code, clash.status_code] == [402, 200, 409]
    for response in (unpaid, paid, clash):
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert "PAYMENT-SIGNATURE, X-PAYMENT" in response.headers["vary"]
    assert paid.headers["vary"].startswith("Origin, ")


async def test_F05_headers_are_bounded_in_both_directions(shop: Any, town: Any) -> None:
    many = {
        network.id: "0x" + "5e" * 20
        for network in networks.every()
        if network.family == "eip155"
        and network.testnet
        and network.assets
        and network.assets[0].transfer_method == "eip3009"
    }
    padding = {"features": {"words": "x" * 600}}
    shop.bank.kinds = Supported(
        kinds=tuple(Kind(version=2, scheme="exact", network=network, extra=padding) for network in many)
    )
    client = shop.open(PRICED, pay_to=many)
    response = await client.get("/report")
    assert response.status_code == 402
    assert len(response.headers["payment-required"]) <= 7 * 1024
    assert 1 <= len(town.challenge_of(response).accepts) < len(many)
    big = base64.b64encode(json.dumps({"x402Version": 2, "pad": "x" * 17_000}).encode()).decode()
    assert (await client.get("/report", headers={"PAYMENT-SIGNATURE": big})).status_code == 400


async def test_F06_one_payment_header_or_none(shop: Any) -> None:
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    new = shop.payer.pay(challenge)["PAYMENT-SIGNATURE"]
    old = shop.payer.pay(challenge, version=1)["X-PAYMENT"]
    for pairs in (
        [("PAYMENT-SIGNATURE", new), ("PAYMENT-SIGNATURE", new)],
        [("PAYMENT-SIGNATURE", new), ("payment-signature", old)],
        [("PAYMENT-SIGNATURE", new), ("X-PAYMENT", old)],
        [("X-PAYMENT", old), ("X-PAYMENT", old)],
        [("PAYMENT-SIGNATURE", f"{new},{new}")],
        [("PAYMENT-SIGNATURE", "")],
        [("PAYMENT-SIGNATURE", old)],
        [("X-PAYMENT", new)],
    ):
        response = await client.get("/report", headers=httpx.Headers(pairs))
        assert response.status_code == 400, pairs
    assert shop.runs == []
    assert (await client.get("/report", headers={"PAYMENT-SIGNATURE": new})).status_code == 200


async def test_F16_browsers_may_read_the_challenge_and_ask_first(shop: Any) -> None:
    shop.app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    client = shop.open(PRICED)
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    preflight = await client.options(
        "/report", headers={**asked, "Access-Control-Request-Headers": "payment-signature"}
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    response = await client.get("/report", headers={"Origin": "https://page.example"})
    exposed = response.headers["access-control-expose-headers"]
    for name in ("PAYMENT-REQUIRED", "PAYMENT-RESPONSE", "X-PAYMENT-RESPONSE"):
        assert name in exposed
    paid = await client.get("/report", headers=shop.payer.pay(await shop.challenge()))
    assert "PAYMENT-RESPONSE" in paid.headers["access-control-expose-headers"]


async def test_F16_a_preflight_never_runs_the_handler(shop: Any) -> None:
    shop.open({"/report": "$0.01"}, app=plain_app)
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    preflight = await shop.client.options("/report", headers=asked)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert "PAYMENT-SIGNATURE" in preflight.headers["access-control-allow-headers"]
    assert (await shop.client.options("/report")).status_code == 402
