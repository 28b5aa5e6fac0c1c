"""HTTP of the simulation: httpx on one side, ASGI apps on the other, and a network that loses, repeats and cuts."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

import httpx

from tests.simulation.faults import Fate
from tests.simulation.loop import LIFE, Life
from tests.simulation.world import World

App = Callable[..., Any]
Answers = Callable[[bytes], Any]
_PATIENCE_SECONDS = 20.0
_SLOW_READER_SECONDS = 2.0


class Door:
    """Where a live process can be reached."""

    def __init__(self, life: Life, app: App) -> None:
        self.life = life
        self.app = app


class Network:
    """Doors by host, several where replicas share a name. `nodes` answer JSON-RPC questions without being a process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.doors: dict[str, list[Door]] = {}
        self.nodes: dict[str, Answers] = {}
        self.on_request: list[Callable[[Exchange], None]] = []
        self.on_sent: list[Callable[[Exchange, MutableMapping[str, Any]], None]] = []
        self.on_answered: list[Callable[[Exchange], None]] = []
        self.crashes_of_apps: list[str] = []
        self._open: list[Exchange] = []
        world.on_death.append(self._close)

    def open(self, host: str, door: Door) -> None:
        """A process listens; the doors of dead ones are forgotten."""
        self.doors[host] = [other for other in self.doors.get(host, []) if other.life.alive] + [door]

    def _close(self, life: Life) -> None:
        """A dead process' connections break; a dead client's are seen as hung up."""
        for exchange in self._open:
            if exchange.server is life:
                self.world.later(0.001, exchange.breaks)
            if exchange.client is life:
                exchange.hung_up = True
                exchange.gone.set()
        self._open = [exchange for exchange in self._open if life not in (exchange.server, exchange.client)]

    def deliver(self, exchange: Exchange) -> None:
        """The request arrives, or nobody is there."""
        doors = [door for door in self.doors.get(exchange.request.url.host, []) if door.life.alive]
        if not doors:
            exchange.fails(httpx.ConnectError("connection refused", request=exchange.request))
            return
        door = doors[0] if len(doors) == 1 else self.world.chance.choice(doors)
        exchange.server = door.life
        self._open.append(exchange)
        task = self.world.loop.create_task(exchange.serve(door.app), context=self.world.within(door.life))
        exchange.keep(task)

    def done(self, exchange: Exchange) -> None:
        """Nothing more will be said."""
        if exchange in self._open:
            self._open.remove(exchange)


class Exchange:
    """One request and its response. `twin` is a repetition by the network, to whose response nobody listens."""

    def __init__(
        self, network: Network, request: httpx.Request, body: bytes, *, fate: Fate, twin: bool = False
    ) -> None:
        self.network, self.world = network, network.world
        self.request, self.body, self.fate, self.twin = request, body, fate, twin
        self.headers = [(name.lower(), value) for name, value in request.headers.raw]
        self.client, self.server = LIFE.get(), None
        self.head: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = self.world.loop.create_future()
        self.status = 0
        self.gone = asyncio.Event()
        self.hung_up = False
        self.payment = request.headers.get("payment-signature") or request.headers.get("x-payment") or ""
        self._chunks: deque[bytes | Exception | None] = deque()
        self._news: asyncio.Future[None] | None = None
        self._outbox: deque[MutableMapping[str, Any]] = deque()
        self._started = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    client: Life | None
    server: Life | None

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold the serving task."""
        self._task = task

    @property
    def label(self) -> str:
        """Method and path."""
        return f"{self.request.method} {self.request.url.host}{self.request.url.path}"

    # The server's side.

    async def serve(self, app: App) -> None:
        """Run the app for this request, as a server does."""
        url = self.request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "headers": self.headers,
            "server": (url.host, url.port or 443),
            "client": ("buyer", 1),
            "root_path": "",
            "state": {},
        }
        waiting = [{"type": "http.request", "body": self.body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            if waiting:
                return waiting.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive, self._send)
        except Exception as error:  # noqa: BLE001 - a server survives whatever its app raises, and so does this one
            self.world.note(f"{self.label} raised {type(error).__name__}")
            if type(error).__name__ != "BrokenOff":
                self.network.crashes_of_apps.append(f"{self.label}: {error!r}")
            if not self._started:
                await self._send({"type": "http.response.start", "status": 500, "headers": []})
            self._post({"type": "broken"})
        finally:
            self.network.done(self)

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self._started = True
        await self.world.boundary(f"{self.label} {message['type']}", "before")
        for told in self.network.on_sent:
            told(self, message)
        self._post(message)
        if self.fate is Fate.SLOW and message.get("more_body") and not self.hung_up:
            # Its reader takes the next piece a while later.
            await asyncio.sleep(_SLOW_READER_SECONDS)

    def _post(self, message: MutableMapping[str, Any]) -> None:
        if self.hung_up or self.twin:
            return
        self._outbox.append(message)
        what = f"{self.label} {message['type']} {message.get('status', '')}"
        self.world.post(what, self.world.latency("http"), self._arrive, self.breaks)

    # The client's side.

    def _arrive(self) -> None:
        """The oldest message that is under way arrives; what was sent in order arrives in order."""
        if not self._outbox or self._ended:
            return
        message = self._outbox.popleft()
        if message["type"] == "http.response.start":
            if self.fate is Fate.MUTE:
                return
            self.status = message["status"]
            if not self.head.done():
                self.head.set_result((message["status"], list(message["headers"])))
        elif message["type"] == "broken":
            self.breaks()
        else:
            body = bytes(message.get("body", b""))
            if self.fate is Fate.CUT and body:
                self.put(body[: len(body) // 2])
                self.breaks()
                return
            if body:
                self.put(body)
            if not message.get("more_body", False):
                self.put(None)

    def breaks(self) -> None:
        """The connection breaks."""
        self.fails(httpx.RemoteProtocolError("peer closed connection", request=self.request))

    def fails(self, error: Exception) -> None:
        """Whoever waits gets an error."""
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()
        self.put(error)

    def put(self, chunk: bytes | Exception | None) -> None:
        """A piece of the body, its end (None), or an error in its place."""
        if self._ended:
            return
        self._ended = not isinstance(chunk, bytes)
        self._chunks.append(chunk)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def next_chunk(self) -> bytes | None:
        """The next piece of the body, or None at its end."""
        while not self._chunks:
            self._news = self.world.loop.create_future()
            await self._news
        chunk = self._chunks.popleft()
        if isinstance(chunk, Exception):
            raise chunk
        if chunk is None:
            for told in self.network.on_answered:
                told(self)
        return chunk

    def hang_up(self) -> None:
        """The client is not interested any more."""
        self.hung_up = True
        self.gone.set()


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._exchange.next_chunk()) is not None:
            yield chunk

    async def aclose(self) -> None:
        self._exchange.hang_up()


class SimulatedTransport(httpx.AsyncBaseTransport):
    """Carries an httpx client's requests through the simulated network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._world = network.world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world, network = self._world, self._network
        body = await request.aread()
        label = f"{request.method} {request.url.host}{request.url.path}"
        await world.boundary(label, "before")
        if request.url.host in network.nodes:
            return await self._ask(request, body, label)
        exchange = Exchange(network, request, body, fate=world.fate("http"))
        for told in network.on_request:
            told(exchange)
        self._dispatch(exchange)
        timeout = request.extensions.get("timeout", {}).get("read") or _PATIENCE_SECONDS
        slow = httpx.ReadTimeout("no answer in time", request=request)
        timer = world.later(timeout, lambda: exchange.fails(slow))
        try:
            status, headers = await exchange.head
        except asyncio.CancelledError:
            exchange.hang_up()
            raise
        except httpx.TransportError:
            exchange.hang_up()
            await world.boundary(label, "after")
            raise
        finally:
            timer.cancel()
        await world.boundary(label, "after")
        return httpx.Response(status, headers=headers, stream=_Body(exchange))

    def _dispatch(self, exchange: Exchange) -> None:
        world, network = self._world, self._network
        delay = world.latency("http")
        if exchange.fate is Fate.LOST:
            return
        if exchange.fate is Fate.SLOW:
            delay += world.chance.uniform(3.0, 25.0)
        world.post(exchange.label, delay, lambda: network.deliver(exchange))
        if exchange.fate is Fate.TWICE:
            twin = Exchange(network, exchange.request, exchange.body, fate=Fate.FINE, twin=True)
            twin.client = None
            world.later(delay + world.chance.choice((0.0, 0.05, 5.0)), lambda: network.deliver(twin))

    async def _ask(self, request: httpx.Request, body: bytes, label: str) -> httpx.Response:
        node = self._network.nodes[request.url.host]
        lost = httpx.ReadTimeout("no answer in time", request=request)
        answer = await self._world.io("read", f"{label} node", lambda _: node(body), lambda: lost)
        return httpx.Response(200, content=json.dumps(answer).encode())
