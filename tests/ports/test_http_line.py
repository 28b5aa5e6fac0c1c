"""HTTP over connections that stay open, on real sockets: what may be used again, and what is nobody's answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.ports import http_line
from x402.ports.http_connection import HungUp, NoAnswer, NotReached
from x402.ports.http_line import HttpLine

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads one request after another from each connection, and has each answered by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.left = asyncio.Event()
        """Set when somebody has hung up."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                self.heard.append(head + body)
                await self._answer(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def listening(answer: Answer | bytes = OK, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async def said(_: bytes, writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)

    server = Server(said if isinstance(answer, bytes) else answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://localhost:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def line() -> AsyncIterator[HttpLine]:
    made = HttpLine(connections=4, idle_seconds=5)
    yield made
    await made.aclose()


async def ask(
    line: HttpLine, url: str, content: bytes | None = b"{}", headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes]:
    return await line.carry(url, content, headers, timeout=2, limit=100)


async def test_what_is_sent(line: HttpLine) -> None:
    async with listening() as server:
        host = server.url.removeprefix("http://")
        assert await ask(line, f"http://ann:s%20cret@{host}/a b/%2F?q=ü", b"body", {"X-Key": "k"}) == (200, b"ok")
        assert await ask(line, server.url, None) == (200, b"ok")
    first, second = server.heard
    head, _, body = first.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a%20b/%2F?q=%C3%BC HTTP/1.1"
    assert body == b"body"
    assert {f"host: {host}", "content-length: 4", "x-key: k", "accept-encoding: identity"} <= set(lines)
    assert "authorization: Basic YW5uOnMgY3JldA==" in lines
    assert second.startswith(b"GET / HTTP/1.1\r\n")
    assert b"content-length" not in second


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx: y\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        OK + b"\r\n",
    ],
    ids=["chunked", "hints", "old", "a stray line end"],
)
async def test_a_whole_answer_leaves_its_connection_for_the_next(line: HttpLine, answer: bytes) -> None:
    async with listening(answer) as server:
        assert [await ask(line, server.url) for _ in range(3)] == [(200, b"ok")] * 3
        assert len(server.writers) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
        OK + b"what?",
        OK + b"HTTP/1.1 200 ",
    ],
    ids=["close", "old", "a second answer", "junk", "half a head"],
)
async def test_A03_what_nobody_asked_for_is_no_answer_to_the_next(line: HttpLine, answer: bytes) -> None:
    async with listening(answer) as server:
        assert [await ask(line, server.url) for _ in range(3)] == [(200, b"ok")] * 3
        assert len(server.writers) == 3


async def test_A03_an_answer_that_comes_while_nobody_asks_ends_the_connection(line: HttpLine) -> None:
    async with listening() as server:
        await ask(line, server.url)
        server.writers[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")
        await server.left.wait()
        assert await ask(line, server.url) == (200, b"ok")
        assert len(server.writers) == 2


async def test_A09_an_answer_that_nobody_waits_for_any_more_goes_to_nobody_else(line: HttpLine) -> None:
    answers = [b"late", b"mine"]
    asked, given_up, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await given_up.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + answers.pop(0))
        answered.set()

    async with listening(slowly) as server:
        first = asyncio.create_task(ask(line, server.url))
        await asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        given_up.set()
        await answered.wait()
        assert await ask(line, server.url) == (200, b"mine")
        assert len(server.writers) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" * 4000,
    ],
    ids=["upgrade", "two framings", "two lengths", "an endless head", "endless hints"],
)
async def test_A09_what_is_no_answer_leaves_it_open(line: HttpLine, answer: bytes) -> None:
    async with listening(answer) as server:
        with pytest.raises(NoAnswer) as caught:
            await ask(line, server.url)
        assert str(caught.value) != "TimeoutError"
        await server.left.wait()


async def test_a_body_without_a_length_ends_with_its_connection(line: HttpLine) -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
        writer.close()

    async with listening(answer) as server:
        assert [await ask(line, server.url) for _ in range(2)] == [(200, b"ok")] * 2


async def test_A09_control_a_body_that_breaks_off_is_no_answer(line: HttpLine) -> None:
    async def chunked(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        writer.close()

    async with listening(chunked) as server:
        with pytest.raises(NoAnswer) as caught:
            await ask(line, server.url)
    assert not isinstance(caught.value, HungUp)


async def test_a_connection_that_has_rested_too_long_is_not_used_again() -> None:
    line = HttpLine(connections=4, idle_seconds=0.03)
    async with listening() as server:
        for _ in range(2):
            await ask(line, server.url)
            server.left.clear()
            await server.left.wait()
        assert len(server.writers) == 2
    await line.aclose()


async def test_at_most_so_many_connections_and_who_finds_none_has_handed_over_nothing() -> None:
    line = HttpLine(connections=2, idle_seconds=5)
    release, both = asyncio.Event(), asyncio.Barrier(3)

    async def wait(_: bytes, writer: asyncio.StreamWriter) -> None:
        if not release.is_set():
            await both.wait()
        await release.wait()
        writer.write(OK)

    async with listening(wait) as server:
        busy = [asyncio.create_task(ask(line, server.url)) for _ in range(4)]
        await both.wait()
        with pytest.raises(NotReached):
            await line.carry(server.url, b"{}", {}, timeout=0.05, limit=9)
        assert len(server.writers) == 2
        release.set()
        assert await asyncio.gather(*busy) == [(200, b"ok")] * 4
        assert len(server.writers) == 2
    await line.aclose()


async def test_closing_ends_what_is_on_its_way_and_leaves_nothing_open() -> None:
    line = HttpLine(connections=4, idle_seconds=5)

    async def silence(_: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(1)

    asked = asyncio.Event()
    async with listening(silence) as server:
        waiting = asyncio.create_task(ask(line, server.url))
        await asked.wait()
        await line.aclose()
        with pytest.raises(NoAnswer):
            await waiting
        assert line._open == set()
        assert line._rested == {}


async def test_closing_gives_up_who_waits_for_a_connection_and_opens_none_for_him() -> None:
    line = HttpLine(connections=1, idle_seconds=5)
    asked = asyncio.Event()

    async def silence(_: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(1)

    async with listening(silence) as server:
        waiting = [asyncio.create_task(ask(line, server.url)) for _ in range(3)]
        await asked.wait()
        await line.aclose()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [NoAnswer, NotReached, NotReached]
        opening = asyncio.create_task(ask(line, server.url))
        await asyncio.sleep(0)
        await line.aclose()
        with pytest.raises(NotReached):
            await opening
        assert len(server.heard) == 1
        assert line._open == set()


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://x/canary", {}),
        ("http://", {}),
        ("http://[::1/canary", {}),
        ("http://x:99999/canary", {}),
        ("http://" + "canary" * 20 + "/", {}),
        ("http://127.0.0.1:1/", {"x": "a\r\ncanary: b"}),
        ("http://127.0.0.1:1/", {"x\r\ncanary": "b"}),
        ("http://127.0.0.1:1/", {"x": "canary\u2028"}),
    ],
)
async def test_E03_what_cannot_be_sent_is_not_and_the_words_tell_no_secret(
    line: HttpLine, url: str, headers: dict[str, str]
) -> None:
    with pytest.raises(NotReached) as caught:
        await ask(line, url, headers=headers)
    assert "canary" not in repr(caught.value)


async def test_B05_a_host_without_a_trusted_certificate_is_told_nothing(tmp_path: Path) -> None:
    signed = _certificate(tmp_path, "localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(signed)
    strangers = HttpLine(connections=4, idle_seconds=5)
    friends = HttpLine(connections=4, idle_seconds=5, tls=lambda: ssl.create_default_context(cafile=str(signed)))
    async with listening(tls=tls) as server:
        with pytest.raises(NotReached):
            await ask(strangers, server.url)
        with pytest.raises(NotReached):
            await ask(friends, server.url.replace("localhost", "127.0.0.1"))
        assert server.heard == []
        assert [await ask(friends, server.url) for _ in range(2)] == [(200, b"ok")] * 2
        await strangers.aclose()
        await friends.aclose()


def _certificate(folder: Path, host: str) -> Path:
    """A file with a new key and a certificate for it, which nobody trusts who doesn't know it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ok", "hang up", "extra", "cancel"])), max_size=12))
def test_A03_answers_are_never_mixed(plan: list[tuple[int, str]]) -> None:
    asyncio.run(_shuffled(plan))


async def _shuffled(plan: list[tuple[int, str]]) -> None:
    """Many ask at once, in their own words; each hears his own words back, or nothing."""

    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        body = request.partition(b"\r\n\r\n")[2]
        number = int(body)
        turns, fate = plan[number]
        for _ in range(turns):
            await asyncio.sleep(0)
        if fate == "hang up":
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        if fate == "extra":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n-1")

    line = HttpLine(connections=3, idle_seconds=5)

    async def one(url: str, number: int) -> None:
        asking = asyncio.create_task(ask(line, url, str(number).encode()))
        if plan[number][1] == "cancel":
            await asyncio.sleep(0)
            asking.cancel()
        try:
            assert await asking == (200, str(number).encode())
        except (NoAnswer, asyncio.CancelledError):
            assert plan[number][1] != "ok"

    async with listening(echo) as server:
        await asyncio.gather(*(one(server.url, number) for number in range(len(plan))))
        await line.aclose()


async def test_a_head_is_made_once_for_many_questions(line: HttpLine) -> None:
    async with listening() as server:
        http_line._head.cache_clear()
        for _ in range(3):
            await ask(line, server.url)
        assert http_line._head.cache_info().misses == 1
