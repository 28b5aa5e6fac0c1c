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
from x402.gateway.api.back_office import at_work, office_of, routing_options
from x402.gateway.api.billing import add_billing
from x402.gateway.api.description import add_description
from x402.gateway.api.failures import add_failures
from x402.gateway.api.listings import add_listings
from x402.gateway.api.operations import Operations
from x402.gateway.api.probes import add_probes
from x402.gateway.api.profiles import OURS, envelope_of
from x402.gateway.api.registration import add_registration
from x402.gateway.api.request_ids import RequestIds
from x402.gateway.api.selling import Desks, Good, add_selling
from x402.gateway.api.session import add_session
from x402.gateway.api.signposts import add_signposts
from x402.gateway.api.status import add_status
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.hooks import Pins, Screen
from x402.gateway.inference.office import Office
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
    screen: Screen | None = None,
    pins: Pins | None = None,
) -> FastAPI:
    """The gateway's app; run it with any ASGI server, its lifespan on.

    What is given as an object wins over `settings`, the environment's unless given; `screen` and `pins` are the
    operator's own rules (`inference.hooks`). Raises `MisconfiguredError`.
    """
    settings = settings or GatewaySettings.read()
    now = clock or _wall_clock
    sold = _sold(settings, catalogue, now)
    registry = CollectorRegistry()
    facts = _facts(registry, telemetry, traces=settings.traces)
    client = upstream or UpstreamClient(trusted_hosts=settings.trusted_hosts)
    router = Router(sold, client, telemetry=facts, **routing_options(settings, now), screen=screen, pins=pins)
    receivers = _receivers(settings, pay_to)
    url = settings.public_url if public_url is None else public_url

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with at_work(office):
            yield
        if upstream is None:
            await client.close()

    app = FastAPI(title="x402 gateway", version=__version__, lifespan=lifespan, **_OWN_PAGES)
    place = ledger if ledger is not None else settings.ledger
    options = _options(settings, receivers, place)
    office = office_of(app, router, client, settings, given=catalogue, public_url=url, clock=now, telemetry=facts)
    goods = _goods(app, router, options)
    _add_free_paths(app, router, office, registry, now)
    add_signposts(app, sold, [good.path for good in goods], list(receivers), url)
    add_description(app, {good.path: good.body for good in goods})
    operations = Operations(settings, place=place, receivers=list(receivers), url=url, clock=now, facts=facts)
    operations.mount(app, router)
    app.add_middleware(
        Paywall,
        routes={f"POST {good.path}": good.price for good in goods},
        pay_to=receivers,
        facilitator=facilitator or settings.facilitator_urls,
        ledger=place,
        companion=operations,
        public_url=url,
        clock=now,
        telemetry=facts,
        envelope=envelope_of,
        **options,
    )
    _surround(app, operations, traces=settings.traces)
    return app


def _receivers(settings: GatewaySettings, pay_to: Mapping[str, str] | None) -> dict[str, str]:
    """Where the seller is paid, by network. Raises `MisconfiguredError` for real money that nobody has allowed."""
    receivers = dict(pay_to or settings.pay_to)
    if not settings.mainnet:
        refuse_mainnet(receivers)
    return receivers


def _goods(app: FastAPI, router: Router, options: Mapping[str, Any]) -> list[Good]:
    """Add everything that costs something; returns what is to be priced."""
    goods = add_selling(app, Desks.over(router))
    if options["accounts"]:
        deposits = add_session(app, OURS.base, options["policy"])
        goods += [Good(key.partition(" ")[2], price, "DepositRequest") for key, price in deposits.items()]
        add_billing(app, OURS.base)
    return goods


def _options(settings: GatewaySettings, receivers: Mapping[str, str], place: Ledger | str | Path) -> dict[str, Any]:
    options = till_options(settings, receivers)
    # Accounts stand beside the payments, in a ledger of ours.
    options["accounts"] = options["accounts"] and isinstance(place, str | Path | SqlLedger)
    return options


def _add_free_paths(app: FastAPI, router: Router, office: Office, registry: CollectorRegistry, clock: Clock) -> None:
    app.state.router = router
    add_registration(app, OURS.base, office)
    add_listings(app, router, clock)
    add_probes(app, registry)
    add_status(app, router)
    add_failures(app)


def _sold(settings: GatewaySettings, catalogue: Catalogue | None, clock: Clock) -> Catalogue:
    """What is sold. Raises `MisconfiguredError` for models that nobody can be asked for."""
    sold = catalogue or catalogue_of(settings, environment=os.environ, now=clock())
    idle = [model.id for model in sold.models if not servable(model)]
    if idle:
        raise MisconfiguredError(
            "no_upstream", f"no provider can be asked for {', '.join(idle)}: [models.params] is missing"
        )
    return sold


def _surround(app: FastAPI, operations: Operations, *, traces: bool) -> None:
    """Put around the paywall what every request passes: limits, browsers' questions, ids.

    Any page may call the gateway, because a payment is nobody's but its sender's (fault F16).
    """
    app.add_middleware(Turnstile, **operations.turnstile)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["*", *PAYMENT_HEADERS, PREFERRED_NETWORK, REQUEST_ID],
        expose_headers=[*EXPOSED_HEADERS, *RATE_HEADERS, "Retry-After"],
    )
    app.add_middleware(RequestIds)
    if traces:
        app.add_middleware(TracedRequests)


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
