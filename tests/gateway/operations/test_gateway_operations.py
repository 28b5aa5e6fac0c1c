"""The whole gateway with its operator's side: keys that pay from a balance, limits, webhooks. Rows 10, 13, 18, 56."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from tests.gateway.accounts.wallets import Signer
from x402.billing import EntryKind, Posting
from x402.devnet.model import ECHO, demo_catalogue
from x402.devnet.model import create_app as create_model
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.ports.account_book import SqlAccounts
from x402.settings import GatewaySettings
from x402.wire.request_signature import sign_request

EVM = "eip155:84532"
CHAT = "/api/v1/chat/completions"
BODY = {"model": ECHO, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
Open = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def gateway(shop: Any, town: Any) -> AsyncIterator[Open]:
    shop.open()
    clients: list[httpx.AsyncClient] = []
    shop.ledger._clock = lambda: shop.now

    def build(peer: str = "127.0.0.1", **settings: Any) -> httpx.AsyncClient:
        upstream = UpstreamClient(httpx.AsyncClient(transport=httpx.ASGITransport(create_model())))
        given = {"answer_key": "a key that seals secrets"} | settings
        app = create_app(
            GatewaySettings.read(**given), catalogue=demo_catalogue("http://model.test/v1"), facilitator=shop.bank,
            pay_to=town.PAY_TO, ledger=shop.ledger, public_url="https://shop.example", upstream=upstream,
            clock=lambda: shop.now,
        )  # fmt: skip
        shop.gateway = app
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 1))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://gateway.test"))
        return clients[-1]

    yield build
    for client in clients:
        await client.aclose()


def sign_in(shop: Any) -> Mapping[str, str]:
    return Signer().header(shop.now, EVM)


async def filled(shop: Any, units: int) -> str:
    account = f"{EVM}:{Signer().address(EVM)}"
    posting = Posting(account=account, kind=EntryKind.DEPOSIT, reference=f"fill {units}", units=units)
    await SqlAccounts(shop.ledger).post(posting)
    return account


async def balance(shop: Any, account: str) -> int:
    return (await SqlAccounts(shop.ledger).balance(account)).units


async def test_row_013_a_key_that_a_wallet_made_pays_from_its_balance(shop: Any, gateway: Open) -> None:
    client = gateway()
    account = await filled(shop, 1_000_000)
    made = await client.post("/api/v1/keys", json={"spend_limit": "1000000"}, headers=sign_in(shop))
    assert made.status_code == 201, made.text
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    answer = await client.post(CHAT, json=BODY, headers=bearer)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Hello"
    assert 0 < await balance(shop, account) < 1_000_000
    assert "verify" not in shop.bank.asked, "no payment was made"
    gone = await client.delete(f"/api/v1/keys/{made.json()['id']}", headers=sign_in(shop))
    assert gone.status_code == 200
    before = await balance(shop, account)
    refused = await client.post(CHAT, json=BODY, headers=bearer)
    assert (refused.status_code, refused.headers.get("payment-required")) == (401, None)
    assert await balance(shop, account) == before


async def test_row_013_a_key_spends_no_more_than_its_limit(shop: Any, gateway: Open) -> None:
    client = gateway()
    account = await filled(shop, 1_000_000)
    made = await client.post("/api/v1/keys", json={"spend_limit": 1}, headers=sign_in(shop))
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    answer = await client.post(CHAT, json=BODY, headers=bearer)
    assert answer.status_code == 402
    assert await balance(shop, account) == 1_000_000


async def test_row_017_a_key_without_the_scope_is_refused_before_a_price_is_asked(shop: Any, gateway: Open) -> None:
    client = gateway()
    await filled(shop, 1_000_000)
    made = await client.post("/api/v1/keys", json={"scopes": ["embeddings"]}, headers=sign_in(shop))
    answer = await client.post(CHAT, json=BODY, headers={"Authorization": f"Bearer {made.json()['key']}"})
    assert answer.status_code == 403
    assert "insufficient_scope" in answer.text


async def test_row_019_a_signed_request_pays_too_and_once(shop: Any, gateway: Open) -> None:
    client = gateway()
    account = await filled(shop, 1_000_000)
    made = (await client.post("/api/v1/keys", json={"signed_only": True}, headers=sign_in(shop))).json()
    content = json.dumps(BODY).encode()
    claim = sign_request(made["id"], made["key"], "POST", CHAT, content, at=shop.now, nonce="n" * 16)
    headers = {"Authorization": claim.as_header(), "Content-Type": "application/json"}
    assert (await client.post(CHAT, content=content, headers=headers)).status_code == 200
    once = await balance(shop, account)
    assert (await client.post(CHAT, content=content, headers=headers)).status_code == 401
    assert await balance(shop, account) == once


async def test_a_payment_comes_before_a_bad_key(shop: Any, town: Any, gateway: Open) -> None:
    client = gateway()
    challenge = town.challenge_of(await client.post(CHAT, json=BODY))
    header = shop.payer.pay(challenge)
    bad = {"Authorization": "Bearer aimo-sk-v2-nobody"}
    assert (await client.post(CHAT, json=BODY, headers=bad)).status_code == 401
    assert (await client.post(CHAT, json=BODY, headers=header | bad)).status_code == 200


async def test_row_056_limits_stand_before_the_gateway(shop: Any, gateway: Open) -> None:
    client = gateway("203.0.113.5", tiers="free=4", open_quotes=2)
    answers = [await client.post(CHAT, json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [402, 402, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["3", "2", "1"]
    listed = await client.get("/v1/models")
    assert (listed.status_code, listed.headers["x-ratelimit-limit"]) == (200, "4")
    refused = await client.get("/v1/models", headers={"Origin": "https://page.example"})
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["success"] is False, "the old site's shape"
    assert refused.headers["access-control-allow-origin"] == "*", "a page may read why"
    assert refused.headers["x-request-id"]


async def test_row_010_an_account_has_its_payments_told(shop: Any, town: Any, gateway: Open) -> None:
    client = gateway()
    assert (await client.get("/api/v1/webhooks")).status_code == 401
    made = await client.post(
        "/api/v1/webhooks", json={"url": "https://hook.example/x", "topics": ["payment.*"]}, headers=sign_in(shop)
    )
    assert made.json()["secret"].startswith("whsec_")
    challenge = town.challenge_of(await client.post(CHAT, json=BODY))
    await client.post(CHAT, json=BODY, headers=shop.payer.pay(challenge))
    hooks = shop.gateway.state.paywall._companion.hooks()
    await hooks.step()
    place = f"/api/v1/webhooks/{made.json()['id']}"
    told = (await client.get(f"{place}/deliveries", headers=sign_in(shop))).json()["data"]
    assert "payment.settled" in [one["topic"] for one in told]
    assert {one["attempts"] for one in told} <= {0, 1}
    again = await client.post(f"{place}/deliveries/{told[0]['id']}/redeliver", headers=sign_in(shop))
    assert again.status_code == 202
    assert (await client.post(f"{place}/test", headers=sign_in(shop))).status_code == 202
    other = Signer().header(shop.now, "eip155:8453")
    assert (await client.delete(place, headers=other)).status_code == 404, "one wallet on two chains is two accounts"
    assert (await client.delete(place, headers=sign_in(shop))).status_code == 200
    assert len((await client.get("/api/v1/webhooks", headers=sign_in(shop))).json()["data"]) == 0


async def test_row_010_the_operators_own_webhook_stands_in_the_settings(shop: Any, gateway: Open) -> None:
    secret = "whsec_" + "A" * 44
    for settings, count in (({"webhook_url": "http://127.0.0.1:9/x", "webhook_secret": secret}, 1), ({}, 0)):
        await gateway(**settings).get("/health")
        paywall = shop.gateway.state.paywall
        assert len(await paywall._companion.hooks().book.webhooks("")) == count
