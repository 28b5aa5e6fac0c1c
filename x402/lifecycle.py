"""The law of a payment: which states there are, and which events lead from one to the next.

Everything that affects a payment's state lives here and nowhere else. A payment is remembered by three parties,
each in its own ledger, and each memory moves only along its own table:

    client       HELD → EXPOSED → SETTLED                        it signs once, and never forgets what it exposed
    gateway      CLAIMED → SERVED → SETTLING → SETTLED → DELIVERED        flow `authorization`
                 CLAIMED → SETTLING → SETTLED → DELIVERED                 flow `upfront`
                 CLAIMED → SERVED ↺ → SETTLING → SETTLED → DELIVERED      flow `metered`: what is due grows
                 ... SETTLED → OWED → REFUNDING → REFUNDED                when no answer came of it
                 ... SETTLED → OWED → CREDITED                            the same, into the payer's account
                 ... SETTLED → REVERSED → RESTORED → FINAL                a fork undid it, and it landed again
                 ... DELIVERED → LOST → FINAL                             the same, after it was served
    facilitator  INTENDED → SETTLED → FINAL                      the bytes are durable before they leave

Three rules hold for all of them (faults §0, design §2):

1. There are three outcomes, not two: settled, refused, pending. Only a *provable* refusal (nothing was broadcast, or
   what was broadcast can never land) leaves the pending states; a timeout is no event at all.
2. Every arrow is durable in the ledger before the effect that it announces. Arrows with nothing to do between them
   go down in one transaction.
3. No arrow leads back: a state is a rank that only grows, and so do the number of an attempt that is replaced and what
   is due for an answer that is metered, which never passes what was signed.

`advance()` is the only way to move. The diagrams in the docs are drawn from `LAW`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from x402.stages import (
    KNOWS_DUE,
    Exposed,
    Intended,
    Refunding,
    Stage,
    State,
)


class Party(StrEnum):
    """Whose memory of the payment a row is."""

    CLIENT = "client"
    GATEWAY = "gateway"
    FACILITATOR = "facilitator"


class Event(StrEnum):
    """What happened. Each is a fact, never a guess; there is no event for a timeout."""

    EXPOSE = "expose"
    SERVE = "serve"
    METER = "meter"
    SUBMIT = "submit"
    REPLACE = "replace"
    SETTLE = "settle"
    DELIVER = "deliver"
    FINALISE = "finalise"
    FAIL = "fail"
    REFUND = "refund"
    CREDIT = "credit"
    REORGANISE = "reorganise"
    REFUSE = "refuse"
    RELEASE = "release"


Table = Mapping[State, Mapping[Event, State]]

_S, _E = State, Event

_CLIENT: dict[State, dict[Event, State]] = {
    _S.HELD: {_E.EXPOSE: _S.EXPOSED, _E.RELEASE: _S.RELEASED},
    # What was paid ahead and not taken may be signed anew with the same nonce: the chain lets only one of both pay.
    _S.EXPOSED: {
        _E.REPLACE: _S.EXPOSED,
        _E.SETTLE: _S.SETTLED,
        _E.REFUSE: _S.REFUSED,
        _E.RELEASE: _S.RELEASED,
    },
    # A seller's refusal is only a claim: the amount stays reserved until the signature is dead or seen on chain.
    _S.REFUSED: {_E.SETTLE: _S.SETTLED, _E.RELEASE: _S.RELEASED},
    _S.SETTLED: {},
    _S.RELEASED: {},
}

_GATEWAY: dict[State, dict[Event, State]] = {
    # A handler that fails leaves the claim where it is: the same payment may ask again until it expires.
    _S.CLAIMED: {_E.SERVE: _S.SERVED, _E.SUBMIT: _S.SETTLING, _E.RELEASE: _S.RELEASED},
    _S.SERVED: {_E.METER: _S.SERVED, _E.SUBMIT: _S.SETTLING, _E.RELEASE: _S.RELEASED},
    _S.SETTLING: {_E.SETTLE: _S.SETTLED, _E.REFUSE: _S.REFUSED},
    _S.SETTLED: {_E.DELIVER: _S.DELIVERED, _E.FAIL: _S.OWED, _E.REORGANISE: _S.REVERSED},
    _S.OWED: {
        _E.DELIVER: _S.DELIVERED,
        _E.REFUND: _S.REFUNDING,
        _E.CREDIT: _S.CREDITED,
        _E.REORGANISE: _S.REVERSED,
    },
    # What is owed goes back once: another attempt is signed only when the one before can provably never land.
    _S.REFUNDING: {_E.REPLACE: _S.REFUNDING, _E.SETTLE: _S.REFUNDED},
    _S.DELIVERED: {_E.REORGANISE: _S.LOST},
    _S.REFUNDED: {},
    _S.CREDITED: {_E.REORGANISE: _S.LOST},
    # What a reorganisation undid may land again; believed it is only where no other reaches it.
    _S.REVERSED: {_E.FINALISE: _S.RESTORED, _E.REFUSE: _S.REFUSED},
    _S.RESTORED: {_E.DELIVER: _S.FINAL, _E.REFUND: _S.REFUNDING},
    _S.LOST: {_E.FINALISE: _S.FINAL},
    _S.FINAL: {},
    _S.REFUSED: {},
    _S.RELEASED: {},
}

_FACILITATOR: dict[State, dict[Event, State]] = {
    # Other bytes for the same payment: a higher fee, or another signer. The chain lets only one of them pay.
    _S.INTENDED: {_E.REPLACE: _S.INTENDED, _E.SETTLE: _S.SETTLED, _E.REFUSE: _S.REFUSED},
    _S.SETTLED: {_E.FINALISE: _S.FINAL, _E.REORGANISE: _S.REVERSED},
    _S.REVERSED: {_E.FINALISE: _S.FINAL, _E.REFUSE: _S.REFUSED},
    _S.FINAL: {},
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


_OPEN: Mapping[Party, frozenset[State]] = MappingProxyType(
    {
        Party.CLIENT: frozenset({_S.HELD, _S.EXPOSED, _S.REFUSED}),
        Party.GATEWAY: frozenset(
            {
                _S.CLAIMED,
                _S.SERVED,
                _S.SETTLING,
                _S.SETTLED,
                _S.OWED,
                _S.REFUNDING,
                _S.REVERSED,
                _S.RESTORED,
            }
        ),
        Party.FACILITATOR: frozenset({_S.INTENDED, _S.SETTLED, _S.REVERSED}),
    }
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
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)


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

    @property
    def due(self) -> int | None:
        """What is due or has moved, where that may be less than what was signed and is known; atomic."""
        return self.stage.amount if isinstance(self.stage, KNOWS_DUE) else None

    @property
    def amount(self) -> int:
        """What moves, or has moved, as far as this party knows; atomic. At most, where nothing is metered yet."""
        due = self.due
        return self.subject.amount if due is None else due


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
    if event is Event.REPLACE:
        _check_attempt(entry.stage, stage)
    return Entry(entry.party, entry.subject, _with_due(entry, event, stage), entry.created_at, entry.updated_at)


def _with_due(entry: Entry, event: Event, stage: Stage) -> Stage:
    """The stage with what was known to be due before it, unless it knows better. What is metered only grows."""
    if not isinstance(stage, KNOWS_DUE):
        return stage
    due = entry.due if stage.amount is None else stage.amount
    if due is None:
        if event is Event.METER:
            raise UnlawfulEvent(f"{entry.party}: nothing is metered without an amount")
        return stage
    least = entry.due or 0 if event is Event.METER else 0
    if not least <= due <= entry.subject.amount:
        raise UnlawfulEvent(f"{entry.party}: {due} of {entry.subject.amount} can't be due after {entry.due}")
    return stage if stage.amount == due else replace(stage, amount=due)


def _check_attempt(before: Stage, after: Stage) -> None:
    """A replacement is the next attempt, and forgets none of those before it, because each may have left."""
    if isinstance(before, Intended) and isinstance(after, Intended):
        if after.attempt == before.attempt + 1 and after.earlier == (*before.earlier, before.transaction):
            return
    elif isinstance(before, Exposed) and isinstance(after, Exposed):
        if tuple(after.earlier) == (*before.earlier, before.header):
            return
    elif isinstance(before, Refunding) and isinstance(after, Refunding) and after.attempt == before.attempt + 1:
        return
    raise UnlawfulEvent("a replacement is the next attempt and remembers those before it")


def is_terminal(party: Party, state: State) -> bool:
    """Whether nothing can happen any more."""
    return not LAW[party][state]


def open_states(party: Party) -> frozenset[State]:
    """States that reconciliation must resolve after a restart: those whose outcome is not known, or not final, yet."""
    return _OPEN[party]


def outcome(state: State) -> Outcome:
    """The three-valued answer that a facilitator's state gives to everybody else."""
    if state in (State.SETTLED, State.FINAL):
        return Outcome.SETTLED
    if state is State.REFUSED:
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
