"""What an operator's machines ask: is the process alive, could it take a payment now, and what has it counted."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry

from x402.gateway.paywall import Paywall
from x402.telemetry.metrics import exposition


def add_probes(app: FastAPI, registry: CollectorRegistry) -> None:
    """Add `/health`, `/ready` and `/metrics`."""

    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    async def ready() -> JSONResponse:
        """Whether a payment could be taken now: the ledger writes, the facilitator settles, nothing old is open."""
        paywall: Paywall = app.state.paywall
        checks = await paywall.checks()
        return JSONResponse({"ready": all(checks.values()), "checks": checks}, 200 if all(checks.values()) else 503)

    async def metrics() -> Response:
        """Prometheus text, of all workers together."""
        body, content_type = await run_in_threadpool(exposition, registry)
        return Response(body, headers={"Content-Type": content_type})

    for path, endpoint in (("/health", health), ("/ready", ready), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["operations"], response_model=None)
