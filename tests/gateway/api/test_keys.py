"""Keys over HTTP: a wallet's own, and nobody else's. AiMo rows 13, 14, 17, 18."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from solders.keypair import Keypair

from tests.gateway.accounts.keychain import NOW, Hour, Wallets, asking, ring_on
from x402.errors import X402Error
from x402.gateway.accounts.keys import KeyRing
from x402.gateway.accounts.signed_key import OURS, THEIRS
from x402.gateway.api.keys import add_keys
from x402.gateway.api.signed_keys import add_signed_keys
from x402.gateway.replies import error_reply
from x402.ports.ledger import SqlLedger

ME, YOU = {"X-Account": "eip155:84532:0xme"}, {"X-Account": "eip155:84532:0xyou"}
WALLET = Keypair.from_seed(bytes([6] * 32))


class Address:
    """In place of a paywall, which knows the gateway's address."""

    def url_of(self, scope: Any) -> str:
        return f"https://gateway.example{scope['path']}"


@pytest.fixture
async def ring() -> AsyncIterator[KeyRing]:
    clock = Hour()
    async with SqlLedger("sqlite://", clock=clock) as ledger:
        yield ring_on(ledger, clock, theirs=True)


@pytest.fixture
async def client(ring: KeyRing) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.paywall = Address()

    @app.exception_handler(X402Error)
    async def told(_: Request, error: Exception) -> Response:
        assert isinstance(error, X402Error)
        status, headers, body = error_reply(error)
        return Response(body, status, dict(headers))

    add_keys(app, "/api/v1", lambda: ring, Wallets(), ring)
    add_signed_keys(app, "/api/v1", lambda: ring, clock=Hour())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test/api/v1") as client:
        yield client


async def test_row_018_a_wallet_manages_its_own_keys(client: httpx.AsyncClient, ring: KeyRing) -> None:
    assert (await client.get("/keys")).status_code == 401
    wish = {"name": "laptop", "scopes": ["completion_model"], "addresses": ["192.0.2.0/24"], "expires_in": 3600,
            "usage_limit": 10, "spend_limit": "2500000"}  # fmt: skip
    made = await client.post("/keys", json=wish, headers=ME)
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    key = made.json()["key"]
    holder = await ring.holder(asking(f"Bearer {key}", peer="192.0.2.1"))
    assert holder is not None
    assert (holder.account, holder.spend_limit) == (ME["X-Account"], 2_500_000)
    listed = (await client.get("/keys", headers=ME)).json()["data"]
    assert [(one["name"], one["uses"], one["expires_at"]) for one in listed] == [("laptop", 1, NOW + 3600)]
    assert key not in str(listed)
    place = f"/keys/{listed[0]['id']}"
    assert (await client.get("/keys", headers=YOU)).json()["data"] == []
    for method, path in (("DELETE", place), ("POST", f"{place}/rotate"), ("GET", f"{place}/events")):
        assert (await client.request(method, path, headers=YOU)).status_code == 404
    fresh = (await client.post(f"{place}/rotate", json={"overlap_seconds": 0}, headers=ME)).json()["key"]
    assert await ring.holder(asking(f"Bearer {fresh}", peer="192.0.2.1")) is not None
    assert (await client.delete(place, headers=ME)).json()["revoked"]
    events = (await client.get(f"{place}/events", headers=ME)).json()["data"]
    assert [one["event"] for one in events] == ["created", "rotated", "revoked"]
    assert {one["actor"] for one in events} == {ME["X-Account"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": ["everything"]}, {"scopes": "completion_model"}, {"addresses": ["home"]}, {"expires_in": -1},
        {"expires_in": 1.5}, {"usage_limit": "3"}, {"spend_limit": 0.5}, {"spend_limit": "1e6"}, {"owner": "me"},
        {"name": 3}, {"signed_only": 1},
    ],
)  # fmt: skip
async def test_a_wish_that_can_not_be_is_400(client: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    answer = await client.post("/keys", json=wrong, headers=ME)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"]


async def test_row_017_a_key_makes_no_mightier_key(client: httpx.AsyncClient) -> None:
    made = await client.post("/keys", json={"scopes": ["keys"]}, headers=ME)
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await client.post("/keys", json={"scopes": ["completion_model"]}, headers=bearer)).status_code == 403
    assert (await client.post("/keys", json={"scopes": ["keys"]}, headers=bearer)).status_code == 201
    plain = (await client.post("/keys", json={}, headers=ME)).json()["key"]
    assert (await client.get("/keys", headers={"Authorization": f"Bearer {plain}"})).status_code == 403


@pytest.mark.parametrize("version", [THEIRS, OURS])
async def test_row_014_a_wallet_issues_a_key_to_itself(client: httpx.AsyncClient, ring: KeyRing, version: int) -> None:
    metadata = {"created_at": NOW * 1000, "valid_for": 90 * 86_400_000, "usage_limit": 0,
                "scopes": ["completion_model"]}  # fmt: skip
    terms = {"version": version, "wallet": "solana", "signer": str(WALLET.pubkey()), "metadata": metadata}
    asked = metadata if version == THEIRS else terms
    unsigned = bytes((await client.request("GET", "/keys/metadata_bytes", json=asked)).json())
    assert (len(unsigned) == 32) is (version == THEIRS)
    assert (b"https://gateway.example" in unsigned) is (version == OURS)
    payload = terms | {"signature": str(WALLET.sign_message(unsigned))}
    generated = await client.post("/keys/generate", json={"payload": payload})
    assert generated.status_code == 200, generated.text
    key = generated.json()["secret_key"]
    assert await ring.holder(asking(f"Bearer {key}")) is not None
    verified = (await client.post("/keys/verify", json={"secret_key": key})).json()
    assert verified == {"result": True, "reason": None, "payload": payload}
    stranger = Keypair.from_seed(bytes([8] * 32))
    for signer, status in ((stranger, 401), (WALLET, 200)):
        proof = {"signer": str(signer.pubkey()), "signature": list(bytes(signer.sign_message(key.encode())))}
        assert (await client.post("/keys/revoke", json={**proof, "secret_key": key})).status_code == status
    verified = (await client.post("/keys/verify", json={"secret_key": key})).json()
    assert (verified["result"], verified["reason"]) == (False, "this key was revoked")


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"signature": "x"}, {"signature": [1] * 64}, {"version": 3}, {"signer": "home"}, {"signer": 7},
        {"metadata": {"scopes": ["everything"]}}, {"metadata": {"valid_for": -1}}, {"tag": "v2"},
    ],
)  # fmt: skip
async def test_an_unsigned_or_unreadable_key_is_not_packed(client: httpx.AsyncClient, payload: dict[str, Any]) -> None:
    signer = str(WALLET.pubkey())
    body = {"payload": {"version": 1, "signer": signer, "signature": [1] * 64, "metadata": {}} | payload}
    if not payload:
        body = {"payload": {}}
    assert (await client.post("/keys/generate", json=body)).status_code in (400, 401)
    answer = await client.post("/keys/verify", json={"secret_key": "aimo-sk-dev-1111"})
    assert answer.json()["result"] is False
