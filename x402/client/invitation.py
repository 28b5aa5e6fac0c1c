"""The sign-in that a 402 offers instead of a payment: extension `sign-in-with-x` (protocol page §6.2).

A seller who lets in whoever has paid asks for a signature over its own words: host, address, nonce and time. It is
given to a host that one of our payments was answered by, so that nobody else learns who asks, and only for that host:
the signature of one origin's words for another would let that origin in under our name (fault B05).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from solders.signature import Signature

from x402 import networks
from x402.client.choose import is_secure
from x402.client.wallet import Wallet
from x402.errors import MalformedError
from x402.schemes.sign_in import evm_digest
from x402.wire.challenge import Challenge
from x402.wire.sign_in import Dialect, SignIn, seconds, signed

EXTENSION = "sign-in-with-x"
LIFETIME_MAX_SECONDS = 3600
"""A sign-in that would hold for longer is not signed: whoever sees it may send it again."""
SKEW_SECONDS = 60
_FIELDS = (
    "domain", "uri", "version", "nonce", "issuedAt", "expirationTime", "notBefore", "requestId", "statement",
    "resources",
)  # fmt: skip
_KINDS = {networks.EIP155: "eip191", networks.SOLANA: "ed25519"}
_PLAIN_SCHEMES = frozenset({"", "eip191", "siws"})

Account = tuple[str, str]
"""A network (CAIP-2), or its family, and an address on it."""


def sign_in(challenge: Challenge, url: str, wallet: Wallet, paid: Collection[Account], *, now: int) -> str | None:
    """The header `SIGN-IN-WITH-X` that answers a 402 from `url`, by an account of `paid`; None for a 402 that offers no
    sign-in, or one that is not for this host, for too long, or for no account of ours. `now` is in unix seconds."""
    offered = challenge.extensions.get(EXTENSION)
    info = offered.get("info") if isinstance(offered, Mapping) else None
    if not isinstance(offered, Mapping) or not isinstance(info, Mapping):
        return None
    chain_id = _chain(offered.get("supportedChains"), url, wallet, paid)
    if chain_id is None:
        return None
    stated: dict[str, Any] = {name: info[name] for name in _FIELDS if info.get(name) is not None}
    try:
        words = SignIn.model_validate(stated | {"address": wallet.address(chain_id), "chainId": chain_id})
        if not _is_for(words, url) or not _is_timely(words, now):
            return None
    except (MalformedError, ValueError):
        return None
    text = words.message(Dialect.X402)
    if chain_id.startswith(networks.EIP155 + ":"):
        signature = "0x" + wallet.sign_digest(evm_digest(text)).hex()
    else:
        signature = str(Signature(wallet.sign_message(text.encode())))
    return signed(words, signature, Dialect.X402).as_header()


def _chain(offered: Any, url: str, wallet: Wallet, paid: Collection[Account]) -> str | None:
    """The first chain of the seller's list on which the wallet is an account that has paid it. An EVM address is one
    account on every EVM chain, as sellers remember payers."""
    parts = urlsplit(url)
    secure = is_secure(parts.scheme.lower(), parts.hostname or "")
    known = {_account(network.partition(":")[0], address) for network, address in paid}
    for entry in offered if isinstance(offered, list) else ():
        chain_id = entry.get("chainId") if isinstance(entry, Mapping) else None
        family = chain_id.partition(":")[0] if isinstance(chain_id, str) else ""
        if not isinstance(chain_id, str) or entry.get("type") != _KINDS.get(family, ""):
            continue
        if str(entry.get("signatureScheme") or "") not in _PLAIN_SCHEMES:
            continue
        chain = networks.find(chain_id)
        if not secure and (chain is None or not chain.testnet):
            # Somebody on the way could take the header, and with it what real money has bought (fault B04).
            continue
        address = wallet.address(chain_id)
        if address and _account(family, address) in known:
            return chain_id
    return None


def _account(family: str, address: str) -> Account:
    return family, address.lower() if family == networks.EIP155 else address


def _is_for(words: SignIn, url: str) -> bool:
    """Whether the seller's words name the very origin that was asked."""
    asked, named = urlsplit(url), urlsplit(words.uri)
    host = asked.netloc.rpartition("@")[2].lower()
    same = (named.scheme.lower(), named.netloc.lower()) == (asked.scheme.lower(), host)
    return same and words.domain.lower() == host


def _is_timely(words: SignIn, now: int) -> bool:
    if words.nonce is None or words.issued_at is None or abs(seconds(words.issued_at) - now) > LIFETIME_MAX_SECONDS:
        return False
    if words.expiration_time is None:
        return True
    return now < seconds(words.expiration_time) <= now + LIFETIME_MAX_SECONDS + SKEW_SECONDS
