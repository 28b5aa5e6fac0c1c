"""The line from a seller to a facilitator behind a URL: HTTP over connections that stay open.

It tells apart what decides whether a payer is charged twice: a connection that was never made has carried nothing,
and after it was made nobody can say what the other side has taken (faults A03, A09). Redirects are never followed: a
payment is a bearer instrument (fault B05).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import httpx

from x402.ports.http_connection import NoAnswer, NotReached
from x402.ports.http_line import HttpLine

__all__ = ["ClientLine", "Line", "NoAnswer", "NotReached", "PooledLine"]

_CONNECTIONS = 256
_IDLE_SECONDS = 4.0
"""Many servers hang up on a connection that has rested for five seconds, and a settlement is not asked for twice."""


class Line(Protocol):
    """Carries one request, with its body if it has one, and brings the status and the body of the answer."""

    async def carry(
        self, url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        """Raises `NotReached` or `NoAnswer`. A body longer than `limit` bytes is cut a little above it."""
        ...

    async def aclose(self) -> None: ...


class PooledLine(HttpLine):
    """Connections of its own, opened with the first request."""

    def __init__(self) -> None:
        # The authorities that come with the package, wherever it runs.
        super().__init__(
            connections=_CONNECTIONS,
            idle_seconds=_IDLE_SECONDS,
            tls=lambda: httpx.create_ssl_context(trust_env=False),
        )


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
