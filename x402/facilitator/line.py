"""The line from a seller to a facilitator behind a URL: HTTP over connections that stay open.

It tells apart what decides whether a payer is charged twice: a connection that was never made has carried nothing,
and after it was made nobody can say what the other side has taken (faults A03, A09). Redirects are never followed: a
payment is a bearer instrument (fault B05).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import aiohttp
import httpx

_CONNECTIONS = 256
_CONNECT_SECONDS = 20.0
_IDLE_SECONDS = 4.0
"""Many servers hang up on a connection that has rested for five seconds, and a settlement is not asked for twice."""


class NotReached(Exception):
    """No connection was made, so nothing was handed over; the words name the cause."""


class NoAnswer(Exception):
    """It was reached, and nobody knows what it has taken; the words name the cause."""


class Line(Protocol):
    """Carries one request, with its body if it has one, and brings the status and the body of the answer."""

    async def carry(
        self, url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        """Raises `NotReached` or `NoAnswer`. A body longer than `limit` bytes is cut a little above it."""
        ...

    async def aclose(self) -> None: ...


class PooledLine:
    """Connections of its own, opened with the first request. The library was chosen by measurement (ADR 14)."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def carry(
        self, url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        patience = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT_SECONDS))
        method = "GET" if content is None else "POST"
        try:
            async with self._open().request(
                method, url, data=content, headers=headers, timeout=patience, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        break
                return response.status, bytes(body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NotReached(type(error).__name__) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NoAnswer(type(error).__name__) from None

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS,
                    keepalive_timeout=_IDLE_SECONDS,
                    # The authorities that come with the package, wherever it runs.
                    ssl=httpx.create_ssl_context(trust_env=False),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class ClientLine:
    """Over an `httpx.AsyncClient` that somebody else has made, with a transport or a proxy of his own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def carry(
        self, url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        method = "GET" if content is None else "POST"
        try:
            response = await self._client.request(method, url, content=content, headers=headers, timeout=timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotReached(type(error).__name__) from None
        except (httpx.HTTPError, OSError) as error:
            raise NoAnswer(type(error).__name__) from None
        return response.status_code, response.content

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
