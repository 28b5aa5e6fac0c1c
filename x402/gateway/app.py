"""The gateway: an OpenAI-compatible API whose callers have no account and pay per answer.

`Paywall`'s first user: the chat routes are ordinary routes with a price function, and nothing here is privileged. This
file puts the parts together; what each path does stands in `gateway.api`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from x402 import __version__
from x402.errors import MisconfiguredError
from x402.gateway.api.description import add_description
from x402.gateway.api.failures import add_failures
from x402.gateway.api.listings import add_listings
from x402.gateway.api.operations import Operations
from x402.gateway.api.probes import add_probes
from x402.gateway.api.profiles import envelope_of
from x402.gateway.api.request_ids import RequestIds
from x402.gateway.api.selling import Desks, add_selling
from x402.gateway.api.signposts import add_signposts
from x402.gateway.api.status import add_status
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.router import Router, servable
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.operations.turnstile import RATE_HEADERS, Turnstile
from x402.gateway.outfit import catalogue_of, refuse_mainnet, till_options
from x402.gateway.paywall import Paywall
from x402.ports import Clock, Ledger
from x402.ports.ledger import SqlLedger
from x402.settings import GatewaySettings
from x402.telemetry import Fact, Observer, Telemetry
from x402.telemetry.metrics import count_facts
from x402.telemetry.traces import TracedRequests, export_traces, trace_facts
from x402.wire.facilitation import Facilitator
from x402.wire.headers import EXPOSED_HEADERS, PAYMENT_HEADERS, PREFERRED_NETWORK, REQUEST_ID

_OWN_PAGES: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
"""What FastAPI would serve by itself loads its scripts from elsewhere; `api.description` serves ours."""


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

    What is given as an object wins over `settings`, the environment's unless given. Raises `MisconfiguredError`.
    """
    settings = settings or GatewaySettings.read()
    now = clock or _wall_clock
    catalogue = catalogue or catalogue_of(settings, environment=os.environ, now=now())
    _refuse_idle(catalogue)
    registry = CollectorRegistry()
    facts = _facts(registry, telemetry, traces=settings.traces)
    client = upstream or UpstreamClient()
    router = Router(catalogue, client, telemetry=facts)
    receivers = dict(pay_to or settings.pay_to)
    if not settings.mainnet:
        refuse_mainnet(receivers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if upstream is None:
            await client.close()

    app = FastAPI(title="x402 gateway", version=__version__, lifespan=lifespan, **_OWN_PAGES)
    goods = add_selling(app, Desks.over(router))
    add_listings(app, router)
    add_probes(app, registry)
    add_status(app, router)
    url = settings.public_url if public_url is None else public_url
    add_signposts(app, catalogue, [good.path for good in goods], list(receivers), url)
    add_description(app, {good.path: good.body for good in goods})
    place = ledger if ledger is not None else settings.ledger
    operations = Operations(settings, place=place, receivers=list(receivers), url=url, clock=now, facts=facts)
    operations.mount(app, router)
    app.add_middleware(
        Paywall,
        routes={f"POST {good.path}": good.price for good in goods},
        pay_to=receivers,
        facilitator=facilitator or settings.facilitator_urls,
        ledger=place,
        accounts=isinstance(place, str | Path | SqlLedger),
        companion=operations,
        public_url=url,
        clock=now,
        telemetry=facts,
        envelope=envelope_of,
        **till_options(settings, receivers),
    )
    app.add_middleware(Turnstile, **operations.turnstile)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*", *PAYMENT_HEADERS, PREFERRED_NETWORK, REQUEST_ID],
        expose_headers=[*EXPOSED_HEADERS, *RATE_HEADERS, "Retry-After"],
    )
    app.add_middleware(RequestIds)
    if settings.traces:
        app.add_middleware(TracedRequests)
    add_failures(app)
    return app


def _refuse_idle(catalogue: Catalogue) -> None:
    idle = [model.id for model in catalogue.models if not servable(model)]
    if idle:
        raise MisconfiguredError(
            "no_upstream", f"no provider can be asked for {', '.join(idle)}: [models.params] is missing"
        )


def _facts(registry: CollectorRegistry, telemetry: Telemetry | None, *, traces: bool) -> Telemetry:
    """Who hears the gateway's facts: its metrics, the caller's observers, and whoever collects traces."""
    observers = [count_facts(registry), *([] if telemetry is None else [_passed_on(telemetry)])]
    if traces:
        observers.append(trace_facts(export_traces(), now_ns=time.time_ns))
    return Telemetry(observers, timer_ns=time.perf_counter_ns)


def _passed_on(telemetry: Telemetry) -> Observer:
    def observe(fact: Fact) -> None:
        telemetry.emit(fact.name, **fact.attributes)

    return observe


def _wall_clock() -> int:
    return int(time.time())
