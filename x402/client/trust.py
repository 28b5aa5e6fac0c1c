"""Whom a host is paid at: remembered from its first paid answer on, so that a swapped payee is noticed (fault B04)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from x402 import networks
from x402.errors import MalformedError
from x402.lifecycle import Subject
from x402.wire.challenge import Challenge, Requirement

_OFFERS_MAX = 8
_TEXT_MAX = 64
_USUAL_PORTS = (None, 80, 443)
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]+)?", re.ASCII)
_IPV6 = re.compile(r"[0-9a-f]*(:[0-9a-f.]*){2,}", re.ASCII)
"""As `host_of` writes it: without brackets, and with a port behind it if it has one."""


@dataclass(frozen=True, slots=True)
class Payee:
    """An address at which a host is paid. An empty `network` stands for every network, an empty `asset` for every
    asset: that is how a person trusts an address."""

    address: str
    network: str = ""
    asset: str = ""

    def fits(self, offer: Requirement) -> bool:
        """Whether an offer pays this address, on its network, in its asset."""
        network = networks.find(offer.network)
        if network is None or self.network not in ("", network.id):
            return False
        fold = str.lower if network.family == networks.EIP155 else str
        return fold(self.address) == fold(offer.pay_to) and (not self.asset or fold(self.asset) == fold(offer.asset))


def host_of(url: str) -> str:
    """The host that a URL names, in one spelling: small letters, and its port unless that is 80 or 443."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower().removesuffix(".")
    return host if parts.port in _USUAL_PORTS else f"{host}:{parts.port}"


def named_host(text: str) -> str:
    """A host that a person names, however spelt and also as a URL, as `host_of` writes it: one that stays in another
    spelling is never met (fault B04).

    Raises `MalformedError("invalid_host")` for anything else.
    """
    if _IPV6.fullmatch(text.lower()):
        return text.lower()
    try:
        host = host_of(text if "://" in text else f"//{text}")
    except ValueError:
        host = ""
    if not _NAME.fullmatch(host) and not _IPV6.fullmatch(host):
        raise MalformedError(
            "invalid_host", f"{text[:80]!r} is no host: write it like api.example.com, other letters than ASCII as xn--"
        )
    return host


def listed(challenge: Challenge) -> tuple[Payee, ...]:
    """Whom the offers in known assets would pay. All of them become known with the first answer, so that a seller may
    be paid on its other networks as well."""
    found: dict[Payee, None] = {}
    for offer in challenge.accepts:
        network = networks.find(offer.network)
        asset = network.asset(offer.asset) if network is not None else None
        if network is not None and asset is not None and len(offer.pay_to) <= _TEXT_MAX:
            found[Payee(offer.pay_to, network.id, asset.address)] = None
    return tuple(found)[:_OFFERS_MAX]


def remembered(subject: Subject) -> tuple[Payee, ...]:
    """Whom a payment paid, and whom else its challenge would have had it pay."""
    network = networks.find(subject.network)
    paid = Payee(subject.payee, network.id if network is not None else subject.network, subject.asset)
    return (paid, *(Payee(*members) for members in subject.record.get("payees", ())))
