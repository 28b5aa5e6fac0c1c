"""The facilitator over HTTP: `POST /verify`, `POST /settle`, `GET /supported` (x402 v2 spec, facilitator API).

Every decided outcome is HTTP 200, also "no"; 400 is a body that can't be read; 503 means that nothing was decided
and nothing was sent. Routes hold no decisions: those are in `settle.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from x402 import networks
from x402.errors import MalformedError, MisconfiguredError, UnavailableError, X402Error
from x402.facilitator import reconcile
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.rail import Rail
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.facilitator.svm_rail import SvmRail
from x402.ports import Ledger
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.svm import RpcSvmChain
from x402.settings import FacilitatorSettings, secret
from x402.telemetry import Telemetry
from x402.telemetry.logs import log_facts
from x402.telemetry.metrics import count_facts, exposition
from x402.wire.facilitation import Facilitation, parse_facilitation
from x402.wire.receipt import Receipt
from x402.wire.strict import BODY_LIMIT, parse_object

_READY_SUPPORTED_SECONDS = 2.0


def unix_now() -> int:
    """The wall clock in whole seconds."""
    return int(time.time())


def build_rails(settings: FacilitatorSettings, ledger: Ledger) -> list[Rail]:
    """The rails that the settings have keys for.

    Raises `MisconfiguredError` without any key, for an unknown network, for mainnet without `mainnet`, and for a mix
    of networks with real and with play money (fault F13).
    """
    rails: list[Rail] = []
    chosen = []
    if secret(settings.evm_private_key):
        network = _network(settings.evm_network, networks.EIP155)
        chosen.append(network)
        chain = RpcEvmChain(settings.evm_rpc_url or _public_node(network), network.chain_id)
        keys = [EvmSigner(key.strip()) for key in secret(settings.evm_private_key).split(",")]
        rails.append(EvmRail(network.id, chain, keys, unix_now))
    if secret(settings.svm_private_key):
        network = _network(settings.svm_network, networks.SOLANA)
        chosen.append(network)
        text = secret(settings.svm_private_key)
        signers = [SvmSigner(key.strip()) for key in ([text] if text.startswith("[") else text.split(","))]
        rails.append(SvmRail(network.id, RpcSvmChain(settings.svm_rpc_url or _public_node(network)), signers, unix_now))
    if not rails:
        raise MisconfiguredError(
            "no_signer", "set X402_FACILITATOR_EVM_PRIVATE_KEY, X402_FACILITATOR_SVM_PRIVATE_KEY, or both"
        )
    if len({network.testnet for network in chosen}) > 1:
        raise MisconfiguredError("mixed_networks", "one network carries real money and the other does not")
    if not chosen[0].testnet and not settings.mainnet:
        raise MisconfiguredError(
            "mainnet_refused", f"{chosen[0].title} carries real money; set X402_MAINNET=1 if meant"
        )
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


def create_app(settings: FacilitatorSettings | None = None, *, facilitator: LocalFacilitator | None = None) -> FastAPI:
    """The service, from settings, or around a facilitator that the caller has made (and whose ledger it closes)."""
    service = _Service(settings or FacilitatorSettings.read(), facilitator)
    app = FastAPI(title="x402 facilitator", version="2", lifespan=service.life)
    app.add_api_route("/verify", service.verify, methods=["POST"], summary="Would this payment settle?")
    app.add_api_route("/settle", service.settle, methods=["POST"], summary="Settle once; the same answer for ever")
    app.add_api_route("/supported", service.supported, methods=["GET"], summary="What can be settled now")
    app.add_api_route("/health", service.health, methods=["GET"], summary="The process lives")
    app.add_api_route("/ready", service.ready, methods=["GET"], summary="Ledger and chains answer")
    app.add_api_route("/metrics", service.metrics, methods=["GET"], summary="Prometheus metrics")
    app.add_exception_handler(X402Error, _explain)
    return app


class _Service:
    """The routes' state: one facilitator, one registry, and the background reconciliation."""

    def __init__(self, settings: FacilitatorSettings, facilitator: LocalFacilitator | None) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()
        self._facilitator = facilitator
        self._reconciled = False
        self._misfit = ""

    @asynccontextmanager
    async def life(self, _: FastAPI) -> AsyncIterator[None]:
        own: SqlLedger | None = None
        if self._facilitator is None:
            own = SqlLedger(self._settings.ledger)
            rails = build_rails(self._settings, own)
            await own.start()
            timeout = self._settings.settle_timeout_seconds
            telemetry = Telemetry([log_facts()])
            self._facilitator = LocalFacilitator(rails, own, telemetry=telemetry, settle_timeout_seconds=timeout)
        self._facilitator.telemetry.observe(count_facts(self._registry))
        watch = asyncio.create_task(self._watch(self._facilitator))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            if own is not None:
                await own.close()

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

    @property
    def facilitator(self) -> LocalFacilitator:
        if self._facilitator is None:
            raise UnavailableError("starting", "the facilitator is starting")
        return self._facilitator

    async def verify(self, request: Request) -> JSONResponse:
        body = await _read(request)
        verification = await self.facilitator.verify(body.payment, body.requirement)
        return JSONResponse(verification.as_json())

    async def settle(self, request: Request) -> JSONResponse:
        body = await _read(request)
        try:
            receipt = await self.facilitator.settle(body.payment, body.requirement)
        except UnavailableError as error:
            if error.code != "ledger_unavailable":
                raise
            # Nobody can look up whether this payment is under way, so nobody may call it refused (fault E02).
            receipt = Receipt.pending("", body.requirement.network, None, error.message)
        return JSONResponse(receipt.as_v1() if body.payment.version == 1 else receipt.as_json())

    async def supported(self) -> JSONResponse:
        return JSONResponse((await self.facilitator.supported()).as_json())

    async def health(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(self) -> JSONResponse:
        problems: dict[str, str] = {}
        if not self._reconciled:
            problems["chains"] = self._misfit or "still reconciling, or a chain does not answer"
        try:
            await self.facilitator.ledger.ping()
            if not (await asyncio.wait_for(self.facilitator.supported(), _READY_SUPPORTED_SECONDS)).kinds:
                problems["kinds"] = "no network can be settled: is there gas, do the nodes answer?"
        except UnavailableError as error:
            problems["ledger"] = error.message
        except TimeoutError:
            problems["chains"] = "the nodes are slow"
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    async def metrics(self) -> Response:
        page, content_type = exposition(self._registry)
        return Response(page, media_type=content_type)


async def _read(request: Request) -> Facilitation:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise MalformedError("body_too_large", f"the body is larger than {BODY_LIMIT} bytes")
    return parse_facilitation(parse_object(bytes(body)))


async def _explain(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, X402Error):
        raise error
    headers = {"Retry-After": "2"} if isinstance(error, UnavailableError) else None
    body: dict[str, Any] = {"error": error.message, **error.as_json()}
    return JSONResponse(body, status_code=error.status, headers=headers)
