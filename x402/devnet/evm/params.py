"""What a JSON-RPC caller sent, turned into Python: quantities, bytes, addresses, block names.

Strict where go-ethereum is strict, so that a client which only works against a lenient node fails here
first. Every refusal is an `RpcError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eth_typing import Address

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
PARSE_ERROR = -32700
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
EXECUTION_REVERTED = 3

BLOCK_TAGS = frozenset({"latest", "pending", "safe", "finalized", "earliest"})

_QUANTITY = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")


class RpcError(Exception):
    """An answer that is a refusal: JSON-RPC code, words, and the revert data where there is some."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def invalid(message: str) -> RpcError:
    """The refusal of a parameter."""
    return RpcError(INVALID_PARAMS, message)


def argument(params: Sequence[Any], index: int) -> Any:
    """The parameter at `index`, which must be there and not be null."""
    if index >= len(params) or params[index] is None:
        raise invalid(f"missing value for required argument {index}")
    return params[index]


def optional(params: Sequence[Any], index: int, default: Any = None) -> Any:
    """The parameter at `index`, or `default` where it is absent or null."""
    return params[index] if index < len(params) and params[index] is not None else default


def quantity(value: Any, name: str) -> int:
    """A hexadecimal quantity of at most 256 bits, without leading zeros (execution-apis, "hex encoding")."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise invalid(f"invalid {name}: expected a hex quantity such as 0x1a, without leading zeros")
    return int(value, 16)


def number(value: Any, name: str) -> int:
    """A whole number, in JSON or hexadecimal: cheat methods take both, as anvil does."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**256:
        return value
    return quantity(value, name)


def data(value: Any, name: str, size: int | None = None) -> bytes:
    """Hexadecimal bytes, exactly `size` of them where a size is given."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise invalid(f"invalid {name}: expected 0x-prefixed hex data of even length")
    if size is not None and len(value) != 2 + 2 * size:
        raise invalid(f"invalid {name}: expected {size} bytes, got {(len(value) - 2) // 2}")
    return bytes.fromhex(value[2:])


def address(value: Any, name: str = "address") -> Address:
    """Twenty bytes; the checksum is not looked at."""
    return Address(data(value, name, 20))


def record(value: Any, name: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(f"invalid {name}: expected an object")
    return value


def block_name(value: Any) -> str | int | bytes:
    """A block by tag, number or hash, in the plain form or that of EIP-1898."""
    if isinstance(value, dict):
        if value.get("blockHash") is not None:
            return data(value["blockHash"], "blockHash", 32)
        value = value.get("blockNumber")
    if isinstance(value, str) and value in BLOCK_TAGS:
        return value
    return quantity(value, "block number")


def topics(value: Any) -> list[frozenset[bytes] | None]:
    """A log filter's topics: per position nothing, one value or several."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > 4:
        raise invalid("invalid topics: expected an array of at most four entries")
    wanted: list[frozenset[bytes] | None] = []
    for entry in value:
        if entry is None:
            wanted.append(None)
            continue
        choices = entry if isinstance(entry, list) else [entry]
        if any(choice is None for choice in choices):
            wanted.append(None)
        else:
            wanted.append(frozenset(data(choice, "topic", 32) for choice in choices))
    return wanted


def addresses(value: Any) -> frozenset[Address]:
    """A log filter's addresses; none stands for all."""
    if value is None:
        return frozenset()
    return frozenset(address(entry) for entry in (value if isinstance(value, list) else [value]))
