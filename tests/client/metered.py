"""A buyer before a shop that takes what was used, on the devnet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop, Meddled, facilitator
from x402.billing import Metered
from x402.client.auth import X402Auth
from x402.client.choose import Policy
from x402.client.wallet import Wallet
from x402.facilitator.approval_relay import ApprovalRelay
from x402.facilitator.service import unix_now
from x402.facilitator.signer import EvmSigner
from x402.gateway.inference.meter import receipt_comment
from x402.gateway.paywall import Paywall
from x402.networks import BASE_SEPOLIA
from x402.ports.grant_book import SqlGrants
from x402.ports.ledger import SqlLedger
from x402.schemes import approval_sponsoring
from x402.wire.facilitation import Supported

MAXIMUM = 10_000
"""What the shop asks for, in atomic units."""


@dataclass
class Counter:
    """A buyer before a metered shop, on one devnet."""

    shop: EvmShop
    ledger: SqlLedger
    wallet: Wallet
    app: Any
    url: str

    def auth(self, **options: Any) -> X402Auth:
        given: dict[str, Any] = {
            "journal": ":memory:", "evm_rpc": self.url, "policy": Policy(schemes=("upto", "exact")),
        }  # fmt: skip
        return X402Auth(self.wallet, **(given | options))

    @asynccontextmanager
    async def client(self, auth: X402Auth) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        mounts = {self.url: httpx.AsyncHTTPTransport()}
        async with httpx.AsyncClient(transport=transport, mounts=mounts, base_url="http://localhost", auth=auth) as it:
            yield it


@asynccontextmanager
async def open_counter(world: EvmWorld, *, approvals: bool = False) -> AsyncIterator[Counter]:
    """A shop; with `approvals` its facilitator sends those, and takes no EIP-2612 permits: what a token without them
    leaves."""
    shop, purse = await EvmShop.open(world), EvmSigner(secrets.token_hex(32))
    if approvals:
        await world.fund(purse.address, 0, 10**16)
    wallet = Wallet(evm=shop.payer.key.to_hex(), testnet_only=True)
    app = FastAPI()

    app.state.started, app.state.gate = asyncio.Event(), asyncio.Event()

    @app.get("/note")
    async def note(request: Request, units: int = 0, slow: bool = False) -> JSONResponse:
        request.scope["x402"].metered = Metered(model="m", charged=units)
        if slow:
            app.state.started.set()
            await app.state.gate.wait()
        return JSONResponse({"note": "yes"})

    @app.get("/story")
    async def story(request: Request, units: int = 0) -> StreamingResponse:
        sale = request.scope["x402"]

        async def told() -> AsyncIterator[str]:
            yield 'data: {"text": "once"}\n\n'
            sale.metered = Metered(model="m", charged=units)
            yield f": {receipt_comment(await sale.settle(), {})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")

    async with SqlLedger("sqlite://") as ledger, SqlLedger("sqlite://") as books:
        relay = ApprovalRelay(BASE_SEPOLIA, shop.chain, SqlGrants(books), purse, unix_now) if approvals else None
        party = facilitator([shop.rail(books, relay=relay)], books)

        async def supported() -> Supported:
            """Tokens that are pinned all have permits, so the facilitator has to lack them."""
            told = await party.supported()
            return told.model_copy(update={"extensions": (approval_sponsoring.EXTENSION,)})

        app.add_middleware(
            Paywall,
            routes={"GET /note": "$0.01", "GET /story": "$0.01"},
            pay_to={BASE_SEPOLIA: shop.offer.pay_to},
            facilitator=Meddled(party, supported=supported) if approvals else party,
            ledger=ledger,
            schemes=("upto",) if approvals else ("exact", "upto"),
            answer_keys=[secrets.token_bytes(32)],
        )
        yield Counter(shop, ledger, wallet, app, world.url)
    await shop.chain.aclose()
