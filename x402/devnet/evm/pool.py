"""Transactions that wait for a block: checked as they arrive, kept in nonce order, gaps allowed.

The checks and their words are go-ethereum's, because clients read those words. A transaction whose nonce is
ahead of its sender's is kept until the gap fills; one whose fee cap is below the base fee is kept until the
base fee falls or somebody replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import rlp
from eth.abc import SignedTransactionAPI
from eth.exceptions import PyEVMError
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth_keys.exceptions import BadSignature
from eth_typing import Address
from eth_utils.exceptions import ValidationError

MAX_TRANSACTION_BYTES = 128 * 1024
MAX_POOLED = 4096
REPLACEMENT_BUMP_PERCENT = 10
BLOB_TRANSACTION = 3
KNOWN_TYPES = frozenset({1, 2, 4})
LEGACY_PREFIX_MIN = 0xC0
LOWEST_TIP_WEI = 1


class TransactionRefused(Exception):
    """A transaction that the pool won't take; the message is worded as go-ethereum words it."""


@dataclass(frozen=True)
class Signed:
    """A decoded transaction with what the pool asks of it again and again. Fees are in wei per gas."""

    tx: SignedTransactionAPI
    hash: bytes
    sender: Address
    type_id: int
    nonce: int
    fee_cap: int
    tip_cap: int
    cost_wei: int
    """The most it can take from the sender: gas limit times fee cap, and the value."""

    def tip(self, base_fee: int) -> int:
        """What the block's proposer earns per gas under `base_fee`."""
        return min(self.tip_cap, self.fee_cap - base_fee)

    def price(self, base_fee: int) -> int:
        """What the sender pays per gas under `base_fee`: the receipt's `effectiveGasPrice`."""
        return base_fee + self.tip(base_fee)


def decode(raw: bytes, chain_id: int) -> Signed:
    """The transaction in `raw`, signed for `chain_id`. Raises `TransactionRefused`."""
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise TransactionRefused(f"oversized data: transaction size {len(raw)}, limit {MAX_TRANSACTION_BYTES}")
    if len(raw) < 2:
        raise TransactionRefused("typed transaction too short")
    type_id = 0 if raw[0] >= LEGACY_PREFIX_MIN else raw[0]
    if type_id and type_id not in KNOWN_TYPES:
        raise TransactionRefused("transaction type not supported")
    try:
        tx = PragueTransactionBuilder.decode(raw)
        signed_for = tx.chain_id
    except (rlp.exceptions.RLPException, PyEVMError, ValidationError, TypeError, ValueError) as error:
        raise TransactionRefused(f"rlp: {error}") from error
    if signed_for is None:
        raise TransactionRefused("only replay-protected (EIP-155) transactions allowed over RPC")
    if signed_for != chain_id:
        raise TransactionRefused(f"invalid chain id for signer: have {signed_for} want {chain_id}")
    try:
        tx.validate()
        sender = Address(bytes(tx.sender))
    except (BadSignature, ValidationError, PyEVMError) as error:
        raise TransactionRefused(f"invalid sender: {error}") from error
    return Signed(
        tx=tx,
        hash=bytes(tx.hash),
        sender=sender,
        type_id=type_id,
        nonce=tx.nonce,
        fee_cap=tx.max_fee_per_gas,
        tip_cap=tx.max_priority_fee_per_gas,
        cost_wei=tx.gas * tx.max_fee_per_gas + tx.value,
    )


@dataclass
class Pool:
    """The waiting transactions. The caller supplies the facts of the chain."""

    _by_sender: dict[Address, dict[int, Signed]] = field(default_factory=dict)
    _by_hash: dict[bytes, Signed] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_hash)

    def __iter__(self) -> Iterator[Signed]:
        return iter(self._by_hash.values())

    def get(self, tx_hash: bytes) -> Signed | None:
        """The waiting transaction with this hash."""
        return self._by_hash.get(tx_hash)

    def copy(self) -> Pool:
        """The same transactions in another pool, for a snapshot."""
        return Pool({sender: dict(queue) for sender, queue in self._by_sender.items()}, dict(self._by_hash))

    def add(self, signed: Signed, nonce: int, balance: int, gas_limit: int) -> None:
        """Take `signed` in, given its sender's next nonce and balance. Raises `TransactionRefused`."""
        if signed.hash in self._by_hash:
            raise TransactionRefused("already known")
        _check_alone(signed, gas_limit)
        if signed.nonce < nonce:
            raise TransactionRefused(f"nonce too low: next nonce {nonce}, tx nonce {signed.nonce}")
        queue = self._by_sender.get(signed.sender, {})
        standing = queue.get(signed.nonce)
        self._check_funds(signed, queue, standing, balance)
        if standing is not None:
            if not _outbids(signed, standing):
                raise TransactionRefused("replacement transaction underpriced")
            del self._by_hash[standing.hash]
        elif len(self._by_hash) >= MAX_POOLED:
            raise TransactionRefused("txpool is full")
        self._by_sender.setdefault(signed.sender, {})[signed.nonce] = signed
        self._by_hash[signed.hash] = signed

    @staticmethod
    def _check_funds(signed: Signed, queue: dict[int, Signed], standing: Signed | None, balance: int) -> None:
        address = "0x" + signed.sender.hex()
        if balance < signed.cost_wei:
            overshot = signed.cost_wei - balance
            raise TransactionRefused(
                f"insufficient funds for gas * price + value: address {address} "
                f"have {balance} want {signed.cost_wei} (overshot {overshot})"
            )
        queued = sum(other.cost_wei for other in queue.values() if other is not standing)
        if balance < queued + signed.cost_wei:
            raise TransactionRefused(
                f"insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, "
                f"tx cost {signed.cost_wei}, overshot {queued + signed.cost_wei - balance}"
            )

    def next_nonce(self, sender: Address, nonce: int) -> int:
        """The first nonce at or after `nonce` that no waiting transaction of `sender` uses."""
        queue = self._by_sender.get(sender, {})
        while nonce in queue:
            nonce += 1
        return nonce

    def best(self, nonce_of: Callable[[Address], int], base_fee: int, gas_left: int) -> Signed | None:
        """The waiting transaction that a proposer would take next: highest tip first, then arrival."""
        ready: list[Signed] = []
        for sender, queue in self._by_sender.items():
            first = queue.get(nonce_of(sender))
            if first is not None and first.fee_cap >= base_fee and first.tx.gas <= gas_left:
                ready.append(first)
        order = {tx_hash: position for position, tx_hash in enumerate(self._by_hash)} if len(ready) > 1 else {}
        return max(ready, key=lambda one: (one.tip(base_fee), -order.get(one.hash, 0)), default=None)

    def drop(self, signed: Signed) -> None:
        """Forget a transaction: mined, or no longer payable."""
        if self._by_hash.pop(signed.hash, None) is None:
            return
        queue = self._by_sender[signed.sender]
        del queue[signed.nonce]
        if not queue:
            del self._by_sender[signed.sender]


def _check_alone(signed: Signed, gas_limit: int) -> None:
    tx: Any = signed.tx
    if tx.gas > gas_limit:
        raise TransactionRefused(f"exceeds block gas limit: gas {tx.gas}, limit {gas_limit}")
    if signed.tip_cap > signed.fee_cap:
        raise TransactionRefused(
            "max priority fee per gas higher than max fee per gas: "
            f"maxPriorityFeePerGas: {signed.tip_cap}, maxFeePerGas: {signed.fee_cap}"
        )
    if signed.tip_cap < LOWEST_TIP_WEI:
        raise TransactionRefused(
            f"transaction underpriced: gas tip cap {signed.tip_cap}, minimum needed {LOWEST_TIP_WEI}"
        )
    if tx.gas < tx.intrinsic_gas:
        raise TransactionRefused(f"intrinsic gas too low: gas {tx.gas}, minimum needed {tx.intrinsic_gas}")


def _outbids(signed: Signed, standing: Signed) -> bool:
    """Whether both fees rise by the tenth that go-ethereum asks of a replacement."""
    factor = 100 + REPLACEMENT_BUMP_PERCENT
    dearer_cap = signed.fee_cap * 100 >= standing.fee_cap * factor
    dearer_tip = signed.tip_cap * 100 >= standing.tip_cap * factor
    return dearer_cap and dearer_tip
