"""The py-evm engine put together: a chain on its thread, its methods, the HTTP server, the block clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from eth_typing import Address

from .chain import Chain
from .genesis import Account
from .http import ChainThread, Endpoint, serving
from .rpc import EvmRpc


class _Methods(EvmRpc):
    """The method table, which tells the node when the caller has changed the block interval."""

    def __init__(self, chain: Chain, node: PyEvm) -> None:
        super().__init__(chain)
        self._node = node

    def answer(self, method: str, params: Any) -> Any:
        interval = self.chain.interval_s
        try:
            return super().answer(method, params)
        finally:
            if self.chain.interval_s != interval:
                self._node.interval_changed()


class PyEvm:
    """A running py-evm node. Use `start`, then `request` as often as needed, then `stop`."""

    def __init__(self, thread: ChainThread, chain: Chain) -> None:
        self.url = ""
        self._thread = thread
        self._chain = chain
        self._methods = _Methods(chain, self)
        self._loop = asyncio.get_running_loop()
        self._interval_changed = asyncio.Event()
        self._exit = AsyncExitStack()
        self._clock = asyncio.create_task(self._keep_time())

    @classmethod
    async def start(
        cls, chain_id: int, genesis: Mapping[Address, Account], port: int, block_time: float | None
    ) -> PyEvm:
        """Make the first block and serve it. Raises `OSError` if the port is taken."""
        thread = ChainThread()
        try:
            chain = await thread.run(Chain, chain_id, genesis)
        except BaseException:
            await thread.close()
            raise
        if block_time is not None:
            chain.automine, chain.interval_s = False, block_time
        node = cls(thread, chain)
        try:
            node.url = await node._exit.enter_async_context(serving(Endpoint(node._methods, thread).app(), port))
        except BaseException:
            await node.stop()
            raise
        return node

    async def request(self, method: str, params: list[Any]) -> Any:
        """The result of one JSON-RPC method. Raises `RpcError`."""
        return await self._thread.run(self._methods.answer, method, params)

    async def stop(self) -> None:
        """Stop answering and mining."""
        await self._exit.aclose()
        self._clock.cancel()
        await asyncio.gather(self._clock, return_exceptions=True)
        await self._thread.close()

    def interval_changed(self) -> None:
        """Have the block clock look at the interval again; called on the chain's thread."""
        self._loop.call_soon_threadsafe(self._interval_changed.set)

    async def _keep_time(self) -> None:
        """Mine a block each interval, as long as there is one."""
        while True:
            self._interval_changed.clear()
            try:
                async with asyncio.timeout(self._chain.interval_s):
                    await self._interval_changed.wait()
            except TimeoutError:
                await self._thread.run(self._chain.mine)
