"""The project's own test contracts: Solidity source, ABI and bytecode side by side.

`Usdc` is the EIP-3009 token of the devnet, `Multicall3` its call bundler, `Permit2` and `UptoPermit2Proxy` what the
scheme `upto` moves money with, `SmartWallet` an ERC-1271 payer for tests. The artifacts are compiled ahead, so nobody
needs a compiler to run them; `contracts_abi/build` makes them again, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

NAMES = ("Multicall3", "Permit2", "SmartWallet", "UptoPermit2Proxy", "Usdc")


class UnknownContract(LookupError):
    """No contract of this name is kept here."""


@dataclass(frozen=True)
class Contract:
    """One compiled contract. The ABI is shared by all callers: read it, don't change it."""

    name: str
    abi: tuple[Mapping[str, Any], ...]
    bytecode: bytes
    """Creation code; constructor arguments are appended to it."""
    runtime: bytes
    """What stands at the address after creation. Immutable values are zeros in it."""
    slots: Mapping[str, int]
    """The storage slot of each state variable, for genesis states."""


@cache
def load(name: str) -> Contract:
    """The contract called `name`, one of `NAMES`. Raises `UnknownContract`."""
    if name not in NAMES:
        raise UnknownContract(f"no contract {name!r}; there are {', '.join(NAMES)}")
    record = json.loads(files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return Contract(
        name=record["contractName"],
        abi=tuple(record["abi"]),
        bytecode=bytes.fromhex(record["bytecode"][2:]),
        runtime=bytes.fromhex(record["deployedBytecode"][2:]),
        slots=MappingProxyType(record["storage_slots"]),
    )
