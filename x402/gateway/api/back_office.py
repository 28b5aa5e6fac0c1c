"""The office behind the desks as a running program: it lives as long as the app, and listens to SIGHUP."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from x402.errors import MisconfiguredError
from x402.gateway.inference.answer_cache import AnswerCache
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.office import Office
from x402.gateway.inference.registrar import Admission, House
from x402.gateway.inference.router import Router
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.outfit import catalogue_of
from x402.ports import Clock, Ledger
from x402.settings import GatewaySettings
from x402.telemetry import Telemetry


def office_of(
    app: FastAPI,
    router: Router,
    client: UpstreamClient,
    settings: GatewaySettings,
    *,
    given: Catalogue | None,
    public_url: str,
    clock: Clock,
    telemetry: Telemetry,
) -> Office:
    """The office of an app. A catalogue that was `given` as an object is never read again.

    Raises `MisconfiguredError` when registration is on and something that it needs is missing.
    """

    def ledger() -> Ledger | None:
        # The paywall opens it, and stands in front of the app.
        paywall: Any = getattr(app.state, "paywall", None)
        return None if paywall is None else paywall.till.register.ledger

    return Office(
        router,
        client,
        _reader(settings, given),
        path=None if given is not None else settings.price_file,
        house=_house(settings, public_url),
        clock=clock,
        ledger=ledger,
        telemetry=telemetry,
    )


def routing_options(settings: GatewaySettings, clock: Clock) -> dict[str, Any]:
    """How requests are routed, as far as settings alone say so."""
    cache = AnswerCache(settings.cache_seconds, clock=clock, shared=settings.cache_shared)
    return {"hedge_at": settings.hedge_at, "cache": cache if settings.cache_seconds else None}


@asynccontextmanager
async def at_work(office: Office) -> AsyncIterator[None]:
    """Run an office; SIGHUP has the price list read again."""
    loop = asyncio.get_running_loop()
    # A server's threads, and some systems, have no such signal.
    with suppress(RuntimeError, ValueError, AttributeError):
        loop.add_signal_handler(signal.SIGHUP, office.shelf.ask)
    running = asyncio.create_task(office.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await office.close()


def _reader(settings: GatewaySettings, given: Catalogue | None) -> Callable[[int], Catalogue]:
    if given is None:
        return lambda now: catalogue_of(settings, environment=os.environ, now=now)
    listed = copy.copy(given)
    return lambda now: listed


def _house(settings: GatewaySettings, public_url: str) -> House | None:
    admission = Admission(settings.provider_admission)
    if admission is Admission.OFF:
        return None
    domain = public_url.partition("://")[2].partition("/")[0]
    if not domain:
        raise MisconfiguredError("no_public_url", "registrations are signed for a name: set X402_PUBLIC_URL")
    keys = settings.answer_keys or settings.quote_keys
    if not keys:
        raise MisconfiguredError("no_answer_key", "providers' keys are sealed: set X402_ANSWER_KEY or X402_QUOTE_KEY")
    return House(domain=domain, admission=admission, secrets=keys, trusted_hosts=settings.trusted_hosts)
