"""Whether a ledger agrees with itself: its rows against its append-only events, and both against the invariants.

Everything here is a function of rows as they stand in the tables, whatever they hold: nothing is read, and nothing in
a row is trusted. The invariants are those of faults page §2:

    I1   one payment is paid by one transaction, and one transaction pays one payment
    I4   who has paid is served, or stands visibly among those who are owed, and can be served by the same payment
    I5   the books add up: every row is what its events say, to the byte
    I8   no EVM nonce is held by two payments
    I10  amounts are integers, and what is due of a payment is a part of what was signed
    I11  what was refunded was owed, and a refund pays back one payment
    I12  states follow the law, and only forward
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from x402 import networks
from x402.errors import MalformedError
from x402.lifecycle import BEGINNING, LAW, Event, Party
from x402.money import parse_atomic
from x402.ports.ledger_text import (
    BEGIN,
    SUBJECT,
    EventRow,
    History,
    PaymentRow,
    amount_of,
    digest_of,
    members_of,
    stage_of,
    transaction_of,
)
from x402.stages import STAGES, State

OVERDUE_SECONDS = 600
PAID = frozenset({
    State.SETTLED, State.DELIVERED, State.FINAL, State.OWED, State.REFUNDING, State.REFUNDED, State.CREDITED,
    State.RESTORED,
})  # fmt: skip
"""States in which a transaction has moved the money, for good as far as the party knows."""
_OPEN = {
    Party.GATEWAY: frozenset(
        {
            State.SETTLING,
            State.SETTLED,
            State.OWED,
            State.REFUNDING,
            State.REVERSED,
            State.RESTORED,
            State.LOST,
        }
    ),
    # A facilitator has nothing left to do for SETTLED but to look again whether it stays so.
    Party.FACILITATOR: frozenset({State.INTENDED, State.REVERSED}),
    Party.CLIENT: frozenset[State](),
}
_UNDONE = frozenset({State.REVERSED, State.LOST})
_AT_ONCE = _UNDONE | {State.SETTLED, State.OWED, State.REFUNDING, State.RESTORED}
"""Open from their first second on: the money has moved, or moved back. The others only once they take too long."""
_HOLDING = frozenset({State.INTENDED, State.SETTLED, State.REVERSED, State.FINAL})
_UNSERVED = frozenset({State.SETTLED, State.OWED, State.RESTORED})
"""States of a gateway in which the same payment is still to be served."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    party: str
    pay_id: str
    words: str


@dataclass(frozen=True, slots=True)
class Obligation:
    """What somebody still has to do: deliver, refund, or find out. Times in unix seconds, amount in atomic units."""

    party: str
    pay_id: str
    state: str
    since: int
    network: str
    asset: str
    amount: str
    transaction: str


@dataclass(frozen=True, slots=True)
class Total:
    """How many payments stand in one state, and the sum of their atomic amounts."""

    payments: int
    units: int


@dataclass(slots=True)
class Holdings:
    """What accounts hold, in atomic USDC: `units` that the seller has for others, `gifts` what of it he has given."""

    accounts: int = 0
    entries: int = 0
    units: int = 0
    gifts: int = 0


@dataclass(slots=True)
class Audit:
    """What an audit found. `totals` go by party, network, asset and state.

    `unattested` counts payments of an older program, whose first event does not repeat what was signed.
    """

    payments: int = 0
    events: int = 0
    unattested: int = 0
    violations: list[Violation] = field(default_factory=list)
    obligations: list[Obligation] = field(default_factory=list)
    totals: dict[tuple[str, str, str, str], Total] = field(default_factory=dict)
    holdings: Holdings = field(default_factory=Holdings)


def audit(
    histories: Iterable[History], *, now: int, overdue_seconds: int = OVERDUE_SECONDS, batched: bool = True
) -> Audit:
    """Check a whole ledger.

    What is undecided for longer than `overdue_seconds` at unix second `now` is an obligation. At a facilitator,
    payments share an EVM transaction when each of them says so; elsewhere they may unless `batched` is false; never on
    Solana.
    """
    found = Audit()
    paid: dict[tuple[str, str, str], str] = {}
    once: dict[tuple[str, ...], str] = {}
    payers: dict[tuple[str, str], tuple[str, str, set[str]]] = {}
    for history in histories:
        found.events += len(history.events)
        if history.payment is not None:
            found.payments += 1
            found.unattested += not _attested(history)
        wrong = [*_lawless(history), *_unlike(history), *_amount(history), *_unserved(history, now, overdue_seconds)]
        wrong += _paid_twice(history, paid, payers, batched=batched)
        wrong += _shared(history, once, batched=batched)
        found.violations += [Violation(invariant, history.party, history.pay_id, words) for invariant, words in wrong]
        if history.payment is not None:
            _count(found.totals, history.payment)
            found.obligations += _owed(history.payment, now, overdue_seconds)
    return found


_Wrong = Iterator[tuple[str, str]]
"""Invariants and words."""


def _lawless(history: History) -> _Wrong:
    """I12: the events are a walk along the law, from its beginning."""
    if history.party not in set(Party):
        yield "I12", f"there is no party {history.party!r}"
        return
    party = Party(history.party)
    if not history.events:
        return
    first = history.events[0]
    if (first.event, first.after) != (BEGIN, BEGINNING[party]):
        yield "I12", f"it begins with {first.event!r} as {first.after!r}, not as {BEGINNING[party]}"
    before = first.after
    for one in history.events[1:]:
        known = before in set(State) and one.event in set(Event)
        after = LAW[party].get(State(before), {}).get(Event(one.event)) if known else None
        if after is None or one.after != after:
            yield "I12", f"no arrow {one.event!r} leads from {before!r} to {one.after!r}"
        before = one.after


def _unlike(history: History) -> _Wrong:
    """I5: the row is what its events make of it, and each stage is one of its state."""
    row, last = history.payment, history.events[-1] if history.events else None
    if row is None:
        yield "I5", "the events tell of a payment that the ledger has no row of"
        return
    if last is None:
        yield "I5", "no event tells how this payment came to be"
        return
    begun = history.events[0]
    rebuilt = {
        "state": last.after,
        "stage": stage_of(last.stage),
        "created_at": begun.at,
        "updated_at": last.at,
    }
    for name, value in rebuilt.items():
        if getattr(row, name) != value:
            yield "I5", f"{name} is {getattr(row, name)!r}, and the events make it {value!r}"
    subject = members_of(begun.stage).get(SUBJECT)
    for name, value in subject.items() if isinstance(subject, dict) else ():
        held = digest_of(row.constants["record"]) if name == "record_sha256" else row.constants.get(name)
        if held != value:
            yield "I5", f"{name} is {held!r}, and was {value!r} when the payment began"
    for one in history.events:
        if not _readable(one):
            yield "I5", f"what {one.event!r} tells can't be read as {one.after!r}"


def _amount(history: History) -> _Wrong:
    """I10: the amount is a whole number of atomic units, and what is due of it is a part of it (fault B16)."""
    if history.payment is None:
        return
    try:
        signed = parse_atomic(history.payment.constants["amount"])
    except MalformedError:
        yield "I10", f"{history.payment.constants['amount']!r} is no amount in atomic units"
        return
    metered = 0
    for one in history.events:
        due = members_of(one.stage).get("amount")
        if due is None:
            continue
        if type(due) is not int or not 0 <= due <= signed:
            yield "I10", f"{one.event!r} makes {due!r} due of {signed}"
        elif one.event == Event.METER and due < metered:
            yield "I12", f"what is due falls from {metered} to {due} while it is metered"
        else:
            metered = due


def _unserved(history: History, now: int, overdue_seconds: int) -> _Wrong:
    """I4: money that moved for nothing is told, and the same payment can still be served."""
    row = history.payment
    if row is None or row.party != Party.GATEWAY or row.state not in _UNSERVED:
        return
    if row.state == State.SETTLED and now - row.updated_at > overdue_seconds:
        yield "I4", f"settled for {now - row.updated_at} seconds, and neither delivered nor owed"
    if not members_of(row.constants["record"]):
        yield "I4", "the record of what was paid for can't be read, so the same payment can't be served"


def _paid_twice(
    history: History,
    paid: dict[tuple[str, str, str], str],
    payers: dict[tuple[str, str], tuple[str, str, set[str]]],
    *,
    batched: bool,
) -> _Wrong:
    """I1: one transaction for one payment, whoever remembers it."""
    row = history.payment
    told: set[str] = set()
    ever: set[str] = set()
    for one in history.events:
        if one.after in PAID:
            told.add(transaction_of(one.stage))
            ever |= told
        elif one.after in _UNDONE:
            # What a reorganisation undid has paid nothing, and may land in another transaction.
            told.clear()
    if row is None or (row.state not in PAID and not told):
        return
    network = str(row.constants["network"])
    if row.state in PAID:
        told.add(transaction_of(row.stage))
        ever |= told
    if "" in told:
        yield "I1", "paid, and no transaction is named"
    if len(told) > 1:
        yield "I1", f"paid by {len(told)} transactions: {', '.join(sorted(told))}"
    if row.state not in PAID:
        return
    transaction = transaction_of(row.stage)
    other = paid.setdefault((row.party, network, transaction), row.pay_id)
    shared = network.startswith(networks.EIP155 + ":") and (batched or _shares(history, transaction))
    if transaction and other != row.pay_id and not shared:
        yield "I1", f"transaction {transaction} pays for {other} too"
    party, theirs, known = payers.setdefault((network, row.pay_id), (row.party, transaction, ever))
    # One of two may not have looked again after a reorganisation that the other has written down.
    if not known & ever:
        yield "I1", f"paid by {transaction}, and the {party} says by {theirs}"


def _shares(history: History, transaction: str) -> bool:
    """Whether the payment was written down as one of several in this transaction."""
    told = (members_of(one.stage) for one in history.events)
    return any(one.get("transaction") == transaction and _count_of(one) > 1 for one in told)


def _count_of(told: Mapping[str, Any]) -> int:
    shares = told.get("shares", 1)
    return shares if isinstance(shares, int) else 1


def _shared(history: History, once: dict[tuple[str, ...], str], *, batched: bool) -> _Wrong:
    """I8 and I11: what belongs to one payment only, a sender's nonce and a refund, which may share its transaction."""
    row = history.payment
    if row is None:
        return
    network, names = str(row.constants["network"]), members_of(row.stage)
    held: list[tuple[str, tuple[str, ...], str, str]] = []
    if row.party == Party.FACILITATOR and row.state in _HOLDING:
        for one in history.events:
            told = members_of(one.stage)
            if told.get("transaction") == names.get("transaction") and isinstance(told.get("nonce"), int):
                what = f"nonce {told['nonce']} of {told.get('sender')}"
                # Payments that share a transaction share its nonce.
                owner = str(names.get("transaction")) if _count_of(told) > 1 else row.pay_id
                held.append(("I8", ("nonce", network, what), what, owner))
    if row.state == State.REFUNDED:
        signed = [members_of(one.stage).get("pay_id") for one in history.events if one.after == State.REFUNDING]
        alone = not (batched and network.startswith(networks.EIP155 + ":"))
        for refund in [*signed[-1:], *([names.get("refund")] if alone else [])]:
            held.append(("I11", ("refund", network, str(refund)), f"refund {refund}", row.pay_id))
        if not names.get("refund") or names.get("refund") == names.get("transaction"):
            yield "I11", "refunded, and no transaction of its own is named"
    for invariant, key, what, owner in held:
        other = once.setdefault((row.party, *key), owner)
        if other != owner:
            yield invariant, f"{what} is that of {other} too"


def _count(totals: dict[tuple[str, str, str, str], Total], row: PaymentRow) -> None:
    try:
        units = parse_atomic(amount_of(row))
    except MalformedError:
        return
    place = (row.party, str(row.constants["network"]), str(row.constants["asset"]), row.state)
    older = totals.get(place, Total(0, 0))
    totals[place] = Total(older.payments + 1, older.units + units)


def _owed(row: PaymentRow, now: int, overdue_seconds: int) -> Iterator[Obligation]:
    if row.party not in set(Party) or row.state not in _OPEN[Party(row.party)]:
        return
    if row.state in _AT_ONCE or now - row.updated_at > overdue_seconds:
        network, asset, amount = str(row.constants["network"]), str(row.constants["asset"]), amount_of(row)
        transaction = transaction_of(row.stage)
        yield Obligation(row.party, row.pay_id, row.state, row.updated_at, network, asset, amount, transaction)


def _attested(history: History) -> bool:
    return bool(history.events) and SUBJECT in members_of(history.events[0].stage)


def _readable(one: EventRow) -> bool:
    if one.after not in set(State):
        return False
    try:
        told = set(json.loads(one.stage)) - {SUBJECT}
    except (ValueError, TypeError, RecursionError):
        return False
    # Signed bytes stand beside the row and in no event.
    members = [member for member in fields(STAGES[State(one.after)]) if member.name != "raw"]
    needed = {member.name for member in members if member.default is MISSING}
    return needed <= told <= {member.name for member in members}
