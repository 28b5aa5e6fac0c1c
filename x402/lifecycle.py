"""The law of a payment: which states there are, and which events lead from one to the next.

Everything that affects a payment's state lives here and nowhere else. A payment is remembered by three parties,
each in its own ledger, and each memory moves only along its own table:

    client       HELD → EXPOSED → SETTLED                        it signs once, and never forgets what it exposed
    gateway      CLAIMED → SERVED → SETTLING → SETTLED → DELIVERED        flow `authorization`
                 CLAIMED → SETTLING → SETTLED → DELIVERED                 flow `upfront`
    facilitator  INTENDED → SETTLED → FINAL                      the bytes are durable before they leave

Three rules hold for all of them (faults §0, design §2):

1. There are three outcomes, not two: settled, refused, pending. Only a *provable* refusal (nothing was broadcast, or
   what was broadcast can never land) leaves the pending states; a timeout is no event at all.
2. Every arrow is one durable transaction in the ledger, written before the effect that it announces.
3. No arrow leads back. A state is a rank, and rank only grows.

`advance()` is the only way to move. The diagrams in the docs are drawn from `LAW`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, get_args


class Party(StrEnum):
    """Whose memory of the payment a row is."""

    CLIENT = "client"
    GATEWAY = "gateway"
    FACILITATOR = "facilitator"


class State(StrEnum):
    """What a party knows about a payment."""

    HELD = "held"
    """Client: the amount is reserved in the budget; nothing is signed."""
    EXPOSED = "exposed"
    """Client: signed and journaled; the bytes may have reached the seller, and only evidence releases the amount."""
    CLAIMED = "claimed"
    """Gateway: a verified payment belongs to one request, by a unique insert; its handler may run."""
    SERVED = "served"
    """Gateway: the handler has answered; the answer is stored and still withheld."""
    SETTLING = "settling"
    """Gateway: the facilitator is asked to settle; money may move at any moment."""
    INTENDED = "intended"
    """Facilitator: transaction id and signed bytes are durable; they may have left, and the chain has not decided."""
    SETTLED = "settled"
    """The money moved: the exact transfer was seen on chain."""
    DELIVERED = "delivered"
    """Gateway: paid and answered; the same payment gets the same answer again."""
    FINAL = "final"
    """Facilitator: settled beyond the reach of a reorganisation."""
    OWED = "owed"
    """Gateway: the money moved and no answer was produced; a redelivery or a refund is due."""
    REFUNDED = "refunded"
    """Gateway: what was owed went back to the payer, once."""
    REVERSED = "reversed"
    """Facilitator: a reorganisation undid a settled transfer."""
    REFUSED = "refused"
    """No money moved for this payment. Proven at gateway and facilitator; at the client it is the seller's word."""
    RELEASED = "released"
    """The reservation was given back: never exposed, or provably dead."""


class Event(StrEnum):
    """What happened. Each is a fact, never a guess; there is no event for a timeout."""

    EXPOSE = "expose"
    SERVE = "serve"
    SUBMIT = "submit"
    SETTLE = "settle"
    DELIVER = "deliver"
    FINALISE = "finalise"
    FAIL = "fail"
    REFUND = "refund"
    REORGANISE = "reorganise"
    REFUSE = "refuse"
    RELEASE = "release"


Table = Mapping[State, Mapping[Event, State]]

_S, _E = State, Event

_CLIENT: dict[State, dict[Event, State]] = {
    _S.HELD: {_E.EXPOSE: _S.EXPOSED, _E.RELEASE: _S.RELEASED},
    _S.EXPOSED: {_E.SETTLE: _S.SETTLED, _E.REFUSE: _S.REFUSED, _E.RELEASE: _S.RELEASED},
    # A seller's refusal is only a claim: the amount stays reserved until the signature is dead or seen on chain.
    _S.REFUSED: {_E.SETTLE: _S.SETTLED, _E.RELEASE: _S.RELEASED},
    _S.SETTLED: {},
    _S.RELEASED: {},
}

_GATEWAY: dict[State, dict[Event, State]] = {
    # A handler that fails leaves the claim where it is: the same payment may ask again until it expires.
    _S.CLAIMED: {_E.SERVE: _S.SERVED, _E.SUBMIT: _S.SETTLING, _E.RELEASE: _S.RELEASED},
    _S.SERVED: {_E.SUBMIT: _S.SETTLING, _E.RELEASE: _S.RELEASED},
    _S.SETTLING: {_E.SETTLE: _S.SETTLED, _E.REFUSE: _S.REFUSED},
    _S.SETTLED: {_E.DELIVER: _S.DELIVERED, _E.FAIL: _S.OWED},
    _S.OWED: {_E.DELIVER: _S.DELIVERED, _E.REFUND: _S.REFUNDED},
    _S.DELIVERED: {},
    _S.REFUNDED: {},
    _S.REFUSED: {},
    _S.RELEASED: {},
}

_FACILITATOR: dict[State, dict[Event, State]] = {
    _S.INTENDED: {_E.SETTLE: _S.SETTLED, _E.REFUSE: _S.REFUSED},
    _S.SETTLED: {_E.FINALISE: _S.FINAL, _E.REORGANISE: _S.REVERSED},
    _S.FINAL: {},
    _S.REVERSED: {},
    _S.REFUSED: {},
}


def _frozen(table: dict[State, dict[Event, State]]) -> Table:
    return MappingProxyType({state: MappingProxyType(arrows) for state, arrows in table.items()})


LAW: Mapping[Party, Table] = MappingProxyType(
    {Party.CLIENT: _frozen(_CLIENT), Party.GATEWAY: _frozen(_GATEWAY), Party.FACILITATOR: _frozen(_FACILITATOR)}
)

BEGINNING: Mapping[Party, State] = MappingProxyType(
    {Party.CLIENT: State.HELD, Party.GATEWAY: State.CLAIMED, Party.FACILITATOR: State.INTENDED}
)


class Outcome(StrEnum):
    """What one party tells another about a settlement."""

    SETTLED = "settled"
    REFUSED = "refused"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Subject:
    """What never changes about a payment, in any party's memory.

    `pay_id` is its chain-level identity (design D5), `amount` is atomic, `expires_at` is the unix second from which the
    signature is worthless (0 when only the chain can tell), `fingerprint` binds a gateway's claim to one request, and
    `record` holds the JSON needed to take the payment up again after a restart.
    """

    pay_id: str
    network: str
    asset: str
    payer: str
    payee: str
    amount: int
    expires_at: int = 0
    fingerprint: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    state: ClassVar[State] = State.HELD


@dataclass(frozen=True, slots=True)
class Exposed:
    """`header` is the exact value that was, or is about to be, presented; it is presented again, never re-made."""

    state: ClassVar[State] = State.EXPOSED
    header: str


@dataclass(frozen=True, slots=True)
class Claimed:
    state: ClassVar[State] = State.CLAIMED


@dataclass(frozen=True, slots=True)
class Served:
    state: ClassVar[State] = State.SERVED


@dataclass(frozen=True, slots=True)
class Settling:
    state: ClassVar[State] = State.SETTLING


@dataclass(frozen=True, slots=True)
class Intended:
    """The transaction that will pay: its id, its signed bytes, and until when the chain could take it.

    `last_valid` is a unix second on EVM networks (`validBefore`) and a block height on Solana.
    """

    state: ClassVar[State] = State.INTENDED
    transaction: str
    raw: bytes
    last_valid: int
    sender: str = ""
    nonce: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """`block` is the EVM block number or Solana slot in which the transfer was seen."""

    state: ClassVar[State] = State.SETTLED
    transaction: str
    block: int = 0


@dataclass(frozen=True, slots=True)
class Delivered:
    state: ClassVar[State] = State.DELIVERED
    transaction: str


@dataclass(frozen=True, slots=True)
class Final:
    state: ClassVar[State] = State.FINAL
    transaction: str
    block: int = 0


@dataclass(frozen=True, slots=True)
class Owed:
    state: ClassVar[State] = State.OWED
    transaction: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refunded:
    state: ClassVar[State] = State.REFUNDED
    transaction: str
    refund: str


@dataclass(frozen=True, slots=True)
class Reversed:
    state: ClassVar[State] = State.REVERSED
    transaction: str


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
    | Refunded
    | Reversed
    | Refused
    | Released
)
"""What is known in each state, one class per state: a field that does not exist yet cannot be read."""

STAGES: Mapping[State, type[Stage]] = MappingProxyType({stage.state: stage for stage in get_args(Stage)})


@dataclass(frozen=True, slots=True)
class Entry:
    """One party's memory of one payment. Times are unix seconds."""

    party: Party
    subject: Subject
    stage: Stage
    created_at: int = 0
    updated_at: int = 0

    @property
    def state(self) -> State:
        return self.stage.state


class UnlawfulEvent(Exception):
    """An event that the law does not know in this state: a defect of ours, never of the payer."""


def begin(party: Party, subject: Subject, stage: Stage) -> Entry:
    """A new memory in the party's first state. Raises `UnlawfulEvent` for any other stage."""
    if stage.state is not BEGINNING[party]:
        raise UnlawfulEvent(f"{party}: a payment does not begin as {stage.state}")
    return Entry(party, subject, stage)


def advance(entry: Entry, event: Event, stage: Stage) -> Entry:
    """The memory after `event`, knowing what `stage` adds. Raises `UnlawfulEvent` when the law has no such arrow."""
    after = LAW[entry.party].get(entry.state, {}).get(event)
    if after is None or stage.state is not after:
        raise UnlawfulEvent(f"{entry.party}: {event} does not lead from {entry.state} to {stage.state}")
    return replace(entry, stage=stage)


def is_terminal(party: Party, state: State) -> bool:
    """Whether nothing can happen any more."""
    return not LAW[party][state]


def open_states(party: Party) -> frozenset[State]:
    """States that reconciliation must resolve after a restart: those whose outcome is not known yet."""
    unresolved: dict[Party, set[State]] = {
        Party.CLIENT: {State.HELD, State.EXPOSED, State.REFUSED},
        Party.GATEWAY: {State.CLAIMED, State.SERVED, State.SETTLING, State.SETTLED, State.OWED},
        Party.FACILITATOR: {State.INTENDED},
    }
    return frozenset(unresolved[party])


def outcome(state: State) -> Outcome:
    """The three-valued answer that a facilitator's state gives to everybody else."""
    if state in (State.SETTLED, State.FINAL):
        return Outcome.SETTLED
    if state in (State.REFUSED, State.REVERSED):
        return Outcome.REFUSED
    return Outcome.PENDING


def mermaid(party: Party) -> str:
    """The table of one party as a Mermaid state diagram, for README and docs."""
    lines = ["stateDiagram-v2", f"    [*] --> {BEGINNING[party]}"]
    for state, arrows in LAW[party].items():
        lines += [f"    {state} --> {after}: {event}" for event, after in arrows.items()]
        if not arrows:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
