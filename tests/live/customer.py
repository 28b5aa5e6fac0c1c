"""A customer: the real client with its journal, buying one answer after the other until somebody ends it.

    trade    makes again what an earlier process of this name was cut off in, then buys `CUSTOMER_RATE` answers a second
    retry    makes every call that has no answer yet once more, and ends

What it began and what it got stands in `calls.log`, one line each. An answer is written down as its last byte arrives,
before the client closes the payment for it: a customer that dies between the two has its answer and needs no other.
The customer knows one shop; which of the gateways behind that name takes a connection is decided anew each time.
SIGTERM lets the calls at work end and begins no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from x402.client.auth import X402Auth
from x402.client.breaker import Breaker
from x402.client.budget import Limits
from x402.client.chat import AsyncChat
from x402.client.choose import Policy
from x402.client.effects import Wanted
from x402.client.wallet import Wallet
from x402.errors import X402Error
from x402.settings import ClientSettings

SHOP = "http://shop.localhost:4021"
"""The name under which a customer knows the gateways."""
MODEL = "demo/echo-1"
AT_ONCE = 12
TIMEOUT_SECONDS = 60.0
TRADE_PATIENCE_SECONDS, RETRY_PATIENCE_SECONDS = 8.0, 40.0
STREAMED = 3
"""One call in this many is a stream, which is settled before it is served."""
CALLS_LOG = "calls.log"
JOURNAL = "journal.sqlite"


@dataclass(slots=True)
class CallRecord:
    """One logical call as its customer wrote it down. `fingerprint` is what the journal knows the request by."""

    name: str
    fingerprint: str = ""
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    wrong: str = ""
    cut: bool = True
    """Its last attempt has no end: the process died."""


def read_calls(folder: Path) -> dict[str, CallRecord]:
    """What the customer of this folder wrote down, by the name of the call."""
    calls: dict[str, CallRecord] = {}
    file = folder / CALLS_LOG
    for line in file.read_text().splitlines() if file.exists() else ():
        what, name, *rest = line.split(" ", 2)
        call = calls.setdefault(name, CallRecord(name))
        call.cut = what in ("begin", "sent")
        match what:
            case "sent":
                call.fingerprint = rest[0]
            case "answer":
                call.answers += 1
            case "failed":
                call.failures.append(rest[0])
            case "wrong":
                call.wrong = rest[0]
    return calls


class Balancer(httpx.AsyncBaseTransport):
    """Sends requests for the shop to any of its gateways, the next one when a gateway takes no connection."""

    def __init__(self, gateways: Sequence[str], sent: Sent) -> None:
        self._gateways = [httpx.URL(url) for url in gateways]
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=20))
        self._sent = sent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Forward one request."""
        if request.url.host != httpx.URL(SHOP).host:
            return await self._inner.handle_async_request(request)
        self._sent.note(request)
        wanted = request.url
        gateways = random.sample(self._gateways, len(self._gateways))
        for last, gateway in zip([*[False] * (len(gateways) - 1), True], gateways, strict=True):
            request.url = wanted.copy_with(host=gateway.host, port=gateway.port)
            try:
                response = await self._inner.handle_async_request(request)
            except httpx.ConnectError:
                if last:
                    raise
            else:
                response.stream = _Arrival(response, request, self._sent)
                return response
            finally:
                request.url = wanted
        raise httpx.ConnectError("there is no gateway")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Arrival(httpx.AsyncByteStream):
    """A body that is written down as an answer once it is whole."""

    def __init__(self, response: httpx.Response, request: httpx.Request, sent: Sent) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._inner = response.stream
        self._paid = response.status_code == 200
        self._asked: dict[str, Any] = json.loads(request.content)
        self._sent = sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = b""
        async for chunk in self._inner:
            body += chunk
            yield chunk
        if self._paid:
            name, text = _name_of(self._asked), text_of(body, streamed=self._asked.get("stream") is True)
            self._sent.write(*(("answer", name) if text == expected(name) else ("wrong", name, text[:100])))

    async def aclose(self) -> None:
        await self._inner.aclose()


class Sent:
    """The customer's own log, which survives it."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / CALLS_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._noted: set[str] = set()

    def write(self, *words: str) -> None:
        """One line, in one write: a process that is killed leaves whole lines."""
        os.write(self._file, (" ".join(words).replace("\n", " ") + "\n").encode())

    def note(self, request: httpx.Request) -> None:
        """Write down the fingerprint of a call's request before it is sent for the first time."""
        name = _name_of(json.loads(request.content))
        if name not in self._noted:
            self._noted.add(name)
            wanted = Wanted(request.method, str(request.url), request.content)
            self.write("sent", name, wanted.fingerprint)


class Customer:
    """Buys, and writes down what came of it."""

    def __init__(self, folder: Path, patience_seconds: float) -> None:
        self._folder = folder
        self._sent = Sent(folder)
        auth = X402Auth(
            Wallet.from_file(folder / "wallet.toml"),
            policy=Policy(networks=(os.environ["CUSTOMER_NETWORK"],), mainnet=False),
            limits=Limits(per_call="0.10", per_day="100000"),
            journal=str(folder / JOURNAL),
            evm_rpc=os.environ["X402_EVM_RPC_URL"],
            svm_rpc=os.environ["X402_SVM_RPC_URL"],
            # The shop dies every other second, which is no reason to leave it.
            breaker=Breaker(failures=sys.maxsize),
            settings=ClientSettings.model_construct(),
        )
        gateways = os.environ["CUSTOMER_GATEWAYS"].split(",")
        self._http = httpx.AsyncClient(transport=Balancer(gateways, self._sent), timeout=TIMEOUT_SECONDS)
        self._chat = AsyncChat(
            f"{SHOP}/api/v1", auth=auth, http_client=self._http, api_key="", patience_seconds=patience_seconds
        )

    async def call(self, name: str) -> None:
        """Make one logical call once; whatever comes of it is written down."""
        self._sent.write("begin", name)
        messages = [{"role": "user", "content": name}]
        try:
            if is_streamed(name):
                stream = await self._chat.stream(model=MODEL, messages=messages)
                async for _ in stream:
                    pass
                text = stream.text
            else:
                text = (await self._chat.create(model=MODEL, messages=messages)).text
        except (X402Error, httpx.HTTPError) as error:
            self._sent.write("failed", name, f"{getattr(error, 'code', type(error).__name__)}: {error}"[:300])
            return
        if text != expected(name):
            self._sent.write("wrong", name, text[:100])

    async def trade(self, rate: float, stop: asyncio.Event) -> None:
        """Buy until told to stop, at a rate of calls a second, and never more than a few at once."""
        known = read_calls(self._folder)
        gate = asyncio.Semaphore(AT_ONCE)
        at_work: set[asyncio.Task[None]] = set()

        async def guarded(name: str) -> None:
            async with gate:
                await self.call(name)

        def begin(name: str) -> None:
            task = asyncio.create_task(guarded(name))
            at_work.add(task)
            task.add_done_callback(at_work.discard)

        for call in known.values():
            if call.cut:
                begin(call.name)
        number = len(known)
        while not stop.is_set():
            if len(at_work) < AT_ONCE:
                begin(f"{self._folder.name}/{number}")
                number += 1
            try:
                await asyncio.wait_for(stop.wait(), random.expovariate(rate))
            except TimeoutError:
                continue
        if at_work:
            await asyncio.wait(set(at_work))

    async def retry(self) -> None:
        """Make every call that has no answer once more."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def again(name: str) -> None:
            async with gate:
                await self.call(name)

        await asyncio.gather(*(again(call.name) for call in read_calls(self._folder).values() if not call.answers))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def expected(name: str) -> str:
    """What the model answers."""
    return f"You said: {name}"


def text_of(body: bytes, *, streamed: bool) -> str:
    """The text of a whole answer."""
    if not streamed:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event).get("choices", ())]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def _name_of(asked: dict[str, Any]) -> str:
    return str(asked["messages"][-1]["content"])


def is_streamed(name: str) -> bool:
    """Whether a call asks for a stream: told by its name, so that a call made again is the same request."""
    return hashlib.sha256(name.encode()).digest()[0] % STREAMED == 0


async def _live(mode: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    patience = TRADE_PATIENCE_SECONDS if mode == "trade" else RETRY_PATIENCE_SECONDS
    customer = Customer(Path(os.environ["CUSTOMER_FOLDER"]), patience)
    if mode == "trade":
        await customer.trade(float(os.environ["CUSTOMER_RATE"]), stop)
    else:
        await customer.retry()
    await customer.aclose()


def main() -> None:
    """Run as the one argument says: `trade` or `retry`."""
    asyncio.run(_live(sys.argv[1]))
