"""How a wallet signs a sign-in message: EIP-191 on EVM networks, Ed25519 on Solana. Pure (aimo §2.8, row 16)."""

from __future__ import annotations

import re

from solders.pubkey import Pubkey
from solders.signature import Signature

from x402 import networks
from x402.errors import MalformedError
from x402.schemes import eip712

_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2}){1,2048})", re.ASCII)
_CODE = "invalid_siwx_malformed_signature"


def evm_digest(message: str) -> bytes:
    """The 32 bytes that an EVM wallet signs for a message (EIP-191, `personal_sign`)."""
    content = message.encode()
    return eip712.keccak(b"\x19Ethereum Signed Message:\n" + str(len(content)).encode() + content)


def evm_signature(text: str) -> bytes:
    """The bytes of an EVM signature, from hex with or without `0x`. Raises `MalformedError`."""
    match = _HEX.fullmatch(text)
    if match is None:
        raise MalformedError(_CODE, "an EVM signature is hex, with or without 0x")
    return bytes.fromhex(match[1])


def svm_signature(text: str) -> bytes:
    """The 64 bytes of a Solana signature, from base58. Raises `MalformedError`."""
    try:
        return bytes(Signature.from_string(text))
    except ValueError:
        raise MalformedError(_CODE, "a Solana signature is base58 of 64 bytes") from None


def signer(family: str, address: str, message: str, signature: str) -> str | None:
    """The address in its canonical spelling when it has signed a message, else None. Raises `MalformedError` for a
    signature that is none. Smart wallets (EIP-1271) are not asked."""
    if family == networks.EIP155:
        recovered = eip712.recover(evm_digest(message), evm_signature(signature))
        return recovered if recovered is not None and recovered.lower() == address.lower() else None
    try:
        key = Pubkey.from_string(address)
    except ValueError:
        return None
    signed = Signature.from_bytes(svm_signature(signature))
    return str(key) if signed.verify(key, message.encode()) else None
