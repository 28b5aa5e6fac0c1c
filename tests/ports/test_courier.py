"""A message goes to a public address that was looked at, and to no other (fault E05)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from x402.errors import MalformedError
from x402.ports.courier import HttpCourier, Undelivered, check_hook
from x402.ports.public_web import is_public

PUBLIC = "93.184.216.34"
FORBIDDEN_ADDRESSES = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2001:0:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "2001:db8::1", "100::1", "", "localhost", "0x7f000001",
]  # fmt: skip
WRONG_URLS = [
    "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/",
    "https://user@example.com/", "https://user:word@example.com/", "https://example.com#@evil.example/",
    "https://example.com\\@evil.example/", "https://example.com:22/", "https://example.com:8080/",
    "https://example.com:99999/", "https://", "https:///path", "https://exa mple.com/", "https://example.com/\n",
    "https://example.com/\t", "https://ex\u00e4mple.com/", "https://\u2488\u24ea\u2488\u24ea/", "https://[::1/",
    "https://example.com%00.evil/", "https://-example.com/", "https://" + "a" * 300 + ".com/", "x" * 3000, "",
]  # fmt: skip
NAMES_OF_LOOPBACK = ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "localhost.", "127.0.0.1", "[::1]",
                     "[::ffff:127.0.0.1]", "0"]  # fmt: skip


class Doors(httpx.AsyncBaseTransport):
    """Notes where a connection would go, and lets none through."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.opened.append(request.url.host)
        raise httpx.ConnectError("nobody is at home")


def resolving(*answers: Sequence[str]) -> Callable[[str, int], Any]:
    """A resolver that answers differently each time, as a rebinding one does."""
    waiting = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolve


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
async def test_E05_no_address_inside_is_reached(address: str) -> None:
    doors = Doors()
    courier = HttpCourier(resolve=resolving([address]), transport=doors)
    with pytest.raises(Undelivered, match="not a public one"):
        await courier.post("https://hook.example/x", {}, b"{}")
    assert doors.opened == []
    assert not is_public(address)


@pytest.mark.parametrize("host", NAMES_OF_LOOPBACK)
async def test_E05_no_spelling_of_this_machine_is_reached(host: str) -> None:
    doors = Doors()
    with pytest.raises((Undelivered, MalformedError)):
        await HttpCourier(transport=doors).post(f"https://{host}/", {}, b"{}")
    assert doors.opened == []


@pytest.mark.parametrize("url", WRONG_URLS)
async def test_E05_no_other_kind_of_url_is_taken(url: str) -> None:
    doors = Doors()
    with pytest.raises(MalformedError) as caught:
        await HttpCourier(resolve=resolving([PUBLIC]), transport=doors).post(url, {}, b"{}")
    assert caught.value.code == "invalid_url"
    assert doors.opened == []


async def test_E05_a_name_that_is_rebound_leads_to_what_was_looked_at() -> None:
    doors = Doors()
    courier = HttpCourier(resolve=resolving([PUBLIC], ["127.0.0.1"]), transport=doors)
    with pytest.raises(Undelivered):
        await courier.post("https://hook.example/x", {}, b"{}")
    assert doors.opened == [PUBLIC], "the control: a public address is gone to, by its number"
    with pytest.raises(Undelivered, match="not a public one"):
        await courier.post("https://hook.example/x", {}, b"{}")
    mixed = HttpCourier(resolve=resolving([PUBLIC, "10.0.0.1"]), transport=doors)
    with pytest.raises(Undelivered, match="not a public one"):
        await mixed.post("https://hook.example/x", {}, b"{}")
    assert len(doors.opened) == 1


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def test_E05_a_redirect_leads_nowhere_and_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(b"") as (other, unheard):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{other}")
        moved = f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{other}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with listening(moved) as (port, heard):
            courier = HttpCourier()
            status = await courier.post(f"http://127.0.0.1:{port}/hook?a=b", {"webhook-id": "1"}, b"{}", inside=True)
            await courier.aclose()
    assert (status, unheard) == (307, [])
    assert heard[0].startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert f"127.0.0.1:{port}".encode() in heard[0]


async def test_an_operators_own_address_is_reached_only_when_he_says_so() -> None:
    async with listening(b"HTTP/1.1 204 No Content\r\n\r\n") as (port, heard):
        courier = HttpCourier()
        with pytest.raises(MalformedError):
            await courier.post(f"http://127.0.0.1:{port}/", {}, b"{}")
        assert await courier.post(f"http://127.0.0.1:{port}/", {}, b"{}", inside=True) == 204
        await courier.aclose()
    assert len(heard) == 1


def test_a_plain_url_is_fine() -> None:
    assert check_hook("https://hook.example/a/b?c=d").host == "hook.example"
    assert check_hook("http://10.0.0.1:8080/x", inside=True).port == 8080
    assert is_public(PUBLIC)
    assert is_public("2606:2800:220:1::1")
