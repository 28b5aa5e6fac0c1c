"""EIP-712 and secp256k1 as x402 needs them: fixed layouts, cached domains, libsecp256k1 underneath.

An address is 20 bytes written as `0x` hex; mixed case must carry the right EIP-55 checksum (fault F12).
"""

from __future__ import annotations

import re
from functools import lru_cache

import coincurve
from sha3 import keccak_256

from x402.errors import MalformedError

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def keccak(data: bytes) -> bytes:
    """Keccak-256."""
    digest: bytes = keccak_256(data).digest()
    return digest


_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


def uint256(value: int) -> bytes:
    """An unsigned integer as one 32-byte word; raises `OverflowError` when it does not fit."""
    return value.to_bytes(32, "big")


@lru_cache(maxsize=4096)
def address_word(address: str) -> bytes:
    """An address as one 32-byte word."""
    return bytes(12) + bytes.fromhex(address[2:])


@lru_cache(maxsize=4096)
def checksum(address: str) -> str:
    """The EIP-55 spelling of an address."""
    bare = address[2:].lower()
    marks = keccak(bare.encode()).hex()
    return "0x" + "".join(
        letter.upper() if int(mark, 16) >= 8 else letter for letter, mark in zip(bare, marks, strict=False)
    )


def parse_address(text: object, *, code: str = "invalid_address") -> str:
    """An address in EIP-55 spelling, from lower case, upper case or a correct checksum. Raises `MalformedError`."""
    if not isinstance(text, str) or _ADDRESS.fullmatch(text) is None:
        raise MalformedError(code, "an EVM address is 0x and 40 hex digits")
    spelled = checksum(text)
    if text == spelled:
        return spelled
    bare = text[2:]
    if bare not in (bare.lower(), bare.upper()):
        raise MalformedError(code, f"the address checksum is wrong; expected {spelled}")
    return spelled


@lru_cache(maxsize=256)
def domain_separator(name: str, version: str, chain_id: int, contract: str) -> bytes:
    """The EIP-712 domain separator of a token; computed once per token."""
    parts = (_DOMAIN_TYPE, keccak(name.encode()), keccak(version.encode()), uint256(chain_id), address_word(contract))
    return keccak(b"".join(parts))


def digest(separator: bytes, struct_hash: bytes) -> bytes:
    """The 32 bytes that are signed (EIP-712 `\\x19\\x01`)."""
    return keccak(b"\x19\x01" + separator + struct_hash)


def address_of(public_key: coincurve.PublicKey) -> str:
    """The EIP-55 address of a public key."""
    return checksum("0x" + keccak(public_key.format(compressed=False)[1:])[-20:].hex())


def sign(private_key: coincurve.PrivateKey, message_digest: bytes) -> bytes:
    """A 65-byte signature r‖s‖v with low s and v in {27, 28}."""
    compact: bytes = private_key.sign_recoverable(message_digest, hasher=None)
    return compact[:64] + bytes([compact[64] + 27])


def recover(message_digest: bytes, signature: bytes) -> str | None:
    """Who signed, or None when the bytes are no canonical signature (length, v, low s; fault D07)."""
    if len(signature) != 65:
        return None
    recovery = signature[64] - 27 if signature[64] >= 27 else signature[64]
    if recovery not in (0, 1) or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes([recovery]), message_digest, hasher=None
        )
    except ValueError:
        return None
    except Exception as error:
        # coincurve signals a point that can't be recovered with a bare Exception.
        if type(error) is not Exception:
            raise
        return None
    return address_of(key)
