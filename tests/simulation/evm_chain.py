"""A simulated EVM chain: blocks every two seconds, a pool with nonces and replacement, fees, and reorganisations.

Its history is a list of included transactions, each with the state after it, so that an older view and a
reorganisation are both a shorter list. Blocks without transactions exist only as numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.simulation.contracts import perform
from tests.simulation.token import Move, Revert, TokenState, transfer_call
from tests.simulation.transactions import SentTransaction, read_transaction
from tests.simulation.world import EPOCH, World
from x402 import networks
from x402.chain import Log
from x402.ports import NotSent

BLOCK_SECONDS = 2
GENESIS_BLOCK = 100_000
FINAL_DEPTH = 20
REORG_DEPTH_MAX = 12
LEFT_BEHIND_SECONDS = 12.0
GAS_USED = 70_000
BASE_FEE = 10**7
PRIORITY_FEE = 10**6
_BUMP_PERCENT = 110


@dataclass(frozen=True, slots=True)
class EvmState:
    """Everything that the chain remembers: the token, and of each sender its wei and its next nonce."""

    token: TokenState
    wei: dict[str, int]
    nonces: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Included:
    """A transaction in a block, and the state after it."""

    transaction: SentTransaction
    block: int
    succeeded: bool
    logs: tuple[Log, ...]
    moves: tuple[Move, ...]
    after: EvmState


@dataclass(frozen=True, slots=True)
class Former:
    """A fork that has lost: its transactions, its last block, and until when a node may be found on it."""

    history: list[Included]
    head: int
    until: float


class SimulatedEvm:
    """One network. `usdc` and `wei` are the balances at the beginning, by address in EIP-55 spelling."""

    def __init__(self, world: World, network: str, usdc: Mapping[str, int], wei: Mapping[str, int]) -> None:
        self.world = world
        self.network = networks.get(network)
        self.asset = self.network.usd
        self.genesis = EvmState(TokenState(dict(usdc)), dict(wei))
        self.history: list[Included] = []
        self.pool: dict[str, SentTransaction] = {}
        self.moves_ever: list[tuple[str, Move]] = []
        """Every transfer that was ever in a block, undone or not, with its transaction."""
        self.former: Former | None = None
        """What a reorganisation took back, for as long as some nodes are left behind on it."""
        self.undone: set[str] = set()
        """Transactions that a reorganisation took out of a block, once or more often."""
        self.depths: dict[str, int] = {}
        """How deep a transaction was when it was undone."""
        self.on_included: list[Callable[[Included], None]] = []
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._spike: tuple[float, float, int] = (0.0, 0.0, 1)

    # Reading.

    def head(self) -> int:
        """The number of the newest block."""
        return GENESIS_BLOCK + int(self.world.loop.time() // BLOCK_SECONDS)

    @staticmethod
    def time_of(block: int) -> int:
        """The unix second of a block."""
        return EPOCH + (block - GENESIS_BLOCK) * BLOCK_SECONDS

    def state(self, height: int) -> EvmState:
        """What a node knows that has seen the blocks up to `height`."""
        for included in reversed(self.history):
            if included.block <= height:
                return included.after
        return self.genesis

    def latest(self) -> EvmState:
        """The state at the newest block."""
        return self.history[-1].after if self.history else self.genesis

    def find(self, transaction: str, height: int) -> Included | None:
        """A transaction in a block up to `height`."""
        wanted = transaction.lower()
        for included in self.history:
            if included.transaction.hash == wanted and included.block <= height:
                return included
        return None

    def pending_count(self, sender: str) -> int:
        """The nonce after those in blocks and those that the pool holds without a gap."""
        nonce = self.latest().nonces.get(sender, 0)
        waiting = {one.nonce for one in self.pool.values() if one.sender == sender}
        while nonce in waiting:
            nonce += 1
        return nonce

    @contextmanager
    def left_behind(self) -> Iterator[int]:
        """The chain as nodes see it that are left on a lost fork, inside; gives their height."""
        former = self.former
        assert former is not None
        self.history, now = former.history, self.history
        try:
            yield former.head
        finally:
            self.history = now

    def has_laggards(self) -> bool:
        """Whether a node may be found on a fork that has lost."""
        return self.former is not None and self.world.loop.time() < self.former.until

    def base_fee(self, block: int) -> int:
        """Wei per gas that a transaction must bid at least to be in a block."""
        start, end, factor = self._spike
        at = (block - GENESIS_BLOCK) * BLOCK_SECONDS
        return BASE_FEE * (factor if start <= at < end else 1)

    # Sending.

    def submit(self, raw: bytes) -> None:
        """Take signed bytes into the pool, as a node does. Raises `NotSent`."""
        self.admit(read_transaction(raw))

    def admit(self, new: SentTransaction) -> None:
        """Take a transaction into the pool. Raises `NotSent` with a node's words."""
        if new.hash in self.pool or self.find(new.hash, self.head()) is not None:
            return
        state = self.latest()
        if new.nonce < state.nonces.get(new.sender, 0):
            raise NotSent("nonce too low", ours=True)
        if state.wei.get(new.sender, 0) < new.gas * new.max_fee:
            raise NotSent("insufficient funds for gas * price + value", ours=True)
        rival = next((one for one in self.pool.values() if (one.sender, one.nonce) == (new.sender, new.nonce)), None)
        if rival is not None:
            enough = all(
                100 * bid >= _BUMP_PERCENT * older
                for bid, older in ((new.max_fee, rival.max_fee), (new.priority_fee, rival.priority_fee))
            )
            if not enough:
                raise NotSent("replacement transaction underpriced", ours=True)
            del self.pool[rival.hash]
        self.pool[new.hash] = new
        self.world.note(f"pool takes {new.hash[:10]} nonce {new.nonce} of {new.sender[:8]}")
        self._arm()

    def spike(self, seconds: float, factor: int) -> None:
        """The base fee jumps for a while."""
        start = self.world.loop.time()
        self._spike = (start, start + seconds, factor)
        self.world.later(seconds + 0.1, self._arm)

    async def wait_for(self, transaction: str, seconds: float) -> None:
        """Until the transaction is in a block, or `seconds` are over."""
        arrival: asyncio.Future[None] = self.world.loop.create_future()
        self._waiting.setdefault(transaction.lower(), []).append(arrival)
        timer = self.world.later(seconds, lambda: None if arrival.done() else arrival.set_result(None))
        try:
            await arrival
        finally:
            timer.cancel()

    # Making blocks.

    def _arm(self) -> None:
        if self._timer is not None or self._next() is None:
            return
        now = self.world.loop.time()
        wait = BLOCK_SECONDS - now % BLOCK_SECONDS
        self._timer = self.world.later(wait + 0.001, self._make_block)

    def _next(self) -> SentTransaction | None:
        """A transaction that the next block may take, or None when the pool holds none."""
        nonces, fee = self.latest().nonces, self.base_fee(self.head() + 1)
        ready = [one for one in self.pool.values() if one.nonce == nonces.get(one.sender, 0) and one.max_fee >= fee]
        return ready[0] if len(ready) == 1 else self.world.chance.choice(ready) if ready else None

    def _make_block(self) -> None:
        self._timer = None
        block = self.head()
        while (chosen := self._next()) is not None:
            del self.pool[chosen.hash]
            self._include(chosen, block)
        for stale in [one for one in self.pool.values() if one.nonce < self.latest().nonces.get(one.sender, 0)]:
            del self.pool[stale.hash]
        self._arm()

    def _include(self, chosen: SentTransaction, block: int) -> None:
        before = self.latest()
        logs: tuple[Log, ...] = ()
        moves: tuple[Move, ...] = ()
        token, succeeded, at = before.token, True, self.time_of(block)
        try:
            token, logs, moves, _ = perform(before.token, self.asset, chosen.sender, chosen.to, chosen.call, at)
        except Revert as revert:
            succeeded = False
            self.world.note(f"{chosen.hash[:10]} reverts: {revert}")
        fee = GAS_USED * max(1, len(moves)) * min(chosen.max_fee, self.base_fee(block) + chosen.priority_fee)
        wei = {**before.wei, chosen.sender: before.wei.get(chosen.sender, 0) - fee}
        nonces = {**before.nonces, chosen.sender: chosen.nonce + 1}
        included = Included(chosen, block, succeeded, logs, moves, EvmState(token, wei, nonces))
        self.history.append(included)
        effect = f"paid {len(moves)}" if moves else "done" if succeeded else "failed"
        self.world.note(f"block {block} has {chosen.hash[:10]} {effect}")
        if len(moves) > 1:
            self.world.injected["bundle.transactions"] += 1
        self.moves_ever += [(chosen.hash, move) for move in moves]
        for told in self.on_included:
            told(included)
        for arrival in self._waiting.pop(chosen.hash, []):
            delay = self.world.latency("read")
            self.world.later(delay, lambda arrival=arrival: None if arrival.done() else arrival.set_result(None))  # type: ignore[misc]

    def reorganise(self, depth: int, *, rob: str = "") -> None:
        """Undo the last `depth` blocks, never beyond what is final. Most of their transactions come back to the pool;
        with `rob`, that payer's money goes elsewhere in the new blocks, so that its payment can't."""
        from_block = max(self.head() - min(depth, REORG_DEPTH_MAX), GENESIS_BLOCK)
        undone = [included for included in self.history if included.block > from_block]
        if not undone:
            return
        self.former = Former(self.history, self.head(), self.world.loop.time() + LEFT_BEHIND_SECONDS)
        self.history = self.history[: len(self.history) - len(undone)]
        self.world.note(f"a reorganisation undoes {len(undone)} transactions above block {from_block}")
        self.world.injected["reorg.transactions"] += len(undone)
        balance = self.latest().token.balances.get(rob, 0)
        if rob and balance:
            nonce = self.latest().nonces.get(rob, 0)
            self._include(self.foreign(rob, nonce, transfer_call(THIEF, balance)), self.head())
        for included in undone:
            name, depth = included.transaction.hash, self.head() - included.block + 1
            self.undone.add(name)
            self.depths[name] = max(depth, self.depths.get(name, 0))
            if self.world.chance.random() < 0.7:
                self.pool.setdefault(included.transaction.hash, included.transaction)
            else:
                self.world.injected["reorg.dropped"] += 1
        self._arm()

    def foreign(
        self, sender: str, nonce: int, call: bytes, *, to: str = "", max_fee: int = 100 * BASE_FEE
    ) -> SentTransaction:
        """Somebody else's transaction, to the token unless another contract is named."""
        identity = "0x" + self.world.entropy(32).hex()
        to = to or self.asset.address
        return SentTransaction(identity, sender, nonce, max_fee, PRIORITY_FEE, 100_000, to, call)


THIEF = "0x00000000000000000000000000000000DeaDBeef"
"""Where a payer's money goes when the payer spends it elsewhere."""
