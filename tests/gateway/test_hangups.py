"""Clients that hang up, read slowly or come back: over real sockets (fault A18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi.responses import PlainTextResponse, StreamingResponse

from x402.devnet.town_serving import listen, serving
from x402.lifecycle import Party
from x402.stages import State
from x402.wire.receipt import Receipt

CHUNKS = 20


@asynccontextmanager
async def served(shop: Any, flow: str, path: str) -> AsyncIterator[tuple[str, int]]:
    shop.open({f"GET {path}": "$0.01"}, flow=flow, reconcile_seconds=3600)
    listener = listen()
    async with serving(shop.paywall, listener):
        host, port = listener.getsockname()
        yield host, port


async def send(address: tuple[str, int], path: str, headers: dict[str, str]) -> tuple[Any, Any]:
    reader, writer = await asyncio.open_connection(*address)
    lines = [f"GET {path} HTTP/1.1", f"Host: {address[0]}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    return reader, writer


async def whole(address: tuple[str, int], path: str, headers: dict[str, str]) -> bytes:
    reader, writer = await send(address, path, headers)
    data: bytes = await reader.read()
    writer.close()
    return data


def reset(writer: Any) -> None:
    """Drop the connection without a goodbye."""
    writer.transport.abort()


async def begun(shop: Any) -> None:
    for _ in range(2000):
        if "settle" in shop.bank.asked:
            return
        await asyncio.sleep(0.001)
    pytest.fail("the sale never began")


async def settled_down(shop: Any) -> None:
    for _ in range(200):
        if not shop.paywall.till._tasks:
            return
        await asyncio.sleep(0.02)
    pytest.fail("a sale is still at work")


@pytest.fixture
def story(shop: Any) -> Any:
    @shop.app.get("/story")
    async def story() -> StreamingResponse:
        shop.runs.append("story")

        async def body() -> AsyncIterator[bytes]:
            for index in range(CHUNKS):
                await asyncio.sleep(0.005)
                yield f"<{index}>".encode()

        return StreamingResponse(body(), media_type="text/plain")

    return "".join(f"<{index}>" for index in range(CHUNKS)).encode()


@pytest.mark.parametrize("chunks_read", [0, 1, 2, 5, 10, 19])
async def test_A18_a_hang_up_in_mid_stream_cancels_nothing(shop: Any, story: bytes, chunks_read: int) -> None:
    async with served(shop, "upfront", "/story") as address:
        header = shop.payer.pay(await shop.challenge("/story"))
        reader, writer = await send(address, "/story", header)
        if chunks_read:
            await reader.readuntil(f"<{chunks_read - 1}>".encode())
        await begun(shop)
        reset(writer)
        await settled_down(shop)
        assert await shop.ledger.totals(Party.GATEWAY, State.DELIVERED) == {
            ("eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e"): 10_000
        }
        assert shop.bank.asked.count("settle") == 1
        # Whoever comes back with the same payment gets everything, and nothing is made twice.
        again = await whole(address, "/story", header)
        assert again.startswith(b"HTTP/1.1 200")
        assert b"<19>" in again
        assert shop.runs == ["story"]


@pytest.mark.parametrize("moment", ["handler", "settlement"])
async def test_A18_a_hang_up_before_the_answer_cancels_nothing(shop: Any, moment: str) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        await go_on.wait()

    @shop.app.get("/slow")
    async def slow() -> PlainTextResponse:
        shop.runs.append("slow")
        if moment == "handler":
            await wait()
        return PlainTextResponse("secret")

    async def slowly(pay_id: str, truth: Any) -> Any:
        await wait()
        return shop.bank.move(pay_id, truth)

    async with served(shop, "authorization", "/slow") as address:
        header = shop.payer.pay(await shop.challenge("/slow"))
        shop.bank.script = [slowly] if moment == "settlement" else []
        _, writer = await send(address, "/slow", header)
        await started.wait()
        reset(writer)
        await asyncio.sleep(0.05)
        # Whoever sends the same again meanwhile joins the sale that its first client has left.
        joined = asyncio.create_task(whole(address, "/slow", header))
        await asyncio.sleep(0.05)
        assert not joined.done()
        go_on.set()
        answer = await joined
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"secret" in answer
        await settled_down(shop)
        assert len(shop.bank.moved) == 1
        assert b"secret" in await whole(address, "/slow", header)
        assert shop.runs == ["slow"]
        assert shop.bank.asked.count("settle") == 1


async def test_a_stream_reaches_its_reader_as_it_is_made(shop: Any) -> None:
    step = asyncio.Event()

    @shop.app.get("/steps")
    async def steps() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"<one>"
            await step.wait()
            yield b"<two>"

        return StreamingResponse(body())

    async with served(shop, "upfront", "/steps") as address:
        header = shop.payer.pay(await shop.challenge("/steps"))
        reader, writer = await send(address, "/steps", header)
        head = await asyncio.wait_for(reader.readuntil(b"<one>"), 5)
        assert b"payment-response" in head.lower()
        assert b"<two>" not in head
        step.set()
        assert b"<two>" in await reader.read()
        writer.close()


async def test_a_broken_answer_does_not_end_like_a_whole_one(shop: Any) -> None:
    @shop.app.get("/dies")
    async def dies() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"<one>"
            await asyncio.sleep(0.01)
            raise ValueError("upstream died")

        return StreamingResponse(body())

    async with served(shop, "upfront", "/dies") as address:
        header = shop.payer.pay(await shop.challenge("/dies"))
        answer = await whole(address, "/dies", header)
        assert b"<one>" in answer
        assert not answer.endswith(b"0\r\n\r\n")
    assert await shop.ledger.totals(Party.GATEWAY, State.OWED)


async def test_a_restart_finishes_what_the_old_process_left(shop: Any, story: bytes) -> None:
    """The server stops with a settlement under way; the next one reconciles before it calls itself ready."""

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.pending(truth.transaction, truth.network, truth.payer)

    async with served(shop, "upfront", "/story") as address:
        header = shop.payer.pay(await shop.challenge("/story"))
        shop.bank.script = [lost]
        assert (await whole(address, "/story", header)).startswith(b"HTTP/1.1 503")
    assert (await shop.entry()).state is State.SETTLING
    # A new process has route objects of its own.
    shop.app.router.routes[:] = [route for route in shop.app.router.routes if getattr(route, "path", "") != "/story"]

    @shop.app.get("/story")
    async def story_again() -> PlainTextResponse:
        return PlainTextResponse("told again")

    async with served(shop, "upfront", "/story") as address:
        await asyncio.wait_for(shop.paywall.reconciled.wait(), 5)
        assert (await shop.entry()).state is State.OWED
        assert b"told again" in await whole(address, "/story", header)
    assert len(shop.bank.moved) == 1
