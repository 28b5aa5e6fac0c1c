"""Server-sent events, from bytes in whatever pieces they arrive (WHATWG HTML, 9.2 Server-sent events)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from x402.errors import MalformedError

EVENT_LIMIT = 4 * 1024 * 1024
"""Most bytes of one event; a stream without line ends is no stream of events (fault E04)."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` has its lines joined, `name` is `""` for a plain message."""

    data: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that readers skip; gateways use it as a sign of life, ours also for the receipt."""

    text: str


class EventDecoder:
    """Feed it bytes, get what they complete. Raises `MalformedError("invalid_stream")` for an endless event."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[Event | Comment]:
        """What `chunk` completes, in order."""
        searched = max(0, len(self._buffer) - 1)
        self._buffer += chunk
        start = 0
        while (end := _LINE_END.search(self._buffer, max(start, searched))) is not None:
            if end.group() == b"\r" and end.end() == len(self._buffer):
                break  # The other half of a CRLF may be in the next chunk.
            yield from self._take(bytes(self._buffer[start : end.start()]))
            start = end.end()
        del self._buffer[:start]
        self._check(len(self._buffer))

    def finish(self) -> Iterator[Event | Comment]:
        """What is left when the stream ends; lenient with senders that forget the last empty line."""
        rest = bytes(self._buffer).rstrip(b"\r")
        self._buffer.clear()
        if rest:
            yield from self._take(rest)
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[Event | Comment]:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                yield Event(b"\n".join(self._data).decode(errors="replace"), self._name.decode(errors="replace"))
            self._data, self._name, self._size = [], b"", 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not name:
            yield Comment(value.decode(errors="replace"))
        elif name == b"data":
            self._size += len(value)
            self._check(0)
            self._data.append(value)
        elif name == b"event":
            self._name = value

    def _check(self, waiting: int) -> None:
        if self._size + waiting > EVENT_LIMIT:
            raise MalformedError("invalid_stream", f"one event of the stream is larger than {EVENT_LIMIT} bytes")
