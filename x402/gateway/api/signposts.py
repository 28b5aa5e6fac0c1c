"""How programs find out what is sold here: `/.well-known/x402` for indexers, `/llms.txt` for language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from x402 import networks
from x402.gateway.api.profiles import MOUNTED, OURS
from x402.gateway.inference.abilities import capabilities
from x402.gateway.inference.catalogue import Catalogue


def add_signposts(app: FastAPI, catalogue: Catalogue, paid: Sequence[str], pay_on: Sequence[str], url: str) -> None:
    """Add both. `paid` are the paths that cost something, `pay_on` the networks, `url` how clients reach the gateway;
    without one they are told what the server listens on, never what a client claims (fault B19)."""
    titles = [networks.get(networks.to_caip2(name)).title for name in pay_on]

    async def well_known(request: Request) -> Response:
        """Everything that can be bought here, by its URL."""
        origin = _origin(request, url)
        body: dict[str, Any] = {
            "version": 1,
            "resources": [origin + path for path in paid],
            "ownershipProofs": [],
            "instructions": f"{origin}/llms.txt",
            "x402Versions": [1, 2],
            "networks": [networks.to_caip2(name) for name in pay_on],
            "openapi": f"{origin}/openapi.json",
        }
        return JSONResponse(body)

    async def llms_txt(request: Request) -> Response:
        """What is sold and how it is paid for, in words for a language model."""
        text = _words(_origin(request, url), catalogue, titles)
        return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")

    app.add_api_route("/.well-known/x402", well_known, methods=["GET"], tags=["about"])
    app.add_api_route("/llms.txt", llms_txt, methods=["GET"], tags=["about"], response_class=Response)


def _origin(request: Request, url: str) -> str:
    if url:
        return url.rstrip("/")
    host, port = request.scope.get("server") or ("localhost", None)
    name = f"[{host}]" if ":" in host else host
    return f"{request.scope.get('scheme', 'http')}://{name}{f':{port}' if port else ''}"


def _words(origin: str, catalogue: Catalogue, titles: Sequence[str]) -> str:
    bases = ", ".join(f"`{origin}{profile.base}`" for profile in MOUNTED)
    models = "\n".join(f"- `{model.id}` ({', '.join(capabilities(model))})" for model in catalogue.models)
    return f"""# x402 gateway

> Models that are paid per answer, in USDC on {" or ".join(titles)}. No account and no key are needed.

The API is OpenAI's, at {bases}.

## How to pay

1. Send the request without a payment. The answer is 402; the header `PAYMENT-REQUIRED` is base64 of JSON with the
   offers in `accepts`, and the body has the same in x402's first version.
2. Choose an offer, sign it, and send the very same request with the payment in `PAYMENT-SIGNATURE` (or `X-PAYMENT`).
3. The answer comes with a receipt in `PAYMENT-RESPONSE`. After a 503 send the very same payment again: it is never
   charged twice.

`{origin}{OURS.base}/estimate` prices a request without a payment.

## Models

{models}

## More

- [OpenAPI]({origin}/openapi.json)
- [Models with prices]({origin}{OURS.base}/models)
- [Status]({origin}/status)
"""
