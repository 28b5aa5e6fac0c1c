"""The gateway described for machines and readers: OpenAPI as JSON and YAML, a Postman collection, interactive pages.

Everything is made from the app's own routes, those of other files included; this one adds what FastAPI can't know: the
bodies that are read raw, the 402 and the headers around a payment. Nothing is loaded from anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from swagger_ui_bundle import swagger_ui_path

from x402.gateway.api.postman import collection
from x402.gateway.api.schemas import SCHEMAS, reference
from x402.gateway.problem import ApiProblem
from x402.wire.headers import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    PREFERRED_NETWORK,
    REQUEST_ID,
    SIGN_IN_WITH_X,
    X_PAYMENT,
    X_PAYMENT_RESPONSE,
)

OPENAPI_VERSION = "3.0.3"
"""As AiMo's documents have it, and as every reader understands it."""

_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>x402 gateway: try it</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="page"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>
"""
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], tryItOutEnabled: true});
"""


def add_description(app: FastAPI, paid: Mapping[str, str]) -> None:
    """Add `/openapi.json`, `/openapi.yaml`, `/postman.json` and `/docs`.

    `paid` maps the paths that cost something to the names of their bodies in `SCHEMAS`.
    """
    known: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not known:
            known.update(describe(app, paid))
        return known

    app.openapi = document  # type: ignore[method-assign]

    async def openapi_json() -> Response:
        """This gateway as an OpenAPI document."""
        return JSONResponse(document())

    async def openapi_yaml() -> Response:
        """This gateway as an OpenAPI document, in YAML."""
        return Response(yaml.safe_dump(document(), sort_keys=False, allow_unicode=True), media_type="application/yaml")

    async def postman() -> Response:
        """This gateway as a Postman collection."""
        return JSONResponse(collection(document()))

    async def docs() -> Response:
        """The interactive documentation."""
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _CSP})

    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _ASSETS:
            raise ApiProblem(404, "not_found", "there is nothing at this path")
        return FileResponse(Path(str(swagger_ui_path)) / name, media_type=_ASSETS[name])

    for path, endpoint in (
        ("/openapi.json", openapi_json),
        ("/openapi.yaml", openapi_yaml),
        ("/postman.json", postman),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["about"], response_class=Response)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs/{name}", asset, methods=["GET"], include_in_schema=False)


def describe(app: FastAPI, paid: Mapping[str, str]) -> dict[str, Any]:
    """The OpenAPI document of the app as it stands."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=OPENAPI_VERSION,
        description="Any model, paid per answer in USDC, without an account. Without a payment a paid path answers 402 "
        "with its offers; sign one of them and send the same request again.",
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(SCHEMAS)
    components["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in paid:
                _describe_paid(operation, paid[path])
            elif path.endswith("/estimate"):
                operation["requestBody"] = {"required": True, "content": _any_request()}
                operation["responses"]["200"] = {"description": "The price.", "content": reference("Estimate")}
            operation["responses"].setdefault("default", {"description": "An error.", "content": reference("Error")})
            operation["responses"].pop("422", None)
    return document


def _describe_paid(operation: dict[str, Any], body: str) -> None:
    operation["requestBody"] = {"required": True, "content": reference(body)}
    operation["security"] = [{"payment": []}, {"paymentV1": []}, {"signIn": []}, {"key": []}, {}]
    operation["parameters"] = [
        _header(PREFERRED_NETWORK, "Which network's offers come first: `base`, `solana`."),
        _header(REQUEST_ID, "Your own id of the request: it comes back, and stands in our logs."),
    ]
    operation["x-payment-info"] = {"protocols": ["x402"], "pricingMode": "quote", "price": _PRICE}
    responses = operation["responses"]
    responses["200"]["headers"] = _shown(PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, words="The receipt, base64 of JSON.")
    responses["402"] = {
        "description": "Payment required, or a payment that was refused: nothing was moved.",
        "headers": _shown(PAYMENT_REQUIRED, words="The offers, base64 of x402's second version."),
        "content": reference("Challenge"),
    }
    for status, words in _ERRORS.items():
        responses[status] = {"description": words, "content": reference("Error")}


def _any_request() -> dict[str, Any]:
    names = ("ChatRequest", "EmbeddingsRequest", "ImagesRequest")
    return {"application/json": {"schema": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}}}


def _header(name: str, words: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": words}


def _shown(*names: str, words: str) -> dict[str, Any]:
    return {name: {"description": words, "schema": {"type": "string"}} for name in names}


def _key_in(name: str, words: str) -> dict[str, str]:
    return {"type": "apiKey", "in": "header", "name": name, "description": words}


_PRICE = {"mode": "dynamic", "currency": "USD"}
_SCHEMES = {
    "payment": _key_in(PAYMENT_SIGNATURE, "A signed payment for this very request (x402, second version)."),
    "paymentV1": _key_in(X_PAYMENT, "The same in x402's first version."),
    "signIn": _key_in(SIGN_IN_WITH_X, "A wallet's signature that opens its balance here."),
    "key": {"type": "http", "scheme": "bearer", "description": "A key that this gateway gave: `aimo-sk-...`."},
}
_ERRORS = {
    "400": "The request or its payment cannot be read, or names what cannot run; nothing was charged.",
    "404": "No such model; the nearest names are in the details.",
    "409": "This payment belongs to another request, or is being served.",
    "413": "The body, or an image in it, is too large.",
    "422": "The model does not do this.",
    "429": "Too often; Retry-After says when again.",
    "502": "The model said nothing; nothing was charged.",
    "503": "Not decided yet, or nobody answers: send the very same again.",
}
