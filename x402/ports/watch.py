"""One poll for everybody who waits for something to appear on a chain: receipts and signature statuses (design D7)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from x402.errors import UnavailableError
from x402.ports.rpc import RpcError

T = TypeVar("T")
_SHORTEST_SECONDS = 0.005


class Watch(Generic[T]):
    """One poll for everybody who waits: all pending keys are asked for in one request, first at once, then with a
    delay that grows from 5 ms to `longest_seconds`. `expected` says in how many seconds something may appear, if that
    is known: then the delay ends, and grows anew."""

    def __init__(
        self,
        fetch: Callable[[list[str]], Awaitable[Sequence[T | UnavailableError | None]]],
        *,
        longest_seconds: float = 0.5,
        expected: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._fetch = fetch
        self._longest = longest_seconds
        self._expected = expected
        self._asking: dict[str, list[asyncio.Future[T | None]]] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, list[asyncio.Future[T]]] = {}
        self._answered: set[str] = set()
        self._delay = 0.0
        self._newcomer = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None

    async def wait(self, key: str, timeout: float) -> T | None:
        """What `fetch` finds for `key`, or None when it finds nothing within `timeout` seconds; 0 asks once, together
        with all who do so in the same turn of the loop.

        Raises `UnavailableError("rpc_unavailable")` when no fetch succeeded in that time: a node that can't be asked
        has not said that there is nothing (fault E01).
        """
        if timeout <= 0:
            return await self._once(key)
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

    async def _once(self, key: str) -> T | None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | None] = loop.create_future()
        if not self._asking:
            # Whoever asks later joins no question that is already on its way: its answer may be older than what it
            # wants to know.
            loop.call_soon(self._depart)
        self._asking.setdefault(key, []).append(future)
        return await future

    def _depart(self) -> None:
        asking, self._asking = self._asking, {}
        task = asyncio.create_task(self._ask(asking))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(self, asking: dict[str, list[asyncio.Future[T | None]]]) -> None:
        found: Sequence[T | UnavailableError | RpcError | None]
        try:
            try:
                found = await self._fetch(list(asking))
            except (UnavailableError, RpcError) as error:
                found = [error] * len(asking)
            for futures, value in zip(asking.values(), found, strict=True):
                for future in futures:
                    if future.done():
                        continue
                    if isinstance(value, UnavailableError):
                        future.set_exception(UnavailableError(value.code, value.message))
                    elif isinstance(value, RpcError):
                        future.set_exception(value)
                    else:
                        future.set_result(value)
        finally:
            # Whatever ends this question, nobody may wait for its answer for ever.
            for future in itertools.chain(*asking.values()):
                if not future.done():
                    future.set_exception(UnavailableError("rpc_unavailable", "the question to the node was abandoned"))

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
            expected, pause = self._expected(), self._delay
            if expected is not None and expected < pause:
                pause, self._delay = max(expected, _SHORTEST_SECONDS), 0.0
            await asyncio.sleep(_SHORTEST_SECONDS)
            if pause > _SHORTEST_SECONDS:
                # Who comes now is asked for now, however patient the others have become.
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause - _SHORTEST_SECONDS):
                        await self._newcomer.wait()
