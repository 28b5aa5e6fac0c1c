"""Rows 80, 87 and 90 over HTTP: providers register and are bought from; prices change under a running gateway."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.gateway.inference.providers import Providers, stock
from tests.gateway.inference.test_conformance import good
from tests.gateway.inference.test_registrar import EVM_ADDRESS, document, envelope
from x402.devnet.town_serving import listen, serving
from x402.errors import MisconfiguredError
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.settings import GatewaySettings

Open = Callable[..., httpx.AsyncClient]


@pytest.fixture
def gateway(shop: Any, town: Any) -> Open:
    """A gateway that takes registrations, and whose providers live in this process."""
    shop.open()

    def build(catalogue: Any = None, **settings: Any) -> httpx.AsyncClient:
        known: dict[str, Any] = {"provider_admission": "open", "answer_key": SecretStr("a secret of some length")}
        servers = Providers({"a": good, "two": good}).client()
        app = create_app(
            GatewaySettings.model_construct(**(known | settings)),
            catalogue=catalogue or stock({"a": "9"}),
            facilitator=shop.bank,
            pay_to=town.PAY_TO,
            ledger=shop.ledger,
            public_url="https://gateway.example",
            upstream=UpstreamClient(servers, public=servers),
            clock=lambda: shop.now,
        )
        shop.gateway = app
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")

    return build


async def listed(client: httpx.AsyncClient) -> bool:
    """Whether the provider is on sale, once its check is over."""
    for _ in range(200):
        known = (await client.get("/api/v1/providers")).json()["data"]
        if EVM_ADDRESS in [provider["id"] for provider in known]:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_row_087_a_provider_registers_and_sells(shop: Any, town: Any, gateway: Open) -> None:
    client = gateway()
    await client.get("/health")
    taken = await client.post("/api/v1/providers", content=envelope(document()))
    assert (taken.status_code, taken.json()["status"]) == (202, "pending"), taken.text
    assert await listed(client)
    shown = (await client.get(f"/api/v1/providers/{EVM_ADDRESS}")).json()
    assert (shown["status"], shown["reason"]) == ("active", None)
    assert "sk-two" not in str(shown)
    body = {"model": f"{EVM_ADDRESS}:m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
    answer = await client.post("/api/v1/chat/completions", json=body, headers=shop.payer.pay(challenge))
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "one two")


async def test_row_090_new_rates_hold_at_once(gateway: Open) -> None:
    client = gateway()
    await client.get("/health")
    await client.post("/api/v1/providers", content=envelope(document()))
    assert await listed(client)
    changed = document(issued_at=1_800_000_001)
    changed["models"][0]["pricing"] = {"prompt": "3", "completion": "4"}
    assert (await client.post("/api/v1/providers", content=envelope(changed))).status_code == 200
    models = (await client.get("/api/v1/models")).json()["data"]
    prices = [one["pricing"]["prompt"] for model in models for one in model["providers"] if one["id"] == EVM_ADDRESS]
    assert prices == ["3"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"junk", 400, "invalid_provider"), (envelope(document(base_url="https://127.0.0.1/")), 400, "invalid_provider")],
)
async def test_a_wrong_document_is_told(gateway: Open, body: bytes, status: int, code: str) -> None:
    client = gateway()
    await client.get("/health")
    answer = await client.post("/api/v1/providers", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await client.get("/api/v1/providers/0xnobody")).status_code == 404
    assert (await client.post("/api/v1/providers", content=b"x" * 500_000)).status_code == 413


async def test_registration_is_closed_unless_it_was_opened(gateway: Open) -> None:
    client = gateway(provider_admission="off")
    answer = await client.post("/api/v1/providers", content=envelope(document()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "registration_closed")


def test_what_registration_needs_is_said_at_the_start(gateway: Open) -> None:
    with pytest.raises(MisconfiguredError, match="X402_ANSWER_KEY"):
        gateway(answer_key=None)


async def test_row_080_sighup_and_a_changed_file_reach_a_running_gateway(
    shop: Any, town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("x402.gateway.inference.office.LOOK_SECONDS", 60)
    path = tmp_path / "prices.toml"

    def write(price: int) -> None:
        path.write_text(
            f'[[models]]\nname = "m"\n[models.pricing]\nprompt = {price}\ncompletion = {price}\n'
            '[models.params]\napi_base = "http://a.test/v1"\n'
        )

    write(1)
    shop.open()
    app = create_app(
        GatewaySettings.model_construct(price_file=path),
        facilitator=shop.bank,
        pay_to=town.PAY_TO,
        ledger=shop.ledger,
        public_url="https://gateway.example",
        clock=lambda: shop.now,
    )
    listener = listen()
    async with serving(app, listener):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/models"
        async with httpx.AsyncClient() as client:

            async def price() -> str:
                return str((await client.get(url)).json()["data"][0]["pricing"]["prompt"])

            assert await price() == "1"
            write(22)
            os.kill(os.getpid(), signal.SIGHUP)
            for _ in range(200):
                if await price() == "22":
                    break
                await asyncio.sleep(0.01)
            assert await price() == "22"
