"""A JSON-RPC node that says what a test tells it to say, in place of the line to one."""

from __future__ import annotations

import json
from typing import Any

from x402.errors import UnavailableError
from x402.ports.rpc import JsonRpc

URL = "https://node.example/v3/canary-key-7f3a"
SECRET = "canary-key"


class Failure(Exception):
    """An error object instead of a result."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


class Node:
    """`says` maps a method to its result, to an exception, or to a function of its parameters.

    A `Failure` becomes an error object, an `OSError` breaks the connection. `heard` holds every call.
    """

    def __init__(self, **says: Any) -> None:
        self.says: dict[str, Any] = says
        self.heard: list[tuple[str, list[Any]]] = []
        self.bodies: list[Any] = []
        self.raw: bytes | None = None
        self.status = 200

    @property
    def rpc(self) -> JsonRpc:
        """A client of this node."""
        return JsonRpc(URL, post=self._handle)

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(heard == method for heard, _ in self.heard)

    async def _handle(self, content: bytes) -> tuple[int, bytes]:
        body = json.loads(content)
        self.bodies.append(body)
        calls = body if isinstance(body, list) else [body]
        try:
            replies = [self._reply(call) for call in calls]
        except OSError as error:
            raise UnavailableError("rpc_unavailable", f"the node did not answer ({type(error).__name__})") from None
        if self.raw is not None:
            return self.status, self.raw
        return self.status, json.dumps(replies if isinstance(body, list) else replies[0]).encode()

    def _reply(self, call: dict[str, Any]) -> dict[str, Any]:
        self.heard.append((call["method"], call["params"]))
        said = self.says.get(call["method"])
        envelope = {"jsonrpc": "2.0", "id": call["id"]}
        try:
            if isinstance(said, Exception):
                raise said
            if callable(said):
                said = said(*call["params"])
        except Failure as failure:
            return envelope | {"error": failure.error}
        return envelope | {"result": said}
