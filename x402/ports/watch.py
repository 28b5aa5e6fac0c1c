"""One poll for everybody who waits for something to appear on a chain: receipts and signature statuses (design D7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from x402.errors import UnavailableError
from x402.ports.rpc import RpcError

T = TypeVar("T")
_SHORTEST_SECONDS = 0.005


class Watch(Generic[T]):
    """One poll for everybody who waits: all pending keys are asked for in one request, first at once, then with a
    delay that grows from 5 ms to `longest_seconds`."""

    def __init__(
        self,
        fetch: Callable[[list[str]], Awaitable[Sequence[T | UnavailableError | None]]],
        *,
        longest_seconds: float = 0.5,
    ) -> None:
        self._fetch = fetch
        self._longest = longest_seconds
        self._waiting: dict[str, list[asyncio.Future[T]]] = {}
        self._answered: set[str] = set()
        self._delay = 0.0
        self._newcomer = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None

    async def wait(self, key: str, timeout: float) -> T | None:
        """What `fetch` finds for `key`, or None when it finds nothing within `timeout` seconds; 0 asks once.

        Raises `UnavailableError("rpc_unavailable")` when no fetch succeeded in that time: a node that can't be asked
        has not said that there is nothing (fault E01).
        """
        if timeout <= 0:
            (found,) = await self._fetch([key])
            if isinstance(found, UnavailableError):
                raise found
            return found
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        self._delay = 0.0
        self._newcomer.set()
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())
        try:
            # Not `wait_for`, which before Python 3.12 loses a cancellation that comes together with the answer.
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            if key in self._answered:
                return None
            raise UnavailableError("rpc_unavailable", "the node answered no query in time") from None
        finally:
            waiters = self._waiting.get(key, [])
            if future in waiters:
                waiters.remove(future)
            if not waiters:
                self._waiting.pop(key, None)
                self._answered.discard(key)

    async def _run(self) -> None:
        while self._waiting:
            self._newcomer.clear()
            keys = list(self._waiting)
            try:
                found = await self._fetch(keys)
            except (UnavailableError, RpcError):
                # Nobody can be told anything by a node that does not answer: the waiters' own deadlines decide.
                found = []
            for key, value in zip(keys, found, strict=False):
                if isinstance(value, UnavailableError):
                    continue
                if value is None:
                    self._answered.update({key} & self._waiting.keys())
                else:
                    for future in self._waiting.pop(key, []):
                        if not future.done():
                            future.set_result(value)
            self._delay = min(max(self._delay * 1.3, _SHORTEST_SECONDS), self._longest)
            await asyncio.sleep(_SHORTEST_SECONDS)
            if self._delay > _SHORTEST_SECONDS:
                # Who comes now is asked for now, however patient the others have become.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._delay - _SHORTEST_SECONDS):
                        await self._newcomer.wait()
