"""Ten megabytes of header, of body, of nesting and of digits, against the real programs over sockets (fault E04)."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from x402.request_head import HEAD_LIMIT

TEN_MEGABYTES = 10 * 1024 * 1024
GROWTH_LIMIT_MB = 5.0
CHAT = "/api/v1/chat/completions"
EVM_KEY = "07" * 32
SELLER = "0x" + "5e" * 20
SERVICES = {
    "gateway": {
        "X402_UPSTREAM_URL": "http://127.0.0.1:9/v1",
        "X402_MODELS": "gpt-4o-mini",
        "X402_EVM_PAY_TO": SELLER,
        "X402_FACILITATOR_URL": "http://127.0.0.1:9",
        "X402_GATEWAY_LEDGER": "sqlite://",
    },
    "facilitator": {
        "X402_FACILITATOR_EVM_PRIVATE_KEY": EVM_KEY,
        "X402_EVM_RPC_URL": "http://127.0.0.1:9",
        "X402_LEDGER": "sqlite://",
        "X402_FACILITATOR_OPEN": "1",
    },
}
DEEP = b"[" * 100_000
DIGITS = b"9" * 5_000


class Service:
    """A program that listens, and what it has of memory."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port

    @property
    def resident_mb(self) -> float:
        """0 where the system does not say (anything but Linux)."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except FileNotFoundError:
            return 0.0
        return pages * resource.getpagesize() / 2**20

    async def send(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send raw bytes, however far the other side lets us, and read the answer's status and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # A side that has heard enough hangs up; what it said before that is still to be read.
        with suppress(ConnectionError):
            for piece in pieces:
                for start in range(0, len(piece), 65_536):
                    writer.write(piece[start : start + 65_536])
                    await asyncio.wait_for(writer.drain(), 10)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            size = next(
                (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length:" in line), 0
            )
            return int(head.split()[1]), await asyncio.wait_for(reader.readexactly(size), 10)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""
        finally:
            writer.close()

    async def post(self, path: str, body: bytes, headers: bytes = b"", *, chunked: bool = False) -> tuple[int, bytes]:
        framing = b"transfer-encoding: chunked" if chunked else f"content-length: {len(body)}".encode()
        head = b"POST " + path.encode() + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + framing + b"\r\n"
        sent = b"".join((f"{len(body):x}\r\n".encode(), body, b"\r\n0\r\n\r\n")) if chunked else body
        return await self.send(head + headers + b"\r\n", sent)


@asynccontextmanager
async def running(name: str, home: Path) -> AsyncIterator[Service]:
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG") if key in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "x402", name, "--port", "0"),
        cwd=home,
        env={**kept, "HOME": str(home), **SERVICES[name]},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        told = b""
        while b"http://127.0.0.1:" not in told or b"startup complete" not in told:
            line = await asyncio.wait_for(process.stderr.readline(), 60)
            assert line, told.decode()
            told += line
        port = int(told.split(b"http://127.0.0.1:")[1].split()[0])
        drain = asyncio.create_task(process.stderr.read())
        yield Service(process, port)
        process.terminate()
        await drain
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def bombs(path: str, valid: bytes) -> Iterator[tuple[str, bytes, bytes, bool, set[int]]]:
    """Name, headers, body, whether it comes in chunks, and the statuses with which it may be refused."""
    huge = b"A" * TEN_MEGABYTES
    for name in (b"payment-signature", b"x-payment", b"x-anything"):
        yield f"{name.decode()} of 10 MB", name + b": " + huge + b"\r\n", valid, False, {431}
    many = b"".join(b"x-%d: %s\r\n" % (number, b"v" * 90) for number in range(100_000))
    yield "100,000 headers", many, valid, False, {431}
    yield "a name of 10 MB", huge + b": v\r\n", valid, False, {431}
    for chunked in (False, True):
        yield f"a body of 10 MB, chunked={chunked}", b"", huge, chunked, {400, 413}
        yield f"nesting of 10 MB, chunked={chunked}", b"", b"[" * TEN_MEGABYTES, chunked, {400, 413}
    yield "nesting of 100,000", b"", DEEP, False, {400, 413}
    yield "nesting behind a member", b"", b'{"messages":' + DEEP[:40_000], False, {400, 413}
    yield "5,000 digits", b"", b'{"max_tokens":' + DIGITS + b"}", False, {400}
    yield "5,000 digits and an exponent", b"", b'{"max_tokens":1e' + DIGITS + b"}", False, {400}
    if path == CHAT:
        for name in (b"payment-signature", b"x-payment"):
            yield f"{name.decode()} of 20 KB", name + b": " + b"A" * 20_000 + b"\r\n", valid, False, {400}


@pytest.mark.parametrize("name", ["gateway", "facilitator"])
async def test_E04_bombs_are_refused_and_leave_no_memory_behind(name: str, tmp_path: Path) -> None:
    path = CHAT if name == "gateway" else "/verify"
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    valid = json.dumps(chat if name == "gateway" else {}).encode()
    async with running(name, tmp_path) as service:
        for _ in range(3):
            # The first big body loads what every big body needs.
            assert (await service.post(path, b"{" + b" " * 60_000))[0] == 400
        before = service.resident_mb
        for what, headers, body, chunked, statuses in bombs(path, valid):
            status, said = await service.post(path, body, headers, chunked=chunked)
            # A client that is still sending when the answer comes may lose it to a reset, never to a crash.
            assert status in statuses or (status == 0 and len(headers) + len(body) > HEAD_LIMIT), what
            if status:
                assert b'"code"' in said, what
        growth = service.resident_mb - before
        assert growth < GROWTH_LIMIT_MB, f"{growth:.1f} MB"
        assert (await service.post(path, b"{}"))[0] == 400, "it goes on serving"
        assert service.process.returncode is None


async def test_E04_a_head_that_dribbles_in_is_refused_as_well(tmp_path: Path) -> None:
    async with running("facilitator", tmp_path) as service:
        line = b"x-header: " + b"v" * 4_000 + b"\r\n"
        status, said = await service.send(b"GET /health HTTP/1.1\r\nhost: x\r\n", *[line] * 40)
        assert status in (431, 0)
        assert b"request_head_too_large" in said or status == 0
        fits = [line] * (HEAD_LIMIT // len(line) - 1)
        head = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        assert (await service.send(head, *fits, b"\r\n"))[0] == 200, "control: a long head that ends is served"
