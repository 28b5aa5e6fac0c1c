"""The smallest paid route, as its own process: what the paywall costs is measured on it.

`python -m benching.shop FACILITATOR_URL PAY_TO LEDGER WORKERS` prints `ready URL`. `GET /evm` is paid, `GET /free` is
not.
"""

from __future__ import annotations

import sys
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from x402 import Paywall
from x402.cli.workers import keep_what_is_loaded, serve_together
from x402.devnet.town_serving import listen
from x402.request_head import BoundedHead

PRICE = "$0.001"


async def report(request: Request) -> JSONResponse:
    """What is sold, and given away."""
    return JSONResponse({"report": "sunny"})


def shop(facilitator: str, pay_to: str, ledger: str) -> Starlette:
    """The app, its paywall around it."""
    app = Starlette(routes=[Route("/evm", report), Route("/free", report)])
    app.add_middleware(
        Paywall, routes={"GET /evm": PRICE}, pay_to={"base-sepolia": pay_to}, facilitator=facilitator, ledger=ledger
    )
    return app


def main(facilitator: str, pay_to: str, ledger: str, workers: str = "1") -> None:
    """Serve until the process is ended."""
    listener = listen()
    make = partial(shop, facilitator, pay_to, ledger)
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    if workers == "1":
        app = make()
        keep_what_is_loaded()
        config = uvicorn.Config(app, http=BoundedHead, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
    else:
        serve_together(make, int(workers), listener, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
