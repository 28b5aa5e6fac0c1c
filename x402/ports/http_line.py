"""HTTP to those whom we ask all day, facilitators and nodes: POST and GET over connections that stay open.

No redirect is followed, since a payment is a bearer instrument (fault B05), no proxy of the environment is used, and no
compression is asked for, so that the length of an answer is the length of what is kept. URLs and header fields may hold
keys, so they appear in no message (fault E03).
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import aiohappyeyeballs

from x402.ports.http_connection import HttpConnection, NotReached, Reply

_CONNECT_SECONDS = 20.0
_NEXT_ADDRESS_SECONDS = 0.25
"""How long one of a host's addresses is tried alone (RFC 8305)."""
_CLOSED = "the line was closed"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH_SAFE, _QUERY_SAFE = "/%:@!$&'()*+,;=~-._", "/%:@!$&'()*+,;=~-._?"


class Origin(NamedTuple):
    """Where connections lead."""

    secure: bool
    host: str
    port: int


class HttpLine:
    """At most `connections` at once, opened as they are needed in the loop that asks; one that has rested for
    `idle_seconds` is closed. `tls` makes what certificates are checked with, once something is asked over TLS."""

    def __init__(
        self,
        *,
        connections: int,
        idle_seconds: float,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._connections = connections
        self._idle_seconds = idle_seconds
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._begin()

    def _begin(self) -> None:
        self._room = asyncio.Semaphore(self._connections)
        self._open: set[HttpConnection] = set()
        self._rested: dict[Origin, list[tuple[float, HttpConnection]]] = {}
        """The one that rested last is the last, and is taken first."""
        self._sweep: asyncio.TimerHandle | None = None

    async def carry(
        self, url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, limit: int
    ) -> Reply:
        """POST the content, or GET without one; the status and body of the answer, within `timeout` seconds.

        Raises `NotReached` or `NoAnswer`. A body longer than `limit` bytes is cut a little above it.
        """
        try:
            origin, head = _head(url, content is None, tuple(headers.items()))
        except ValueError as error:
            raise NotReached(str(error)) from None
        request = head + (b"\r\n" if content is None else b"content-length: %d\r\n\r\n%b" % (len(content), content))
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        room = self._room
        await self._wait_for(room, until)
        try:
            connection = self._take(origin, loop.time()) or await self._connect(origin, room, until)
            try:
                return await connection.exchange(request, seconds=until - loop.time(), limit=limit)
            finally:
                self._give_back(origin, connection)
        finally:
            room.release()

    async def aclose(self) -> None:
        """Close the connections; who asks again opens new ones."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.close()
        self._begin()

    async def _wait_for(self, room: asyncio.Semaphore, until: float) -> None:
        if not room.locked():
            await room.acquire()
            return
        try:
            async with asyncio.timeout_at(until):
                await room.acquire()
        except TimeoutError:
            raise NotReached("all connections are at work") from None
        if room is not self._room:
            room.release()
            raise NotReached(_CLOSED)

    def _take(self, origin: Origin, now: float) -> HttpConnection | None:
        rested = self._rested.get(origin, [])
        while rested:
            since, connection = rested.pop()
            if connection.usable and now - since < self._idle_seconds:
                return connection
            self._discard(connection)
        return None

    def _give_back(self, origin: Origin, connection: HttpConnection) -> None:
        if not connection.usable or connection not in self._open:
            self._discard(connection)
            return
        loop = asyncio.get_running_loop()
        self._rested.setdefault(origin, []).append((loop.time(), connection))
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_seconds, self._close_rested, loop)

    def _close_rested(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = loop.time() - self._idle_seconds
        for origin, rested in list(self._rested.items()):
            for since, connection in rested:
                if since <= ended:
                    self._discard(connection)
            kept = [one for one in rested if one[0] > ended]
            if kept:
                self._rested[origin] = kept
            else:
                del self._rested[origin]
        oldest = min((rested[0][0] for rested in self._rested.values()), default=None)
        self._sweep = None if oldest is None else loop.call_at(oldest + self._idle_seconds, self._close_rested, loop)

    def _discard(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        connection.close()

    async def _connect(self, origin: Origin, room: asyncio.Semaphore, until: float) -> HttpConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(until, loop.time() + _CONNECT_SECONDS)):
                connection = await self._connected(origin, loop)
        except (OSError, TimeoutError, ValueError) as error:
            raise NotReached(type(error).__name__) from None
        if room is not self._room:
            connection.close()
            raise NotReached(_CLOSED)
        self._open.add(connection)
        return connection

    async def _connected(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> HttpConnection:
        if origin.secure and self._tls is None:
            # Reading all the world's authorities takes a while.
            self._tls = await asyncio.to_thread(self._make_tls)
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        reached = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, loop=loop)
        try:
            reached.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(
                HttpConnection,
                sock=reached,
                ssl=self._tls if origin.secure else None,
                server_hostname=origin.host if origin.secure else None,
            )
        except BaseException:
            reached.close()
            raise
        return connection


@lru_cache(maxsize=256)
def _head(url: str, asks: bool, headers: tuple[tuple[str, str], ...]) -> tuple[Origin, bytes]:
    """Where a request goes, and its head but for the length of what it carries.

    Raises `ValueError`, with words that name no part of it, for what can't be sent.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        raise ValueError("the URL can't be read") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("the URL is not an HTTP one")
    secure = parts.scheme == "https"
    path = quote(parts.path or "/", safe=_PATH_SAFE) + ("?" + quote(parts.query, safe=_QUERY_SAFE)) * bool(parts.query)
    named = f"[{host}]" if ":" in host else host
    fields = {
        "host": named if port is None else f"{named}:{port}",
        "user-agent": "x402-engine",
        "accept": "*/*",
        "accept-encoding": "identity",
    }
    if parts.username is not None:
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        fields["authorization"] = f"Basic {b64encode(who.encode()).decode()}"
    fields |= {name.lower(): value for name, value in headers}
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields.items()):
        raise ValueError("a header field can't be sent")
    lines = [f"{'GET' if asks else 'POST'} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return Origin(secure, host, port or (443 if secure else 80)), ("\r\n".join(lines) + "\r\n").encode("latin-1")
