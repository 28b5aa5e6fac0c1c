"""A streamed answer as a caller reads it, blocking or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import anyio.to_thread
import httpx
import httpx2

from x402.client.answers import Chunk, Fields, bill_in
from x402.client.line import Reader, moved_by
from x402.errors import Moved, UnavailableError
from x402.wire.receipt import Receipt

TRANSPORT_ERRORS = (httpx.HTTPError, httpx2.HTTPError)


class _Stream:
    """A streamed answer: iterate over its chunks. `receipt` and `usage` are complete once it has ended."""

    def __init__(self, response: Any, note: Callable[[Any, Receipt], object] | None) -> None:
        self._response = response
        self._note = note
        self._reader = Reader(response)

    @property
    def receipt(self) -> Receipt | None:
        """What was paid, as soon as it is known."""
        return self._reader.receipt

    @property
    def text(self) -> str:
        """The text of the first choice so far."""
        return self._reader.text

    @property
    def usage(self) -> Fields | None:
        """Token counts, when the seller sends them."""
        return self._reader.usage

    @property
    def bill(self) -> Fields | None:
        """Under which id, and for how much at most, a balance is billed, when one pays."""
        found = bill_in(self._response.headers.multi_items())
        return None if found is None else Fields(found)

    @property
    def request_id(self) -> str | None:
        return self._reader.request_id

    def _settle(self) -> None:
        late = self._reader.late_receipt()
        if late is not None and self._note is not None:
            self._note(self._response, late)


class ChatStream(_Stream):
    """A streamed answer of `Chat`; closes itself at its end, or use it in a `with` block."""

    def __iter__(self) -> Iterator[Chunk]:
        try:
            for piece in self._response.iter_bytes():
                yield from self._reader.read(piece)
            yield from self._reader.read(None)
            self._settle()
        except TRANSPORT_ERRORS as error:
            # What breaks after the last chunk takes nothing away from the answer.
            if not self._reader.done:
                raise broken(error, moved_by(self._response)) from error
            self._settle()
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """A streamed answer of `AsyncChat`; closes itself at its end, or use it in an `async with` block."""

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            async for piece in self._response.aiter_bytes():
                for chunk in self._reader.read(piece):
                    yield chunk
            for chunk in self._reader.read(None):
                yield chunk
            await anyio.to_thread.run_sync(self._settle)
        except TRANSPORT_ERRORS as error:
            if not self._reader.done:
                raise broken(error, moved_by(self._response)) from error
            await anyio.to_thread.run_sync(self._settle)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop reading."""
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def broken(error: Exception, moved: Moved) -> UnavailableError:
    """What a caller is told when the connection fails; `moved` is what is known about the money."""
    words = f"the connection to the seller failed: {type(error).__name__}"
    if moved is not Moved.NO:
        words += "; make the same call again, it presents the same payment if there was one"
    return UnavailableError("seller_unreachable", words, moved=moved)
