"""One logical call, from 402 to answer, without any I/O of its own.

`journey` is a generator. It yields what it needs done (`Send` the request, `Ask` a node, `Do` some work that touches
the journal or a key) and receives what came of it; the seats in `auth` do these things, blocking or not. Its promises
(design §2.4, faults A09, A23, B06, B11, B15):

- it signs at most once (what was paid ahead and not taken may be signed over with the same nonce, of which the chain
  lets one pay at most), and not at all unless the chain proves that an earlier payment for the same request, if there
  is one without an answer, never moved money and never will;
- what it exposes is in the journal first, and stays there until there is evidence;
- an earlier payment for the same request that got no answer is presented again, byte for byte, before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from x402.client import invitation
from x402.client.draft import ENTROPY_BYTES
from x402.client.effects import Journey, Send, Terms, Wait, Wanted, do
from x402.client.owner import Call
from x402.client.record import Record
from x402.client.signing import sign, sign_over
from x402.client.trust import host_of
from x402.client.verdict import Reply, Verdict, is_metered, judge, origin, retry_after
from x402.errors import DeclinedError, MalformedError, Moved, UnavailableError, UnpaidError
from x402.lifecycle import Event
from x402.schemes import upto_evm
from x402.stages import State
from x402.wire.challenge import BalanceEmpty, Challenge, read_challenge
from x402.wire.headers import PAYMENT_RESPONSE, SIGN_IN_WITH_X, X_PAYMENT_RESPONSE
from x402.wire.receipt import Receipt, read_receipt

PAYMENT_REQUIRED_STATUS = 402
_OTHER_TERMS = frozenset(
    {"invalid_payment_requirements", "invalid_tariff", "quote_required", "tariff_expired", "tariff_mismatch"}
)
"""Refusals of a payment that came ahead: it was compared with the seller's terms, and went no further."""
_OVER_COMMITTED = "over_committed"
"""The refusal of a payment that has to wait for others of its payer, if it comes with `Retry-After`."""
EXTENSION = "x402"
"""Key of `response.extensions` under which the `Outcome` of a call is kept."""
_NOT_LET_IN = (401, 403)
_PAID_LOOK = 100
"""How many payments to a host are looked through for one that it answered."""
_EXPOSE = ("Access-Control-Expose-Headers", f"{PAYMENT_RESPONSE},{X_PAYMENT_RESPONSE}")
"""Every SDK client sends it with a payment, as a request header (protocol page §1.2)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `record` is None when nothing was paid; `pending` that money may still move for it.

    `unread` says that the payment is answered once the reply's body has been read to its end, which may be nothing when
    it is `bodiless`.
    """

    record: Record | None = None
    receipt: Receipt | None = None
    unread: bool = False
    pending: bool = False
    bodiless: bool = False


def outcome_of(response: Any) -> Outcome | None:
    """How the call that ended in this response was paid, or None when nothing of ours was in its way."""
    outcome = response.extensions.get(EXTENSION)
    return outcome if isinstance(outcome, Outcome) else None


def receipt_of(response: Any) -> Receipt | None:
    """The receipt that came with a response, or None; one that cannot be read is none."""
    outcome = outcome_of(response)
    if outcome is not None and outcome.receipt is not None:
        return outcome.receipt
    try:
        return read_receipt(response.headers.multi_items())
    except MalformedError:
        return None


def journey(wanted: Wanted, terms: Terms, call: Call) -> Journey[Outcome]:
    """The whole call. Raises `DeclinedError`, `UnpaidError`, `PendingError`, `MalformedError` or `UnavailableError`.

    Whatever it raises, the last reply is of no use to the caller; whatever it returns, the last reply is the answer.
    """
    if wanted.paid:
        yield Send(wanted.url)
        return Outcome()
    reply: Reply | None = None
    dead: Record | None = None
    while (owed := (yield from do(partial(terms.journal.recall, wanted.fingerprint, call)))) is not None:
        verdict = yield from _present(wanted, owed)
        reply = verdict.reply
        if verdict.pending or not 400 <= reply.status < 500 or owed.alive(terms.clock()):
            return (yield from _conclude(terms, owed, verdict))
        # By our own clock the signature is dead, and the seller has no answer for it; the chain has the last word.
        dead = yield from do(partial(_bury, terms, owed, verdict))
        if dead.state is not State.RELEASED:
            return (yield from _conclude(terms, dead, _unproven(dead, verdict)))
        if reply.status != PAYMENT_REQUIRED_STATUS:
            reply = None
    if reply is None and dead is None:
        paid = yield from _pay_ahead(wanted, terms, call)
        if paid is not None:
            return (yield from _conclude(terms, *paid))
    if reply is None:
        reply = yield Send(wanted.url)
    if reply.status != PAYMENT_REQUIRED_STATUS:
        return Outcome()
    challenge = read_challenge(reply.headers, reply.body, prefer=terms.policy.version)
    if isinstance(challenge, BalanceEmpty):
        return Outcome()
    _check_place(wanted, reply)
    if terms.sign_in_when_asked:
        asked = yield from _sign_in(wanted, terms, challenge, reply)
        if asked is None:
            return Outcome()
        challenge, reply = asked
    if terms.ahead is not None:
        terms.ahead.learn(wanted.method, wanted.url, wanted.body, challenge)
    entropy = terms.entropy(ENTROPY_BYTES)
    record = yield from sign(wanted, terms, call, challenge, reply.url, dead, entropy)
    record, verdict = yield from _present_in_turn(wanted, terms, record, entropy)
    return (yield from _conclude(terms, record, verdict))


def _sign_in(
    wanted: Wanted, terms: Terms, challenge: Challenge, reply: Reply
) -> Journey[tuple[Challenge, Reply] | None]:
    """Answer a 402 by saying who we are, if it asks for that and this host was paid before: None when the last reply is
    the answer, else what is to be paid, and where that was said."""
    header = yield from do(partial(_introduction, terms, challenge, reply.url))
    if header is None:
        return challenge, reply
    heard: Reply = yield Send(reply.url, ((SIGN_IN_WITH_X, header),))
    if heard.status in _NOT_LET_IN:
        return challenge, reply
    if heard.status != PAYMENT_REQUIRED_STATUS:
        return None
    again = read_challenge(heard.headers, heard.body, prefer=terms.policy.version)
    if isinstance(again, BalanceEmpty):
        return challenge, reply
    _check_place(wanted, heard)
    return again, heard


def _introduction(terms: Terms, challenge: Challenge, url: str) -> str | None:
    known = terms.journal.history(_PAID_LOOK, host=host_of(url))
    paid = {(one.entry.subject.network, one.entry.subject.payer) for one in known if one.answered_at}
    return invitation.sign_in(challenge, url, terms.wallet, paid, now=terms.clock())


def _pay_ahead(wanted: Wanted, terms: Terms, call: Call) -> Journey[tuple[Record, Verdict] | None]:
    """Pay with the first request, at the price that the seller has announced; None where it has to be asked.

    Terms that have changed cost one ordinary 402; what replaces the payment then has its nonce.
    """
    ahead, asked = terms.ahead, (wanted.method, wanted.url, wanted.body)
    known = None if ahead is None else ahead.challenge(*asked)
    if ahead is None or known is None:
        return None
    entropy = terms.entropy(ENTROPY_BYTES)
    try:
        record = yield from sign(wanted, terms, call, known, wanted.url, entropy=entropy)
    except (DeclinedError, UnavailableError):
        # The seller may ask for less, or on another network, and the ordinary way says what is wrong.
        return None
    record, verdict = yield from _present_in_turn(wanted, terms, record, entropy)
    if verdict.reply.status >= 300:
        ahead.forget(*asked)
    if verdict.error is None or verdict.error.code not in _OTHER_TERMS or verdict.event is not Event.REFUSE:
        return record, verdict
    challenge = read_challenge(verdict.reply.headers, verdict.reply.body)
    if isinstance(challenge, BalanceEmpty):
        return record, verdict
    ahead.learn(*asked, challenge)
    again = yield from sign_over(wanted, terms, challenge, record, entropy)
    return (record, verdict) if again is None else (again, (yield from _present(wanted, again)))


def _conclude(terms: Terms, record: Record, verdict: Verdict) -> Journey[Outcome]:
    """Write down what the reply proves, then hand the reply to the caller or say why it is none."""
    answered = verdict.delivers and verdict.reply.complete
    if answered or verdict.event is not None or verdict.receipt is not None:
        try:
            record = yield from do(partial(_write, terms, record, verdict, answered=answered))
        except UnavailableError:
            # The answer is here, so it is not withheld. The row stays as it was: the side that forgets nothing.
            if verdict.error is None:
                return Outcome(record, verdict.receipt, pending=verdict.pending)
    if verdict.error is not None:
        raise verdict.error
    unread, bodiless = verdict.delivers and not answered, verdict.reply.bodiless
    return Outcome(record, verdict.receipt, unread=unread, pending=verdict.pending, bodiless=bodiless)


def _write(terms: Terms, record: Record, verdict: Verdict, *, answered: bool) -> Record:
    return terms.journal.conclude(
        record.pay_id, event=verdict.event, stage=verdict.stage, receipt=verdict.receipt, answered=answered
    )


def _bury(terms: Terms, record: Record, verdict: Verdict) -> Record:
    """The row of a payment that looks dead, after the seller's reply and the chain's word."""
    return terms.prove(_write(terms, record, verdict, answered=False))


def _unproven(record: Record, verdict: Verdict) -> Verdict:
    """The verdict of a reply that asks for a second payment, while nothing proves that the first never moved money."""
    if verdict.error is None or verdict.error.moved is Moved.YES:
        return verdict
    if record.state is State.SETTLED:
        words, moved = "the chain shows that the payment was taken, and the seller asks for payment again", Moved.YES
    else:
        words = "the seller asks for payment again, and the chain does not prove yet that the first payment is dead"
        moved = Moved.UNKNOWN
    error = UnpaidError(
        "unproven_payment", f"{words}; nothing is signed anew. x402 resolve asks the chain again", moved=moved,
        details={"payId": record.pay_id, "refusal": verdict.error.code},
    )  # fmt: skip
    return replace(verdict, error=error)


def _present(wanted: Wanted, record: Record) -> Journey[Verdict]:
    """Present a signed payment where its 402 came from, and judge the reply."""
    url = record.entry.subject.record.get("at") or wanted.url
    reply: Reply = yield Send(url, ((record.header_name, record.header), _EXPOSE))
    return judge(reply, record.entry.subject, sent_to=url)


def _present_in_turn(wanted: Wanted, terms: Terms, record: Record, entropy: bytes) -> Journey[tuple[Record, Verdict]]:
    """Present a payment; and again, for a while, when the seller says that it must wait for others of this wallet.

    What goes along with a maximum (an EIP-2612 permit) may be outdated by what they have settled, so that is signed
    over, on the same terms and with the same nonce; anything else is presented byte for byte.
    """
    verdict, waited = (yield from _present(wanted, record)), 0
    while (seconds := _in_the_way(verdict, waited)) is not None and waited + seconds <= terms.patience_seconds:
        yield Wait(seconds)
        waited += seconds
        if is_metered(record.entry.subject):
            renewed = yield from _renew(wanted, terms, record, verdict.reply, entropy)
            if renewed is None:
                break
            record = renewed
        verdict = yield from _present(wanted, record)
    return record, verdict


def _in_the_way(verdict: Verdict, waited: int) -> int | None:
    """How long to wait for other payments, each time longer; None when nothing is in the way, or it does not pass."""
    if verdict.error is None or verdict.error.code != _OVER_COMMITTED or verdict.event is not Event.REFUSE:
        return None
    seconds = retry_after(verdict.reply.headers)
    return None if seconds is None else max(1, seconds, waited)


def _renew(wanted: Wanted, terms: Terms, record: Record, reply: Reply, entropy: bytes) -> Journey[Record | None]:
    """The payment signed over for the terms on which it was made, or None where they are not offered any more."""
    subject = record.entry.subject
    try:
        challenge = read_challenge(reply.headers, reply.body, prefer=terms.policy.version)
        if isinstance(challenge, BalanceEmpty):
            return None
        same = tuple(
            offer
            for offer in challenge.accepts
            if (offer.scheme, offer.pay_to, offer.amount) == (upto_evm.SCHEME, subject.payee, subject.amount)
        )
        challenge = challenge.model_copy(update={"accepts": same})
        return (yield from sign_over(wanted, terms, challenge, record, entropy))
    except (DeclinedError, MalformedError, UnavailableError):
        return None


def _check_place(wanted: Wanted, reply: Reply) -> None:
    """A payment is presented where the 402 came from, which must be the origin that was asked (fault B05)."""
    if origin(reply.url) != origin(wanted.url):
        raise DeclinedError(
            "cross_origin_challenge",
            f"{origin(wanted.url)} was asked and {origin(reply.url)} wants to be paid; ask it directly if you trust it",
        )
    if reply.method.upper() != wanted.method.upper():
        raise DeclinedError("redirected_challenge", f"a redirect turned the {wanted.method} into a {reply.method}")
