"""The seller's refund wallet: keys that pay back what is owed, and nothing else (design D13, faults G09, G10).

It need not be the wallet that is paid, and should hold little: it can lose no more than what lies in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import coincurve
from solders.keypair import Keypair

from x402 import networks
from x402.errors import MisconfiguredError
from x402.schemes import eip712, exact_evm, exact_svm
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

REFUND_LIFETIME_SECONDS = 300
"""How long the signature of a refund lives."""

_CODE = "invalid_private_key"
_HEX_KEY = re.compile(r"(?:0x)?[0-9a-fA-F]{64}", re.ASCII)


class Purse:
    """Signs refunds. Masked wherever it is shown; never pickled.

    `evm` is 64 hex digits; `svm` is base58 of 64 bytes or the JSON array of a keypair file; either may be empty. Raises
    `MisconfiguredError("invalid_private_key")`, never showing the key.
    """

    def __init__(self, *, evm: str = "", svm: str = "") -> None:
        self.addresses: dict[str, str] = {}
        """Who pays, by network family."""
        # The keys live in closures: no attribute, and so no error report, can show them.
        self.__evm: Callable[[bytes], bytes] | None = None
        self.__svm: Callable[[bytes], bytes] | None = None
        if evm:
            key = _evm_key(evm.strip())
            self.addresses[networks.EIP155] = eip712.address_of(key.public_key)
            self.__evm = lambda digest: eip712.sign(key, digest)
        if svm:
            keypair = _svm_key(svm.strip())
            self.addresses[networks.SOLANA] = str(keypair.pubkey())
            self.__svm = lambda message: bytes(keypair.sign_message(message))

    def address(self, network: str) -> str:
        """Who pays refunds on a network, `""` when nobody does."""
        return self.addresses.get(network.partition(":")[0], "")

    def pay_evm(self, requirement: Requirement, *, now: int, nonce: bytes) -> Payment:
        """A payment whose EIP-3009 nonce is chosen by the caller, so that the chain takes only one with it."""
        if self.__evm is None:
            raise MisconfiguredError("no_key", "the refund wallet has no EVM key")
        authorization = exact_evm.build(
            requirement,
            self.addresses[networks.EIP155],
            now=now,
            nonce=nonce,
            lifetime_seconds=REFUND_LIFETIME_SECONDS,
        )
        asset = exact_evm.payable_asset(requirement)
        return Payment.of(requirement, exact_evm.payload(authorization, asset, self.__evm))

    def pay_svm(self, requirement: Requirement, *, blockhash: str, memo: bytes) -> Payment:
        """A payment that lives as long as its blockhash."""
        if self.__svm is None:
            raise MisconfiguredError("no_key", "the refund wallet has no Solana key")
        bare = exact_svm.build(requirement, self.addresses[networks.SOLANA], blockhash, memo)
        return Payment.of(requirement, exact_svm.payload(exact_svm.sign(bare, self.__svm)))

    def __repr__(self) -> str:
        return f"<Purse {self.addresses} keys=***>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a purse is not pickled: its keys would leave the process in clear text")


def _evm_key(text: str) -> coincurve.PrivateKey:
    if _HEX_KEY.fullmatch(text) is None:
        raise MisconfiguredError(_CODE, "X402_REFUND_EVM_PRIVATE_KEY: 64 hex digits, with or without 0x")
    try:
        return coincurve.PrivateKey.from_hex(text.removeprefix("0x"))
    except ValueError:
        raise MisconfiguredError(_CODE, "X402_REFUND_EVM_PRIVATE_KEY: not on the curve") from None


def _svm_key(text: str) -> Keypair:
    try:
        return Keypair.from_json(text) if text.startswith("[") else Keypair.from_base58_string(text)
    except BaseException as error:
        # solders reports a wrong base58 text by a Rust panic, which is no Exception.
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise MisconfiguredError(
            _CODE, "X402_REFUND_SVM_PRIVATE_KEY: base58 of 64 bytes, or the JSON array of a keypair file"
        ) from None
