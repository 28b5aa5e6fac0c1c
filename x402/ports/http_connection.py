"""One HTTP/1.1 connection to somebody whom we ask, and one question at a time on it.

The parser is httptools, which the server's side has as well. What decides whether a payer is charged twice is kept
apart: a connection that was never made has carried nothing, and after it was made nobody can say what the other side
has taken (faults A03, A09). Bytes that nobody has asked for are never taken for the answer to the next question.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

Reply = tuple[int, bytes]
"""The status and the body of an answer."""

HEAD_LIMIT = 64 * 1024
"""Most bytes of an answer's head that are waited for."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class NotReached(Exception):
    """No connection was made, so nothing was handed over; the words name the cause."""


class NoAnswer(Exception):
    """It was reached, and nobody knows what it has taken; the words name the cause."""


class HungUp(NoAnswer):
    """It hung up before a word of the answer, as it may on a connection that has rested."""


class HttpConnection(asyncio.Protocol):
    """A connection as the loop made it, to be closed once it is not `usable`. It is used up by whatever goes wrong, by
    an answer that is longer than it may be, and by a question that nobody waits for any more."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._limit = 0
        self._usable = False
        self._begin()

    def _begin(self) -> None:
        """Nothing of an answer is there yet."""
        self._status = self._received = 0
        self._body = bytearray()
        self._headed = self._framed = False

    @property
    def usable(self) -> bool:
        """Whether it may carry another question."""
        return self._usable and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, *, seconds: float, limit: int) -> Reply:
        """The answer to one request. Raises `NoAnswer`. A body longer than `limit` bytes is cut a little above it."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._begin()
        self._limit, self._usable = limit, False
        answer: asyncio.Future[Reply] = loop.create_future()
        self._answer = answer
        patience = loop.call_later(seconds, self._fail, NoAnswer("TimeoutError"))
        self._transport.write(request)
        try:
            return await answer
        finally:
            patience.cancel()
            self._answer = None

    def close(self) -> None:
        """Hang up at once; a question that is on its way stays without an answer."""
        self._fail(NoAnswer("it was closed"))
        if self._transport is not None:
            self._transport.abort()

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport, self._usable = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        if self._answer is None or self._answer.done():
            self.close()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(NoAnswer(type(error).__name__))
        if not self._headed and self._received > HEAD_LIMIT:
            self._fail(NoAnswer("its head is too large"))

    def connection_lost(self, error: Exception | None) -> None:
        """The other side has hung up, which is also how a body of no stated length ends."""
        if self._headed and not self._framed and error is None:
            self._end(usable=False)
        cause = "the connection was closed" if error is None else type(error).__name__
        self._fail(NoAnswer(cause) if self._received else HungUp(cause))

    # What the parser tells.

    def on_message_begin(self) -> None:
        """A head begins: the answer's, that of a hint before it, or one that nobody has asked for."""
        self._framed = False
        if self._answer is None or self._answer.done():
            self._usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of what may follow a body."""
        if name.lower() in _FRAMING:
            self._framed = True

    def on_headers_complete(self) -> None:
        """The head is whole. One whose status begins with 1 is a hint, and the answer comes after it."""
        self._status = self._parser.get_status_code()
        self._headed = self._status >= 200

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._body += piece
        if len(self._body) > self._limit:
            self._end(usable=False)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._headed:
            self._end(usable=self._parser.should_keep_alive())

    def _end(self, *, usable: bool) -> None:
        if self._answer is not None and not self._answer.done():
            self._usable = usable
            self._answer.set_result((self._status, bytes(self._body)))

    def _fail(self, error: NoAnswer) -> None:
        self._usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
