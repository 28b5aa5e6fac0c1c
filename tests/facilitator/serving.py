"""The facilitator's service in this process, as sellers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from x402.facilitator.service import create_app
from x402.facilitator.settle import LocalFacilitator
from x402.settings import FacilitatorSettings
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitation
from x402.wire.payment import Payment


@asynccontextmanager
async def serving(
    party: LocalFacilitator | None = None, peer: str = "127.0.0.1", **members: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running service, at the address `peer`; `members` are settings."""
    app = create_app(FacilitatorSettings.read(**members), facilitator=party)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 4711))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://facilitator") as client,
    ):
        yield client


def body(payment: Payment, offer: Requirement) -> dict[str, Any]:
    """What sellers post."""
    return Facilitation(payment=payment, requirement=offer).as_json()


async def ready(client: httpx.AsyncClient, status: int = 200) -> httpx.Response:
    """The first answer of `/ready` with this status, or the last one of five seconds."""
    for _ in range(100):
        answer = await client.get("/ready")
        if answer.status_code == status:
            break
        await asyncio.sleep(0.05)
    return answer
