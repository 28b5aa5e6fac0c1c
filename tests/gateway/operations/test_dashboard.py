"""The dashboard: right figures, for the right eyes, in a real browser. AiMo row 12; faults F16, F17, E03."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.async_api import Page, expect

from tests.browser import browsing
from tests.gateway.accounts.keychain import Hour
from tests.gateway.accounts.wallets import EVM, SVM, Signer
from tests.gateway.operations.board import PAYERS, fill
from x402.devnet.model import create_app as create_model
from x402.devnet.model import demo_catalogue
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.operations.dashboard import dollars
from x402.gateway.operations.session import COOKIE, Sessions
from x402.ports.ledger import SqlLedger
from x402.settings import GatewaySettings

SHOTS = os.environ.get("X402_SCREENSHOTS", "")
"""A folder for the two pictures of the docs, when they are to be made anew."""


class Gateway:
    """A gateway with a day of business behind it."""

    def __init__(self, shop: Any, town: Any, operators: str, url: str = "https://shop.example") -> None:
        self.shop, self.origin = shop, url
        shop.ledger._clock = lambda: shop.now
        shop.open()
        upstream = UpstreamClient(httpx.AsyncClient(transport=httpx.ASGITransport(create_model())))
        self.app = create_app(
            GatewaySettings.read(operators=operators), catalogue=demo_catalogue("http://model.test/v1"),
            facilitator=shop.bank, pay_to=town.PAY_TO, ledger=shop.ledger, public_url=url, upstream=upstream,
            clock=lambda: shop.now,
        )  # fmt: skip
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url=url)

    async def sign_in(self, network: str = EVM) -> httpx.Response:
        account = f"{network}:{Signer().address(network)}"
        text = (await self.client.get("/operator/message", params={"account": account})).json()["message"]
        signed = {"message": text, "signature": Signer().signature(network, text)}
        import base64

        header = base64.b64encode(json.dumps(signed).encode()).decode()
        return await self.client.post("/operator/session", headers={"SIGN-IN-WITH-X": header})


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_an_operator_signs_in_with_his_wallet_and_sees_the_figures(shop: Any, town: Any, network: str) -> None:
    gateway = Gateway(shop, town, f" {Signer().address(network).upper().replace('0X', '0x')},"
                      if network == EVM else Signer().address(network))  # fmt: skip
    await fill(shop.ledger, shop.now, answers=60)
    assert (await gateway.client.get("/operator/overview")).status_code == 401
    entered = await gateway.sign_in(network)
    assert entered.status_code == 204, entered.text
    cookie = entered.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "secure", "samesite=strict", "path=/operator"))
    seen = (await gateway.client.get("/operator/overview")).json()
    assert seen["answers"] == 60
    assert (seen["payments"], seen["errors"]) == (21, {"failed": 2, "refused": 1, "owed": 1})
    assert seen["pending"]["payments"] == 2
    assert seen["held"] == "12.34"
    assert sum(point["answers"] for point in seen["series"]) == 60
    assert len(seen["series"]) == 48
    assert {one["name"] for one in seen["payers"]} == set(PAYERS)
    assert seen["latency_ms"]["p50"] <= seen["latency_ms"]["p95"]
    assert seen["providers"][0]["answers"] == 60
    assert all(one["url"].endswith(one["transaction"]) or "?" in one["url"] for one in seen["receipts"])
    assert (await gateway.client.get("/operator/overview?hours=5")).status_code == 400
    await gateway.client.delete("/operator/session")
    assert (await gateway.client.get("/operator/overview")).status_code == 401


async def test_nobody_else_looks(shop: Any, town: Any) -> None:
    for operators, code in (("", "no_operators"), ("0x" + "1" * 40, "no_operator")):
        gateway = Gateway(shop, town, operators)
        refused = await gateway.sign_in()
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
        assert (await gateway.client.get("/operator/overview")).status_code == 401
    forged = await gateway.client.post("/operator/session", headers={"SIGN-IN-WITH-X": "e30="})
    assert forged.status_code == 401
    assert (await gateway.client.get("/operator/message?account=me")).status_code == 400


def test_a_session_is_over_in_time_and_can_not_be_forged() -> None:
    clock = Hour()
    sessions = Sessions(["0xAbc", f"{SVM}:Wallet"], key=b"k", clock=clock, seconds=60)
    for account in ("eip155:1:0xabc", "eip155:8453:0xABC", f"{SVM}:Wallet"):
        assert sessions.account(sessions.begin(account)) == account
    for account in ("solana:other:Wallet", f"{SVM}:wallet", "eip155:1:0xabcd", "eip155:1:"):
        assert sessions.account(sessions.begin(account)) is None
    good = sessions.begin("eip155:1:0xabc")
    other = Sessions(["0xabc"], key=b"other", clock=clock, seconds=60)
    assert other.account(good) is None
    for wrong in ("", "x", good[:-2], "A" + good[1:], good + "AAAA"):
        assert sessions.account(wrong) is None
    removed = Sessions(["0xdef"], key=b"k", clock=clock, seconds=60)
    assert removed.account(good) is None, "whoever is taken off the list has no session any more"
    clock.now += 60
    assert sessions.account(good) is None


@pytest.mark.parametrize("units", [0, 1, 10, 999_999, 1_000_000, 1_230_000, 12_345_678])
def test_amounts_are_shown_to_the_unit(units: int) -> None:
    text = dollars(units)
    whole, _, rest = text.partition(".")
    assert int(whole) * 10**6 + int(rest.ljust(6, "0")) == units
    assert 2 <= len(rest) <= 6


@asynccontextmanager
async def served(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


_WALLET = """
window.ethereum = { request: async ({ method, params }) => {
  if (method === "eth_requestAccounts") return ["%s"];
  if (method === "eth_chainId") return "0x14a34";
  const bytes = params[0].slice(2).match(/../g).map((two) => parseInt(two, 16));
  return window.signText(new TextDecoder().decode(new Uint8Array(bytes)));
} };
"""


async def test_the_page_in_a_real_browser(shop: Any, town: Any, tmp_path: Path) -> None:
    """Signs in with a wallet in the page, sees the figures, new ones come by themselves, and nothing from elsewhere."""
    listener = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    gateway = Gateway(shop, town, Signer().address(EVM), origin)
    await fill(shop.ledger, shop.now)
    await gateway.client.get("/health")
    gateway.app.state.paywall.reconciled.set()
    async with served(gateway.app, listener), browsing() as browser:
        for look in ("light", "dark"):
            context = await browser.new_context(color_scheme=look, viewport={"width": 1280, "height": 1100})
            page = await context.new_page()
            heard: list[str] = []
            asked: list[str] = []
            _listen(page, heard, asked)
            await page.expose_function("signText", lambda text: Signer().signature(EVM, text))
            await page.add_init_script(_WALLET % Signer().address(EVM))
            await page.goto(f"{origin}/operator")
            await expect(page.locator("#door")).to_be_visible()
            assert "$" not in await page.inner_text("#board"), "no figures for strangers"
            await page.click("#evm")
            await _figures(page)
            await page.screenshot(path=Path(SHOTS or tmp_path) / f"dashboard-{look}.png", full_page=True)
            assert all(url.startswith(origin) for url in asked)
            assert [line for line in heard if "401" not in line] == []
            if look == "dark":
                await _live(page, gateway)
            await page.click("#leave")
            await expect(page.locator("#door")).to_be_visible()
            await context.close()


def _listen(page: Page, heard: list[str], asked: list[str]) -> None:
    """Note what the page says and asks for."""
    page.on("console", lambda line: heard.append(line.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))


async def _figures(page: Page) -> None:
    await expect(page.locator("#board")).to_be_visible()
    await expect(page.locator("#tiles")).to_contain_text("400")
    await expect(page.locator("#models")).to_contain_text("demo/story-1")
    await expect(page.locator("#payers tr")).to_have_count(4)
    await expect(page.locator("#receipts a").first).to_have_attribute("rel", "noreferrer")
    assert await page.locator("#curve rect").count() == 48
    overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0


async def _live(page: Page, gateway: Gateway) -> None:
    """A sale that happens while somebody looks, with a name that would be a script on a careless page (F17)."""
    from tests.gateway.operations.board import SqlAccounts
    from x402.billing import Bill, Metered, PaidBy

    await page.evaluate("window.eval = undefined")
    name = "<img src=x onerror=document.title='taken'>"
    metered = Metered(model=name, provider="demo", charged=99_000_000)
    bill = Bill(
        bill_id="late", at=gateway.shop.now, account=name, paid_by=PaidBy.BALANCE, metered=metered, latency_ms=5
    )
    await SqlAccounts(gateway.shop.ledger).add(bill)
    await expect(page.locator("#tiles")).to_contain_text("401", timeout=15_000)
    await expect(page.locator("#models")).to_contain_text("<img src=x")
    assert await page.title() == "Gateway"
    await page.click("button[data-hours='1']")
    await expect(page.locator("button[data-hours='1']")).to_have_attribute("aria-pressed", "true")


async def test_F17_the_page_allows_no_script_of_its_own_text(shop: Any, town: Any) -> None:
    gateway = Gateway(shop, town, "")
    for path in ("", "/dashboard.js", "/dashboard.css", "/message?account=eip155:1:0x" + "1" * 40):
        answer = await gateway.client.get(f"/operator{path}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
    page = (await gateway.client.get("/operator")).text
    assert "http" not in page.replace("https://www.w3.org", "")
    assert "<script>" not in page
    assert " style=" not in page
    assert " on" + "click=" not in page
    assert COOKIE not in page


async def test_books_of_either_database_give_the_same_figures(ledger_url: str) -> None:
    from x402.ports.overview import SqlGlance

    clock = Hour()
    async with SqlLedger(ledger_url, clock=clock) as ledger:
        await fill(ledger, clock.now, answers=40)
        seen = await SqlGlance(ledger).overview(clock.now - 86_400, 1800)
    assert (seen.answers, seen.payments, seen.pending, seen.refused, seen.owed) == (40, 21, 2, 1, 1)
    assert sum(units for _, _, units in seen.series) == seen.charged == sum(one.charged for one in seen.models)
    assert sum(count for _, count, _ in seen.series) == 40
    assert seen.received > 0
    assert len(seen.latest) == 20
