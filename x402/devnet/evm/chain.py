"""The chain itself: blocks, state and time, executed by py-evm under Prague rules.

It stands on py-evm directly rather than on eth-tester, which hides three things that payments depend on:
the raw revert data, the clock of a block, and the chain id inside a signature. Everything here blocks and
belongs to one thread.

Time is the wall clock. Blocks made within one second share its timestamp, so a burst of payments doesn't
push the chain's clock into the future, where EIP-3009 authorizations would expire early.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import rlp
from eth._utils.address import generate_contract_address
from eth.abc import BlockHeaderAPI, ReceiptAPI, StateAPI
from eth.consensus.context import ConsensusContext
from eth.db.atomic import AtomicDB
from eth.db.chain import ChainDB
from eth.vm.chain_context import ChainContext
from eth.vm.forks.prague import PragueVM
from eth_typing import Address, Hash32
from eth_utils.exceptions import ValidationError

from .genesis import Account
from .pool import Pool, Signed, decode

GAS_LIMIT = 30_000_000
BASE_FEE_FLOOR_WEI = 1_000_000
"""A thousandth of a gwei, about what Base asks; it rises with full blocks and falls back to this."""
TIP_WEI = 1_000_000
COINBASE = bytes.fromhex("4200000000000000000000000000000000000011")
HEARTBEAT_S = 2
"""Base's block time: how old the latest block may get before somebody who asks for it gets a new one."""
BLOCK_HASHES_MAX = 256
RECURSION_LIMIT = 12_000
"""Python frames: enough for the deepest chain of calls that a block's gas can pay for."""

# Importing py-evm raises the interpreter's limit to 100,000, with which a body of nested brackets sent to any
# server in this process overflows the C stack inside the JSON parser and kills it.
sys.setrecursionlimit(min(sys.getrecursionlimit(), RECURSION_LIMIT))

Alteration = Callable[[StateAPI], None]


@dataclass(frozen=True)
class Included:
    """A transaction's place and effect in its block. Gas in units, prices in wei."""

    signed: Signed
    receipt: ReceiptAPI
    index: int
    gas_used: int
    price: int
    first_log_index: int
    created: bytes | None
    """The address of the contract it deployed."""


@dataclass(frozen=True)
class Mined:
    """A block with its transactions' results."""

    header: BlockHeaderAPI
    hash: Hash32
    size: int
    included: tuple[Included, ...]

    @property
    def number(self) -> int:
        """The block's height."""
        return self.header.block_number


@dataclass(frozen=True)
class _Snapshot:
    height: int
    pool: Pool
    clock_offset_s: int


class _DevnetVM(PragueVM):
    """Prague rules, with the ancestors' hashes taken from memory instead of a header database."""

    ancestors: tuple[Hash32, ...] = ()

    @property
    def previous_hashes(self) -> Iterator[Hash32]:
        return iter(self.ancestors)


class Chain:
    """One chain with one head and a pool in front of it."""

    def __init__(self, chain_id: int, genesis: Mapping[Address, Account]) -> None:
        self.chain_id = chain_id
        self.pool = Pool()
        self.automine = True
        self.interval_s: float | None = None
        self.clock_offset_s = 0
        self._context = ChainContext(chain_id)
        self._db = ChainDB(AtomicDB())
        self._consensus = ConsensusContext(self._db.db)
        self._snapshots: dict[int, _Snapshot] = {}
        self._snapshots_taken = 0
        self.blocks: list[Mined] = [self._make_genesis(genesis)]
        self._numbers: dict[bytes, int] = {self.blocks[0].hash: 0}
        self._places: dict[bytes, tuple[int, int]] = {}

    def _make_genesis(self, genesis: Mapping[Address, Account]) -> Mined:
        fields = {"difficulty": 0, "gas_limit": GAS_LIMIT, "timestamp": self.now(), "coinbase": COINBASE}
        blank = _DevnetVM.create_genesis_header(**fields, base_fee_per_gas=BASE_FEE_FLOOR_WEI)
        state = _DevnetVM.build_state(self._db.db, blank, self._context)
        for address, account in genesis.items():
            _place(state, address, account)
        state.persist()
        header = blank.copy(state_root=state.state_root)
        return Mined(header, header.hash, len(rlp.encode(header)), ())

    # Reading

    @property
    def head(self) -> Mined:
        """The latest block."""
        return self.blocks[-1]

    def now(self) -> int:
        """The chain's clock in Unix seconds: the wall clock, moved by `clock_offset_s`."""
        return int(time.time()) + self.clock_offset_s

    def by_hash(self, block_hash: bytes) -> Mined | None:
        """The block with this hash."""
        number = self._numbers.get(block_hash)
        return None if number is None else self.blocks[number]

    def find(self, tx_hash: bytes) -> tuple[Mined, Included] | None:
        """Where a transaction was mined."""
        place = self._places.get(tx_hash)
        if place is None:
            return None
        block = self.blocks[place[0]]
        return block, block.included[place[1]]

    def state_at(self, block: Mined) -> StateAPI:
        """The state after `block`, to read from or to throw away."""
        return _DevnetVM.build_state(self._db.db, block.header, self._context)

    def state_in(self, header: BlockHeaderAPI) -> StateAPI:
        """The state that `header` names, in an execution context with its clock and fees."""
        hashes = self._ancestors(header.block_number)
        return _DevnetVM.build_state(self._db.db, header, self._context, iter(hashes))

    def pending_nonce(self, sender: Address) -> int:
        """The nonce that `sender` should use next, counting what waits in the pool."""
        return self.pool.next_nonce(sender, self.state_at(self.head).get_nonce(sender))

    def next_base_fee(self) -> int:
        """Wei per gas in the block after the head (EIP-1559, with a floor)."""
        following = _DevnetVM.create_header_from_parent(self.head.header, gas_limit=GAS_LIMIT)
        return int(max(following.base_fee_per_gas, BASE_FEE_FLOOR_WEI))

    # Writing

    def send(self, raw: bytes) -> bytes:
        """Take a raw transaction in; with automine on, mine it. Returns its hash, raises `TransactionRefused`."""
        signed = decode(raw, self.chain_id)
        state = self.state_at(self.head)
        self.pool.add(signed, state.get_nonce(signed.sender), state.get_balance(signed.sender), GAS_LIMIT)
        if self.automine:
            self._mine_ready()
        return signed.hash

    def _mine_ready(self) -> None:
        """Mine until nothing in the pool can be included, so that a filled gap brings its whole queue."""
        while True:
            waiting = len(self.pool)
            nonce_of = self.state_at(self.head).get_nonce
            if not waiting or self.pool.best(nonce_of, self.next_base_fee(), GAS_LIMIT) is None:
                return
            self.mine()
            if len(self.pool) == waiting:
                return

    def set_automine(self, on: bool) -> None:
        """Mine each transaction as it arrives, or leave that to `mine`."""
        self.automine = on
        if on:
            self.interval_s = None
            self._mine_ready()

    def heartbeat(self) -> None:
        """With automine on, mine an empty block when the latest is as old as Base would never let it get.

        Lazily, when somebody asks: a client that waits for confirmations or reads the chain's clock sees both
        move, and an idle chain costs nothing.
        """
        if self.automine and self.now() - self.head.header.timestamp >= HEARTBEAT_S:
            self.mine()

    def mine(self, alter: Alteration | None = None, timestamp: int | None = None) -> Mined:
        """Make the next block from the pool, after `alter` has changed the state by decree."""
        parent = self.head.header
        clock = max(timestamp if timestamp is not None else self.now(), parent.timestamp)
        header = _DevnetVM.create_header_from_parent(
            parent, timestamp=clock, gas_limit=GAS_LIMIT, coinbase=COINBASE, mix_hash=os.urandom(32)
        )
        base_fee = max(header.base_fee_per_gas, BASE_FEE_FLOOR_WEI)
        header = header.copy(base_fee_per_gas=base_fee)
        vm = _DevnetVM(header, self._db, self._context, self._consensus)
        vm.ancestors = self._ancestors(header.block_number)
        if alter is not None:
            alter(vm.state)
        header, included = self._include(vm, header, base_fee)
        vm.state.persist()
        block = vm.set_block_transactions_and_withdrawals(
            vm.get_block(), header, [one.signed.tx for one in included], [one.receipt for one in included]
        )
        block = block.copy(header=block.header.copy(state_root=vm.state.state_root))
        mined = Mined(block.header, block.header.hash, len(rlp.encode(block)), tuple(included))
        self._append(mined)
        self._forget_outrun(vm.state)
        return mined

    def _forget_outrun(self, state: StateAPI) -> None:
        """Drop what can never be mined: an EIP-7702 authorization moved the sender's nonce past it."""
        for signed in [one for one in self.pool if one.nonce < state.get_nonce(one.sender)]:
            self.pool.drop(signed)

    def _include(self, vm: _DevnetVM, header: BlockHeaderAPI, base_fee: int) -> tuple[BlockHeaderAPI, list[Included]]:
        included: list[Included] = []
        log_count = 0
        while signed := self.pool.best(vm.state.get_nonce, base_fee, GAS_LIMIT - header.gas_used):
            self.pool.drop(signed)
            try:
                receipt, _ = vm.apply_transaction(header, signed.tx)
            except ValidationError:
                # Its sender can't pay any more: another transaction of the same account was mined first.
                continue
            gas_used = receipt.gas_used - header.gas_used
            header = vm.add_receipt_to_header(header, receipt)
            created = None if signed.tx.to else bytes(generate_contract_address(signed.sender, signed.nonce))
            price = signed.price(base_fee)
            included.append(Included(signed, receipt, len(included), gas_used, price, log_count, created))
            log_count += len(receipt.logs)
        return header, included

    def _append(self, mined: Mined) -> None:
        self.blocks.append(mined)
        self._numbers[mined.hash] = mined.number
        for one in mined.included:
            self._places[one.signed.hash] = (mined.number, one.index)

    def _ancestors(self, number: int) -> tuple[Hash32, ...]:
        first = max(0, number - BLOCK_HASHES_MAX)
        return tuple(block.hash for block in reversed(self.blocks[first:number]))

    # Snapshots

    def snapshot(self) -> int:
        """Remember the head, the pool and the clock. Returns the snapshot's number."""
        self._snapshots_taken += 1
        self._snapshots[self._snapshots_taken] = _Snapshot(self.head.number, self.pool.copy(), self.clock_offset_s)
        return self._snapshots_taken

    def revert(self, number: int) -> bool:
        """Go back to a snapshot, which is used up with all later ones. False if there is none of this number."""
        remembered = self._snapshots.get(number)
        if remembered is None:
            return False
        for later in [one for one in self._snapshots if one >= number]:
            del self._snapshots[later]
        for block in self.blocks[remembered.height + 1 :]:
            del self._numbers[block.hash]
            for one in block.included:
                del self._places[one.signed.hash]
        del self.blocks[remembered.height + 1 :]
        self.pool = remembered.pool
        self.clock_offset_s = remembered.clock_offset_s
        return True


def _place(state: StateAPI, address: Address, account: Account) -> None:
    state.set_balance(address, account.balance_wei)
    if account.code:
        state.set_nonce(address, 1)
        state.set_code(address, account.code)
    for slot, value in account.storage.items():
        state.set_storage(address, slot, value)
