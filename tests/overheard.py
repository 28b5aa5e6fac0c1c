"""A whole sale with a listener at every wall: what is said, logged, printed, told and shown, and to whom it went."""

from __future__ import annotations

import gc
import secrets
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.facilitator.world import EvmShop, facilitator
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.wallet import Wallet
from x402.facilitator.callers import new_key
from x402.facilitator.remote import RemoteFacilitator
from x402.facilitator.service import create_app as create_facilitator
from x402.gateway.app import create_app as create_gateway
from x402.gateway.inference.upstream import UpstreamClient
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.settings import ClientSettings, FacilitatorSettings, GatewaySettings
from x402.telemetry import Telemetry
from x402.telemetry.logs import log_facts
from x402.wire.headers import decode_header

PROMPT = "canary-prompt-my-diagnosis-is-secret"
ANSWER = "canary-answer-of-the-model"
QUOTE_KEY, UPSTREAM_KEY = "canary-quote-key-0123456789", "canary-upstream-key-0123456789"


@dataclass
class Air:
    """Everything that can be seen or heard from outside."""

    logs: pytest.LogCaptureFixture
    prints: pytest.CaptureFixture[str]
    structured: list[Any]
    seen: list[str] = field(default_factory=list)

    def look(self) -> None:
        """The `repr` of every object of ours that is alive now, inside whatever is going on."""
        for one in gc.get_objects():
            if str(type(one).__module__).startswith("x402."):
                self.seen.append(repr(one))

    def fails(self, error: BaseException) -> None:
        """An error as it would be printed, and as it would be reported."""
        self.seen += [str(error), repr(error), *traceback.format_exception(error)]

    def everything(self) -> str:
        # The buyer's own HTTP library names the URLs that the buyer asks for.
        others = (record for record in self.logs.records if "http://gateway.test" not in record.getMessage())
        lines = [record.getMessage() + str(record.exc_text) for record in others]
        printed = self.prints.readouterr()
        self.seen += [printed.out, printed.err]
        return "\n".join([*self.seen, *lines, *map(str, self.structured)])


def heard(air: Air, *canaries: str) -> list[str]:
    """Which canaries are anywhere in the air."""
    text = air.everything().lower()
    return [canary for canary in canaries if canary.lower() in text]


@dataclass
class Wiretap(httpx.AsyncBaseTransport):
    """Passes requests on and keeps what went over."""

    inner: httpx.AsyncBaseTransport
    requests: list[tuple[str, bytes, httpx.Headers]] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((str(request.url), await request.aread(), request.headers))
        return await self.inner.handle_async_request(request)


@dataclass
class Street:
    """A buyer, a gateway, a facilitator that wants a key, and a model, all real; and a tap on every wire."""

    air: Air
    evm: EvmShop
    ledger: SqlLedger
    directory: Path
    wallet_key: str = field(default_factory=lambda: secrets.token_hex(32))
    keys: tuple[str, str] = field(default_factory=new_key)
    taps: dict[str, Wiretap] = field(default_factory=dict)
    model_status: int = 200

    async def model(self, request: Request) -> Response:
        """Says the prompt and the key again when it fails, as real servers do; what is alive now is looked at."""
        sent = await request.body()
        self.air.look()
        if self.model_status != 200:
            return JSONResponse({"error": {"message": f"{UPSTREAM_KEY} {sent.decode()}"}}, self.model_status)
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        message = {"role": "assistant", "content": ANSWER}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage})

    def tapped(self, name: str, app: Any) -> httpx.AsyncClient:
        tap = self.taps[name] = Wiretap(httpx.ASGITransport(app, raise_app_exceptions=False))
        return httpx.AsyncClient(transport=tap, base_url=f"http://{name}.test")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        """The buyer's HTTP client, which pays by itself."""
        callers = self.directory / "callers.toml"
        callers.write_text(
            f'[[callers]]\nname = "shop"\nkeys = ["{self.keys[1]}"]\n'
            f'[callers.pay_to]\nbase-sepolia = ["{self.evm.offer.pay_to}"]\n'
        )
        party = facilitator([self.evm.rail(self.ledger)], self.ledger)
        party.telemetry.observe(log_facts())
        settler = create_facilitator(FacilitatorSettings.read(callers=callers), facilitator=party)
        upstream = self.tapped("model", Starlette(routes=[Route("/v1/chat/completions", self.model, methods=["POST"])]))
        settings = GatewaySettings.read(
            upstream_url="http://model.test/v1",
            upstream_api_key=SecretStr(UPSTREAM_KEY),
            model_names="gpt-4o-mini",
            quote_key=SecretStr(QUOTE_KEY),
            ledger=f"sqlite:///{self.directory / 'gateway.sqlite'}",
        )
        remote = RemoteFacilitator("http://settler.test", api_key=self.keys[0], client=self.tapped("settler", settler))
        seen = Telemetry([log_facts(), lambda fact: self.air.seen.append(repr(fact))])
        shop = create_gateway(
            settings,
            facilitator=remote,
            pay_to={BASE_SEPOLIA: self.evm.offer.pay_to},
            upstream=UpstreamClient(upstream),
            public_url="http://gateway.test",
            telemetry=seen,
        )
        journal = str(self.directory / "journal.sqlite")
        auth = X402Auth(
            Wallet(evm=self.wallet_key), limits=Limits(per_call="1"), journal=journal, settings=ClientSettings.read()
        )
        self.air.seen += [repr(settings), repr(auth), repr(remote)]
        async with settler.router.lifespan_context(settler), shop.router.lifespan_context(shop):
            client = self.tapped("gateway", shop)
            client.auth = auth
            yield client
            for name, app in (("gateway", shop), ("settler", settler)):
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{name}.test") as ops:
                    self.air.seen += [(await ops.get(path)).text for path in ("/metrics", "/ready", "/health")]

    def payments(self) -> list[str]:
        """What must not be seen of the payments that went over the wire: headers, and the signatures in them."""
        found = []
        for _, _, headers in self.taps["gateway"].requests:
            header = headers.get("payment-signature")
            if header:
                found += [header, str(decode_header(header, code="x")["payload"]["signature"])[2:]]
        return found
