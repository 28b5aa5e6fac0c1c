"""Whose address asks: the connection's, or the one that trusted proxies tell of.

`X-Forwarded-For` is what clients like to write themselves. It counts only on a connection from a proxy that the
operator has named, and only as far back as such proxies have written it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from x402.errors import MisconfiguredError
from x402.gateway import asgi
from x402.wire.headers import values

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORWARDED = "X-Forwarded-For"
_HOUSEHOLD_BITS = 64


def networks_of(stated: str, name: str) -> tuple[Network, ...]:
    """IP networks in CIDR notation, separated by commas. Raises `MisconfiguredError` that names the setting."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in stated.split(",") if part.strip())
    except ValueError as error:
        raise MisconfiguredError("invalid_settings", f"{name}: {error}") from None


def read_address(text: str) -> Address | None:
    """An IP address, an IPv6 one that wraps an IPv4 one as what it wraps; None for anything else."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_in(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address belongs to one of the networks."""
    return address is not None and any(address in network for network in networks)


def client_of(scope: asgi.Scope, proxies: Sequence[Network]) -> str:
    """The address that asks; empty when the connection has none."""
    connection = str((scope.get("client") or ("",))[0])
    address = read_address(connection)
    if not is_in(address, proxies):
        return connection if address is None else str(address)
    hops = [hop for value in values(asgi.headers_of(scope), _FORWARDED) for hop in value.split(",")]
    # The last entry was written by the proxy that is connected to us, about who was connected to it, and so on.
    for hop in reversed(hops):
        told = read_address(hop)
        if told is None:
            break
        address = told
        if not is_in(told, proxies):
            break
    return str(address)


def household(peer: str) -> str:
    """An IPv4 address, or the /64 that one subscriber gets of IPv6: what is counted as one."""
    address = read_address(peer)
    if address is None:
        return peer[:64] or "an unknown address"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _HOUSEHOLD_BITS), strict=False))
    return str(address)
