"""The line to one node: HTTP POST over connections that stay open, and silence as `UnavailableError`.

The library underneath was chosen by measurement (ADR 12). The URL may hold an API key, so it appears in no message and
in no redirect's wake (fault E03).
"""

from __future__ import annotations

import asyncio

import aiohttp

from x402.errors import UnavailableError

_CONNECTIONS = 32
_IDLE_SECONDS = 30
_LARGEST_REPLY = 32 * 1024 * 1024
_HEADERS = {"content-type": "application/json"}


class NodeLine:
    """Connections to one URL, opened with the first request, in the loop that makes it."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, content: bytes) -> tuple[int, bytes]:
        """The status and body of an answer. Raises `UnavailableError("rpc_unavailable")` for none, and for one of more
        than 32 MiB.

        A node may hang up on a connection that has rested, at the very moment at which it is used again. So what was
        lost before a word of the answer is asked once more: no question is asked in vain twice, and bytes that are sent
        twice land once.
        """
        try:
            session = self._open()
            try:
                return await self._ask(session, content)
            except aiohttp.ServerDisconnectedError:
                if session.closed:
                    raise
                return await self._ask(session, content)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError("rpc_unavailable", f"the node did not answer ({type(error).__name__})") from None

    async def _ask(self, session: aiohttp.ClientSession, content: bytes) -> tuple[int, bytes]:
        async with session.post(self._url, data=content, headers=_HEADERS, allow_redirects=False) as response:
            return response.status, await _read(response)

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=_CONNECTIONS, keepalive_timeout=_IDLE_SECONDS, loop=asyncio.get_running_loop()
            )
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_REPLY:
            raise UnavailableError("rpc_unavailable", "the node's answer is too large")
    return bytes(body)
