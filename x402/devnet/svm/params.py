"""Reading the parameters of a Solana JSON-RPC call; what is wrong becomes an `RpcError`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from solders.message import Message, MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import SanitizeError, VersionedTransaction

from x402.devnet.svm.bank import message_of
from x402.devnet.svm.encoding import base58_decode
from x402.devnet.svm.history import Json

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SIMULATION_FAILED = -32002
SIGNATURE_FAILED = -32003
UNSUPPORTED_VERSION = -32015
SLOT_NOT_REACHED = -32016

PACKET_BYTES = 1232
"""The longest transaction in bytes that the network carries."""

_BASE58_PACKET = 1683
_BASE64_PACKET = 1644
_U64 = 2**64 - 1


class RpcError(Exception):
    """A JSON-RPC error with its code, message and optional data."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> Json:
        """The error object as it travels."""
        error: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


def invalid(reason: str) -> RpcError:
    """The error for parameters that cannot be read."""
    return RpcError(INVALID_PARAMS, reason[:300])


class Params:
    """The positional parameters of one call. Every method raises `RpcError` for what it cannot read."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def has(self, index: int) -> bool:
        return len(self._values) > index and self._values[index] is not None

    def text(self, index: int) -> str:
        """A string."""
        value = self.at(index)
        if not isinstance(value, str):
            raise invalid(f"Invalid params: expected a string at position {index}.")
        return value

    def number(self, index: int) -> int:
        """A u64."""
        return unsigned(self.at(index), f"position {index}")

    def address(self, index: int) -> Pubkey:
        """An account address."""
        return address(self.at(index))

    def texts(self, index: int, limit: int) -> list[str]:
        """A list of at most `limit` strings."""
        values = self.at(index)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise invalid(f"Invalid params: expected a list of strings at position {index}.")
        if len(values) > limit:
            raise invalid(f"Too many inputs provided; max {limit}")
        return values

    def config(self, index: int) -> Mapping[str, Any]:
        """The configuration object at `index`; an empty one when it is missing or null."""
        if not self.has(index):
            return {}
        value = self._values[index]
        if not isinstance(value, dict):
            raise invalid(f"Invalid params: expected an object at position {index}.")
        return value

    def at(self, index: int) -> Any:
        """Whatever stands at `index`, which must be there."""
        if len(self._values) <= index:
            raise invalid("`params` should have at least " + f"{index + 1} argument(s)")
        return self._values[index]


def unsigned(value: Any, name: str) -> int:
    """A u64 out of JSON."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _U64:
        raise invalid(f"Invalid params: expected a u64 at {name}.")
    return value


def flag(config: Mapping[str, Any], name: str) -> bool:
    """A boolean out of a configuration object; false when it is missing."""
    value = config.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(f"Invalid params: `{name}` must be a boolean.")
    return value


def word(config: Mapping[str, Any], name: str, default: str) -> str:
    """A string out of a configuration object."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise invalid(f"Invalid params: `{name}` must be a string.")
    return value


def address(value: Any) -> Pubkey:
    """An account address out of JSON."""
    if not isinstance(value, str):
        raise invalid("Invalid param: not a string")
    try:
        return Pubkey.from_string(value)
    except ValueError:
        raise invalid("Invalid param: Invalid") from None


def signature(value: Any) -> str:
    """A base58 signature, in canonical form."""
    if not isinstance(value, str):
        raise invalid("Invalid param: not a string")
    try:
        return str(Signature.from_string(value))
    except ValueError:
        raise invalid("Invalid param: Invalid") from None


def data_slice(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The offset and length of a `dataSlice`."""
    value = config.get("dataSlice")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("Invalid params: `dataSlice` must be an object.")
    return unsigned(value.get("offset"), "dataSlice.offset"), unsigned(value.get("length"), "dataSlice.length")


def transaction(text: str, config: Mapping[str, Any]) -> VersionedTransaction:
    """A wire transaction in base58 (the default) or base64, structurally sound."""
    encoding = word(config, "encoding", "base58")
    limits = {"base58": _BASE58_PACKET, "base64": _BASE64_PACKET}
    if encoding not in limits:
        raise invalid(f"unsupported encoding: {encoding[:40]}. Supported encodings: base58, base64")
    if len(text) > limits[encoding]:
        raise invalid(
            f"{encoding} encoded transaction too large: {len(text)} bytes "
            f"(max: encoded/raw {limits[encoding]}/{PACKET_BYTES})"
        )
    raw = _decode(text, encoding)
    if len(raw) > PACKET_BYTES:
        raise invalid(f"decoded transaction too large: {len(raw)} bytes (max: {PACKET_BYTES} bytes)")
    try:
        decoded = VersionedTransaction.from_bytes(raw)
    except ValueError as error:
        raise invalid(f"failed to deserialize transaction: {error}") from None
    try:
        decoded.sanitize()
        message_of(decoded)
    except (SanitizeError, ValueError) as error:
        raise invalid(f"invalid transaction: {error}") from None
    return decoded


def message(text: str) -> Message | MessageV0:
    """A message in base64, structurally sound."""
    if len(text) > _BASE64_PACKET:
        raise invalid("base64 encoded message too large")
    try:
        decoded = from_bytes_versioned(_decode(text, "base64"))
    except ValueError as error:
        raise invalid(f"failed to deserialize message: {error}") from None
    if not isinstance(decoded, Message | MessageV0):
        raise invalid("invalid transaction message: unsupported version")
    try:
        # A legacy message has no check of its own, so it borrows that of a transaction with blank signatures.
        blank = [Signature.default()] * decoded.header.num_required_signatures
        VersionedTransaction.populate(decoded, blank).sanitize()
    except SanitizeError as error:
        raise invalid(f"invalid transaction message: {error}") from None
    return decoded


def _decode(text: str, encoding: str) -> bytes:
    try:
        return base58_decode(text) if encoding == "base58" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise invalid(f"invalid {encoding} encoding: {error}") from None
