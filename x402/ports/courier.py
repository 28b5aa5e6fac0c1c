"""One POST to an address that somebody else has chosen, and to no machine that it should not reach (fault E05).

The connection goes to a public address that was looked at (`public_web`). Redirects are not followed, no proxy of the
environment is used, and nothing of the answer is read but its status.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Protocol

import httpx

from x402.errors import MalformedError
from x402.ports.public_web import NotPublic, PublicWeb, Resolve, check_url, resolve

TIMEOUT_SECONDS = 10.0
_VISIBLE = re.compile(r"[!-\[\]-~]{1,2000}", re.ASCII)
"""No backslash: it is a slash to some readers of URLs and not to others."""
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}", re.ASCII)


class Undelivered(Exception):
    """Nothing arrived, as far as anybody can know. The words name no address and no part of the URL."""


class Courier(Protocol):
    """Somebody who takes a message to a URL."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, inside: bool = False) -> int:
        """The status of the answer. Raises `Undelivered`, or `MalformedError` for a URL to which nobody goes.

        `inside` is for an address that the operator himself has written down: any port, any network, plain HTTP.
        """
        ...


def check_hook(url: str, *, inside: bool = False) -> httpx.URL:
    """A webhook's URL. Raises `MalformedError("invalid_url")` that says why nobody would go there."""
    if _VISIBLE.fullmatch(url) is None:
        raise MalformedError("invalid_url", "the URL has 1 to 2000 visible ASCII characters, and no backslash")
    checked = check_url(url, ports=() if inside else (443,), secure=not inside, query=True)
    if _HOST.fullmatch(checked.host) is None:
        raise MalformedError("invalid_url", "the URL's host is a name in ASCII, or an address")
    return checked


class HttpCourier:
    """`Courier` over HTTP. `resolve` gives a name's addresses, `transport` connects to them."""

    def __init__(self, *, resolve: Resolve = resolve, transport: httpx.AsyncBaseTransport | None = None) -> None:
        timeout = httpx.Timeout(TIMEOUT_SECONDS)
        web = PublicWeb(transport, resolve=resolve)
        self._outside = httpx.AsyncClient(transport=web, timeout=timeout, trust_env=False, follow_redirects=False)
        self._inside = httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, inside: bool = False) -> int:
        checked = check_hook(url, inside=inside)
        client = self._inside if inside else self._outside
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                client.stream("POST", checked, headers=dict(headers), content=body) as response,
            ):
                return response.status_code
        except NotPublic:
            raise Undelivered("the host's address is not a public one") from None
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            raise Undelivered(type(error).__name__) from None

    async def aclose(self) -> None:
        """Close what is open."""
        await self._outside.aclose()
        await self._inside.aclose()
