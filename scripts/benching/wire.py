"""A load generator that costs little: kept-alive HTTP/1.1 connections, one request after the other on each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, and after how many seconds the first and the last byte did."""

    status: int
    headers: dict[str, str]
    body: bytes
    first: float
    seconds: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `target` is a path."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, host: str) -> bytes:
        """The bytes on the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


class Connection:
    """One kept-alive connection. Opened by its first request; a failure closes it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._host = f"{self._address[0]}:{self._address[1]}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: Request) -> Reply:
        """One exchange. Raises `OSError` or `TimeoutError`."""
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._address, limit=1 << 20)
                reader, writer = self._streams
                writer.write(request.encode(self._host))
                head = await reader.readuntil(b"\r\n\r\n")
                status, headers = _head(head)
                body, first = await _body(reader, headers, begun)
        except BaseException:
            self.close()
            raise
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(status, headers, body, first, time.perf_counter() - begun)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in fields}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], begun: float) -> tuple[bytes, float]:
    """The body, and when its first byte was there."""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
        return body, time.perf_counter() - begun
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return b"", time.perf_counter() - begun
    chunks: list[bytes] = []
    first = 0.0
    while size := int(await reader.readline(), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
        first = first or time.perf_counter() - begun
    await reader.readline()
    return b"".join(chunks), first or time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: the replies in the order of their ends, and the seconds that all of it took."""

    replies: list[Reply]
    failures: list[str]
    seconds: float

    def count(self, good: Callable[[Reply], bool]) -> int:
        """How many replies are good."""
        return sum(map(good, self.replies))


async def drive(url: str, requests: Sequence[Request], at_once: int) -> Load:
    """Send all requests over `at_once` connections. A request that fails is counted, never hidden."""
    waiting = iter(requests)
    replies: list[Reply] = []
    failures: list[str] = []

    async def work() -> None:
        connection = Connection(url)
        for request in waiting:
            try:
                replies.append(await connection.send(request))
            except (OSError, TimeoutError, EOFError, ValueError) as error:
                failures.append(f"{type(error).__name__}: {error}"[:100])
        connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return Load(replies, failures, time.perf_counter() - begun)


async def ask(url: str, request: Request) -> Reply:
    """One request on a connection of its own."""
    connection = Connection(url)
    try:
        return await connection.send(request)
    finally:
        connection.close()
