"""Requests to addresses that somebody else has named: only to the public Internet (fault E05).

A host is resolved here, every address that it has must be public, and the connection goes to the very address that was
checked, so that a name cannot mean another one a moment later. Redirects are the caller's to refuse.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from x402.errors import MalformedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host, as texts."""

_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.?", re.ASCII)
_NUMBER = re.compile(r"(.*\.)?(0[xX][0-9a-fA-F]*|[0-9]+)\.?", re.ASCII)
_TRANSLATED = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
"""IPv6 addresses whose last 32 bits are an IPv4 address: translated ones, and the deprecated `::1.2.3.4`."""
_NOBODYS = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv4Network("192.88.99.0/24"))
"""Where addresses of a local network are translated to, or once were, whoever answers there today."""


class NotPublic(httpx.ConnectError):
    """The host is, or resolves to, an address that is not on the public Internet; nothing was connected."""


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public Internet, also when it is wrapped in an IPv6 address."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(
        one.is_global and not one.is_multicast and not any(one in network for network in _NOBODYS)
        for one in _meant(address)
    )


def _meant(address: Address) -> Sequence[Address]:
    """The address itself, or those that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        # It wraps two addresses, and nothing of ours is reached through it.
        return (ipaddress.IPv4Address(0),)
    if any(address in network for network in _TRANSLATED):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows for a host. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def check_url(text: str, *, ports: Sequence[int] = (80, 443), secure: bool = True, query: bool = False) -> httpx.URL:
    """A URL that may be visited, as far as its text says: https, a host, an ordinary port, no password.

    Raises `MalformedError("invalid_url")`. Whether the host is public is only known when it is connected.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise MalformedError("invalid_url", "the URL cannot be read") from error
    schemes = ("https",) if secure else ("https", "http")
    if url.scheme not in schemes or not url.host:
        raise MalformedError("invalid_url", f"the URL begins with {' or '.join(schemes)} and names a host")
    if url.userinfo or url.fragment or (url.query and not query):
        raise MalformedError("invalid_url", "the URL has no user, query or fragment")
    if ports and (url.port or (443 if url.scheme == "https" else 80)) not in ports:
        raise MalformedError("invalid_url", f"the URL's port is one of {', '.join(map(str, ports))}")
    if secure and _is_address(url.host) and not is_public(url.host):
        raise MalformedError("invalid_url", "the URL's host is not on the public Internet")
    # 127.1, 0x7f.1 and 0177.0.0.1 are addresses to some resolvers and names to others.
    if not _is_address(url.host) and (_NAME.fullmatch(url.host) is None or _NUMBER.fullmatch(url.host) is not None):
        raise MalformedError("invalid_url", "the URL's host is a name or a whole IP address")
    return url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class PublicWeb(httpx.AsyncBaseTransport):
    """A transport that connects to public addresses alone. `allow` names hosts that the operator trusts anyway."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        resolve: Resolve = resolve,
        allow: frozenset[str] = frozenset(),
    ) -> None:
        # No connection is used twice: a pool knows it by its address, and two hosts may share one.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = inner or httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        self._resolve = resolve
        self._allow = allow

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Connect by number. Raises `NotPublic` or `httpx.ConnectError`."""
        host = request.url.host
        if host in self._allow:
            return await self._inner.handle_async_request(request)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError("the host cannot be found", request=request) from error
        if not addresses or not all(is_public(address) for address in addresses):
            raise NotPublic("the host is not on the public Internet", request=request)
        # The Host header was made from the name already; only the connection goes by number.
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=addresses[0])
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
