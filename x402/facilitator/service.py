"""The facilitator over HTTP: `POST /verify`, `POST /settle`, `GET /supported` (x402 v2 spec, facilitator API).

Every decided outcome is HTTP 200, also "no"; 400 is a body that can't be read; 503 means that nothing was decided
and nothing was sent. Routes hold no decisions: those are in `settle.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from x402 import networks
from x402.confirmation import parse_confirmations
from x402.errors import LimitedError, MisconfiguredError, UnavailableError, X402Error
from x402.facilitator import desk, reconcile
from x402.facilitator.allowance import LIMITED
from x402.facilitator.callers import Caller
from x402.facilitator.description import PATHS, Described, Description
from x402.facilitator.door import Door
from x402.facilitator.evm_again import Afford
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.evm_sender import Gas
from x402.facilitator.outfit import build_allowance, build_ceilings, build_door, build_relay, read_origins
from x402.facilitator.rail import Rail
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.facilitator.tank import Tank
from x402.ports import Ledger
from x402.ports.evm import RpcEvmChain
from x402.ports.grant_book import SqlGrants
from x402.ports.grants import GrantBook
from x402.ports.ledger import SqlLedger
from x402.settings import FacilitatorSettings, secret
from x402.telemetry import Telemetry
from x402.telemetry.logs import load_writer, log_facts
from x402.telemetry.metrics import count_facts, exposition
from x402.wire.facilitation import Facilitation
from x402.wire.receipt import Receipt

_PING_SECONDS = 2.0
_CALM_SECONDS = 2.0


def unix_now() -> int:
    """The wall clock in whole seconds."""
    return int(time.time())


def served(settings: FacilitatorSettings) -> list[networks.Network]:
    """The networks that the settings have keys for.

    Raises `MisconfiguredError` without any key, for an unknown network, for mainnet without `mainnet`, and for a mix
    of networks with real and with play money (fault F13).
    """
    chosen = []
    if secret(settings.evm_private_key):
        chosen.append(_network(settings.evm_network, networks.EIP155))
    if secret(settings.svm_private_key):
        chosen.append(_network(settings.svm_network, networks.SOLANA))
    if not chosen:
        raise MisconfiguredError(
            "no_signer", "set X402_FACILITATOR_EVM_PRIVATE_KEY, X402_FACILITATOR_SVM_PRIVATE_KEY, or both"
        )
    if len({network.testnet for network in chosen}) > 1:
        raise MisconfiguredError("mixed_networks", "one network carries real money and the other does not")
    if not chosen[0].testnet and not settings.mainnet:
        raise MisconfiguredError(
            "mainnet_refused", f"{chosen[0].title} carries real money; set X402_MAINNET=1 if meant"
        )
    return chosen


def build_rails(
    settings: FacilitatorSettings, afford: Afford | None = None, grants: GrantBook | None = None
) -> list[Rail]:
    """The rails of the networks that are served; `afford` is asked before a bid is raised, and `grants` remembers the
    gas that is given for approvals, of which there is none without. Raises `MisconfiguredError` as `served` does, and
    for a key that is none or has another use, or a network without a node."""
    rails: list[Rail] = []
    for network in served(settings):
        if network.family == networks.EIP155:
            chain = RpcEvmChain(settings.evm_rpc_url or _public_node(network), network.chain_id)
            keys = [EvmSigner(key.strip()) for key in secret(settings.evm_private_key).split(",")]
            deep = parse_confirmations(settings.evm_confirmations)
            gas = Gas(bundle=settings.evm_bundle_gas)
            relay = build_relay(settings, network.id, chain, keys, grants, unix_now)
            rails.append(
                EvmRail(network.id, chain, keys, unix_now, gas=gas, afford=afford, confirmations=deep, relay=relay)
            )
        else:
            # Who settles nothing on Solana is ready sooner without its libraries.
            from x402.facilitator.svm_rail import SvmRail
            from x402.ports.svm import RpcSvmChain

            cluster = RpcSvmChain(settings.svm_rpc_url or _public_node(network))
            text = secret(settings.svm_private_key)
            signers = [SvmSigner(key.strip()) for key in ([text] if text.startswith("[") else text.split(","))]
            deep = parse_confirmations(settings.svm_confirmations)
            rails.append(SvmRail(network.id, cluster, signers, unix_now, confirmations=deep))
    return rails


def _network(name: str, family: str) -> networks.Network:
    network = networks.find(name)
    if network is None or network.family != family:
        raise MisconfiguredError("invalid_network", f"{name!r} is no known {family} network")
    return network


def _public_node(network: networks.Network) -> str:
    if not network.rpc_url:
        raise MisconfiguredError("no_rpc", f"{network.title} has no public node; name one in the settings")
    return network.rpc_url


def build_facilitator(settings: FacilitatorSettings, ledger: Ledger) -> LocalFacilitator:
    """Rails, budgets and telemetry together, over a ledger that the caller opens. Raises `MisconfiguredError`."""
    telemetry = Telemetry([log_facts()])
    names = [network.id for network in served(settings)]
    allowance = build_allowance(settings, names, ledger, unix_now, telemetry)
    grants = SqlGrants(ledger) if isinstance(ledger, SqlLedger) else None
    return LocalFacilitator(
        build_rails(settings, allowance.afford, grants),
        ledger,
        telemetry=telemetry,
        settle_timeout_seconds=settings.settle_timeout_seconds,
        allowance=allowance,
    )


def create_app(
    settings: FacilitatorSettings | None = None, *, facilitator: LocalFacilitator | None = None
) -> Starlette:
    """The service, from settings, or around a facilitator that the caller has made (and whose ledger it closes).

    Who may ask is always the settings' business. Raises `MisconfiguredError` for what contradicts itself.
    """
    settings = settings or FacilitatorSettings.read()
    service = _Service(settings, facilitator)
    routes = (
        Described("/verify", service.verify, "POST", "Would this payment settle?"),
        Described("/settle", service.settle, "POST", "Settle once; the same answer for ever"),
        Described("/supported", service.supported, "GET", "What can be settled now"),
        Described("/health", service.health, "GET", "The process lives"),
        Described("/ready", service.ready, "GET", "Ledger and chains answer"),
        Described("/metrics", service.metrics, "GET", "Prometheus metrics"),
    )
    description = Description("x402 facilitator", "2", routes)
    app = Starlette(
        routes=[
            *(Route(route.path, route.answer, methods=[route.method]) for route in routes),
            *(Route(path, description, methods=["GET"]) for path in PATHS),
        ],
        exception_handlers={X402Error: desk.explain, HTTPException: desk.astray},
        lifespan=service.life,
    )
    app.add_middleware(desk.Desk, routes={"/verify": service.verify, "/settle": service.settle})
    origins = read_origins(settings)
    if origins:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
    return app


class _Service:
    """The routes' state: one facilitator, its door and its tank, one registry, and what runs in the background."""

    def __init__(self, settings: FacilitatorSettings, facilitator: LocalFacilitator | None) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()
        self._parts = None if facilitator is None else self._equip(facilitator)
        self._reconciled = False
        self._misfit = ""
        self._background: tuple[asyncio.Task[None], ...] = ()

    def _equip(self, facilitator: LocalFacilitator) -> _Parts:
        names = list(facilitator.rails)
        facilitator.telemetry.observe(count_facts(self._registry))
        tank = Tank(facilitator, build_ceilings(self._settings, names))
        return _Parts(facilitator, build_door(self._settings, names), tank)

    @asynccontextmanager
    async def life(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            if self._parts is None:
                own = SqlLedger(self._settings.ledger)
                parts = self._equip(build_facilitator(self._settings, own))
                await own.start()
                closing.push_async_callback(own.close)
                self._parts = parts
            facilitator = self._parts.facilitator
            for rail in facilitator.rails.values():
                closing.push_async_callback(rail.aclose)
            watch, look = self._watch(facilitator), self._look(self._parts.tank)
            self._background = (asyncio.create_task(watch), asyncio.create_task(look))
            tasks = (*self._background, asyncio.create_task(_load_later()))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if facilitator.allowance is not None:
                    await facilitator.allowance.drain()

    async def _watch(self, facilitator: LocalFacilitator) -> None:
        """Start rails and reconcile before `/ready` says yes, again and again until both succeed. A node of another
        chain keeps its rail shut (fault D14)."""

        async def pause() -> None:
            await asyncio.sleep(self._settings.reconcile_seconds)

        while not self._reconciled:
            try:
                await asyncio.gather(*(rail.start() for rail in facilitator.rails.values()))
                await reconcile.run(facilitator)
                self._reconciled = True
            except UnavailableError:
                await asyncio.sleep(1)
            except MisconfiguredError as error:
                self._misfit = error.message
                await asyncio.sleep(self._settings.reconcile_seconds)
        await reconcile.watch(facilitator, pause)

    async def _look(self, tank: Tank) -> None:
        """Keep `/supported` and the balances fresh, so that no request asks a node for them (fault E08)."""
        while True:
            await tank.look()
            await asyncio.sleep(self._settings.supported_seconds)

    @property
    def parts(self) -> _Parts:
        if self._parts is None:
            raise UnavailableError("starting", "the facilitator is starting")
        return self._parts

    async def _enter(self, request: Request) -> tuple[Facilitation, Caller]:
        """Who asks, before what is asked is read, and whether it may ask for that (fault E06)."""
        headers, host = request.headers, request.client.host if request.client else ""
        caller = await self.parts.door.admit(
            request.scope["path"].strip("/"),
            authorizations=headers.getlist("authorization"),
            origins=headers.getlist("origin"),
            host=host,
        )
        body = await desk.read(request)
        caller.check(body.requirement)
        return body, caller

    async def verify(self, request: Request) -> JSONResponse:
        body, caller = await self._enter(request)
        verification = await self.parts.facilitator.verify(body.payment, body.requirement, caller=caller)
        return self._answer(verification.as_json(), verification.invalid_reason, verification.invalid_message)

    async def settle(self, request: Request) -> JSONResponse:
        body, caller = await self._enter(request)
        try:
            receipt = await self.parts.facilitator.settle(body.payment, body.requirement, caller=caller)
        except UnavailableError as error:
            if error.code != "ledger_unavailable":
                raise
            # Nobody can look up whether this payment is under way, so nobody may call it refused (fault E02).
            receipt = Receipt.pending("", body.requirement.network, None, error.message)
        told = receipt.as_v1() if body.payment.version == 1 else receipt.as_json()
        return self._answer(told, receipt.error_reason, receipt.error_message)

    def _answer(self, body: dict[str, Any], reason: str | None, words: str | None) -> JSONResponse:
        """A decided outcome is 200; one that a budget decided is 429, with when to ask again (fault D13)."""
        allowance = self.parts.facilitator.allowance
        seconds = allowance.retry_after(reason) if allowance is not None and reason else None
        if seconds is None or reason is None:
            return JSONResponse(body)
        error = LimitedError(reason, words or reason, mender=LIMITED[reason], retry_after_seconds=seconds)
        return JSONResponse(
            {"error": error.message, **error.as_json(), **body}, error.status, {"Retry-After": str(seconds)}
        )

    async def supported(self, _: Request) -> JSONResponse:
        known = self.parts.tank.supported
        if known is None:
            raise UnavailableError("starting", "the facilitator has not yet asked what can be settled")
        return JSONResponse(known.as_json())

    async def health(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> JSONResponse:
        problems: dict[str, str] = {}
        if not self._reconciled:
            problems["chains"] = self._misfit or "still reconciling, or a chain does not answer"
        if any(task.done() for task in self._background):
            problems["process"] = "a part of the service has stopped: restart it"
        try:
            parts = self.parts
            await asyncio.wait_for(parts.facilitator.ledger.ping(), _PING_SECONDS)
            if parts.tank.supported is None or not parts.tank.supported.kinds:
                problems["kinds"] = "no network can be settled: is there gas, do the nodes answer?"
        except UnavailableError as error:
            problems["ledger"] = error.message
        except TimeoutError:
            problems["ledger"] = "the ledger is slow"
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    async def metrics(self, _: Request) -> Response:
        page, content_type = await asyncio.to_thread(exposition, self._registry)
        return Response(page, media_type=content_type)


async def _load_later() -> None:
    """Load the log's library, for which neither a start nor the first payment that is told of should wait, when those
    are served who waited for the start: everything else takes its turns with a thread that loads."""
    await asyncio.sleep(_CALM_SECONDS)
    await asyncio.to_thread(load_writer)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What serves requests, once it is there."""

    facilitator: LocalFacilitator
    door: Door
    tank: Tank
