"""A handler's answer while it is being made: withheld until it is paid, or played to the client and kept.

Faults A01, A02, A18, A21: under `authorization` nothing of an answer leaves before the money has moved, its status
and headers included; under `upfront` an answer goes on being made, and kept, when its reader is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from x402.errors import MisconfiguredError
from x402.gateway.sale import HeaderPairs
from x402.ports import Answer
from x402.wire.headers import PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE

_NOTE = "x402-note"
_SOLD = "x402-sold"
_OURS = frozenset(
    name.lower()
    for name in (PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, _NOTE, _SOLD, "Settlement-Overrides")
)
"""Response headers about money. Only the till sets them: a handler may be reflecting somebody else's (fault B18)."""

_WINDOW = 256 * 1024
"""How far a handler may run ahead of its reader once its answer is too long to be kept, in bytes."""


class BrokenOff(Exception):
    """The handler failed after the answer had begun; its client sees a connection that ends early."""


class Recording:
    """Collects one answer; `limit` bounds how many bytes of its body are kept.

    With `withhold` an answer beyond the limit fails with `MisconfiguredError("answer_too_large")`. Otherwise it is
    still played, at its readers' pace, but no longer kept.
    """

    def __init__(self, *, limit: int, withhold: bool) -> None:
        self.status = 0
        self.headers: HeaderPairs = ()
        self.kept = True
        self.withhold = withhold
        """Whether nothing of it may leave yet."""
        self.reached = 0
        """How many pieces of the body the furthest reader has got."""
        self.deserted = asyncio.Event()
        """Set when every reader has left before the end, once they are watched."""
        self.held_up = False
        """Whether the handler waits for a reader, or waited for one when it was stopped."""
        self._watched = False
        self._limit = limit
        self.first_byte_at = 0.0
        """When the body began, by the loop's clock."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._closed = False
        self._broken = False
        self._waiting: list[asyncio.Future[None]] = []
        """Who wants to know when anything changes."""
        self._readers: set[Reader] = set()
        self.on_begin: Callable[[], None] | None = None
        """Called once, when the head of the answer is known."""

    async def start(self, status: int, headers: HeaderPairs) -> None:
        """The head of the answer; a second one is ignored, as a server would refuse it."""
        if self.status:
            return
        self.headers = tuple((name, value) for name, value in headers if name.lower() not in _OURS)
        self.status = status
        if self.on_begin is not None:
            self.on_begin()

    async def write(self, chunk: bytes) -> None:
        """The next piece of the body. Raises `MisconfiguredError` when a withheld answer grows too large."""
        if not chunk or (not self.kept and not self._readers):
            return
        self.first_byte_at = self.first_byte_at or asyncio.get_running_loop().time()
        self._size += len(chunk)
        if self._size > self._limit:
            self.kept = False
            if self.withhold:
                raise self.too_large()
        self._chunks.append(chunk)
        self._tell()
        while not (self.kept or self._has_room()):
            self.held_up = True
            await self._news()
        self.held_up = False

    def too_large(self) -> MisconfiguredError:
        """What a withheld answer beyond the limit ends in: nothing was settled."""
        return MisconfiguredError(
            "answer_too_large", f"the answer is longer than {self._limit} bytes; sell it with flow='upfront'"
        )

    async def close(self, *, broken: bool = False) -> None:
        """No more will come; `broken` when that is too early."""
        self._closed, self._broken = True, broken
        self._tell()

    def play(self) -> Reader:
        """A reader of the body as it is being made, from its first byte; only while the answer is `kept`, or for whom
        asks before it began."""
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    async def piece(self, reader: Reader) -> bytes:
        """What comes next for a reader. Raises `StopAsyncIteration` at the end, `BrokenOff` when that is too early."""
        while not self._closed and reader.index == len(self._chunks):
            await self._news()
        if reader.index == len(self._chunks):
            if self._broken:
                raise BrokenOff("the answer was broken off")
            raise StopAsyncIteration
        chunk = self._chunks[reader.index]
        reader.index += 1
        self.reached = max(self.reached, reader.index)
        reader.played += len(chunk)
        if not self.kept:
            self._drop()
        self._tell()
        return chunk

    async def leave(self, reader: Reader) -> None:
        """A reader has gone; whoever waited for it goes on."""
        self._readers.discard(reader)
        self._look_round()
        self._tell()

    @property
    def pieces(self) -> int:
        """How many pieces the body has by now."""
        return len(self._chunks)

    async def read_up(self, ahead: int = 0) -> None:
        """Wait until the furthest reader has all but the last `ahead` pieces, or nobody reads any more."""
        while self._readers and len(self._chunks) - self.reached > ahead:
            await self._news()

    def watch_readers(self) -> None:
        """Tell from now on when nobody reads any more."""
        self._watched = True
        self._look_round()

    async def _news(self) -> None:
        """Wait for the next change. Nothing happens between a look and the wait that follows it: there is one loop."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await change

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    def _look_round(self) -> None:
        if self._watched and not self._readers and not self._closed:
            self.deserted.set()

    def _has_room(self) -> bool:
        return not self._readers or self._size - min(reader.played for reader in self._readers) < _WINDOW

    def _drop(self) -> None:
        for index in range(min((reader.index for reader in self._readers), default=0) - 1, -1, -1):
            if not self._chunks[index]:
                return
            self._chunks[index] = b""

    def answer(
        self, notes: Mapping[str, Any], *, complete: bool = True, sold: Mapping[str, Any] | None = None
    ) -> Answer:
        """The answer as the ledger keeps it; `notes` belong to its receipt, `sold` to its bill."""
        headers = self.headers
        for name, members in ((_NOTE, notes), (_SOLD, sold)):
            if members:
                headers = (*headers, (name, json.dumps(dict(members), separators=(",", ":"))))
        return Answer(self.status, headers, b"".join(self._chunks), complete)


class Reader:
    """One client's way through a recording, at its own pace. Close it, or the answer waits for it."""

    def __init__(self, recording: Recording) -> None:
        self.index = 0
        self.played = 0
        self._recording = recording

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._recording.piece(self)
        except (StopAsyncIteration, BrokenOff):
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Nothing more is read."""
        await self._recording.leave(self)


def split_notes(answer: Answer) -> tuple[HeaderPairs, dict[str, Any]]:
    """The headers of a kept answer, and the notes for its receipt."""
    return tuple((name, value) for name, value in answer.headers if name not in (_NOTE, _SOLD)), _kept(answer, _NOTE)


def sold_of(answer: Answer) -> dict[str, Any]:
    """What a kept answer remembers for its bill."""
    return _kept(answer, _SOLD)


def _kept(answer: Answer, wanted: str) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in answer.headers:
        if name == wanted:
            members = json.loads(value)
    return members
