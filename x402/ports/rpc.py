"""JSON-RPC over one kept-alive line to a node; calls made together travel together (design D7).

An answer with an error is an answer (`RpcError`); no answer is `UnavailableError`. The URL may hold an API key, so it
appears in no message (fault E03).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from x402.errors import UnavailableError
from x402.ports.node_line import NodeLine
from x402.ports.node_url import scrub, secrets_of
from x402.wire.nesting import read_json

Post = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Carries one HTTP body to a node and brings status and body back; raises `UnavailableError` when none comes."""

_LARGEST_BATCH = 100
_WINDOW_SECONDS = 0.001
"""How long a call waits at most for others to travel with, and only while the node is busy with earlier ones."""

_Batch = list[tuple[dict[str, Any], "asyncio.Future[Any]"]]
_ABANDONED = UnavailableError("rpc_unavailable", "the request to the node was abandoned")


class RpcError(Exception):
    """The node answered with an error object."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message[:300]}")
        self.code = code
        self.message = message
        self.data = data


class JsonRpc:
    """A JSON-RPC endpoint. `requests` counts HTTP requests, `calls` counts JSON-RPC calls; `post` carries bodies in
    place of a line of our own."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0, post: Post | None = None) -> None:
        self._secrets = secrets_of(url)
        self._line = NodeLine(url, timeout_seconds=timeout_seconds)
        self._carry = post or self._line.post
        self._waiting: _Batch = []
        self._shared: dict[str, asyncio.Future[Any]] = {}
        self._departure: asyncio.Handle | None = None
        self._flights: dict[asyncio.Task[None], _Batch] = {}
        self._next_id = 0
        self.requests = 0
        self.calls = 0

    async def aclose(self) -> None:
        """Give up what is asked and not answered, and close the connections."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            _fail(future, _ABANDONED)
        for flight in self._flights:
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._line.aclose()

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one call, which shares an HTTP request with others made at about the same time: in the same
        turn of the loop when the node has nothing else to do, else until it has answered, or a millisecond is over.

        Raises `RpcError` for an error answer and `UnavailableError("rpc_unavailable")` for none.
        """
        return await self._ask(method, params)

    async def share(self, method: str, *params: Any) -> Any:
        """As `call`, for a question that many ask alike: whoever asks it before the request has left gets the same
        answer. Nobody gets one to a question that had left before he asked: it may be older than what he knows."""
        key = json.dumps([method, params])
        asked = self._shared.get(key)
        if asked is None:
            asked = self._shared[key] = self._ask(method, params)
        # Whoever gives up leaves the others their answer.
        return await asyncio.shield(asked)

    def _ask(self, method: str, params: Sequence[Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._next_id += 1
        body = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": list(params)}
        self._waiting.append((body, future))
        if self._departure is None:
            self._departure = loop.call_later(_WINDOW_SECONDS, self._depart) if self._flights else self._at_once(loop)
        elif len(self._waiting) == _LARGEST_BATCH:
            self._departure.cancel()
            self._departure = self._at_once(loop)
        return future

    def _at_once(self, loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
        return loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departure = None
        waiting, self._waiting = self._waiting, []
        self._shared.clear()
        for start in range(0, len(waiting), _LARGEST_BATCH):
            batch = waiting[start : start + _LARGEST_BATCH]
            flight = asyncio.create_task(self._fly(batch))
            self._flights[flight] = batch
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        # Whatever ended this flight, nobody may wait for it for ever.
        for _, future in self._flights.pop(flight):
            _fail(future, _ABANDONED)
        if self._departure is not None:
            self._departure.cancel()
            self._departure = self._at_once(flight.get_loop())

    async def _fly(self, batch: _Batch) -> None:
        self.requests += 1
        self.calls += len(batch)
        try:
            replies = await self._post([body for body, _ in batch])
        except UnavailableError as error:
            for _, future in batch:
                _fail(future, error)
            return
        for body, future in batch:
            _resolve(future, replies.get(body["id"]), self._secrets)

    async def _post(self, bodies: list[dict[str, Any]]) -> dict[int, Any]:
        content = json.dumps(bodies[0] if len(bodies) == 1 else bodies, separators=(",", ":"))
        status, answer = await self._carry(content.encode())
        try:
            value = read_json(answer)
        except ValueError:
            raise UnavailableError("rpc_unavailable", f"the node answered HTTP {status} without JSON") from None
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
