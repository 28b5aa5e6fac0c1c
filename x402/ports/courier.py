"""One POST to an address that somebody else has chosen, and to no machine that it should not reach (fault E05).

The name is resolved here, every address that it has is looked at, and the connection goes to one of those very
addresses, so that a name which resolves differently a moment later leads nowhere else. Redirects are not followed, no
proxy of the environment is used, and nothing of the answer is read but its status.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import httpcore

from x402.errors import MalformedError

CODE = "invalid_webhook_url"
TIMEOUT_SECONDS = 10.0
_PORTS = (80, 443)
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError, TimeoutError)
_VISIBLE = re.compile(r"[!-~]{1,2000}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]{2,45}\]?", re.ASCII)
_NAT64 = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
_UNREACHED = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv4Network("192.88.99.0/24"))
"""Where addresses of others are translated to, or once were, whoever answers there today."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Undelivered(Exception):
    """Nothing arrived, as far as anybody can know. The words name no address and no part of the URL."""


class Courier(Protocol):
    """Somebody who takes a message to a URL."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, inside: bool = False) -> int:
        """The status of the answer. Raises `Undelivered`.

        `inside` is for an address that the operator himself has written down: any port, any network, plain HTTP.
        """
        ...


def check_url(url: str, *, inside: bool = False) -> SplitResult:
    """A URL's parts. Raises `MalformedError("invalid_webhook_url")` that says why nobody would go there."""
    if _VISIBLE.fullmatch(url) is None:
        raise MalformedError(CODE, "a webhook's URL has 1 to 2000 visible characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise MalformedError(CODE, "this is no URL") from None
    if parts.scheme not in (("https", "http") if inside else ("https",)):
        raise MalformedError(CODE, "a webhook's URL begins with https://")
    if "@" in parts.netloc or parts.fragment or "\\" in url:
        raise MalformedError(CODE, "a webhook's URL has neither a user nor a fragment nor a backslash")
    if not parts.hostname or _HOST.fullmatch(parts.hostname) is None:
        raise MalformedError(CODE, "the host is a name in ASCII, or an address")
    if port is not None and port not in _PORTS and not inside:
        raise MalformedError(CODE, "a webhook is reached at port 443")
    return parts


def is_public(text: str) -> bool:
    """Whether an address belongs to the internet at large, whatever it is wrapped in."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(one.is_global and not one.is_multicast and not _is_in(one, _UNREACHED) for one in _unwrapped(address))


def _unwrapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The address itself, or the IPv4 ones that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address, address.sixtofour)
    if address.teredo is not None:
        return (address, *address.teredo)
    if _is_in(address, _NAT64):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)


def _is_in(address: object, networks: Iterable[object]) -> bool:
    return any(address in network for network in networks)  # type: ignore[operator]


async def _system_resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class HttpCourier:
    """`Courier` over HTTP. `resolve` gives a name's addresses, `context` what TLS trusts."""

    def __init__(
        self,
        *,
        resolve: Resolve = _system_resolve,
        backend: httpcore.AsyncNetworkBackend | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        network = backend or httpcore.AnyIOBackend()
        # Two pools, so that a connection made for one kind of address never serves the other.
        self._pools = {
            inside: httpcore.AsyncConnectionPool(
                network_backend=_Pinned(network, resolve, inside=inside), ssl_context=context, max_connections=32
            )
            for inside in (False, True)
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, inside: bool = False) -> int:
        parts = check_url(url, inside=inside)
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
        own = {"Host": parts.netloc, "Content-Length": str(len(body)), "Connection": "close"}
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._pools[inside].stream(
                    "POST", url, headers=[*own.items(), *headers.items()], content=body, extensions={"timeout": timeout}
                ) as response,
            ):
                return int(response.status)
        except _Forbidden:
            raise Undelivered("the host's address is not a public one") from None
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            OSError,
            TimeoutError,
        ) as error:
            raise Undelivered(type(error).__name__) from None

    async def aclose(self) -> None:
        """Close what is open."""
        for pool in self._pools.values():
            await pool.aclose()


class _Forbidden(Exception):
    """An address that is nobody's business outside."""


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to an address that was looked at, never to a name."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, resolve: Resolve, *, inside: bool) -> None:
        self._network = network
        self._resolve = resolve
        self._inside = inside

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise httpcore.ConnectError("no address")
        # One address inside is enough to distrust the name: which of them is taken would be chance.
        if not self._inside and not all(is_public(address) for address in addresses):
            raise _Forbidden
        return await self._network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise _Forbidden

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
