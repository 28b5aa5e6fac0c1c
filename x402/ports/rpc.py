"""JSON-RPC over one pooled, kept-alive HTTP client; calls made together travel together (design D7).

An answer with an error is an answer (`RpcError`); no answer is `UnavailableError`. The URL may hold an API key, so it
appears in no message (fault E03).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import httpx

from x402.errors import UnavailableError
from x402.ports.node_url import hide, scrub, secrets_of

T = TypeVar("T")
_LARGEST_BATCH = 100
_SHORTEST_SECONDS = 0.005
_LARGEST_REPLY = 32 * 1024 * 1024


class RpcError(Exception):
    """The node answered with an error object."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message[:300]}")
        self.code = code
        self.message = message
        self.data = data


class JsonRpc:
    """A JSON-RPC endpoint. `requests` counts HTTP requests, `calls` counts JSON-RPC calls."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0, client: httpx.AsyncClient | None = None) -> None:
        self._url = url
        self._secrets = secrets_of(url)
        hide(self._secrets)
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
        self._client = client or httpx.AsyncClient(timeout=timeout_seconds, limits=limits, trust_env=False)
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[Any]]] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._next_id = 0
        self.requests = 0
        self.calls = 0

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one call. Calls made in the same turn of the loop share one HTTP request.

        Raises `RpcError` for an error answer and `UnavailableError("rpc_unavailable")` for none.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._next_id += 1
        body = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": list(params)}
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._depart)
        self._waiting.append((body, future))
        return await future

    def _depart(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _LARGEST_BATCH):
            flight = asyncio.create_task(self._fly(waiting[start : start + _LARGEST_BATCH]))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _fly(self, batch: Sequence[tuple[dict[str, Any], asyncio.Future[Any]]]) -> None:
        self.requests += 1
        self.calls += len(batch)
        try:
            replies = await self._post([body for body, _ in batch])
        except UnavailableError as error:
            for _, future in batch:
                _fail(future, error)
            return
        except BaseException:
            # Whatever ends this flight, nobody may wait for it for ever.
            for _, future in batch:
                _fail(future, UnavailableError("rpc_unavailable", "the request to the node was abandoned"))
            raise
        for body, future in batch:
            _resolve(future, replies.get(body["id"]), self._secrets)

    async def _post(self, bodies: list[dict[str, Any]]) -> dict[int, Any]:
        content = json.dumps(bodies[0] if len(bodies) == 1 else bodies, separators=(",", ":"))
        try:
            response = await self._client.post(self._url, content=content, headers={"content-type": "application/json"})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise UnavailableError("rpc_unavailable", f"the node did not answer ({type(error).__name__})") from None
        if len(response.content) > _LARGEST_REPLY:
            raise UnavailableError("rpc_unavailable", "the node's answer is too large")
        try:
            value = json.loads(response.content)
        except (ValueError, RecursionError):
            raise UnavailableError(
                "rpc_unavailable", f"the node answered HTTP {response.status_code} without JSON"
            ) from None
        replies = value if isinstance(value, list) else [value]
        # Our ids are numbers; an id of any other kind, a list above all, is nobody's.
        found = {reply["id"]: reply for reply in replies if isinstance(reply, dict) and type(reply.get("id")) is int}
        if len(bodies) == 1 and len(replies) == 1 and isinstance(replies[0], dict) and replies[0].get("id") is None:
            # A lone error may come without the request's id; it can only be ours. Another's id is another's answer.
            found[bodies[0]["id"]] = replies[0]
        return found


def _fail(future: asyncio.Future[Any], error: UnavailableError) -> None:
    if not future.done():
        future.set_exception(UnavailableError(error.code, error.message))


def _resolve(future: asyncio.Future[Any], reply: Any, secrets: tuple[str, ...]) -> None:
    if future.done():
        return
    if not isinstance(reply, dict) or ("result" not in reply and "error" not in reply):
        _fail(future, UnavailableError("rpc_unavailable", "the node left a call unanswered"))
        return
    error = reply.get("error")
    if error is None:
        future.set_result(reply.get("result"))
        return
    members = error if isinstance(error, dict) else {"message": str(error)}
    code = members.get("code")
    future.set_exception(
        RpcError(
            code if isinstance(code, int) else 0, scrub(str(members.get("message", "")), secrets), members.get("data")
        )
    )


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
            return await asyncio.wait_for(future, timeout)
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
                    await asyncio.wait_for(self._newcomer.wait(), self._delay - _SHORTEST_SECONDS)
