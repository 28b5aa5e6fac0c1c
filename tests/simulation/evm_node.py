"""A node of the simulated EVM chain, as a party's port sees it: what is asked and sent may be lost, late or behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.simulation.contracts import perform
from tests.simulation.evm_chain import BASE_FEE, BLOCK_SECONDS, FINAL_DEPTH, GENESIS_BLOCK, PRIORITY_FEE, SimulatedEvm
from tests.simulation.faults import Fate
from tests.simulation.token import Revert
from x402.chain import CallResult, EvmCall, EvmFees, EvmReceipt, Log
from x402.errors import MisconfiguredError, UnavailableError
from x402.ports import NotSent

T = TypeVar("T")
_LAG_BLOCKS = 5


def unavailable() -> UnavailableError:
    """What a port says when its node does not answer."""
    return UnavailableError("rpc_unavailable", "the node did not answer")


class SimulatedEvmNode:
    """Implements `ports.EvmChain`."""

    def __init__(self, chain: SimulatedEvm) -> None:
        self._chain = chain
        self._world = chain.world
        self.chain_id = chain.network.chain_id

    async def _read(self, label: str, work: Callable[[int], T]) -> T:
        """`work` gets the height up to which the node that answers has seen blocks."""

        def answer(fate: Fate) -> T:
            height = self._chain.head()
            if fate is not Fate.LAGS:
                return work(height)
            if self._chain.has_laggards():
                with self._chain.left_behind() as last:
                    self._world.injected["read.left_behind"] += 1
                    return work(min(last, height))
            return work(height - self._world.chance.randint(1, _LAG_BLOCKS))

        return await self._world.io("read", f"evm.{label}", answer, unavailable)

    async def aclose(self) -> None:
        """A simulated node keeps no connections."""

    async def check_chain_id(self) -> None:
        served = await self._read("check_chain_id", lambda _: self._chain.network.chain_id)
        if served != self.chain_id:
            raise MisconfiguredError("wrong_chain", f"the node serves chain {served}, expected {self.chain_id}")

    async def code(self, address: str) -> bytes:
        return await self._read("code", lambda _: b"")

    async def call(
        self, to: str, data: bytes, *, sender: str = "", gas: int = 0, block: int | None = None
    ) -> CallResult:
        def work(height: int) -> CallResult:
            if block is not None and height < block:
                raise unavailable()
            height = height if block is None else block
            token, at = self._chain.state(height).token, self._chain.time_of(height)
            try:
                return CallResult(True, perform(token, self._chain.asset, sender, to, data, at)[3])
            except Revert as revert:
                return CallResult(False, revert=f"execution reverted: {revert}")

        return await self._read("call", work)

    async def balance(self, address: str) -> int:
        return await self._read("balance", lambda height: self._chain.state(height).wei.get(address, 0))

    async def transaction_count(self, address: str) -> int:
        def work(height: int) -> int:
            if height == self._chain.head():
                return self._chain.pending_count(address)
            return self._chain.state(height).nonces.get(address, 0)

        return await self._read("transaction_count", work)

    async def fees(self) -> EvmFees:
        def work(height: int) -> EvmFees:
            return EvmFees(2 * self._chain.base_fee(height) + PRIORITY_FEE, PRIORITY_FEE)

        return await self._read("fees", work)

    async def send(self, raw: bytes, transaction: str) -> None:
        def work(fate: Fate) -> None:
            if fate is Fate.VANISHES:
                self._world.note(f"the pool forgets {transaction[:10]}")
                return
            try:
                self._chain.submit(raw)
            except NotSent as refused:
                # As in the port: a used nonce is no refusal when it was used by these very bytes.
                if "nonce too low" in str(refused) and self._knows(transaction, self._chain.head()):
                    return
                raise

        await self._world.io("send", "evm.send", work, unavailable)

    async def knows(self, transaction: str) -> bool:
        return await self._read("knows", lambda height: self._knows(transaction, height))

    def _knows(self, transaction: str, height: int) -> bool:
        if self._chain.find(transaction, height) is not None:
            return True
        return height == self._chain.head() and transaction.lower() in self._chain.pool

    async def transaction(self, transaction: str) -> EvmCall | None:
        def work(height: int) -> EvmCall | None:
            included = self._chain.find(transaction, height)
            return None if included is None else EvmCall(included.transaction.to, included.transaction.call)

        return await self._read("transaction", work)

    async def receipt(self, transaction: str, *, timeout: float) -> EvmReceipt | None:
        found = await self._read("receipt", lambda height: self._receipt(transaction, height))
        if found is not None or timeout <= 0:
            return found
        await self._chain.wait_for(transaction, timeout)
        await self._world.boundary("evm.receipt waited", "after")
        return self._receipt(transaction, self._chain.head())

    def _receipt(self, transaction: str, height: int) -> EvmReceipt | None:
        included = self._chain.find(transaction, height)
        if included is None:
            return None
        return EvmReceipt(transaction, included.succeeded, included.block, included.logs)

    def next_block(self) -> float | None:
        """Simulated blocks have no rhythm."""
        return None

    async def logs(
        self, address: str, topics: Sequence[str | None], from_block: int, to_block: int | None = None
    ) -> Sequence[tuple[str, Log]]:
        wanted = [None if topic is None else topic.lower() for topic in topics]

        def fits(log: Log) -> bool:
            shown = [topic.lower() for topic in log.topics]
            return len(shown) >= len(wanted) and all(w in (None, s) for w, s in zip(wanted, shown, strict=False))

        def work(height: int) -> Sequence[tuple[str, Log]]:
            last = height if to_block is None else min(height, to_block)
            return [
                (included.transaction.hash, log)
                for included in self._chain.history
                if from_block <= included.block <= last
                for log in included.logs
                if log.address.lower() == address.lower() and fits(log)
            ]

        return await self._read("logs", work)

    async def time_of(self, block: int) -> int:
        return await self._read("time_of", lambda _: self._chain.time_of(block))

    async def now(self) -> int:
        return await self._read("now", self._chain.time_of)

    async def block_number(self) -> int:
        return await self._read("block_number", lambda height: height)

    async def finalized(self) -> int:
        return await self._read("finalized", lambda height: height - FINAL_DEPTH)


__all__ = ["BASE_FEE", "BLOCK_SECONDS", "GENESIS_BLOCK", "SimulatedEvmNode", "unavailable"]
