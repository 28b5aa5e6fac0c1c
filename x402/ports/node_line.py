"""The line to one node: HTTP POST over connections that stay open, and silence as `UnavailableError`.

The URL may hold an API key, so it appears in no message and in no redirect's wake (fault E03).
"""

from __future__ import annotations

from x402.errors import UnavailableError
from x402.ports.http_connection import HungUp, NoAnswer, NotReached
from x402.ports.http_line import HttpLine

_CONNECTIONS = 32
_IDLE_SECONDS = 30
_LARGEST_REPLY = 32 * 1024 * 1024
_HEADERS = {"content-type": "application/json"}


class NodeLine:
    """Connections to one URL, opened with the first request, in the loop that makes it."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        self._url = url
        self._timeout = timeout_seconds
        self._line = HttpLine(connections=_CONNECTIONS, idle_seconds=_IDLE_SECONDS)

    async def post(self, content: bytes) -> tuple[int, bytes]:
        """The status and body of an answer. Raises `UnavailableError("rpc_unavailable")` for none, and for one of more
        than 32 MiB.

        A node may hang up on a connection that has rested, at the very moment at which it is used again. So what was
        lost before a word of the answer is asked once more: no question is asked in vain twice, and bytes that are sent
        twice land once.
        """
        try:
            try:
                status, body = await self._ask(content)
            except HungUp:
                status, body = await self._ask(content)
        except (NotReached, NoAnswer) as error:
            raise UnavailableError("rpc_unavailable", f"the node did not answer ({error})") from None
        if len(body) > _LARGEST_REPLY:
            raise UnavailableError("rpc_unavailable", "the node's answer is too large")
        return status, body

    async def _ask(self, content: bytes) -> tuple[int, bytes]:
        return await self._line.carry(self._url, content, _HEADERS, timeout=self._timeout, limit=_LARGEST_REPLY)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._line.aclose()
