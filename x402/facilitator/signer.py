"""The facilitator's keys: one of the two places that hold a private key (design D13). Nothing here prints one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

import coincurve

from x402.errors import MisconfiguredError
from x402.schemes.eip712 import address_of
from x402.schemes.eip1559 import EvmTransaction

if TYPE_CHECKING:
    from solders.keypair import Keypair

_HEX_KEY = re.compile(r"(?:0x)?[0-9a-fA-F]{64}", re.ASCII)


class _Masked:
    """Shown, logged or pickled, a signer is its address and nothing else (fault G09)."""

    address: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer is never pickled")


class EvmSigner(_Masked):
    """Sends EIP-1559 transactions and pays their gas. `key` is 32 bytes in hex. Raises `MisconfiguredError`."""

    def __init__(self, key: str) -> None:
        if _HEX_KEY.fullmatch(key) is None:
            raise MisconfiguredError("invalid_signer", "an EVM key is 64 hex digits")
        try:
            self._key = coincurve.PrivateKey(bytes.fromhex(key.removeprefix("0x")))
        except ValueError:
            raise MisconfiguredError("invalid_signer", "the EVM key is out of range") from None
        self.address = address_of(self._key.public_key)

    def sign_transaction(self, transaction: EvmTransaction) -> tuple[str, bytes]:
        """The hash and the signed bytes of a transaction."""
        return transaction.sign(self._key)


class SvmSigner(_Masked):
    """Pays the fees of Solana transactions. `key` is a base58 keypair (64 bytes) or a JSON array of its bytes."""

    def __init__(self, key: str | Keypair) -> None:
        # Who holds no key for Solana needs none of its libraries.
        from solders.keypair import Keypair

        try:
            if isinstance(key, Keypair):
                self._keypair = key
            elif key.lstrip().startswith("["):
                self._keypair = Keypair.from_json(key)
            else:
                self._keypair = Keypair.from_base58_string(key)
        except ValueError:
            raise MisconfiguredError("invalid_signer", "the Solana key is no keypair") from None
        except BaseException as error:
            # solders reports a wrong base58 text by a Rust panic, which is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            raise MisconfiguredError("invalid_signer", "the Solana key is no keypair") from None
        self.address = str(self._keypair.pubkey())

    def sign_message(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature."""
        return bytes(self._keypair.sign_message(message))
