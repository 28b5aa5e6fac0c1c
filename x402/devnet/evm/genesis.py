"""What stands on the devnet's EVM before its first block: the token, its settlers, the faucet, and given accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eth_typing import Address
from eth_utils.crypto import keccak

from contracts_abi import load
from x402.networks import MULTICALL3, PERMIT2, UPTO_PERMIT2_PROXY

UNLIMITED = 2**256 - 1


@dataclass(frozen=True)
class Account:
    """What an address holds at the start; balances in wei."""

    balance_wei: int = 0
    code: bytes = b""
    storage: Mapping[int, int] = field(default_factory=dict)


def world(usdc: str, faucet: str, faucet_wei: int, funded: Mapping[str, int]) -> dict[Address, Account]:
    """The first state: `faucet` owns the token at `usdc` and may mint without limit; `funded` is wei by address."""
    token, issuer = load("Usdc"), _address(faucet)
    storage = {
        token.slots["owner"]: int.from_bytes(issuer, "big"),
        _entry(token.slots["isMinter"], issuer): 1,
        _entry(token.slots["minterAllowance"], issuer): UNLIMITED,
    }
    state = {_address(account): Account(balance_wei=wei) for account, wei in funded.items()}
    state[issuer] = Account(balance_wei=faucet_wei)
    state[_address(usdc)] = Account(code=token.runtime, storage=storage)
    for address, name in ((MULTICALL3, "Multicall3"), (PERMIT2, "Permit2"), (UPTO_PERMIT2_PROXY, "UptoPermit2Proxy")):
        state[_address(address)] = Account(code=load(name).runtime)
    return state


def _address(text: str) -> Address:
    found = bytes.fromhex(text.removeprefix("0x"))
    if len(found) != 20:
        raise ValueError(f"{text!r} is not an Ethereum address")
    return Address(found)


def _entry(slot: int, key: bytes) -> int:
    """The storage slot of one entry of a mapping (Solidity, "layout of state variables in storage")."""
    return int.from_bytes(keccak(key.rjust(32, b"\0") + slot.to_bytes(32, "big")), "big")
