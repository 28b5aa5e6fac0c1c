"""The line to a facilitator's URL, on a real socket: what was carried, and what nobody can know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from x402.facilitator.line import ClientLine, Line, NoAnswer, NotReached, PooledLine

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[str]:
    """A server that reads one request after another from a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                await answer(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.fixture(params=["pooled", "client"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    made = PooledLine() if request.param == "pooled" else ClientLine(httpx.AsyncClient(trust_env=False))
    yield made
    await made.aclose()


async def test_requests_share_a_connection(line: Line) -> None:
    heard: list[bytes] = []
    connections: set[object] = set()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        heard.append(request)
        connections.add(writer)
        writer.write(b"HTTP/1.1 418 no\r\ncontent-length: 2\r\n\r\n{}")

    async with listening(answer) as url:
        for content in (b'{"a":1}', None):
            assert await line.carry(url + "/x", content, {"K": "v"}, timeout=5, limit=9) == (418, b"{}")
    assert [one.split(b" ", 1)[0] for one in heard] == [b"POST", b"GET"]
    assert heard[0].endswith(b'\r\n\r\n{"a":1}')
    assert all(b"k: v" in one.lower() for one in heard)
    assert len(connections) == 1


async def test_B05_a_redirect_is_an_answer_like_any_other(line: Line) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 307 go\r\nlocation: http://127.0.0.1:1/thief\r\ncontent-length: 0\r\n\r\n")

    async with listening(answer) as url:
        assert await line.carry(url, b"{}", {}, timeout=5, limit=9) == (307, b"")


async def test_A09_what_was_carried_and_not_answered_is_not_known(line: Line) -> None:
    async def hang_up(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def nonsense(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"what?\r\n\r\n")

    async def half(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
        writer.close()

    async def silence(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)

    for answer in (hang_up, nonsense, half, silence):
        async with listening(answer) as url:
            with pytest.raises(NoAnswer):
                await line.carry(url, b"{}", {}, timeout=0.1, limit=9)


async def test_A09_control_what_was_never_connected_has_carried_nothing(line: Line) -> None:
    async with listening(lambda request, writer: asyncio.sleep(0)) as url:
        pass
    with pytest.raises(NotReached):
        await line.carry(url, b"{}", {}, timeout=5, limit=9)


async def test_an_endless_answer_is_cut() -> None:
    async def pour(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    line = PooledLine()
    async with listening(pour) as url:
        status, body = await line.carry(url, b"{}", {}, timeout=5, limit=1000)
    assert status == 200
    assert 1000 < len(body) < 1_000_000
    await line.aclose()
