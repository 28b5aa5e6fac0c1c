"""The smallest seller: a FastAPI app of five lines behind `Paywall`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI

from x402 import Paywall

PRICE = "$0.0023"


def seller(pay_to: Mapping[str, str], facilitator: str, ledger: Path) -> FastAPI:
    """The app; its report costs `PRICE`, in v1 and v2, on every network of `pay_to`."""
    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]:
        return {"report": "sunny", "seller": "five lines"}

    app.add_middleware(
        Paywall, routes={"GET /report": PRICE}, pay_to=pay_to, facilitator=facilitator, ledger=str(ledger)
    )
    return app
