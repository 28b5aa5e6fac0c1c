"""The extension `eip2612GasSponsoring`: Permit2's allowance by a signature that travels with the payment.

The payer signs an EIP-2612 permit for exactly the payment's amount; the x402 proxy presents it to the token in the
transaction that settles, so the payer needs no gas (protocol page §2.6). The facilitator pays for nothing but that one
call of a pinned contract, whatever the extension says (fault D15).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from x402 import networks
from x402.errors import MalformedError, RefusedError
from x402.money import Asset, parse_atomic
from x402.networks import PERMIT2
from x402.schemes.eip712 import address_word, digest, domain_separator, keccak, parse_address, uint256

EXTENSION = "eip2612GasSponsoring"
VERSION = "1"
_TYPE = keccak(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")
_NONCES = keccak(b"nonces(address)")[:4]
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}", re.ASCII)
_FORMAT = "invalid_eip2612_extension_format"


@dataclass(frozen=True, slots=True)
class Sponsorship:
    """A signed EIP-2612 permit for Permit2: `value` atomic, `nonce` the token's own, `deadline` a unix second."""

    WORDS: ClassVar[int] = 5

    owner: str
    value: int
    nonce: int
    deadline: int
    signature: bytes

    def digest(self, asset: Asset) -> bytes:
        """The EIP-712 digest under the asset's pinned domain."""
        return _digest(self.owner, self.value, self.nonce, self.deadline, asset)

    def words(self) -> bytes:
        """The five words of the proxy's `EIP2612Permit`."""
        v = self.signature[64]
        return b"".join(
            (uint256(self.value), uint256(self.deadline), self.signature[:64], uint256(v + 27 if v < 27 else v))
        )


def declaration() -> dict[str, Any]:
    """What a seller advertises whose facilitator sponsors the allowance."""
    address, number = {"type": "string", "pattern": "^0x[a-fA-F0-9]{40}$"}, {"type": "string", "pattern": "^[0-9]+$"}
    members = {
        "from": address,
        "asset": address,
        "spender": address,
        "amount": number,
        "nonce": number,
        "deadline": number,
        "signature": {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"},
        "version": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$"},
    }
    return {
        "info": {"description": "The facilitator presents an EIP-2612 permit to Permit2 for you.", "version": VERSION},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": members,
            "required": list(members),
        },
    }


def is_offered(extensions: Mapping[str, Any]) -> bool:
    """Whether a challenge offers the extension in the version that is known here."""
    entry = extensions.get(EXTENSION)
    info = entry.get("info") if isinstance(entry, Mapping) else None
    return isinstance(info, Mapping) and info.get("version") == VERSION


def is_signed(extensions: Mapping[str, Any]) -> bool:
    """Whether a payment brings a permit of the payer's, and not only the seller's words."""
    entry = extensions.get(EXTENSION)
    info = entry.get("info") if isinstance(entry, Mapping) else None
    return isinstance(info, Mapping) and "signature" in info


def nonce_call(owner: str) -> bytes:
    """Calldata of `nonces(owner)`, the question to the token that a signer must ask."""
    return _NONCES + address_word(owner)


def sign(
    owner: str, value: int, nonce: int, deadline: int, asset: Asset, signer: Callable[[bytes], bytes]
) -> dict[str, Any]:
    """What the payer adds to the extension; `signer` turns the 32-byte digest into a 65-byte signature."""
    signature = signer(_digest(owner, value, nonce, deadline, asset))
    members = {
        "from": owner,
        "asset": asset.address,
        "spender": PERMIT2,
        "amount": str(value),
        "nonce": str(nonce),
        "deadline": str(deadline),
        "signature": "0x" + signature.hex(),
        "version": VERSION,
    }
    return {EXTENSION: {"info": members}}


def read(extensions: Mapping[str, Any], asset: Asset, payer: str, maximum: int) -> Sponsorship | None:
    """The permit that came with a payment of at most `maximum`, or None when nothing but the seller's words did.

    Raises `RefusedError` with the first rule that is broken (fault D15); the deadline is the caller's to judge.
    """
    entry = extensions.get(EXTENSION)
    if entry is None:
        return None
    info = entry.get("info") if isinstance(entry, Mapping) else None
    if not isinstance(info, Mapping):
        raise RefusedError(_FORMAT, f"{EXTENSION}.info: an object is required")
    if "signature" not in info:
        return None
    signature = info["signature"]
    if not isinstance(signature, str) or _SIGNATURE.fullmatch(signature) is None or info.get("version") != VERSION:
        raise RefusedError(_FORMAT, f"{EXTENSION}: version {VERSION} with a signature of 65 bytes is required")
    try:
        owner, token, spender = (parse_address(info.get(name)) for name in ("from", "asset", "spender"))
        value, nonce, deadline = (parse_atomic(info.get(name)) for name in ("amount", "nonce", "deadline"))
    except MalformedError as error:
        raise RefusedError(_FORMAT, f"{EXTENSION}: {error.message}") from error
    if owner != payer:
        raise RefusedError("eip2612_from_mismatch", f"the permit is {owner}'s, the payment {payer}'s")
    if token != asset.address:
        raise RefusedError("eip2612_asset_mismatch", f"the permit is for {token}, not {asset.address}")
    if spender != PERMIT2:
        raise RefusedError("eip2612_spender_not_permit2", f"the permit lets {spender} spend, which is not Permit2")
    if value != maximum:
        raise RefusedError("permit2_2612_amount_mismatch", f"the permit is for {value} atomic units, not {maximum}")
    return Sponsorship(owner, value, nonce, deadline, bytes.fromhex(signature[2:]))


def _digest(owner: str, value: int, nonce: int, deadline: int, asset: Asset) -> bytes:
    chain_id = networks.get(asset.network).chain_id
    separator = domain_separator(asset.eip712_name, asset.eip712_version, chain_id, asset.address)
    words = address_word(owner) + address_word(PERMIT2) + uint256(value) + uint256(nonce) + uint256(deadline)
    return digest(separator, keccak(_TYPE + words))
