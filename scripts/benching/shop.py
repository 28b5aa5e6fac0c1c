"""The smallest paid route, as its own process: what the paywall costs is measured on it.

`python -m benching.shop FACILITATOR_URL PAY_TO LEDGER` prints `ready URL`. `GET /evm` is paid, `GET /free` is not.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from x402 import Paywall
from x402.devnet.town_serving import listen

PRICE = "$0.001"


async def report(request: Request) -> JSONResponse:
    """What is sold, and given away."""
    return JSONResponse({"report": "sunny"})


def main(facilitator: str, pay_to: str, ledger: str) -> None:
    """Serve until the process is ended."""
    app = Starlette(routes=[Route("/evm", report), Route("/free", report)])
    app.add_middleware(
        Paywall, routes={"GET /evm": PRICE}, pay_to={"base-sepolia": pay_to}, facilitator=facilitator, ledger=ledger
    )
    listener = listen()
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
