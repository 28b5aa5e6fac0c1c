"""A rail: one network as the facilitator uses it. `settle.py` decides, rails know how.

A payment travels `check` → `intend` → `submit` → `decide`. `intend` makes the signed bytes durable, so that a crash at
any point after it leaves something that `decide` can ask the chain about; nothing leaves before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from x402.errors import MisconfiguredError, UnavailableError
from x402.evidence import Standing
from x402.lifecycle import Entry, Subject
from x402.ports import Ledger
from x402.stages import Intended, Refused, Reversed, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment


class Preparation(Protocol):
    """What has to happen on chain before a payment can settle, and costs gas of ours: the payer's approval of Permit2
    (`approval_relay.py`)."""

    @property
    def name(self) -> str:
        """Under which it is booked, once."""
        ...

    @property
    def cost(self) -> int:
        """The most that it costs us, in wei."""
        ...

    async def carry_out(self, *, timeout: float) -> bool:
        """Have it done within about `timeout` seconds; whether this call began it, so that its cost is due.

        Raises `RefusedError` when it can't be done, and `UnavailableError` while nobody knows.
        """
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """A payment that broke no rule, with what it is on chain; `balance` is what can be taken from its payer, in atomic
    units, where the check has seen it. `nothing_due` says that it is to be closed without a transaction, because its
    scheme meters and nothing was used; `preparation` is what has to happen on chain before it can settle."""

    subject: Subject
    payment: Payment
    requirement: Requirement
    balance: int | None = None
    nothing_due: bool = False
    preparation: Preparation | None = None


class Rail(Protocol):
    """The schemes of one network. It has no memory of its own: what must be remembered goes into the ledger that it is
    given.

    `balances` are what `kinds` last saw its signers hold, and `reserve` what each must hold to send, in wei or
    lamports; `extensions` are those of `/supported` that it serves now. Every method may raise `UnavailableError` when
    the chain can't be asked, except where it says otherwise.
    """

    network: str
    balances: Mapping[str, int]
    reserve: int
    extensions: Sequence[str]

    async def aclose(self) -> None:
        """Close the connections to the node; a later question opens others. Never raises."""
        ...

    async def start(self) -> None:
        """Prove that the node serves this network. Raises `MisconfiguredError` when it serves another."""
        ...

    async def kinds(self) -> Sequence[Kind]:
        """What this rail offers in `/supported`: nothing while it can't settle (no gas: fault E08). Never raises."""
        ...

    def signers(self) -> list[str]:
        """The addresses that send and pay fees."""
        ...

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        """The payment by those rules that never change: shape, recipient, amount. Raises `RefusedError`.

        What was accepted once is read again after years, whatever keys and limits have become since.
        """
        ...

    async def check(self, payment: Payment, requirement: Requirement, *, settling: bool = False) -> Checked:
        """All rules, and the simulation of the very transfer; at most one round trip, and none for what breaks a rule
        that needs no chain (design D7). Looks closer when it is `settling` that follows.

        What is `settling` may ask for less than was signed, where the scheme meters (fault B16). Raises `RefusedError`
        with the canonical reason.
        """
        ...

    async def fee(self, checked: Checked) -> int:
        """The most that settling this payment costs whoever sends it, in wei or lamports, its preparation included."""
        ...

    async def cost(self, transaction: str, shares: int = 1) -> int | None:
        """What a transaction that landed took from its sender for one of the `shares` payments in it, in wei or
        lamports; None when the node can't say."""
        ...

    async def intend(self, checked: Checked, ledger: Ledger) -> tuple[Entry, bool]:
        """Sign the transaction that settles and write it down, as `Ledger.begin` does; nothing leaves."""
        ...

    async def submit(self, intended: Intended) -> None:
        """Hand the bytes to a node. Raises `ports.NotSent` on proof that they were refused; doubt passes silently."""
        ...

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        """Other bytes for a payment whose own a node refused for our fault: another key, nonce or bid (fault D03).

        None when no others can be made: then the same bytes are all that can pay.
        """
        ...

    async def decide(
        self, entry: Entry, intended: Intended, ledger: Ledger, *, timeout: float
    ) -> Settled | Refused | None:
        """What the chain says about an intended payment: settled as deep as its amount asks for, provably dead, or
        None after `timeout` seconds, during which the bytes are sent again or replaced by better ones."""
        ...

    async def failure(self, entry: Entry, intended: Intended) -> str | None:
        """The transaction of an intended payment that cost a fee and moved nothing, as far as the chain shows now; only
        what `decide` says is for good (fault D11)."""
        ...

    async def spent_by(self, subject: Subject) -> Settled | Refused | None:
        """What has used up this very payment, whoever submitted it (faults A10, A11); as `Witness.spent_by`."""
        ...

    async def is_deep(self, subject: Subject, settled: Settled) -> bool:
        """Whether a transfer is buried as deep as its amount asks for (fault A16)."""
        ...

    def is_open_to_all(self, subject: Subject) -> bool:
        """Whether anybody may submit a payment, and not this facilitator alone (fault A11)."""
        ...

    def may_land(self, entry: Entry) -> bool:
        """Whether a payment could still land by our clock, if a fork took it back."""
        ...

    async def standing(self, entry: Entry, stage: Settled | Reversed) -> Standing | None:
        """How well a transfer stands by now; None when the node can't know (fault A16)."""
        ...

    async def restore(self, entry: Entry, stage: Reversed) -> Refused | None:
        """Send the bytes of an undone transfer again; the proof that they never will land, or None."""
        ...

    async def heal(self, ledger: Ledger) -> None:
        """Mend what would make settlements wait for ever, such as gaps among a signer's nonces (fault D02)."""
        ...


async def prove(rail: Rail) -> None:
    """Nothing is judged by a node that may serve another chain (fault D14). Raises `UnavailableError`."""
    try:
        await rail.start()
    except MisconfiguredError as error:
        raise UnavailableError(error.code, error.message) from error


async def cost_of(rail: Rail, intended: Intended) -> int | None:
    """What settling a payment took; None where none of its transactions is known to have landed, or more than one has:
    then what was booked for them stays. Raises `UnavailableError`."""
    costs = [await rail.cost(transaction, intended.shares) for transaction in intended.transactions]
    landed = [cost for cost in costs if cost is not None]
    return landed[0] if len(landed) == 1 else None
