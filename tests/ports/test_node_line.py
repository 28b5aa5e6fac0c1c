"""The line to a node: connections that stay open, and every kind of silence. Fault E03."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from x402.errors import UnavailableError
from x402.ports import node_line
from x402.ports.node_line import NodeLine
from x402.ports.rpc import JsonRpc

SECRET = "canary-key"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def node(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server whose every connection is served so."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v3/{SECRET}"
    finally:
        server.close()


async def read(reader: asyncio.StreamReader) -> bytes:
    """The body of one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """One HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_connection_is_kept_for_the_next_request() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            try:
                call = json.loads(await read(reader))
            except asyncio.IncompleteReadError:
                return
            writer.write(answer(json.dumps({"id": call["id"], "result": call["method"]}).encode()))

    async with node(serve) as url:
        rpc = JsonRpc(url)
        assert [await rpc.call(name) for name in "abc"] == ["a", "b", "c"]
        assert connections == 1
        await rpc.aclose()
        # Closed is not broken: who asks again opens again.
        assert await rpc.call("d") == "d"
        await rpc.aclose()


async def test_E03_a_line_that_is_closed_gives_up_its_questions_and_opens_no_connection_for_them() -> None:
    async with node(_keep_silent) as url:
        rpc = JsonRpc(url)
        asked = [asyncio.ensure_future(rpc.call("on its way"))]
        await asyncio.sleep(0.02)
        asked.append(asyncio.ensure_future(rpc.call("waiting for company")))
        await asyncio.sleep(0)
        await rpc.aclose()
        outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 1)
        assert [type(one) for one in outcomes] == [UnavailableError] * 2
        await asyncio.sleep(0.02)
        assert rpc._line._line._open == set()


async def test_E03_a_question_that_a_closing_line_loses_is_not_asked_again() -> None:
    async with node(_keep_silent) as url:
        line = NodeLine(url)
        asked = asyncio.ensure_future(line.post(b"{}"))
        await asyncio.sleep(0.02)
        await line.aclose()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asked, 1)
        assert line._line._open == set()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read(reader)


async def _break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read(reader)
    writer.write(answer(b"x" * 100)[:-50])
    await writer.drain()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read(reader)
    writer.write(b"this is no HTTP at all\r\n\r\n")


async def _keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read(reader)
    await reader.read()


async def _flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read(reader)
    writer.write(answer(b"x" * 5000))
    await writer.drain()


@pytest.mark.parametrize("serve", [_hang_up, _break_off, _babble, _keep_silent, _flood])
async def test_E03_no_answer_is_unavailable_and_names_no_url(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_line, "_LARGEST_REPLY", 4000)
    async with node(serve) as url:
        line = NodeLine(url, timeout_seconds=0.15)
        with pytest.raises(UnavailableError) as caught:
            await line.post(b"{}")
        assert SECRET not in repr(caught.value) + json.dumps(caught.value.as_json())
        assert caught.value.__cause__ is None
        await line.aclose()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/canary-key", "no url", "http://", "ftp://x/canary-key"])
async def test_E03_a_url_that_leads_nowhere_is_unavailable(url: str) -> None:
    line = NodeLine(url, timeout_seconds=1)
    with pytest.raises(UnavailableError) as caught:
        await line.post(b"{}")
    assert SECRET not in repr(caught.value)
    await line.aclose()


async def test_E03_a_redirect_is_not_followed() -> None:
    visited: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.append(await read(reader))
        writer.write(answer(b"gone", "307 Temporary Redirect", "location: /elsewhere"))
        await writer.drain()

    async with node(serve) as url:
        line = NodeLine(url)
        assert await line.post(b"{}") == (307, b"gone")
        assert len(visited) == 1
        await line.aclose()


async def test_control_any_status_and_body_is_an_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(answer(b"busy", "429 Too Many Requests"))

    async with node(serve) as url:
        line = NodeLine(url)
        assert await line.post(b"{}") == (429, b"busy")
        await line.aclose()


async def test_E03_a_node_that_hangs_up_on_a_rested_connection_is_asked_once_more() -> None:
    """The node closes as the next request is on its way, which nobody can see coming."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(await read(reader))
            if len(asked) == 2:
                return
            writer.write(answer(b"{}"))

    async with node(serve) as url:
        line = NodeLine(url)
        for question in (b"one", b"two"):
            assert await line.post(question) == (200, b"{}")
        await line.aclose()
    assert asked == [b"one", b"two", b"two"]


async def test_E03_a_node_that_always_hangs_up_is_away() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.append(await read(reader))

    async with node(serve) as url:
        line = NodeLine(url)
        with pytest.raises(UnavailableError, match="did not answer"):
            await line.post(b"one")
        await line.aclose()
    assert asked == [b"one", b"one"]
