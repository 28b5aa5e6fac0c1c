"""A response's body in either library, blocking or not, with somebody watching as it goes by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2

from x402.client.body import Bound, Watch
from x402.wire.strict import BODY_LIMIT

_COMPRESSED_LIMIT = 8 * 1024
"""Most compressed bytes that are unpacked; deflate swells a thousandfold at worst (fault E04)."""


class WatchedStream(httpx.SyncByteStream, httpx.AsyncByteStream, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body of either library and either kind; `watch` sees each chunk, and the end once."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                self._watch.see(chunk)
                yield chunk
        except Exception:
            self._watch.failed = True
            raise
        self._watch.end(exhausted=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._watch.see(chunk)
                yield chunk
        except Exception:
            self._watch.failed = True
            raise
        await self._end(exhausted=True)

    def close(self) -> None:
        """Stop reading, and tell whoever watches."""
        self._inner.close()
        self._watch.end(exhausted=False)

    async def aclose(self) -> None:
        """As `close`, without blocking the loop."""
        try:
            await self._inner.aclose()
        finally:
            await self._end(exhausted=False)

    async def _end(self, *, exhausted: bool) -> None:
        if not self._watch.ended:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: self._watch.end(exhausted=exhausted))


def bound(response: Any) -> None:
    """Limit how much is read of a body that is not the answer."""
    if not response.is_stream_consumed:
        compressed = response.headers.get("content-encoding", "identity") != "identity"
        response.stream = WatchedStream(response.stream, Bound(_COMPRESSED_LIMIT if compressed else BODY_LIMIT))
