"""The only place of the client that holds private keys: it signs and never shows them (design D13, fault G09).

Keys come from the environment, from a file, or from the caller's hands; never from a command line. A wallet may hold
a key for EVM networks, for Solana, or both.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import coincurve
from pydantic_core import from_json
from solders.keypair import Keypair

from x402 import networks
from x402.errors import MisconfiguredError
from x402.schemes import eip712
from x402.settings import ClientSettings, secret

_HEX_KEY = re.compile(r"(?:0x)?[0-9a-fA-F]{64}", re.ASCII)
_EVM_NAMES = ("evm_private_key", "evm", "X402_EVM_PRIVATE_KEY", "EVM_PRIVATE_KEY")
_SVM_NAMES = ("svm_private_key", "svm", "X402_SVM_PRIVATE_KEY", "SVM_PRIVATE_KEY", "SOLANA_PRIVATE_KEY")
_FILE_LIMIT = 64 * 1024
_CODE = "invalid_private_key"


class Wallet:
    """Private keys that sign payments. Masked in `repr`, `str`, `format`; refuses to be pickled.

    `evm` is 64 hex digits; `svm` is base58 of 64 bytes or the JSON array of a keypair file. A wallet made with
    `testnet_only=True` never pays on a main network unless the policy says so expressly (design promise 8).
    Raises `MisconfiguredError("invalid_private_key")`, never showing the key.
    """

    __slots__ = ("__evm_sign", "__reveal", "__svm_sign", "evm_address", "svm_address", "testnet_only")

    def __init__(self, *, evm: str | None = None, svm: str | None = None, testnet_only: bool = False) -> None:
        self.testnet_only = testnet_only
        self.evm_address = ""
        self.svm_address = ""
        # The keys live in closures: no attribute, and so no debugger, serializer or error report, can show them.
        self.__evm_sign: Callable[[bytes], bytes] | None = None
        self.__svm_sign: Callable[[bytes], bytes] | None = None
        evm_key = _evm_key(evm) if evm else None
        svm_key = _svm_key(svm) if svm else None
        if evm_key is not None:
            self.evm_address = eip712.address_of(evm_key.public_key)
            self.__evm_sign = lambda digest: eip712.sign(evm_key, digest)
        if svm_key is not None:
            self.svm_address = str(svm_key.pubkey())
            self.__svm_sign = lambda message: bytes(svm_key.sign_message(message))
        self.__reveal: Callable[[], dict[str, Any]] = lambda: {
            **({"evm_private_key": "0x" + evm_key.secret.hex()} if evm_key is not None else {}),
            **({"svm_private_key": str(svm_key)} if svm_key is not None else {}),
            **({"testnet_only": True} if testnet_only else {}),
        }

    @classmethod
    def new(cls, *, testnet_only: bool = False) -> Wallet:
        """A wallet with fresh random keys for both families."""
        return cls(evm=coincurve.PrivateKey().to_hex(), svm=str(Keypair()), testnet_only=testnet_only)

    @classmethod
    def from_env(cls, settings: ClientSettings | None = None) -> Wallet:
        """The wallet that the environment names (variables: `x402.settings.ClientSettings`).

        Raises `MisconfiguredError("no_wallet")` when it names none.
        """
        found = settings or ClientSettings.read()
        evm, svm = secret(found.evm_private_key), secret(found.svm_private_key)
        aimo = secret(found.aimo_private_key)
        if aimo:
            family = _aimo_family(found.aimo_wallet_type, aimo)
            evm = evm or (aimo if family == networks.EIP155 else "")
            svm = svm or (aimo if family == networks.SOLANA else "")
        if evm or svm:
            return cls(evm=evm or None, svm=svm or None)
        if found.wallet_file is not None:
            return cls.from_file(found.wallet_file)
        raise MisconfiguredError(
            "no_wallet", "no key found: set X402_EVM_PRIVATE_KEY, X402_SVM_PRIVATE_KEY or X402_WALLET_FILE"
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Wallet:
        """A wallet from TOML or JSON (`evm_private_key`, `svm_private_key`), or from a Solana keypair file.

        Raises `MisconfiguredError("invalid_wallet_file")`; warns when others may read the file.
        """
        file = Path(path).expanduser()
        try:
            if file.stat().st_size > _FILE_LIMIT:
                raise MisconfiguredError("invalid_wallet_file", f"{file} is too large to be a wallet")
            text = file.read_text(encoding="utf-8")
            mode = stat.S_IMODE(file.stat().st_mode)
        except (OSError, UnicodeError) as error:
            raise MisconfiguredError("invalid_wallet_file", f"{file} cannot be read: {type(error).__name__}") from None
        if os.name == "posix" and mode & 0o077:
            warnings.warn(f"{file} holds private keys and others may read it: chmod 600 {file}", stacklevel=2)
        if text.lstrip().startswith("["):
            try:
                from_json(text)
            except ValueError:
                pass  # A TOML file may begin with a table.
            else:
                return cls(svm=text)
        members = _members(text, file)
        evm = next((members[name] for name in _EVM_NAMES if members.get(name)), None)
        svm = next((members[name] for name in _SVM_NAMES if members.get(name)), None)
        if isinstance(svm, list):
            svm = json.dumps(svm)
        if evm is None and svm is None:
            raise MisconfiguredError("invalid_wallet_file", f"{file} has neither evm_private_key nor svm_private_key")
        return cls(evm=evm, svm=svm, testnet_only=members.get("testnet_only") is True)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the keys to a file that only its owner may read: JSON when it ends in `.json`, else TOML.

        Raises `MisconfiguredError("wallet_file_exists")` rather than losing the keys of another wallet.
        """
        file = Path(path).expanduser()
        members = self.__reveal()
        if file.suffix == ".json":
            text = json.dumps(members, indent=2) + "\n"
        else:
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in members.items())
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        if file.exists() and not overwrite:
            raise MisconfiguredError("wallet_file_exists", f"{file} exists; choose another name")
        try:
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
        return file

    def address(self, network: str) -> str:
        """The address that pays on a network (CAIP-2), or `""` when the wallet has no key for it."""
        family = network.partition(":")[0]
        return {networks.EIP155: self.evm_address, networks.SOLANA: self.svm_address}.get(family, "")

    def sign_digest(self, digest: bytes) -> bytes:
        """A 65-byte secp256k1 signature over 32 bytes. Raises `MisconfiguredError("no_key")` without an EVM key."""
        if self.__evm_sign is None:
            raise MisconfiguredError("no_key", "the wallet has no EVM key")
        return self.__evm_sign(digest)

    def sign_message(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature over a message. Raises `MisconfiguredError("no_key")` without a Solana key."""
        if self.__svm_sign is None:
            raise MisconfiguredError("no_key", "the wallet has no Solana key")
        return self.__svm_sign(message)

    def __repr__(self) -> str:
        return f"<Wallet evm={self.evm_address or None} svm={self.svm_address or None} keys=***>"

    def __copy__(self) -> Wallet:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Wallet:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a wallet is not pickled: its keys would leave the process in clear text")


def _evm_key(text: str) -> coincurve.PrivateKey:
    if not isinstance(text, str) or _HEX_KEY.fullmatch(text.strip()) is None:
        raise MisconfiguredError(_CODE, "an EVM private key is 64 hex digits, with or without 0x")
    try:
        return coincurve.PrivateKey.from_hex(text.strip().removeprefix("0x"))
    except ValueError:
        raise MisconfiguredError(_CODE, "the EVM private key is not on the curve") from None


def _svm_key(text: str) -> Keypair:
    try:
        bare = text.strip()
        if bare.startswith("["):
            return Keypair.from_bytes(bytes(from_json(bare)))
        return Keypair.from_base58_string(bare)
    except (AttributeError, TypeError, ValueError):
        raise MisconfiguredError(
            _CODE, "a Solana key is base58 of 64 bytes, or the JSON array of a keypair file"
        ) from None


def _aimo_family(wallet_type: str, key: str) -> str:
    kind = wallet_type.strip().lower()
    if kind in ("evm", "ethereum", "eth", "base", networks.EIP155):
        return networks.EIP155
    if kind in ("svm", "solana", "sol"):
        return networks.SOLANA
    if kind:
        raise MisconfiguredError("invalid_settings", "AIMO_WALLET_TYPE must be evm or solana")
    return networks.EIP155 if _HEX_KEY.fullmatch(key) else networks.SOLANA


def _members(text: str, file: Path) -> Mapping[str, Any]:
    try:
        members = from_json(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError:
        raise MisconfiguredError("invalid_wallet_file", f"{file} is neither TOML nor JSON") from None
    inner = members.get("wallet", members)
    return inner if isinstance(inner, dict) else members
