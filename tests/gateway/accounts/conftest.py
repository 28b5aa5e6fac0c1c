"""A shop that meters what it sells, and keeps accounts; and the databases that its books are tested on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests.gateway.accounts.guest import FILLED, Guest
from tests.ports.ledgers import url
from tests.postgres import Postgres
from x402.billing import EntryKind, Metered, Posting
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Balance

PRICE = 10_000
CHUNKS = 10
EACH = 700
"""What one chunk costs, in atomic USDC: all of them are less than the price."""


class MeteredShop:
    """Sells a text in chunks, each with its price, for at most $0.01. `fails_at` is the chunk at which it breaks."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        # Leases end with the shop's time.
        shop.ledger._clock = lambda: shop.now
        self.book = SqlAccounts(shop.ledger)
        self.fails_at = -1
        self.status = 200
        self.runs = 0
        self.pause: asyncio.Event | None = None
        self.pause_after = 1
        self.chunk_made = asyncio.Event()
        self.fee = 0

    def app(self) -> FastAPI:
        """The shop's own app, which knows nothing of money but its meter."""
        app = FastAPI()

        @app.post("/text")
        async def text(request: Request) -> Response:
            self.runs += 1
            if self.status >= 400:
                return JSONResponse({"no": "luck"}, self.status)
            return StreamingResponse(self.chunks(request.state.payment))

        return app

    async def chunks(self, sale: Any) -> AsyncIterator[bytes]:
        for index in range(CHUNKS):
            if index == self.fails_at:
                self.fails_at = -1
                raise ConnectionError("upstream")
            sale.metered = self.used(index + 1)
            yield b"<%d>" % index
            if self.pause is not None and index + 1 >= self.pause_after:
                self.chunk_made.set()
                await self.pause.wait()

    def used(self, chunks: int) -> Metered:
        charged = chunks * EACH
        return Metered(
            model="demo", provider="one", completion_tokens=chunks, charged=charged, fee=charged * self.fee // 100,
            complete=chunks == CHUNKS,
        )  # fmt: skip

    def open(self, **options: Any) -> Any:
        given = {"accounts": True, "flow": "upfront"} | options
        return self.shop.open({"POST /text": "$0.01"}, self.app(), **given)

    def account(self, network: str = "eip155:84532") -> str:
        payer = self.shop.payer
        return f"{network}:{payer.address if network.startswith('eip155') else payer.keypair.pubkey()}"

    async def balance(self, network: str = "eip155:84532") -> Balance:
        return await self.book.balance(self.account(network))

    async def pay(self, network: str = "eip155:84532") -> dict[str, str]:
        header: dict[str, str] = self.shop.payer.pay(
            await self.shop.challenge("/text", "POST"), network, now=self.shop.now
        )
        return header


@pytest.fixture
def metered(shop: Any) -> MeteredShop:
    return MeteredShop(shop)


@pytest.fixture
async def guest(metered: Any) -> AsyncIterator[Guest]:
    guest = Guest(metered)
    await guest.book.post(Posting(account=guest.account, kind=EntryKind.DEPOSIT, reference="fill", units=FILLED))
    yield guest
    await guest.tab.drain(0)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger."""
    if request.param == "sqlite":
        return url(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()
