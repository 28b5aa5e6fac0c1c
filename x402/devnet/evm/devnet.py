"""A real EVM on loopback with Base Sepolia's chain id, our USDC at its address, and a faucet.

`EvmDevnet` runs py-evm behind JSON-RPC, which needs Python only, or anvil where that is installed. Both serve the same
world: the EIP-3009 token of `contracts_abi` at Base Sepolia's USDC address, Multicall3, Permit2 and the proxy of the
scheme `upto` at their usual ones, and blocks whose clock is the wall clock's. Engines are imported when started, not
before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, Protocol, Self

from x402.networks import MULTICALL3

from .faucet import CHAIN_ID, FAUCET_KEY, USDC, DevnetError, give, padded

FAUCET_WEI = 10**27

EngineName = Literal["auto", "py-evm", "anvil"]


class _Engine(Protocol):
    url: str

    async def request(self, method: str, params: list[Any]) -> Any:
        """The result of one JSON-RPC method. Raises `RpcError`."""

    async def stop(self) -> None:
        """End it."""


class EvmDevnet:
    """A devnet EVM. `async with EvmDevnet() as evm:` starts it, and its `url` answers JSON-RPC.

    `funded` gives addresses wei before the first block. `engine` is `py-evm`, `anvil`, or `auto`, which is
    anvil where it is on PATH.
    """

    chain_id = CHAIN_ID
    usdc = USDC
    multicall3 = MULTICALL3

    def __init__(self, engine: EngineName = "auto", funded: Mapping[str, int] | None = None) -> None:
        self._wanted = engine
        self._funded = dict(funded or {})
        self._engine: _Engine | None = None
        self._funding = asyncio.Lock()
        self.engine = ""
        """The engine that runs: `py-evm` or `anvil`; empty before the start."""

    @property
    def url(self) -> str:
        """Where JSON-RPC is answered. Raises `DevnetError` before the start."""
        return self._running().url

    @property
    def faucet(self) -> str:
        """The checksummed address that mints and pays out."""
        from eth_account import Account as Keys

        return str(Keys.from_key(FAUCET_KEY).address)

    async def start(self, port: int = 0, block_time: float | None = None) -> None:
        """Start the node on loopback: on `port`, or any free one for 0.

        `block_time` seconds pass between blocks; with None each transaction gets a block at once. Raises
        `OSError` if the port is taken (py-evm), `EngineUnavailable` if anvil can't be had.
        """
        if self._engine is not None:
            raise DevnetError("this devnet runs already")
        if block_time is not None and block_time <= 0:
            raise ValueError("block_time must be more than 0 seconds")
        # Importing an engine takes a second, in which the caller's loop has better things to do.
        await asyncio.to_thread(import_module, "x402.devnet.evm.genesis")
        from .anvil import Anvil, installed
        from .genesis import world

        first = world(self.usdc, await asyncio.to_thread(lambda: self.faucet), FAUCET_WEI, self._funded)
        if self._wanted == "anvil" or (self._wanted == "auto" and installed()):
            self._engine = await Anvil.start(self.chain_id, first, port, block_time)
            self.engine = "anvil"
        else:
            await asyncio.to_thread(import_module, "x402.devnet.evm.node")
            from .node import PyEvm

            self._engine = await PyEvm.start(self.chain_id, first, port, block_time)
            self.engine = "py-evm"

    async def stop(self) -> None:
        """End the node; its chain is gone. Harmless if it doesn't run."""
        engine, self._engine, self.engine = self._engine, None, ""
        if engine is not None:
            await engine.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def request(self, method: str, *params: Any) -> Any:
        """One JSON-RPC method, without HTTP where the engine is in this process. Raises `RpcError`."""
        return await self._running().request(method, list(params))

    async def usdc_balance(self, address: str) -> int:
        """Atomic USDC held by `address`."""
        call = {"to": self.usdc, "data": "0x70a08231" + padded(address)}
        return int(await self.request("eth_call", call, "latest"), 16)

    async def eth_balance(self, address: str) -> int:
        """Wei held by `address`."""
        return int(await self.request("eth_getBalance", address, "latest"), 16)

    async def fund(self, address: str, usdc_atomic: int, wei: int) -> None:
        """Mint `usdc_atomic` to `address` and send it `wei`, in real transactions; returns when both are mined.

        Raises `DevnetError` if one fails or is not mined in time, as when mining has been switched off.
        """
        if usdc_atomic < 0 or wei < 0:
            raise ValueError("amounts to fund can't be negative")
        async with self._funding:
            await give(self.request, address, usdc_atomic, wei)

    def _running(self) -> _Engine:
        if self._engine is None:
            raise DevnetError("this devnet does not run; use `async with` or `start`")
        return self._engine
