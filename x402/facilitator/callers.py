"""Who may ask a facilitator for what: keys of merchants, each bound to the accounts that it is paid at (fault E06).

    [[callers]]
    name = "bakery"
    keys = ["5d41...64 hex digits: the SHA-256 of the key, never the key"]
    requests_per_minute = 600
    [callers.pay_to]
    base = ["0x..."]
    [callers.fees_per_day]
    base = "0.01"

A second digest in `keys` lets a merchant change its key without a pause. `fees_per_day` is in whole coins of the
network (ETH, SOL): what this facilitator pays in fees for the merchant within one UTC day.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from x402 import networks
from x402.errors import DeniedError, MalformedError, Mender, MisconfiguredError, UnidentifiedError
from x402.schemes.eip712 import parse_address
from x402.wire.challenge import Requirement

CODE = "invalid_callers"
KEY_PREFIX = "x402f_"
LARGEST_FEES = 10**24
"""More than any day's fees, in wei or lamports."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_BEARER = re.compile(r"[Bb]earer +([!-~]{1,256})", re.ASCII)
_SVM_ADDRESS = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}", re.ASCII)
_MEMBERS = {"name", "keys", "pay_to", "fees_per_day", "requests_per_minute"}
_COIN_DECIMALS = {networks.EIP155: 18, networks.SOLANA: 9}


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks. `pay_to` are the accounts that it may be paid at by CAIP-2 network, None for any;
    `fees_per_day` is in wei or lamports by network; `requests_per_minute` None is the service's own limit."""

    name: str
    pay_to: Mapping[str, frozenset[str]] | None = None
    fees_per_day: Mapping[str, int] = field(default_factory=dict)
    requests_per_minute: int | None = None

    def check(self, requirement: Requirement) -> None:
        """Raise `DeniedError` unless the account that a payment goes to is registered for this caller (fault D13)."""
        if self.pay_to is None:
            return
        if _account(requirement.pay_to, requirement.network) not in self.pay_to.get(requirement.network, frozenset()):
            raise DeniedError(
                "pay_to_not_registered",
                f"{self.name} is not registered to be paid at {requirement.pay_to[:60]} on {requirement.network[:60]}",
                mender=Mender.FACILITATOR,
            )


ANYBODY = Caller("")
"""Who asks in this very process, or where no callers are configured."""


class Callers:
    """The registered callers. Raises `MisconfiguredError("invalid_callers")` for two with one name or one key."""

    def __init__(self, registered: Sequence[tuple[Caller, Sequence[str]]]) -> None:
        self._known = [(bytes.fromhex(digest), caller) for caller, digests in registered for digest in digests]
        names = [caller.name for caller, _ in registered]
        if len(set(names)) != len(names) or len({digest for digest, _ in self._known}) != len(self._known):
            raise MisconfiguredError(CODE, "every caller needs a name and a key that no other caller has")
        self.names = tuple(names)

    @classmethod
    def parse(cls, text: str) -> Callers:
        """The callers of a TOML file. Raises `MisconfiguredError("invalid_callers")` that says what is wrong where."""
        try:
            content = tomllib.loads(text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            raise MisconfiguredError(CODE, f"the file of callers is no TOML: {error}") from None
        listed = content.get("callers")
        if not isinstance(listed, list) or not listed or set(content) != {"callers"}:
            raise MisconfiguredError(CODE, "the file of callers is a list of [[callers]], and nothing else")
        return cls([_read(entry, position) for position, entry in enumerate(listed, 1)])

    def identify(self, authorizations: Sequence[str]) -> Caller:
        """Whose key the `Authorization` headers of a request carry. Raises `UnidentifiedError`.

        Every digest is compared in constant time, whichever fits, so that time tells nothing about any of them.
        """
        if not authorizations:
            raise UnidentifiedError("api_key_missing", "this facilitator needs an API key: Authorization: Bearer KEY")
        match = _BEARER.fullmatch(authorizations[0].strip()) if len(authorizations) == 1 else None
        presented = hashlib.sha256(match[1].encode() if match else b"").digest()
        found: Caller | None = None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, presented):
                found = caller
        if match is None or found is None:
            raise UnidentifiedError("api_key_unknown", "nobody was given this API key")
        return found


def new_key() -> tuple[str, str]:
    """A fresh key of 256 bits, and the digest that the facilitator keeps of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def fee_units(coins: object, network: str) -> int:
    """An amount of a network's own coin (ETH, SOL) as wei or lamports. Raises `MisconfiguredError`."""
    decimals = _COIN_DECIMALS[network.partition(":")[0]]
    try:
        units = Decimal(coins if isinstance(coins, Decimal | str) else "NaN").scaleb(decimals)
        if units.is_finite() and 0 <= units <= LARGEST_FEES and units == int(units):
            return int(units)
    except (InvalidOperation, ValueError):
        pass
    most = Decimal(LARGEST_FEES).scaleb(-decimals)
    raise MisconfiguredError("invalid_fee_budget", f"a fee budget is a number of whole coins, 0 to {most:.4}")


def _read(entry: Any, position: int) -> tuple[Caller, Sequence[str]]:
    where = f"[[callers]] number {position}"
    if not isinstance(entry, dict) or set(entry) - _MEMBERS:
        raise MisconfiguredError(CODE, f"{where} has other members than {', '.join(sorted(_MEMBERS))}")
    name, digests, pace = entry.get("name"), entry.get("keys"), entry.get("requests_per_minute")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise MisconfiguredError(CODE, f"{where}: name is 1 to 64 letters, digits, dots or dashes")
    digested = isinstance(digests, list) and all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in digests)
    if not digested or not digests:
        raise MisconfiguredError(CODE, f"{name}: keys is a list of SHA-256 digests, 64 hex digits in lower case")
    if pace is not None and (type(pace) is not int or pace < 1):
        raise MisconfiguredError(CODE, f"{name}: requests_per_minute is a number from 1")
    accounts = _table(entry, "pay_to", name)
    if not accounts:
        raise MisconfiguredError(CODE, f"{name}: pay_to names no account, so nothing could be settled")
    pay_to = {network: _accounts(listed, network, name) for network, listed in accounts.items()}
    fees = {network: fee_units(coins, network) for network, coins in _table(entry, "fees_per_day", name).items()}
    return Caller(name, MappingProxyType(pay_to), MappingProxyType(fees), pace), digests


def _table(entry: dict[str, Any], member: str, name: str) -> dict[str, Any]:
    """A table by network, its names turned into CAIP-2 ids."""
    table = entry.get(member, {})
    if not isinstance(table, dict):
        raise MisconfiguredError(CODE, f"{name}: {member} is a table by network")
    known = {}
    for label, value in table.items():
        network = networks.find(label)
        if network is None or network.id in known:
            raise MisconfiguredError(CODE, f"{name}: {member} names {label!r}, which is no network, or twice the same")
        known[network.id] = value
    return known


def _accounts(listed: Any, network: str, name: str) -> frozenset[str]:
    if not isinstance(listed, list) or not listed:
        raise MisconfiguredError(CODE, f"{name}: pay_to is a list of addresses for each network")
    for address in listed:
        if not isinstance(address, str) or not _is_address(address, network):
            raise MisconfiguredError(CODE, f"{name}: {str(address)[:60]!r} is no address on {network}")
    return frozenset(_account(address, network) for address in listed)


def _is_address(text: str, network: str) -> bool:
    if not network.startswith(networks.EIP155):
        return _SVM_ADDRESS.fullmatch(text) is not None
    try:
        return bool(parse_address(text))
    except MalformedError:
        return False


def _account(address: str, network: str) -> str:
    """Addresses compare without case on EVM networks, exactly on Solana."""
    return address.lower() if network.startswith(networks.EIP155) else address
