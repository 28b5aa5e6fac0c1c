"""A seller whose every reply is scripted, so that it may lie, stall and die; and buyers on all four seats."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import httpx2

from x402 import networks
from x402.client.auth import X402Auth
from x402.client.journal import Journal
from x402.client.record import Record
from x402.lifecycle import Event
from x402.stages import Settled, State
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.receipt import Receipt

EVM_KEY = "0x" + "11" * 32
PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
URL = "https://seller.test/api/v1/chat/completions"
NOW = 1_800_000_000
TRANSACTION = "0x" + "ab" * 32


def offer(**changes: Any) -> Requirement:
    """A cent on Base Sepolia, with changes by field name."""
    asset = networks.get(networks.BASE_SEPOLIA).usd
    members: dict[str, Any] = {
        "scheme": "exact",
        "network": networks.BASE_SEPOLIA,
        "amount": 10_000,
        "asset": asset.address,
        "pay_to": PAYEE,
        "max_timeout_seconds": 60,
        "extra": {"name": asset.eip712_name, "version": asset.eip712_version},
    }
    return Requirement(**(members | changes))


def challenge(*offers: Requirement, **members: Any) -> Challenge:
    return Challenge(resource=Resource(url=URL), accepts=offers or (offer(),), **members)


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes

    @property
    def payment(self) -> str | None:
        return self.headers.get("payment-signature") or self.headers.get("x-payment")


@dataclass
class Answer:
    """A reply before it is one of either library."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"ok":true}'
    fails: str = ""
    stream: bool = False
    breaks_off: bool = False


def asks(*offers: Requirement, **members: Any) -> Answer:
    """A 402 that wants to be paid."""
    return Answer(402, {"PAYMENT-REQUIRED": challenge(*offers, **members).as_header()}, b"{}")


def receipt(success: bool = True, **members: Any) -> dict[str, str]:
    """A receipt header; settled unless told otherwise."""
    defaults: dict[str, Any] = {"transaction": TRANSACTION if success else "", "network": networks.BASE_SEPOLIA}
    name, value = Receipt(success=success, **(defaults | members)).as_header()
    return {name: value}


def delivers(body: bytes = b'{"ok":true}', **more: Any) -> Answer:
    """A paid answer with a settled receipt."""
    return Answer(200, receipt(), body, **more)


def pending() -> Answer:
    """A 503 whose transaction may still land."""
    late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending")
    return Answer(503, late | {"Retry-After": "0"}, b'{"error":{"message":"pending"}}')


def timeout() -> Answer:
    return Answer(fails="ReadTimeout")


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that arrives in pieces and may break off before its end."""

    def __init__(self, answer: Answer, library: Any, request: Any) -> None:
        self.answer, self.library, self.request = answer, library, request

    def _pieces(self) -> Iterator[bytes]:
        data = self.answer.body
        end = len(data) // 2 if self.answer.breaks_off else len(data)
        for start in range(0, end, 7):
            yield data[start : min(start + 7, end)]
        if self.answer.breaks_off:
            raise self.library.ReadError("connection lost", request=self.request)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces()

    async def __aiter__(self) -> Any:
        for piece in self._pieces():
            yield piece


Step = Answer | Callable[[Any], Answer]


class Seller:
    """Answers by its script; the last step repeats. `seen` keeps every request with the payment it carried."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.seen: list[Seen] = []

    def __call__(self, request: Any) -> Any:
        library = httpx2 if type(request).__module__.startswith("httpx2") else httpx
        headers = {name.lower(): value for name, value in request.headers.multi_items()}
        self.seen.append(Seen(request.method, str(request.url), headers, request.content))
        step = self.script[min(len(self.seen), len(self.script)) - 1]
        answer = step(request) if callable(step) else step
        if answer.fails:
            raise getattr(library, answer.fails)("scripted", request=request)
        if answer.stream or answer.breaks_off:
            return library.Response(answer.status, headers=answer.headers, stream=_Body(answer, library, request))
        return library.Response(answer.status, headers=answer.headers, content=answer.body)

    @property
    def payments(self) -> list[str | None]:
        """The payment header of each request, in order."""
        return [seen.payment for seen in self.seen]

    @property
    def signatures(self) -> set[str]:
        """The different payments that were ever shown."""
        return {payment for payment in self.payments if payment}


def paying(request: Any) -> bool:
    return "PAYMENT-SIGNATURE" in request.headers or "X-PAYMENT" in request.headers


def shop(when_paid: Step, *offers: Requirement) -> Callable[[Any], Answer]:
    """A step of a seller that asks for money until it is paid."""

    def step(request: Any) -> Answer:
        if not paying(request):
            return asks(*offers)
        return when_paid(request) if callable(when_paid) else when_paid

    return step


def read_payment(header: str | None) -> dict[str, Any]:
    assert header is not None
    value: dict[str, Any] = json.loads(base64.b64decode(header))
    return value


class Clock:
    """Unix seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Chain:
    """What a chain proves about payments that look dead: nothing, that one was never used, or that it was taken.

    A stand-in for the seats' tests; `test_resolve` asks the real chains.
    """

    proves: str = ""
    asked: int = 0

    def into(self, journal: Journal) -> Callable[[Record], Record]:
        def prove(record: Record) -> Record:
            self.asked += 1
            if self.proves == "unused":
                journal.release(record.pay_id, "expired unused")
            elif self.proves == "taken":
                journal.conclude(record.pay_id, event=Event.SETTLE, stage=Settled(TRANSACTION))
            return journal.find(record.pay_id) or record

        return prove


@dataclass(frozen=True)
class Seat:
    """One way to hold the auth: a library, blocking or not."""

    library: Any
    blocking: bool

    def __str__(self) -> str:
        return f"{self.library.__name__}-{'sync' if self.blocking else 'async'}"

    def call(self, auth: Any, seller: Any, url: str = URL, *, method: str = "POST", **options: Any) -> Any:
        """One request, its body read. `content` is an option; `follow_redirects` is one of the client."""
        content = options.pop("content", b'{"model":"demo"}')
        headers = options.pop("headers", None)
        if self.blocking:
            with self.library.Client(transport=self.library.MockTransport(seller), auth=auth, **options) as client:
                return client.request(method, url, content=content, headers=headers)

        async def go() -> Any:
            transport = self.library.MockTransport(seller)
            async with self.library.AsyncClient(transport=transport, auth=auth, **options) as client:
                return await client.request(method, url, content=content, headers=headers)

        return anyio.run(go)


SEATS = [Seat(library, blocking) for library in (httpx, httpx2) for blocking in (True, False)]


def states(auth: X402Auth) -> list[State]:
    """Where each payment of a journal stands, newest first."""
    return [record.state for record in auth.journal.history()]
