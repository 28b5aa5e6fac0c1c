"""The sockets of the doors: requests into an ASGI app, and peers that answer whatever a case tells them to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx

from fuzzing.case import Broken


@dataclass(frozen=True)
class Exchange:
    """One request, as it stands in a case: text that JSON can hold, the body as base64."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def dump(self) -> bytes:
        """The case."""
        return json.dumps([self.method, self.path, self.headers, base64.b64encode(self.body).decode()]).encode()

    @classmethod
    def load(cls, data: bytes) -> Exchange:
        """The request of a case."""
        method, path, headers, body = json.loads(data)
        return cls(method, path, [(str(name), str(value)) for name, value in headers], base64.b64decode(body))


@dataclass
class Heard:
    """What an app answered."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first field of that name."""
        return next((value for field, value in self.headers if field.lower() == name), None)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


async def ask(app: Any, sent: Exchange, *, pieces: int = 1, breaks: tuple[type[Exception], ...] = ()) -> Heard:
    """Send a request to an app as a server would: header bytes as they are, the body in so many pieces.

    `breaks` are the exceptions by which an app may end an answer that it has begun.
    """
    path, _, query = sent.path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                    for name, value in sent.headers],
        "client": ("127.0.0.1", 4),
        "server": ("gateway.test", 80),
    }  # fmt: skip
    size = max(1, -(-len(sent.body) // pieces))
    chunks = [sent.body[start : start + size] for start in range(0, len(sent.body), size)] or [b""]
    heard = Heard()
    ended = asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        if chunks:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if heard.status:
                raise Broken("the app began to answer twice")
            heard.status = message["status"]
            heard.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            heard.body += message.get("body", b"")
            if not message.get("more_body", False):
                ended.set()

    try:
        await app(scope, receive, send)
    except breaks:
        if not heard.status:
            raise
    if not heard.status:
        raise Broken("the app answered nothing")
    return heard


class Mouth(httpx.AsyncBaseTransport):
    """An HTTP peer that says what it is told to, in pieces, and may break off."""

    def __init__(self) -> None:
        self.asked = 0
        self._reply: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(200, json={})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One answer."""
        self.asked += 1
        await request.aread()
        return self._reply(request)

    def client(self) -> httpx.AsyncClient:
        """A client whose every request comes here."""
        return httpx.AsyncClient(transport=self, timeout=5)

    def reply(self, reply: Callable[[httpx.Request], httpx.Response]) -> None:
        """How requests are answered from now on."""
        self._reply = reply

    def say(self, said: Said) -> None:
        """What every request is answered from now on."""
        self._reply = lambda request: said.response()


@dataclass(frozen=True)
class Said:
    """One answer of a peer, as it stands in a case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    breaks: bool = False

    def dump(self) -> list[Any]:
        """For JSON."""
        return [self.status, self.headers, base64.b64encode(self.body).decode(), self.breaks]

    @classmethod
    def load(cls, value: Any) -> Said:
        """From JSON."""
        status, headers, body, breaks = value
        return cls(status, [(str(name), str(text)) for name, text in headers], base64.b64decode(body), bool(breaks))

    def response(self) -> httpx.Response:
        """The answer itself."""
        raw = [(name.encode("latin-1", "replace"), text.encode("latin-1", "replace")) for name, text in self.headers]
        return httpx.Response(self.status, headers=raw, stream=_Pieces(self.body, breaks=self.breaks))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, body: bytes, *, breaks: bool) -> None:
        self._body, self._breaks = body, breaks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        half = max(1, len(self._body) // 2)
        yield self._body[:half]
        if self._breaks:
            raise httpx.RemoteProtocolError("the peer hung up")
        yield self._body[half:]
