"""A FastAPI seller behind the official Python SDK's payment middleware.

    GET /evm   GET /svm   paid on one chain          POST /both   paid on either, echoes its JSON body
    GET /free  not paid                              GET /served  how often each paid handler ran

Environment: PORT, FACILITATOR_URL, EVM_PAY_TO, SVM_PAY_TO, PRICE ($0.001), EVM_NETWORK, SVM_NETWORK (CAIP-2).
Routes of a chain exist only if its PAY_TO is given.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request
from serving import serve
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.svm.exact import ExactSvmServerScheme
from x402.server import x402ResourceServer

SOLANA_DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICE = os.environ.get("PRICE", "$0.001")

app = FastAPI()
served: Counter[str] = Counter()
seller = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["FACILITATOR_URL"])))
options: dict[str, PaymentOption] = {}
if pay_to := os.environ.get("EVM_PAY_TO"):
    network = os.environ.get("EVM_NETWORK", "eip155:84532")
    seller.register(network, ExactEvmServerScheme())
    options["evm"] = PaymentOption(scheme="exact", pay_to=pay_to, price=PRICE, network=network)
if pay_to := os.environ.get("SVM_PAY_TO"):
    network = os.environ.get("SVM_NETWORK", SOLANA_DEVNET)
    seller.register(network, ExactSvmServerScheme())
    options["svm"] = PaymentOption(scheme="exact", pay_to=pay_to, price=PRICE, network=network)
routes = {f"GET /{chain}": RouteConfig(accepts=[option]) for chain, option in options.items()}
routes["POST /both"] = RouteConfig(accepts=list(options.values()))
app.add_middleware(PaymentMiddlewareASGI, server=seller, routes=routes)


@app.get("/evm")
@app.get("/svm")
async def report() -> dict[str, str]:
    served["report"] += 1
    return {"report": "sunny", "seller": "official FastAPI middleware"}


@app.post("/both")
async def echo(request: Request) -> dict[str, Any]:
    served["echo"] += 1
    return {"echo": await request.json(), "seller": "official FastAPI middleware"}


@app.get("/free")
async def free() -> dict[str, str]:
    return {"report": "free of charge"}


@app.get("/served")
async def count() -> dict[str, int]:
    return dict(served)


if __name__ == "__main__":
    serve(app)
