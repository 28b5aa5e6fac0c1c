"""ASGI on both sides of a sale: the request read once, the seller's app run as a handler, the reply sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from x402.gateway.problem import ApiProblem
from x402.gateway.replies import Plain, paid_headers
from x402.gateway.sale import Handler, HeaderPairs, Reply, Sale, Sink, Whole

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


def headers_of(scope: Scope) -> HeaderPairs:
    """The request's header fields, as text."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


def target_of(scope: Scope) -> str:
    """The raw path and query, as the client sent them."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope["path"], safe="/%:@!$&'()*+,;=~-._")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def peer_of(scope: Scope) -> str:
    """The IP address that asks: what `operations.peers` found out behind trusted proxies, else the connection's."""
    named = scope.get("state", {}).get("peer", "")
    return str(named or (scope.get("client") or ("",))[0])


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole request body. Raises `ApiProblem` 413 beyond `limit` bytes, `ClientGone` when it breaks off."""
    stated = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    if stated.isdigit() and int(stated[:20]) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(limit: int) -> ApiProblem:
    return ApiProblem(413, "request_too_large", f"the request body is longer than {limit} bytes")


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the buffered body once, and then whatever the client does."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def as_handler(app: App, scope: Scope, body: bytes) -> Handler:
    """The app as a handler of one sale. It never learns that its client hung up: what is paid is finished (A18).

    Server extensions are hidden from it, because a file sent by path would pass by the till (fault A02).
    """

    async def handle(sale: Sale, sink: Sink) -> None:
        finished = asyncio.Event()

        async def gone() -> Message:
            await finished.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ()))
                await sink.start(message["status"], tuple(head))
            elif message["type"] == "http.response.body":
                await sink.write(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    finished.set()

        state = {**scope.get("state", {}), "payment": sale}
        await app({**scope, "extensions": {}, "state": state, "x402": sale}, again(body, gone), send)
        if not finished.is_set():
            raise RuntimeError("the app returned before its answer was complete")

    return handle


async def send_head(send: Send, status: int, headers: HeaderPairs) -> None:
    """The start of a response."""
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_piece(send: Send, chunk: bytes, *, more: bool) -> None:
    """A piece of a response's body."""
    await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def close_websocket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket before it is accepted; servers answer its handshake with 403 (fault F03)."""
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": "payment required"})


async def send_plain(send: Send, plain: Plain) -> None:
    """A small reply, whole."""
    status, headers, body = plain
    await send_head(send, status, headers)
    await send_piece(send, body, more=False)


async def send_reply(send: Send, reply: Reply, receive: Receive) -> None:
    """The reply to a payment, piece by piece as its answer is made. One that is live ends when its reader hangs up:
    servers go on taking pieces for nobody, so that is listened for."""
    if not reply.live:
        await _send_pieces(send, reply)
        return
    sending, gone = asyncio.ensure_future(_send_pieces(send, reply)), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not sending.done():
            sending.cancel()
        await asyncio.gather(gone, sending, return_exceptions=True)
    if not sending.cancelled():
        await sending


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_pieces(send: Send, reply: Reply) -> None:
    if isinstance(reply.chunks, Whole):
        await send_plain(send, (reply.status, paid_headers(reply), reply.chunks.body))
        return
    async with aclosing(reply.chunks) as chunks:
        await send_head(send, reply.status, paid_headers(reply))
        async for chunk in chunks:
            await send_piece(send, chunk, more=True)
    await send_piece(send, b"", more=False)
