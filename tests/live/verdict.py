"""Whether any coin was lost: the chains' facts against everybody's memory, to the unit and payment by payment.

Pure. Each check says what is wrong in words; none of them takes anybody's word for what a chain can tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.live.books import Exposure, Nonces, Row
from tests.live.chain_facts import Moved, Signed
from tests.live.customer import CallRecord
from x402.networks import SOLANA_DEVNET
from x402.stages import State

UNPROVEN = frozenset({State.EXPOSED, State.REFUSED})
"""States of a journal's payment that nobody has proven to be dead."""
SHOWN = 4
"""So many examples are named of what is wrong many times."""
PAID = {
    "gateway": frozenset({State.SETTLED, State.DELIVERED, State.OWED, State.CREDITED, State.REFUNDING, State.REFUNDED}),
    "facilitator": frozenset({State.SETTLED, State.FINAL}),
    "client": frozenset({State.SETTLED}),
}
"""States in which a party believes that the money moved."""
OPEN = {"gateway": frozenset({State.SETTLING}), "facilitator": frozenset({State.INTENDED})}
"""States in which nobody knows whether it will."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All there is to know once everything is quiet. `received` is the change of the seller's balance by network."""

    moved: Sequence[Moved]
    received: Mapping[str, int]
    gateway: Sequence[Row]
    facilitator: Sequence[Row]
    journals: Sequence[Exposure]
    calls: Sequence[CallRecord]
    signed: Sequence[Signed] = ()
    nonces: Sequence[Nonces] = ()
    audits: Mapping[str, str] = field(default_factory=dict)
    """What an audit of each ledger found wrong; empty words mean nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The bar's own figures: those from `difference` on must be zero. Units are atomic USDC, by network.

    `reserved` are calls whose payment on Solana died unused while somebody was dead: refused, nothing moved, and not
    paid anew before five minutes have proven that nothing ever will (fault A23).
    """

    calls: int
    answered: int
    transfers: int
    units: Mapping[str, int]
    reserved: int
    difference: int
    doubled: int
    paid_not_served: int
    served_not_paid: int
    open: int


def figures(facts: Facts) -> Figures:
    """Count."""
    return Figures(
        calls=len(facts.calls),
        answered=sum(1 for call in facts.calls if call.answers),
        transfers=len(facts.moved),
        units=_sums(facts.moved),
        reserved=sum(1 for call in facts.calls if _is_reserved(facts, call)),
        difference=sum(len(list(_difference(facts, book))) for book in PAID),
        doubled=len(list(_doubled(facts))),
        paid_not_served=len(list(paid_not_served(facts))),
        served_not_paid=len(list(_served_not_paid(facts))),
        open=len(list(_open(facts))),
    )


def judge(facts: Facts) -> list[str]:
    """Everything that is wrong, in words; an empty list is the acquittal."""
    wrong: list[str] = []
    for check in (_received, _doubled, _unknown, paid_not_served, _served_not_paid, _unanswered, _open, _gaps):
        wrong += _named(list(check(facts)))
    for book in PAID:
        wrong += _named([*_difference(facts, book)])
    wrong += [f"the audit of the {name} ledger: {words}" for name, words in facts.audits.items() if words]
    return wrong


def _named(found: list[str]) -> list[str]:
    rest = len(found) - SHOWN
    return found if rest <= 0 else [*found[:SHOWN], f"... and {rest} more of the kind: {found[0].partition(':')[0]}"]


def _sums(payments: Iterable[Moved | Row | Exposure]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for one in payments:
        sums[one.network] += one.units
    return dict(sums)


def _book(facts: Facts, book: str) -> Sequence[Row | Exposure]:
    known: dict[str, Sequence[Row | Exposure]] = {
        "gateway": facts.gateway, "facilitator": facts.facilitator, "client": facts.journals
    }  # fmt: skip
    return [one for one in known[book] if one.state in PAID[book]]


def _received(facts: Facts) -> Iterator[str]:
    for network, units in facts.received.items():
        moved = _sums(facts.moved).get(network, 0)
        if moved != units:
            yield f"{network}: the seller's balance grew by {units} units, its transfers say {moved}"


def _difference(facts: Facts, book: str) -> Iterator[str]:
    """I5: what the party believes is what the chain did, payment by payment."""
    told = {one.pay_id: one for one in _book(facts, book)}
    done = {one.pay_id: one for one in facts.moved}
    for pay_id, moved in done.items():
        believed = told.get(pay_id)
        if believed is None:
            yield f"moved and not in the {book}'s book: {pay_id}, {moved.units} units"
        elif believed.units != moved.units:
            yield f"another amount in the {book}'s book: {pay_id}, {believed.units} instead of {moved.units} units"
        elif isinstance(believed, Row) and believed.transaction.lower() != moved.transaction.lower():
            yield f"another transaction in the {book}'s book: {pay_id}"
    for pay_id in told.keys() - done.keys():
        yield f"in the {book}'s book and never moved: {pay_id}, {told[pay_id].units} units"


def _doubled(facts: Facts) -> Iterator[str]:
    """I1: one payment is one transfer, and one call is one payment."""
    for pay_id, times in Counter(one.pay_id for one in facts.moved).items():
        if times > 1:
            yield f"paid twice: {pay_id}, {times} transfers"
    done = {one.pay_id for one in facts.moved}
    for fingerprint, times in Counter(one.fingerprint for one in facts.journals if one.pay_id in done).items():
        if times > 1:
            yield f"a call that cost two payments: {_name(facts, fingerprint)}, {times} debits"


def _unknown(facts: Facts) -> Iterator[str]:
    known = {one.pay_id for one in facts.journals}
    for one in facts.moved:
        if one.pay_id not in known:
            yield f"moved and in no journal: {one.pay_id}"


def _paid_calls(facts: Facts) -> set[str]:
    done = {one.pay_id for one in facts.moved}
    return {one.fingerprint for one in facts.journals if one.pay_id in done}


def paid_not_served(facts: Facts) -> Iterator[str]:
    """I4: whose money moved has an answer."""
    paid = _paid_calls(facts)
    for call in facts.calls:
        if call.fingerprint in paid and not call.answers:
            yield f"paid and not served after a retry: {call.name} ({'; '.join(call.failures[-2:]) or call.wrong})"


def _served_not_paid(facts: Facts) -> Iterator[str]:
    paid = _paid_calls(facts)
    for call in facts.calls:
        if call.answers and call.fingerprint not in paid:
            yield f"served and not paid: {call.name}"


def _unanswered(facts: Facts) -> Iterator[str]:
    paid = _paid_calls(facts)
    for call in facts.calls:
        if call.wrong:
            yield f"a wrong answer: {call.name} got {call.wrong!r}"
        if not call.answers and call.fingerprint not in paid and not _is_reserved(facts, call):
            yield f"neither paid nor served after a retry: {call.name} ({'; '.join(call.failures[-2:])})"


def _is_reserved(facts: Facts, call: CallRecord) -> bool:
    """Whether a call without an answer has a payment that its customer still holds for possible."""
    if call.answers or call.fingerprint in _paid_calls(facts):
        return False
    mine = [one for one in facts.journals if one.fingerprint == call.fingerprint]
    return any(one.network == SOLANA_DEVNET and one.state in UNPROVEN for one in mine)


def _open(facts: Facts) -> Iterator[str]:
    for book, known in (("gateway", facts.gateway), ("facilitator", facts.facilitator)):
        for one in known:
            if one.state in OPEN[book]:
                yield f"still open at the {book}: {one.pay_id} is {one.state}"


def _gaps(facts: Facts) -> Iterator[str]:
    """I8: every nonce that was handed out is in a block; what waits to be final may hold those, and no others."""
    book = {one.signer: one for one in facts.nonces}
    for signed in facts.signed:
        if signed.with_waiting != signed.mined:
            waiting = signed.with_waiting - signed.mined
            yield f"transactions wait in the pool: {waiting} of {signed.signer}"
        known = book.get(signed.signer)
        unused = [] if known is None else sorted(nonce for nonce in known.held if nonce >= signed.mined)
        if unused:
            yield f"nonces are held and in no block: {unused} of {signed.signer}"
        if known is not None and known.next != signed.mined and (known.next or signed.mined):
            yield f"a gap in the nonces: {signed.signer} has used {signed.mined} and handed out {known.next}"


def _name(facts: Facts, fingerprint: str) -> str:
    return next((call.name for call in facts.calls if call.fingerprint == fingerprint), fingerprint)
