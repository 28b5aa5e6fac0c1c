"""The gateway: an OpenAI-compatible API whose callers have no account and pay per answer.

`Paywall`'s first user: the chat routes are ordinary routes with a price function, and nothing here is privileged.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from x402 import __version__, networks
from x402.confirmation import parse_confirmations
from x402.errors import MisconfiguredError, X402Error
from x402.gateway import asgi
from x402.gateway.counter import PriceRule
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.chat import ChatCounter
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.inference.router import Router, servable
from x402.gateway.inference.selection import REGION
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.nodes import open_nodes
from x402.gateway.paywall import Paywall
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.gateway.replies import error_reply
from x402.ports import Clock, Ledger
from x402.settings import GatewaySettings, secret
from x402.telemetry import Fact, Observer, Telemetry
from x402.telemetry.metrics import count_facts, exposition
from x402.wire.facilitation import Facilitator
from x402.wire.headers import EXPOSED_HEADERS, PAYMENT_HEADERS, PREFERRED_NETWORK, REQUEST_ID

BASES = ("/api/alpha", "/api/v1")
"""`/api/alpha` is AiMo's permissionless profile, `/api/v1` the current one; here both take payments (aimo §1.7)."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}", re.ASCII)


def create_app(
    settings: GatewaySettings | None = None,
    *,
    catalogue: Catalogue | None = None,
    facilitator: str | Facilitator | Sequence[str | Facilitator] | None = None,
    pay_to: Mapping[str, str] | None = None,
    ledger: Ledger | str | Path | None = None,
    public_url: str | None = None,
    upstream: UpstreamClient | None = None,
    telemetry: Telemetry | None = None,
    clock: Clock | None = None,
) -> FastAPI:
    """The gateway's app; run it with any ASGI server, its lifespan on.

    What is given as an object wins over `settings`, which are read from the environment when they are needed and not
    given. Raises `MisconfiguredError` for what is missing or contradicts itself.
    """
    settings = settings or GatewaySettings.read()
    now = clock or _wall_clock
    catalogue = catalogue or catalogue_of(settings, now=now())
    idle = [model.id for model in catalogue.models if not servable(model)]
    if idle:
        raise MisconfiguredError(
            "no_upstream", f"no provider can be asked for {', '.join(idle)}: [models.params] is missing"
        )
    registry = CollectorRegistry()
    observers = [count_facts(registry), *([] if telemetry is None else [_passed_on(telemetry)])]
    facts = Telemetry(observers)
    client = upstream or UpstreamClient()
    router = Router(catalogue, client, telemetry=facts, hedge_at=settings.hedge_at)
    counter = ChatCounter(router)
    receivers = dict(pay_to or settings.pay_to)
    if not settings.mainnet:
        _refuse_mainnet(receivers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if upstream is None:
            await client.close()

    app = FastAPI(title="x402 gateway", version=__version__, lifespan=lifespan)
    app.state.router = router
    prices: dict[str, PriceRule] = {f"POST {base}/chat/completions": counter.price for base in BASES}
    for base in BASES:
        _add_api(app, base, counter, router)
    _add_operations(app, registry)
    app.add_middleware(
        Paywall,
        routes=prices,
        pay_to=receivers,
        facilitator=facilitator or settings.facilitator_urls,
        ledger=ledger if ledger is not None else settings.ledger,
        public_url=settings.public_url if public_url is None else public_url,
        clock=now,
        telemetry=facts,
        **_till_options(settings, receivers),
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*", *PAYMENT_HEADERS, PREFERRED_NETWORK, REQUEST_ID],
        expose_headers=[*EXPOSED_HEADERS, "Retry-After"],
    )
    app.add_middleware(RequestIds)
    app.add_exception_handler(X402Error, _on_error)
    return app


def catalogue_of(settings: GatewaySettings, *, now: int) -> Catalogue:
    """The models on sale: the price file, or `models` of one upstream at their list prices.

    Raises `MisconfiguredError` that says which setting is missing.
    """
    environment = {**os.environ, _UPSTREAM_KEY: secret(settings.upstream_api_key)}
    if settings.price_file is not None:
        try:
            text = settings.price_file.read_text()
        except OSError as error:
            raise MisconfiguredError("no_price_file", f"{settings.price_file}: {error.strerror}") from error
        return read_catalogue(text, environment=environment, now=now)
    if not settings.upstream_url or not settings.models:
        raise MisconfiguredError(
            "no_upstream", "set X402_PRICES to a price file, or X402_UPSTREAM_URL and X402_MODELS to sell one upstream"
        )
    key = f'api_key = "std::env::{_UPSTREAM_KEY}"\n' if environment[_UPSTREAM_KEY] else ""
    entries = [
        f'[[models]]\nname = "{name}"\n[models.params]\nmodel = "{name}"\napi_base = "{settings.upstream_url}"\n{key}'
        for name in settings.models
    ]
    return read_catalogue("\n".join(entries), environment=environment, now=now)


_UPSTREAM_KEY = "X402_UPSTREAM_API_KEY"


def _passed_on(telemetry: Telemetry) -> Observer:
    def observe(fact: Fact) -> None:
        telemetry.emit(fact.name, **fact.attributes)

    return observe


def _till_options(settings: GatewaySettings, receivers: Mapping[str, str]) -> dict[str, Any]:
    """How the paywall is to take money, as far as settings alone say so."""
    sold_on = {networks.to_caip2(name) for name in receivers}
    urls = {name: url for name, url in settings.rpc_urls.items() if networks.to_caip2(name) in sold_on}
    return {
        "facilitator_api_key": secret(settings.facilitator_api_key),
        "max_timeout_seconds": settings.max_timeout_seconds,
        "quote_keys": settings.quote_keys,
        "answer_keys": settings.answer_keys,
        "policy": _policy(settings),
        "nodes": open_nodes(urls),
        "purse": _purse(settings),
    }


def _policy(settings: GatewaySettings) -> Policy:
    return Policy(
        answer_retention_seconds=settings.answer_retention_seconds,
        confirmations={
            networks.EIP155: parse_confirmations(settings.evm_confirmations),
            networks.SOLANA: parse_confirmations(settings.svm_confirmations),
        },
        check_above=settings.check_above,
        check_percent=settings.check_percent,
        max_unsettled=settings.max_unsettled,
        refund_after_seconds=settings.refund_after_seconds,
        refund_per_day=settings.refund_per_day,
    )


def _purse(settings: GatewaySettings) -> Purse | None:
    evm, svm = secret(settings.refund_evm_private_key), secret(settings.refund_svm_private_key)
    return Purse(evm=evm, svm=svm) if evm or svm else None


def _refuse_mainnet(receivers: Mapping[str, str]) -> None:
    real = [name for name in receivers if (known := networks.find(name)) is not None and not known.testnet]
    if real:
        raise MisconfiguredError(
            "mainnet_refused", f"{', '.join(real)} carries real money: set X402_MAINNET=1 (or --mainnet) if you mean it"
        )


def _add_api(app: FastAPI, base: str, counter: ChatCounter, router: Router) -> None:
    async def chat_completions(request: Request) -> Response:
        """An OpenAI chat completion, paid per call. Without a payment: 402 with the offers."""
        sale = request.scope.get("x402")
        ordered = counter.order(await request.body(), sale, region=request.headers.get(REGION, ""))
        request_id = request.scope.get("state", {}).get("request_id", "")
        if ordered.request.stream:
            events = await counter.stream(ordered, sale, request_id=request_id)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return Response(await counter.complete(ordered, sale, request_id=request_id), media_type="application/json")

    async def models() -> JSONResponse:
        """The models on sale, with prices in USD per million tokens."""
        return JSONResponse(router.listing())

    tag: Any = base.strip("/")
    app.add_api_route(f"{base}/chat/completions", chat_completions, methods=["POST"], tags=[tag], responses=_PAID)
    app.add_api_route(f"{base}/models", models, methods=["GET"], tags=[tag])


_PAID: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request or its payment header cannot be read."},
    402: {"description": "Payment required: v2 offers in PAYMENT-REQUIRED, v1 offers in the body."},
    409: {"description": "This payment belongs to another request, or is being served."},
    503: {"description": "The settlement is not decided yet, or no provider answers: send the same again."},
}


def _add_operations(app: FastAPI, registry: CollectorRegistry) -> None:
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    async def ready() -> JSONResponse:
        """Whether a payment could be taken now: the ledger writes, the facilitator settles, nothing old is open."""
        paywall: Paywall = app.state.paywall
        checks = await paywall.checks()
        return JSONResponse({"ready": all(checks.values()), "checks": checks}, 200 if all(checks.values()) else 503)

    async def metrics() -> Response:
        """Prometheus text."""
        body, content_type = exposition(registry)
        return Response(body, headers={"Content-Type": content_type})

    for path, endpoint in (("/health", health), ("/ready", ready), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["operations"], response_model=None)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, X402Error):
        raise error
    status, headers, body = error_reply(error)
    return Response(body, status, dict(headers))


class RequestIds:
    """Gives every HTTP request an `X-Request-ID`, the caller's own when it sent a sensible one (aimo row 59)."""

    def __init__(self, app: asgi.App) -> None:
        self.app = app

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = [value for name, value in asgi.headers_of(scope) if name.lower() == REQUEST_ID.lower()]
        known = stated[0] if len(stated) == 1 and _REQUEST_ID.fullmatch(stated[0]) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = known

        async def named(message: asgi.Message) -> None:
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", known.encode())]
            await send(message)

        await self.app(scope, receive, named)


def _wall_clock() -> int:
    return int(time.time())
