"""The world as four interfaces. Parties are written against these; only the files beside this one do I/O.

Every method may raise `UnavailableError` when the other side can't be reached, except where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from x402.chain import (
    Blockhash,
    CallResult,
    EvmFees,
    EvmReceipt,
    Log,
    SvmAccount,
    SvmListed,
    SvmSimulation,
    SvmStatus,
    SvmTransaction,
)
from x402.lifecycle import Entry, Event, Party, Stage, State


class NotSent(Exception):
    """The node provably refused a transaction: it is in no pool and in no block. Carries the node's words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway delivered for a payment, kept so that the same payment gets the same bytes again."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool = True


class Ledger(Protocol):
    """The durable memory. Every method is one transaction; when it returns, the write has reached the disk.

    Raises `UnavailableError("ledger_unavailable")` when nothing could be written: then nothing may be sent (E10).
    """

    async def begin(self, entry: Entry) -> tuple[Entry, bool]:
        """Write a first memory. Returns the row and True for the one winner; the older row and False for the rest."""
        ...

    async def advance(self, party: Party, pay_id: str, event: Event, stage: Stage) -> Entry:
        """Follow one arrow of the law. Raises `UnlawfulEvent` when the row has moved on, `KeyError` without a row."""
        ...

    async def find(self, party: Party, pay_id: str) -> Entry | None: ...

    async def unresolved(self, party: Party) -> Sequence[Entry]:
        """Every row of a party whose outcome is open (`lifecycle.open_states`), oldest first."""
        ...

    async def totals(self, party: Party, state: State) -> dict[tuple[str, str], int]:
        """Sum of atomic amounts by (network, asset) of the rows in one state."""
        ...

    async def keep_answer(self, pay_id: str, answer: Answer) -> None: ...

    async def answer(self, pay_id: str) -> Answer | None: ...

    async def forget_answers(self, before: int) -> int:
        """Delete the answers that the gateway delivered at unix second `before` or earlier; returns how many.

        An answer that is still to go out is never deleted, however old it is.
        """
        ...

    async def reserve_nonce(self, network: str, signer: str, chain_nonce: int) -> int:
        """The signer's next transaction nonce: never lower than the chain's, never handed out twice."""
        ...

    async def return_nonce(self, network: str, signer: str, nonce: int) -> None:
        """Give back a nonce whose transaction provably never left, so that no gap jams the signer (fault D02)."""
        ...

    async def mend_nonces(self, network: str, signer: str, chain_nonce: int) -> None:
        """Hand back every nonce from the chain's on that was handed out and that no open payment holds.

        A crash between `reserve_nonce` and `begin` leaves such a gap, and everything above it would wait for ever
        (fault D02). For a signer's first use in a process, before anything else is reserved for it.
        """
        ...

    async def ping(self) -> None:
        """Prove that a write would succeed."""
        ...


class EvmChain(Protocol):
    """One EVM network. Nothing here blocks the loop; concurrent calls share round trips (design D7)."""

    chain_id: int

    async def check_chain_id(self) -> None:
        """Raise `MisconfiguredError` unless the node serves `chain_id` (fault D14)."""
        ...

    async def code(self, address: str) -> bytes: ...

    async def is_contract(self, address: str) -> bool:
        """Whether code lives at `address`; a yes may be remembered."""
        ...

    async def call(self, to: str, data: bytes, *, sender: str = "", gas: int = 0) -> CallResult: ...

    async def balance(self, address: str) -> int:
        """Wei."""
        ...

    async def transaction_count(self, address: str) -> int:
        """The next nonce that the node expects from `address`, pending transactions included."""
        ...

    async def fees(self) -> EvmFees: ...

    async def send(self, raw: bytes, transaction: str) -> None:
        """Hand over signed bytes, whose id is `transaction`.

        Returns when the node has them, or had them already. Raises `NotSent` only when the node provably refused them,
        `UnavailableError` when nobody can know.
        """
        ...

    async def knows(self, transaction: str) -> bool:
        """Whether the node has the transaction, in its pool or in a block."""
        ...

    async def receipt(self, transaction: str, *, timeout: float) -> EvmReceipt | None:
        """The receipt once it exists, or None after `timeout` seconds. All waiters share one poll.

        Raises `UnavailableError` when the node answered no poll: silence is not absence (fault E01).
        """
        ...

    async def logs(
        self, address: str, topics: Sequence[str | None], from_block: int, to_block: int | None = None
    ) -> Sequence[tuple[str, Log]]:
        """Matching events with the transaction hash of each, up to the latest block unless told otherwise."""
        ...

    async def time_of(self, block: int) -> int:
        """A block's timestamp, unix seconds."""
        ...

    async def now(self) -> int:
        """The latest block's timestamp, unix seconds."""
        ...

    async def block_number(self) -> int: ...


class SvmChain(Protocol):
    """One Solana cluster. Nothing here blocks the loop; statuses are polled together (design D7)."""

    async def check_cluster(self, network: str) -> None:
        """Raise `MisconfiguredError` unless the node serves the cluster with this CAIP-2 id (fault D14)."""
        ...

    async def blockhash(self) -> Blockhash: ...

    async def block_height(self) -> int: ...

    async def is_blockhash_valid(self, blockhash: str) -> bool: ...

    async def accounts(self, addresses: Sequence[str]) -> Sequence[SvmAccount | None]: ...

    async def simulate(self, raw: bytes, *, verify_signatures: bool) -> SvmSimulation: ...

    async def send(self, raw: bytes, transaction: str) -> None:
        """As `EvmChain.send`."""
        ...

    async def status(self, signature: str, *, timeout: float) -> SvmStatus | None:
        """The status once it is confirmed, also of a failure, or None after `timeout` seconds; else as `receipt`."""
        ...

    async def transaction(self, signature: str) -> SvmTransaction | None: ...

    async def signatures_of(self, address: str, *, limit: int = 1000, before: str = "") -> Sequence[SvmListed]:
        """The confirmed transactions that name an account, newest first, at most 1000; `before` pages on."""
        ...


class Clock(Protocol):
    """Unix time in whole seconds."""

    def __call__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains that a party can reach, by CAIP-2 id."""

    evm: dict[str, EvmChain] = field(default_factory=dict)
    svm: dict[str, SvmChain] = field(default_factory=dict)
