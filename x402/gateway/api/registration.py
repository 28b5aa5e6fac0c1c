"""Registration over HTTP: providers sign for what they sell (aimo rows 87, 90).

POST /api/v1/providers         a signed document; 202 while its server is examined, 200 when it holds at once
GET  /api/v1/providers/{id}    how a provider stands, and why
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from x402.gateway import asgi
from x402.gateway.inference.offer import DOCUMENT_LIMIT
from x402.gateway.inference.office import Office
from x402.gateway.problem import ApiProblem
from x402.ports.providers import RegisteredProvider, Standing


def add_registration(app: FastAPI, base: str, office: Office) -> None:
    """Put both paths on an app."""

    async def register(request: Request) -> JSONResponse:
        """Register as a provider, change one's rates, or withdraw: a document signed by the provider's wallet."""
        registrar = await office.registrar()
        body = await asgi.read_body(request.scope, request.receive, limit=2 * DOCUMENT_LIMIT)
        taken = await registrar.submit(body)
        return JSONResponse(shown(taken), 202 if taken.standing is Standing.PENDING else 200)

    async def show_provider(request: Request) -> JSONResponse:
        """How one registered provider stands."""
        registrar = await office.registrar()
        known = await registrar.book.provider(request.path_params["provider"])
        if known is None:
            raise ApiProblem(404, "provider_not_found", "no provider of this id has registered here")
        return JSONResponse(shown(known))

    tag: list[Any] = ["providers"]
    app.add_api_route(f"{base}/providers", register, methods=["POST"], tags=tag, response_model=None)
    app.add_api_route(f"{base}/providers/{{provider}}", show_provider, methods=["GET"], tags=tag, response_model=None)


def shown(provider: RegisteredProvider) -> dict[str, Any]:
    """A provider as anybody may see it. AiMo knows the states `active`, `limited` and `deprecated`."""
    return {
        "id": provider.id,
        "object": "provider",
        "status": str(provider.standing),
        "reason": provider.reason or None,
        "account": provider.account,
        "issued_at": provider.issued_at,
        "updated_at": provider.updated_at or None,
    }
