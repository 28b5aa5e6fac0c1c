"""Addresses that strangers name are words: none of our programs connects to them (E05), and no page runs them (F17).

Every connection of the process is watched, at the socket; a list of ways to spell private addresses stands in each
place of each message that has room for a text.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.facilitator.world import EvmShop, facilitator
from tests.gateway.conftest import NOW, PAY_TO, Bank, Payer, Shop, challenge_of
from x402 import Wallet, X402Auth
from x402.devnet.model import create_app as create_model
from x402.devnet.model import demo_catalogue
from x402.facilitator.remote import RemoteFacilitator
from x402.facilitator.service import create_app as create_facilitator
from x402.gateway.app import create_app as create_gateway
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.terms import Terms
from x402.ports.ledger import SqlLedger
from x402.settings import FacilitatorSettings, GatewaySettings
from x402.wire.challenge import Challenge

INSIDE = [
    "127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1",
    "127.127.127.127", "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "metadata.google.internal",
    "instance-data", "100.100.100.200", "192.0.0.192", "10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255",
    "192.168.0.1", "192.168.1.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
    "127.0.0.1.nip.io", "localtest.me",
    "spoofed.burpcollaborator.net", "customer1.app.localhost", "①②⑦.⓪.⓪.①", "127。0。0。1", "user@127.0.0.1",
    "example.com@127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1?@example.com", "127.0.0.1:25", "127.0.0.1:6379",
    "127.0.0.1:80%2523", "0.0.0.0:22", "kubernetes.default.svc", "host.docker.internal",
]  # fmt: skip
URLS = [f"http://{host}/secret" for host in INSIDE] + [
    "file:///etc/passwd", "gopher://127.0.0.1:25/_x", "dict://127.0.0.1:11211/", "ftp://127.0.0.1/", "//127.0.0.1/",
    "jar:http://127.0.0.1!/", "data:text/html,<script>alert(1)</script>",
]  # fmt: skip
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>"

_listening: list[tuple[list[str], set[threading.Thread]]] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listening or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    address = arguments[1] if event == "socket.connect" else arguments[:2]
    host = str(address[0]) if isinstance(address, tuple) else str(address)
    for heard, others in _listening:
        if threading.current_thread() not in others:
            heard.append(host)


sys.addaudithook(_heard)


@contextmanager
def connections() -> Iterator[list[str]]:
    """Every host that this thread, or one that it starts, connects to or asks a name server about, in the block."""
    heard: list[str] = []
    # What other tests have left running in this process is not heard.
    listening = (heard, {*threading.enumerate()} - {threading.current_thread()})
    _listening.append(listening)
    try:
        yield heard
    finally:
        _listening.remove(listening)


def test_control_a_connection_is_heard() -> None:
    with connections() as heard, socket.socket() as one:
        one.settimeout(0.2)
        assert one.connect_ex(("127.0.0.1", 9)) != 0
    assert heard == ["127.0.0.1"]
    assert len(URLS) >= 60


def littered(offer: dict[str, Any], url: str) -> dict[str, Any]:
    """A challenge in whose every text that is ours to choose a URL stands."""
    extra = {**offer.get("extra", {}), "schema": {"$ref": url}, "url": url, "icon": url, "rpcUrl": url, "webhook": url}
    return {
        "x402Version": 2,
        "error": url,
        "resource": {"url": url, "description": url, "mimeType": url},
        "accepts": [{**offer, "extra": extra, "outputSchema": {"$ref": url}}],
        "extensions": {
            "bazaar": {"info": {"url": url}, "schema": {"$ref": url}},
            "sign-in-with-x": {"info": {"uri": url}},
        },
    }


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as memory:
        shop = Shop(FastAPI(), Bank(), memory, Payer())

        @shop.app.get("/report")
        async def report() -> dict[str, str]:
            return {"report": "secret"}

        shop.open({"GET /report": "$0.01"})
        yield shop
        await shop.paywall.till.drain(5)


async def test_E05_a_client_fetches_nothing_that_a_challenge_names(shop: Shop) -> None:
    wire = (await shop.challenge()).as_json()
    offer = next(each for each in wire["accepts"] if each["network"].startswith("eip155"))
    wallet, paid = Wallet(evm="0x" + "11" * 32), []

    def seller(request: httpx.Request) -> httpx.Response:
        if "payment-signature" in request.headers:
            paid.append(request.headers["payment-signature"])
            return httpx.Response(200, json={"report": "secret"})
        return httpx.Response(402, json=littered(offer, URLS[len(paid) % len(URLS)]))

    with connections() as heard:
        for _ in URLS:
            auth = X402Auth(wallet, journal=None)
            async with httpx.AsyncClient(transport=httpx.MockTransport(seller), auth=auth) as client:
                await client.get("https://shop.example/report")
    assert heard == []
    # The control: the littered offers were good ones, and were paid.
    assert len(paid) == len(URLS)


def gateway_of(shop: Shop) -> FastAPI:
    """A gateway over the demo's models, with the shop's bank and ledger."""
    upstream = httpx.ASGITransport(create_model(), raise_app_exceptions=False)
    return create_gateway(
        GatewaySettings.model_construct(),
        catalogue=demo_catalogue("http://model.test/v1"),
        facilitator=shop.bank,
        pay_to=PAY_TO,
        ledger=shop.ledger,
        public_url="https://gateway.example",
        upstream=UpstreamClient(httpx.AsyncClient(transport=upstream)),
        clock=lambda: NOW,
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_E05_a_facilitator_that_redirects_leads_nowhere(shop: Shop, status: int) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(status, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    challenge = await shop.challenge()
    payment = shop.payer.payment(challenge.accepts[0], challenge)
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    remote = RemoteFacilitator("https://facilitator.example", client=client)
    receipt = await remote.settle(payment, challenge.accepts[0])
    assert not receipt.success
    assert {httpx.URL(url).host for url in asked} == {"facilitator.example"}


async def test_E05_a_gateway_fetches_no_picture_and_no_tool_of_a_request(shop: Shop) -> None:
    app = gateway_of(shop)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    statuses: set[int] = set()
    with connections() as heard:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            models = (await client.get("/api/v1/models")).json()["data"]
            for url in URLS:
                body = {
                    "model": models[0]["id"],
                    "max_tokens": 8,
                    "messages": [
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
                        {"role": "user", "content": url},
                    ],
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}],
                    "metadata": {"webhook": url},
                }
                headers = {
                    "Referer": url.encode("ascii", "ignore").decode(),
                    "X-Forwarded-Host": "169.254.169.254",
                    "Origin": "http://127.0.0.1",
                }
                statuses.add((await client.post("/api/v1/chat/completions", json=body, headers=headers)).status_code)
    assert heard == []
    assert statuses <= {400, 402, 422}


async def test_E05_a_facilitator_asks_its_own_node_and_nobody_else(evm: EvmShop, ledger: SqlLedger) -> None:
    app = create_facilitator(FacilitatorSettings.model_construct(), facilitator=facilitator([evm.rail(ledger)], ledger))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    payment = evm.pay()
    node = httpx.URL(evm.world.url).host
    with connections() as heard:
        async with httpx.AsyncClient(transport=transport, base_url="http://facilitator.test") as client:
            for url in URLS[::8]:
                offer = littered(evm.offer.as_json(), url)
                body = {
                    "x402Version": 2,
                    "paymentPayload": {
                        **payment.as_json(),
                        "resource": offer["resource"],
                        "extensions": offer["extensions"],
                    },
                    "paymentRequirements": offer["accepts"][0],
                }
                answer = await client.post("/verify", json=body)
                assert answer.status_code == 200
                assert answer.json()["isValid"], answer.text
    assert set(heard) <= {node}


async def test_F17_no_page_runs_what_a_seller_or_a_stranger_wrote(shop: Shop) -> None:
    """A browser gets the same JSON as everybody; the only pages are those about the API, and they quote nobody."""
    app = FastAPI()
    app.get("/report/{name}")(lambda name: {"name": name})
    client = Shop(app, shop.bank, shop.ledger, shop.payer).open(
        {"GET /report/*": Terms(price="$0.01", description=HOSTILE)}
    )
    browser = {"Accept": "text/html,application/xhtml+xml", "User-Agent": "Mozilla/5.0"}
    for headers in (browser, browser | {"Payment-Signature": HOSTILE}, browser | {"X-Payment": "e30="}):
        answer = await client.get(f"/report/{HOSTILE.replace('/', '')}", headers=headers)
        assert answer.status_code in (400, 402)
        assert answer.headers["content-type"] == "application/json"
        json.loads(answer.content)
    for served in (gateway_of(shop), create_facilitator(FacilitatorSettings.model_construct())):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://x.test") as reader:
            for path in ("/docs", "/redoc", "/", f"/{HOSTILE}", f"/docs?x={HOSTILE}"):
                answer = await reader.get(path, headers=browser | {"Host": "<svg/onload=1>", "Referer": HOSTILE})
                html = "text/html" in answer.headers.get("content-type", "")
                assert not html or ("onload" not in answer.text and "alert(1)" not in answer.text), path


async def test_F17_control_the_words_reach_those_who_read_json(shop: Shop) -> None:
    app = FastAPI()
    app.get("/report")(lambda: {"name": "x"})
    client = Shop(app, shop.bank, shop.ledger, shop.payer).open(
        {"GET /report": Terms(price="$0.01", description=HOSTILE)}
    )
    challenge: Challenge = challenge_of(await client.get("/report"))
    assert challenge.resource is not None
    assert challenge.resource.description == HOSTILE
