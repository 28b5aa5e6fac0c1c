"""The states of a payment, and what is known in each.

Each state has its own class, so that a field which does not exist yet can't be read.
Which event leads from one to the next is the business of `lifecycle.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, get_args

NOTHING_DUE = "nothing_due"
"""The reason of a payment that was closed because nothing came to be due for it (scheme `upto`)."""


class State(StrEnum):
    """What a party knows about a payment."""

    HELD = "held"
    """Client: the amount is reserved in the budget; nothing is signed."""
    EXPOSED = "exposed"
    """Client: signed and journaled; the bytes may have reached the seller, and only evidence releases the amount."""
    CLAIMED = "claimed"
    """Gateway: a verified payment belongs to one request, by a unique insert; its handler may run."""
    SERVED = "served"
    """Gateway: the handler has answered, and the answer is stored and still withheld; or, where actual usage is
    charged, it is answering, and what has come to be due so far is known."""
    SETTLING = "settling"
    """Gateway: the facilitator is asked to settle; money may move at any moment."""
    INTENDED = "intended"
    """Facilitator: transaction id and signed bytes are durable; they may have left, and the chain has not decided."""
    SETTLED = "settled"
    """The money moved: the exact transfer was seen on chain."""
    DELIVERED = "delivered"
    """Gateway: paid and answered; the same payment gets the same answer again."""
    FINAL = "final"
    """Settled beyond the reach of a reorganisation; at the gateway also answered, as in DELIVERED or CREDITED."""
    OWED = "owed"
    """Gateway: the money moved and no answer was produced; a redelivery or a refund is due."""
    REFUNDING = "refunding"
    """Gateway: a refund to the payer is signed and durable; it may have left, and no answer is made any more."""
    REFUNDED = "refunded"
    """Gateway: what was owed went back to the payer, once."""
    CREDITED = "credited"
    """Gateway: what was owed lies in the payer's account, once; no answer is made any more."""
    REVERSED = "reversed"
    """A reorganisation undid a settled transfer. It may land again, so its outcome is open once more."""
    RESTORED = "restored"
    """Gateway: the transfer landed again, for good, and no answer was produced yet; it is as good as owed."""
    LOST = "lost"
    """Gateway: a reorganisation undid the transfer after its answer went out; a loss, unless it lands again."""
    REFUSED = "refused"
    """No money moved for this payment. Proven at gateway and facilitator; at the client it is the seller's word."""
    RELEASED = "released"
    """The reservation was given back: never exposed, or provably dead."""


@dataclass(frozen=True, slots=True)
class Held:
    state: ClassVar[State] = State.HELD


@dataclass(frozen=True, slots=True)
class Exposed:
    """`header` is the exact value that was, or is about to be, presented; it is presented again, never re-made.
    `earlier` are those that left before it with the same nonce, of which none can pay beside another."""

    state: ClassVar[State] = State.EXPOSED
    header: str = field(repr=False)
    earlier: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    state: ClassVar[State] = State.CLAIMED


@dataclass(frozen=True, slots=True)
class Served:
    """`amount`, here and in the states that follow, is what is due or has moved, in atomic units, where that may be
    less than what was signed (scheme `upto`); None says that it is all of it."""

    state: ClassVar[State] = State.SERVED
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Settling:
    """`amount` is what the facilitator is asked to take."""

    state: ClassVar[State] = State.SETTLING
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Intended:
    """The transaction that will pay: its id, its signed bytes, and until when the chain could take it.

    `last_valid` is a unix second on EVM networks (`validBefore`) and a block height on Solana. `attempt` counts the
    bytes that were signed for this payment, and `earlier` are the ids of those that were replaced, any of which may
    still land; `signed_at` is the unix second of this attempt, `bid` what it offers on an EVM network: the highest fee
    and the tip, in wei per gas; `shares` is how many payments this attempt settles together (design D8).
    """

    state: ClassVar[State] = State.INTENDED
    transaction: str
    raw: bytes = field(repr=False)
    last_valid: int
    sender: str = ""
    nonce: int | None = None
    attempt: int = 1
    earlier: tuple[str, ...] = ()
    signed_at: int = 0
    bid: tuple[int, int] = (0, 0)
    shares: int = 1

    @property
    def transactions(self) -> tuple[str, ...]:
        """Every id under which this payment may land, newest first."""
        return (self.transaction, *reversed(self.earlier))


@dataclass(frozen=True, slots=True)
class Settled:
    """`block` is the EVM block number or Solana slot in which the transfer was seen."""

    state: ClassVar[State] = State.SETTLED
    transaction: str
    block: int = 0
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """`transaction` paid."""

    state: ClassVar[State] = State.DELIVERED
    transaction: str
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """`block` as in `Settled`."""

    state: ClassVar[State] = State.FINAL
    transaction: str
    block: int = 0
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """`reason` says why nothing was delivered for `transaction`."""

    state: ClassVar[State] = State.OWED
    transaction: str
    reason: str
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Refunding:
    """`header` is the signed refund, an ordinary payment from the seller to the payer, presented again, never re-made
    unless the one before is dead; `pay_id` is its own chain-level identity."""

    state: ClassVar[State] = State.REFUNDING
    transaction: str
    header: str = field(repr=False)
    pay_id: str
    attempt: int = 1
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Refunded:
    """`transaction` paid the seller, `refund` paid it back."""

    state: ClassVar[State] = State.REFUNDED
    transaction: str
    refund: str
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Credited:
    """`transaction` paid the seller; `account` holds it for the payer (CAIP-10)."""

    state: ClassVar[State] = State.CREDITED
    transaction: str
    account: str
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Reversed:
    """`transaction` is the one that a reorganisation dropped, `raw` its bytes where this party has them."""

    state: ClassVar[State] = State.REVERSED
    transaction: str
    raw: bytes = field(default=b"", repr=False)
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """`transaction` moved the money again after a reorganisation, in `block`, where no other reaches it; nothing was
    delivered for it yet."""

    state: ClassVar[State] = State.RESTORED
    transaction: str
    block: int = 0
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """`transaction` is the one that a reorganisation dropped after something was given for it."""

    state: ClassVar[State] = State.LOST
    transaction: str
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason` is canonical, `message` for people, `transaction` the one that provably failed, if there was one."""

    state: ClassVar[State] = State.REFUSED
    reason: str
    message: str
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    state: ClassVar[State] = State.RELEASED
    reason: str


Stage = (
    Held
    | Exposed
    | Claimed
    | Served
    | Settling
    | Intended
    | Settled
    | Delivered
    | Final
    | Owed
    | Refunding
    | Refunded
    | Credited
    | Reversed
    | Restored
    | Lost
    | Refused
    | Released
)
"""What is known in each state, one class per state: a field that does not exist yet cannot be read."""

KNOWS_DUE = (
    Served, Settling, Settled, Delivered, Final, Owed, Refunding, Refunded, Credited, Reversed, Restored, Lost,
)  # fmt: skip
"""Stages that may know an `amount`: what is due, or has moved, where that may be less than what was signed."""

STAGES: Mapping[State, type[Stage]] = MappingProxyType({stage.state: stage for stage in get_args(Stage)})


def stage_of(state: State, members: Mapping[str, Any]) -> Stage:
    """A stage from its members, as JSON tells them. Raises `TypeError` for others than it has."""
    told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in members.items()}
    return STAGES[state](**told)
