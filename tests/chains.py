"""Both devnets on an event loop and a thread of their own, for tests of any loop and of none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Generic, Protocol, Self, TypeVar

from x402.devnet.evm import EvmDevnet
from x402.devnet.svm import SvmDevnet

CALL_SECONDS_MAX = 30

T = TypeVar("T")


class _Devnet(Protocol):
    @property
    def url(self) -> str: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


D = TypeVar("D", bound=_Devnet)


class Elsewhere(Generic[D]):
    """A devnet that runs on its own thread. `on_loop(devnet.method(...))` is awaited from any loop, `now` blocks."""

    def __init__(self, devnet: D) -> None:
        self.devnet = devnet
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(devnet).__name__)
        self._running = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self.now(self._running.enter_async_context(self.devnet))
        return self

    def __exit__(self, *_: object) -> None:
        self.now(self._running.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The RPC endpoint."""
        return self.devnet.url

    async def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of the devnet, without blocking the caller's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of the devnet, for callers without a loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS_MAX)


class EvmWorld(Elsewhere[EvmDevnet]):
    """The EVM; py-evm, so that every machine sees the same."""

    def __init__(self) -> None:
        super().__init__(EvmDevnet("py-evm"))

    async def fund(self, address: str, usdc: int = 0, wei: int = 0) -> None:
        """Atomic USDC and wei."""
        await self.on_loop(self.devnet.fund(address, usdc, wei))

    async def usdc(self, address: str) -> int:
        """Atomic USDC."""
        return await self.on_loop(self.devnet.usdc_balance(address))

    async def wei(self, address: str) -> int:
        """Wei."""
        return await self.on_loop(self.devnet.eth_balance(address))

    async def request(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call, cheats included."""
        return await self.on_loop(self.devnet.request(method, *params))


class SvmWorld(Elsewhere[SvmDevnet]):
    """The Solana cluster."""

    def __init__(self) -> None:
        super().__init__(SvmDevnet())

    async def fund(self, owner: str, usdc: int = 0, lamports: int = 0) -> None:
        """Atomic USDC and lamports."""
        await self.on_loop(self.devnet.fund(owner, usdc, lamports))

    async def open_usdc_account(self, owner: str) -> None:
        """An empty USDC account, without which nobody can pay `owner`."""
        await self.on_loop(self.devnet.create_usdc_account(owner))

    async def usdc(self, owner: str) -> int:
        """Atomic USDC."""
        return await self.on_loop(self.devnet.usdc_balance(owner))

    async def advance(self, slots: int) -> None:
        """Let `slots` slots pass at once."""

        async def jump() -> None:
            self.devnet.advance_slots(slots)

        await self.on_loop(jump())
