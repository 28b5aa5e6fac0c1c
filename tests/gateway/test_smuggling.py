"""Request heads that servers read differently, through a real uvicorn: one paid request, one handler run (fault F15).

And heads of every size on the way to a verdict: understood whole or refused, never half (fault F05).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from x402.devnet.town_serving import listen, serving
from x402.wire.strict import HEADER_LIMIT

PRICED = {"POST /report": "$0.01", "GET /report": "$0.01"}
BODY = b'{"a": 1}'
SMUGGLED = b"POST /report?smuggled=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
LAST = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKS = b"8\r\n" + BODY + b"\r\n0\r\n\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
KNOWN = {200, 400, 402, 404, 405, 409, 411, 413, 414, 431, 501}

REFUSED: list[tuple[str, bytes, bytes]] = [
    ("length before chunked", LENGTH + TE, CHUNKS + SMUGGLED),
    ("chunked before length", TE + LENGTH, CHUNKS + SMUGGLED),
    ("length 0 beside chunked", b"Content-Length: 0\r\n" + TE, CHUNKS + SMUGGLED),
    ("two lengths", LENGTH + b"Content-Length: 0\r\n", BODY + SMUGGLED),
    ("two equal lengths", LENGTH + LENGTH, BODY + SMUGGLED),
    ("a list of lengths", b"Content-Length: 8, 8\r\n", BODY + SMUGGLED),
    ("a signed length", b"Content-Length: +8\r\n", BODY + SMUGGLED),
    ("a negative length", b"Content-Length: -1\r\n", BODY + SMUGGLED),
    ("a hex length", b"Content-Length: 0x8\r\n", BODY + SMUGGLED),
    ("a length with a gap", b"Content-Length: 1 8\r\n", BODY + SMUGGLED),
    ("an endless length", b"Content-Length: " + b"9" * 40 + b"\r\n", BODY + SMUGGLED),
    ("an unknown coding", b"Transfer-Encoding: xchunked\r\n" + LENGTH, BODY + SMUGGLED),
    ("chunked that is not last", b"Transfer-Encoding: chunked, identity\r\n", CHUNKS + SMUGGLED),
    ("a gap before the colon", b"Transfer-Encoding : chunked\r\n" + LENGTH, CHUNKS + SMUGGLED),
    ("a gap in the length's name", b"Content-Length : 8\r\n", BODY + SMUGGLED),
    ("a tab in a name", b"Transfer-\tEncoding: chunked\r\n" + LENGTH, CHUNKS + SMUGGLED),
    ("a control character in a coding", b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH, CHUNKS + SMUGGLED),
    ("a bare CR", b"X-A: a\rTransfer-Encoding: chunked\r\n" + LENGTH, CHUNKS + SMUGGLED),
    ("a zero byte", b"X-A: a\x00b\r\n" + LENGTH, BODY + SMUGGLED),
    ("a line without a colon", b"chunked\r\n" + LENGTH, BODY + SMUGGLED),
    ("a negative chunk", TE, b"-8\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED),
    ("a chunk in other digits", TE, b"0x8\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED),
    ("an endless chunk", TE, b"F" * 20 + b"8\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED),
    ("a chunk longer than said", TE, b"4\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED),
    ("a chunk without its end", TE, b"8\r\n" + BODY + b"0\r\n\r\n" + SMUGGLED),
    ("a chunk size with a gap before", TE, b" 8\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED),
]
"""Framings that two servers could read in two ways."""

UNDERSTOOD: list[tuple[str, bytes, bytes]] = [
    ("a length", LENGTH, BODY),
    ("chunks", TE, CHUNKS),
    ("chunks with extensions", TE, b"8;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    ("chunks with trailers", TE, b"8\r\n" + BODY + b"\r\n0\r\nX-After: 1\r\n\r\n"),
    ("an empty header", b"X-A:\r\n" + LENGTH, BODY),
    ("leading zeros", b"Content-Length: 0008\r\n", BODY),
    ("another request behind it", LENGTH, BODY + SMUGGLED),
    ("another request behind chunks", TE, CHUNKS + SMUGGLED),
    ("other cases of names", b"cOnTeNt-LeNgTh: 8\r\n", BODY),
]


class Street:
    """The shop behind a real server, spoken to in raw bytes."""

    def __init__(self, shop: Any, port: int) -> None:
        self.shop, self.port = shop, port

    async def payment(self, target: str = "/report", method: str = "POST") -> bytes:
        """The header lines that pay for one request, not used before."""
        body = {"content": BODY} if method == "POST" else {}
        challenge = await self.shop.challenge(target, method, **body)
        ((name, value),) = self.shop.payer.pay(challenge).items()
        return f"{name}: {value}\r\n".encode()

    async def say(self, *pieces: bytes, ends: bool = True) -> list[int]:
        """The statuses of all answers to raw bytes on one connection.

        A last request, which closes it, says where the answers end; without it the bytes break off.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        statuses = []
        try:
            with suppress(ConnectionError):
                for piece in (*pieces, LAST if ends else b""):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if not ends:
                    writer.write_eof()
            with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                while True:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)
                    statuses.append(int(head.split()[1]))
                    lines = head.lower().split(b"\r\n")
                    size = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
                    if size:
                        await reader.readexactly(size[0])
                    else:
                        while (chunk := int((await reader.readline()).strip() or b"0", 16)) > 0:
                            await reader.readexactly(chunk + 2)
                        await reader.readline()
        finally:
            writer.close()
        return statuses[:-1] if statuses[-1:] == [404] else statuses


@pytest.fixture
async def street(shop: Any) -> AsyncIterator[Street]:
    async with on_street(shop) as street:
        yield street


@asynccontextmanager
async def on_street(shop: Any) -> AsyncIterator[Street]:
    @shop.app.post("/report")
    async def report(request: Request) -> dict[str, int]:
        shop.runs.append(f"{request.url.query}|{(await request.body()).decode()}")
        return {"bytes": len(await request.body())}

    shop.open(PRICED)
    listener = listen()
    async with serving(shop.paywall, listener):
        yield Street(shop, listener.getsockname()[1])


def head(lines: bytes, payment: bytes, start: bytes = b"POST /report HTTP/1.1\r\n") -> bytes:
    return start + b"Host: x\r\n" + payment + lines + b"\r\n"


async def test_F15_what_two_servers_could_read_differently_is_refused(street: Street) -> None:
    """The paid request is not served either: its payment stays good for one whose end is not in doubt."""
    for what, lines, body in REFUSED:
        payment = await street.payment()
        statuses = await street.say(head(lines, payment), body)
        assert not any("smuggled" in run for run in street.shop.runs), what
        assert street.shop.runs == [], what
        assert set(statuses) <= KNOWN - {200}, (what, statuses)
        assert 400 in statuses or statuses == [], (what, statuses)
        assert await street.say(head(LENGTH, payment), BODY) == [200], f"{what}: the payment is still good"
        assert street.shop.runs == [f"|{BODY.decode()}"], what
        street.shop.runs.clear()


async def test_F15_one_paid_request_is_one_run(street: Street) -> None:
    for what, lines, body in UNDERSTOOD:
        payment = await street.payment()
        statuses = await street.say(head(lines, payment), body)
        assert street.shop.runs == [f"|{BODY.decode()}"], what
        assert statuses[0] == 200, what
        assert statuses[1:] in ([], [402]), f"{what}: what comes behind it is asked to pay for itself"
        street.shop.runs.clear()


async def test_F15_a_payment_in_a_pipeline_pays_once(street: Street) -> None:
    payment = await street.payment()
    whole = head(LENGTH, payment) + BODY
    statuses = await street.say(whole * 5)
    assert statuses[0] == 200
    assert set(statuses) <= {200, 409}
    assert len(street.shop.runs) == len(street.shop.bank.moved) == 1


async def test_F15_a_body_that_looks_like_a_request_is_a_body(street: Street) -> None:
    inside = SMUGGLED + SMUGGLED
    challenge = await street.shop.challenge("/report", "POST", content=inside)
    ((name, value),) = street.shop.payer.pay(challenge).items()
    lines = b"Content-Length: %d\r\n" % len(inside)
    assert await street.say(head(lines, f"{name}: {value}\r\n".encode()), inside) == [200]
    assert street.shop.runs == [f"|{inside.decode()}"]
    paid_get = await street.payment(method="GET")
    statuses = await street.say(head(LENGTH, paid_get, b"GET /report HTTP/1.1\r\n"), BODY + SMUGGLED)
    assert statuses == [200, 402], "a GET has its body too, and what comes behind it pays for itself"
    assert len(street.shop.runs) == len(street.shop.bank.moved) == 2


@pytest.mark.parametrize(
    "lines",
    [
        b"PAYMENT-SIGNATURE: e30=\r\n folded\r\n",
        b"PAYMENT-SIGNATURE: e30=\r\n\tfolded\r\n",
        b"PAYMENT-SIGNATURE:\r\n e30=\r\n",
        b"PAYMENT-SIGNATURE : e30=\r\n",
        b"PAYMENT-SIGNATURE: e30=\x00\r\n",
        b"PAYMENT-SIGNATURE: e30=, e30=\r\n",
        b"PAYMENT-SIGNATURE: e30=\r\nPAYMENT-SIGNATURE: e30=\r\n",
        b"PAYMENT-SIGNATURE: e30=\r\nX-PAYMENT: e30=\r\n",
    ],
)
async def test_F06_F15_a_payment_header_that_is_not_one_is_400(street: Street, lines: bytes) -> None:
    assert await street.say(head(lines + LENGTH, b""), BODY) == [400]
    assert street.shop.runs == []


def padded(payment: bytes, size: int) -> bytes:
    """The payment's header, its value grown to `size` characters by a member that means nothing."""
    import base64
    import json

    name, _, value = payment.strip().partition(b": ")
    message = json.loads(base64.b64decode(value))
    bare = len(base64.b64encode(json.dumps(message | {"pad": ""}).encode()))
    room = max(0, (size - bare) * 3 // 4)
    grown = base64.b64encode(json.dumps(message | {"pad": "x" * room}).encode())
    return name + b": " + grown + b"\r\n"


@pytest.mark.parametrize(
    ("kib", "verdict"), [(3.9, 200), (7.9, 200), (8.1, 200), (15.9, 200), (16.1, 400), (63.0, 400), (65.0, 431)]
)
async def test_F05_a_payment_header_of_any_size_has_its_verdict(street: Street, kib: float, verdict: int) -> None:
    """The table of docs/selling.md: whole or refused, and what was refused for its size was not submitted."""
    payment = await street.payment()
    grown = padded(payment, int(kib * 1024))
    assert abs(len(grown) - kib * 1024) < 64
    statuses = await street.say(head(LENGTH, grown), BODY)
    assert statuses == [verdict]
    assert len(street.shop.runs) == (verdict == 200)
    if verdict != 200:
        assert street.shop.bank.moved == {}
        assert await street.say(head(LENGTH, payment), BODY) == [200], "nothing was submitted, so it may be sent again"
    assert len(street.shop.bank.moved) == 1
    assert HEADER_LIMIT == 16 * 1024


async def test_F05_a_header_that_comes_in_two_halves_is_one_header(street: Street) -> None:
    payment = padded(await street.payment(), 15_000)
    whole = head(LENGTH, payment) + BODY
    assert await street.say(whole[:7_000], whole[7_000:]) == [200]
    assert len(street.shop.runs) == 1
    broken = head(LENGTH, padded(await street.payment(), 15_000))
    assert await street.say(broken[:7_000], ends=False) in ([], [400]), "half a header is no header"
    assert len(street.shop.runs) == 1


async def test_control_the_server_is_the_one_that_people_run(street: Street) -> None:
    from x402.request_head import BoundedHead

    assert issubclass(BoundedHead, HttpToolsProtocol)
    assert await street.say(b"GET /free HTTP/1.1\r\nHost: x\r\n\r\n") == [200]
