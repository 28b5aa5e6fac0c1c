"""The world as four interfaces. Parties are written against these; only the files beside this one do I/O.

Every method may raise `UnavailableError` when the other side can't be reached, except where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from x402.billing import Booking
from x402.chain import (
    Blockhash,
    CallResult,
    EvmCall,
    EvmFees,
    EvmReceipt,
    Log,
    SvmAccount,
    SvmLanded,
    SvmListed,
    SvmSimulation,
    SvmStatus,
    SvmTransaction,
)
from x402.lifecycle import Entry, Event, Party, Subject
from x402.ports.claiming import Arrow as Arrow
from x402.ports.claiming import IdentifierTaken as IdentifierTaken
from x402.ports.claiming import Instead as Instead
from x402.ports.claiming import NoRoom as NoRoom
from x402.ports.claiming import Room as Room
from x402.stages import Intended, Stage, State


class NotSent(Exception):
    """The node provably refused a transaction: it is in no pool and in no block. Carries the node's words.

    `ours` when the sender is at fault (no gas, a used nonce, a bid too low), so that other bytes may still pay.
    """

    def __init__(self, words: str, *, ours: bool = False) -> None:
        super().__init__(words)
        self.ours = ours


@dataclass(frozen=True, slots=True)
class NonceBook:
    """A signer's nonces: the next one that was never handed out, and those that open settlements hold."""

    next: int
    held: frozenset[int]


Sign = Callable[[int], Intended]
"""Signs a settlement with the nonce that was reserved for it. Pure: it runs inside a ledger's transaction."""


SignTogether = Callable[[int, Sequence[Subject]], Sequence[Intended]]
"""Signs one transaction that settles these payments with the nonce that was reserved for it, and tells what each of
them then knows, in their order. Pure, as `Sign`."""

SignAgain = Callable[[int, Sequence[Entry]], Sequence[Intended]]
"""The same for payments that wait for a transaction which is to be replaced."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway delivered for a payment, kept so that the same payment gets the same bytes again."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    complete: bool = True


class Ledger(Protocol):
    """The durable memory. Every method is one transaction; when it returns, the write has reached the disk.

    Raises `UnavailableError("ledger_unavailable")` when nothing could be written: then nothing may be sent (E10).
    """

    async def begin(
        self,
        entry: Entry,
        *,
        lease_seconds: int = 0,
        room: Room | None = None,
        identifier: str = "",
        arrows: Sequence[Arrow] = (),
        instead: Instead | None = None,
    ) -> tuple[Entry, bool]:
        """Write a first memory. Returns the row and True for the one winner; the older row and False for the rest.

        The winner holds the row's lease for `lease_seconds`. Raises `NoRoom`, having written nothing, when the
        winner's amount would leave more unsettled (CLAIMED, SERVED, SETTLING) than `room` allows; the sum is taken
        in the same transaction, so that no two claims share one balance (fault A08). Where `instead` tells what is
        begun without room, that is begun, and nothing is raised.

        `identifier` is the payer's own name for the payment; raises `IdentifierTaken`, having written nothing, when
        he has given it to another payment that did not end REFUSED or RELEASED.

        The winner's row follows `arrows` at once, in the same transaction.
        """
        ...

    async def intend(
        self, subject: Subject, signer: str, chain_nonce: int, sign: Sign, *, lease_seconds: int = 0
    ) -> tuple[Entry, bool]:
        """Reserve `signer`'s next nonce, sign with it, and write the facilitator's first memory, all at once.

        Like `begin`: one winner, and for the rest nothing is reserved. A nonce is never lower than `chain_nonce`,
        never handed out twice, and never handed out without a durable row that holds it, so that no crash leaves a
        gap (faults D01, D02, E11). What `sign` raises is raised here, and nothing was written.
        """
        ...

    async def intend_together(
        self, subjects: Sequence[Subject], signer: str, chain_nonce: int, sign: SignTogether
    ) -> Sequence[tuple[Entry, bool]]:
        """As `intend`, for payments of one network that one transaction settles: each has its own row, and they share
        the nonce and the bytes. `sign` gets those that are new; the answers come in the order of `subjects`."""
        ...

    async def sharing(self, network: str, signer: str, nonce: int, transaction: str) -> Sequence[Entry]:
        """The payments that wait for this very transaction, in the order of their ids."""
        ...

    async def replace_together(
        self, network: str, signer: str, nonce: int, transaction: str, sign: SignAgain, *, among: Collection[str]
    ) -> Sequence[Entry]:
        """Other bytes, with the nonce that they share, for the payments `among` these ids that wait for this very
        transaction; by the arrow REPLACE. Raises `UnlawfulEvent` when none does any more."""
        ...

    async def replace(
        self, pay_id: str, attempt: int, signer: str, chain_nonce: int, sign: Sign, *, keep_nonce: bool = False
    ) -> Entry:
        """Other bytes for a settlement whose attempt number `attempt` is to be replaced, by the arrow REPLACE.

        With `keep_nonce` the nonce stays the row's own (a higher fee, fault D03); without, the next one of `signer` is
        reserved as in `intend`, for bytes that provably never left. Raises `UnlawfulEvent` when the row has moved on
        or is at another attempt, `KeyError` without a row.
        """
        ...

    async def advance(
        self, party: Party, pay_id: str, event: Event, stage: Stage, *, booking: Booking | None = None
    ) -> Entry:
        """Follow one arrow of the law. Raises `UnlawfulEvent` when the row has moved on, `KeyError` without a row.

        `booking` is written in the same transaction: a bill, and what the payer's account gains. A gateway's payment
        that a reorganisation undoes takes back what it brought an account, as far as it is still there, and gives it
        again when it lands once more.
        """
        ...

    async def follow(
        self,
        party: Party,
        pay_id: str,
        arrows: Sequence[Arrow],
        *,
        answer: Answer | None = None,
        forget_answer: bool = False,
        booking: Booking | None = None,
    ) -> Entry:
        """Follow arrows that have nothing to do between them, all or none, and keep `answer` with them, or forget the
        one that is kept; `booking` as in `advance`. Raises what `advance` raises, having written nothing."""
        ...

    async def lease(self, party: Party, pay_id: str, seconds: int) -> bool:
        """Take or renew the right to work on a row; False while another process holds it. It ends by itself."""
        ...

    async def end_lease(self, party: Party, pay_id: str) -> None:
        """Give the right back, if it is still ours."""
        ...

    async def take_open(
        self, party: Party, seconds: int, limit: int = 64, *, states: Collection[State] = ()
    ) -> Sequence[Entry]:
        """Lease up to `limit` open rows that no other process holds, least recently taken first (SKIP LOCKED).

        Of `states` only, when some are given. Rows that this process holds already, because it works on them, are
        not given out.
        """
        ...

    async def find(self, party: Party, pay_id: str) -> Entry | None: ...

    async def unresolved(self, party: Party) -> Sequence[Entry]:
        """Every row of a party whose outcome is open (`lifecycle.open_states`), oldest first."""
        ...

    async def held_elsewhere(self, party: Party) -> int:
        """How many of those rows another process holds, or died holding a moment ago."""
        ...

    async def totals(self, party: Party, state: State) -> dict[tuple[str, str], int]:
        """Sum of what is due or has moved, by (network, asset), of the rows in one state; atomic."""
        ...

    async def keep_answer(self, pay_id: str, answer: Answer) -> None: ...

    async def answer(self, pay_id: str) -> Answer | None: ...

    async def forget_answers(self, before: int) -> int:
        """Delete the answers of payments that ended (DELIVERED, RELEASED, REFUSED, REFUNDED, CREDITED, LOST, FINAL) at
        unix second `before` or earlier; returns how many. One that may still go out is never deleted, however old.
        """
        ...

    async def failures_of(self, party: Party, payer: str, since: int) -> int:
        """How many of a payer's payments are REVERSED or LOST, or were REFUSED after they were verified, since a unix
        second: at a gateway all that were refused, at a facilitator those with a transaction (faults A16, D11)."""
        ...

    async def nonces(self, network: str, signer: str) -> NonceBook: ...

    async def return_nonce(self, network: str, signer: str, nonce: int) -> None:
        """Hand a nonce out again, first of all, unless an open row holds it (fault D02)."""
        ...

    async def withdraw_nonce(self, network: str, signer: str, nonce: int) -> bool:
        """Stop handing out a returned nonce; True for the one caller who may now fill the gap itself."""
        ...

    async def spend(self, day: int, accounts: Mapping[str, int], units: int) -> str | None:
        """Book `units` of fees against every account, all or none: the name of the account whose cap (the value)
        would be exceeded, or None. `day` is the unix day; negative units give back what was booked too much."""
        ...

    async def spent(self, day: int, account: str) -> int: ...

    async def burden(self, payer: str, since: int, day: int, accounts: Sequence[str]) -> tuple[int, Sequence[int]]:
        """A payer's `failures_of` at the facilitator, and what is `spent` by each of these accounts, in one look."""
        ...

    async def ping(self) -> None:
        """Prove that a write would succeed."""
        ...


class EvmChain(Protocol):
    """One EVM network. Nothing here blocks the loop; concurrent calls share round trips (design D7)."""

    chain_id: int

    async def aclose(self) -> None: ...

    async def check_chain_id(self) -> None:
        """Raise `MisconfiguredError` unless the node serves `chain_id` (fault D14)."""
        ...

    async def code(self, address: str) -> bytes: ...

    async def call(
        self, to: str, data: bytes, *, sender: str = "", gas: int = 0, block: int | None = None
    ) -> CallResult:
        """What a call would return on the latest state, or after `block`, which a node that lacks it can't answer."""
        ...

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

    async def transaction(self, transaction: str) -> EvmCall | None:
        """What a transaction called; None when the node does not have it."""
        ...

    async def receipt(self, transaction: str, *, timeout: float) -> EvmReceipt | None:
        """The receipt once it exists, or None after `timeout` seconds. All waiters share one poll; 0 asks once.

        Raises `UnavailableError` when the node answered no poll: silence is not absence (fault E01).
        """
        ...

    def next_block(self) -> float | None:
        """In how many seconds a block may be expected, by the rhythm of those that were seen; None while unknown."""
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

    async def finalized(self) -> int:
        """The highest block that no reorganisation reaches any more (the block tag `finalized`)."""
        ...


class SvmChain(Protocol):
    """One Solana cluster. Nothing here blocks the loop; statuses are polled together (design D7)."""

    async def aclose(self) -> None: ...

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

    async def landed(self, signature: str) -> SvmLanded | None:
        """A transaction's own bytes, once it is confirmed."""
        ...

    async def finalized(self) -> int:
        """The highest slot that no fork replaces any more."""
        ...

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
