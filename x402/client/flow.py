"""One logical call, from 402 to answer, without any I/O of its own.

`journey` is a generator. It yields what it needs done (`Send` the request, `Ask` a node, `Do` some work that touches
the journal or a key) and receives what came of it; the seats in `auth` do these things, blocking or not. Its promises
(design §2.4, faults A09, A23, B06, B11, B15):

- it signs at most once, and not at all unless the chain proves that an earlier payment for the same request, if there
  is one without an answer, never moved money and never will;
- what it exposes is in the journal first, and stays there until there is evidence;
- an earlier payment for the same request that got no answer is presented again, byte for byte, before anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from x402 import networks
from x402.client import choose as choosing
from x402.client.allowance import Allowances, asked_of, question, read_answer
from x402.client.breaker import Breaker
from x402.client.budget import Limits, cap_per_call
from x402.client.choose import Buyer, Choice, Policy
from x402.client.draft import ENTROPY_BYTES, blockhash_question, draft, needs_blockhash, read_blockhash
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.record import Record
from x402.client.trust import listed, remembered
from x402.client.verdict import Reply, Verdict, judge, origin
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MalformedError, Moved, UnavailableError, UnpaidError
from x402.schemes import gas_sponsoring
from x402.stages import State
from x402.wire.challenge import BalanceEmpty, Challenge, read_challenge
from x402.wire.headers import PAYMENT_RESPONSE, X_PAYMENT_RESPONSE
from x402.wire.receipt import Receipt, read_receipt

PAYMENT_REQUIRED_STATUS = 402
EXTENSION = "x402"
"""Key of `response.extensions` under which the `Outcome` of a call is kept."""
_EXPOSE = ("Access-Control-Expose-Headers", f"{PAYMENT_RESPONSE},{X_PAYMENT_RESPONSE}")
"""Every SDK client sends it with a payment, as a request header (protocol page §1.2)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The request that the caller made. `url` is absolute; `paid` says that the caller attached a payment itself."""

    method: str
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    paid: bool = False

    @property
    def fingerprint(self) -> str:
        """What makes two requests the same, whoever pays: method, URL and body."""
        parts = (self.method.upper(), self.url.partition("#")[0], hashlib.sha256(self.body).hexdigest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the wanted request to `url` with these fields added. The answer is a `Reply`.

    When `payment` is set, the request carries money: its headers must not survive a redirect.
    """

    url: str = field(repr=False)
    payment: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """Post JSON to a chain's node. The answer is a `Reply`."""

    url: str = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Do:
    """Work that may block on a disk or a signer. The answer is what `work` returns."""

    work: Callable[[], object]


Effect = Send | Ask | Do
T = TypeVar("T")
Journey = Generator[Effect, Any, T]


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


@dataclass(frozen=True, slots=True)
class Terms:
    """With what, and within which bounds, a client pays. `clock` gives unix seconds, `entropy(n)` n random bytes.

    `svm_rpc` and `evm_rpc` are node URLs by CAIP-2 network; `""` stands for every network that is not named. `confirm`
    asks the chain what was taken of payments that were signed as a maximum, books that, and returns how many it has
    found. `prove` asks the chain
    what became of a payment, writes down what it proves, and returns the row as it then is; without a chain it stays
    as it was. Raises nothing but `UnavailableError("journal_unavailable")`.
    """

    wallet: Wallet
    policy: Policy
    limits: Limits
    journal: Journal
    clock: Callable[[], int]
    entropy: Callable[[int], bytes]
    svm_rpc: Mapping[str, str]
    evm_rpc: Mapping[str, str] = field(default_factory=dict)
    confirm: Callable[[], int] = field(default=lambda: 0)
    breaker: Breaker = field(default_factory=Breaker)
    prove: Callable[[Record], Record] = field(default=lambda record: record)


def journey(wanted: Wanted, terms: Terms, call: Call) -> Journey[Outcome]:
    """The whole call. Raises `DeclinedError`, `UnpaidError`, `PendingError`, `MalformedError` or `UnavailableError`.

    Whatever it raises, the last reply is of no use to the caller; whatever it returns, the last reply is the answer.
    """
    if wanted.paid:
        yield Send(wanted.url)
        return Outcome()
    reply: Reply | None = None
    dead: Record | None = None
    while (owed := (yield from _do(partial(terms.journal.recall, wanted.fingerprint, call)))) is not None:
        verdict = yield from _present(wanted, owed)
        reply = verdict.reply
        if verdict.pending or not 400 <= reply.status < 500 or owed.alive(terms.clock()):
            return (yield from _conclude(terms, owed, verdict))
        # By our own clock the signature is dead, and the seller has no answer for it; the chain has the last word.
        dead = yield from _do(partial(_bury, terms, owed, verdict))
        if dead.state is not State.RELEASED:
            return (yield from _conclude(terms, dead, _unproven(dead, verdict)))
        if reply.status != PAYMENT_REQUIRED_STATUS:
            reply = None
    if reply is None:
        reply = yield Send(wanted.url)
    if reply.status != PAYMENT_REQUIRED_STATUS:
        return Outcome()
    challenge = read_challenge(reply.headers, reply.body, prefer=terms.policy.version)
    if isinstance(challenge, BalanceEmpty):
        return Outcome()
    _check_place(wanted, reply)
    record = yield from _sign(wanted, terms, call, challenge, reply.url, dead)
    verdict = yield from _present(wanted, record)
    return (yield from _conclude(terms, record, verdict))


def _sign(
    wanted: Wanted, terms: Terms, call: Call, challenge: Challenge, url: str, dead: Record | None
) -> Journey[Record]:
    """Choose, hold, sign, and write down: in this order, and nothing leaves before the last is on the disk.

    After a payment of this call that is `dead`, its terms hold: neither dearer nor to somebody else (fault B06).
    """
    journal, host = terms.journal, _host(wanted.url)
    buyer = _buyer(wanted, terms)
    if not is_this_machine(wanted.url):
        known = yield from _do(partial(journal.payees, host))
        if dead is not None:
            known = known or frozenset(remembered(dead.entry.subject))
        buyer = replace(buyer, known=known)
    allowances = yield from _allowances(challenge, terms)
    buyer = replace(buyer, allowances=allowances, sponsored=gas_sponsoring.is_offered(challenge.extensions))
    choice = choosing.choose(challenge, buyer, terms.policy)
    if dead is not None and choice.usd > dead.usd:
        raise _dearer(choice, dead)
    blockhash = ""
    if needs_blockhash(choice):
        answer: Reply = yield Ask(_node(choice, terms), blockhash_question())
        blockhash = read_blockhash(answer.status, answer.body)
    payment = draft(
        choice, challenge, terms.wallet,
        now=terms.clock(), lifetime_seconds=terms.policy.lifetime_seconds, entropy=terms.entropy(ENTROPY_BYTES),
        blockhash=blockhash, allowances=allowances, fingerprint=wanted.fingerprint,
        record=_remember(wanted, choice, challenge, url),
    )  # fmt: skip
    pay_id, limits, breaker = payment.subject.pay_id, terms.limits, terms.breaker
    hold = partial(journal.hold, host=host, usd=choice.usd, limits=limits, call=call, breaker=breaker)
    try:
        yield from _do(partial(hold, payment.subject))
    except DeclinedError as error:
        # What was signed as a maximum counts whole until the chain shows what was taken of it.
        if error.code != "budget_exceeded" or not (yield from _do(terms.confirm)):
            raise
        yield from _do(partial(hold, payment.subject))
    signed = yield from _do(payment.sign)
    return (yield from _do(partial(journal.expose, pay_id, signed.header_name, signed.as_header())))


def _conclude(terms: Terms, record: Record, verdict: Verdict) -> Journey[Outcome]:
    """Write down what the reply proves, then hand the reply to the caller or say why it is none."""
    answered = verdict.delivers and verdict.reply.complete
    try:
        record = yield from _do(partial(_write, terms, record, verdict, answered=answered))
    except UnavailableError:
        # The answer is here, so it is not withheld. The row stays as it was, which is the side that forgets nothing.
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


def _dearer(choice: Choice, dead: Record) -> DeclinedError:
    return DeclinedError(
        "price_raised",
        f"the first payment of this call was ${dead.usd} and never taken; now ${choice.usd} is asked for it. Make the"
        " call again if that is right",
        details={"first": str(dead.usd), "asked": str(choice.usd)},
    )


def _do(work: Callable[[], T]) -> Journey[T]:
    result: T = yield Do(work)
    return result


def _present(wanted: Wanted, record: Record) -> Journey[Verdict]:
    """Present a signed payment where its 402 came from, and judge the reply."""
    url = record.entry.subject.record.get("at") or wanted.url
    reply: Reply = yield Send(url, ((record.header_name, record.header), _EXPOSE))
    return judge(reply, record.entry.subject, sent_to=url)


def _check_place(wanted: Wanted, reply: Reply) -> None:
    """A payment is presented where the 402 came from, which must be the origin that was asked (fault B05)."""
    if origin(reply.url) != origin(wanted.url):
        raise DeclinedError(
            "cross_origin_challenge",
            f"{origin(wanted.url)} was asked and {origin(reply.url)} wants to be paid; ask it directly if you trust it",
        )
    if reply.method.upper() != wanted.method.upper():
        raise DeclinedError("redirected_challenge", f"a redirect turned the {wanted.method} into a {reply.method}")


def _host(url: str) -> str:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme.lower())
    host = (parts.hostname or "").lower()
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _buyer(wanted: Wanted, terms: Terms) -> Buyer:
    parts, wallet = urlsplit(wanted.url), terms.wallet
    return Buyer(
        addresses={networks.EIP155: wallet.evm_address, networks.SOLANA: wallet.svm_address},
        host=_host(wanted.url),
        secure=choosing.is_secure(parts.scheme.lower(), (parts.hostname or "").lower()),
        testnet_only=wallet.testnet_only,
        cap=cap_per_call(terms.policy.max_per_call, terms.limits.per_call, default=choosing.DEFAULT_CAP),
    )


def _allowances(challenge: Challenge, terms: Terms) -> Journey[Allowances]:
    """What Permit2 may move of the wallet's, where an offer needs it and a node can be asked."""
    offer, payer = asked_of(challenge), terms.wallet.evm_address
    if offer is None or not payer or offer.scheme not in terms.policy.schemes:
        return {}
    network = networks.get(offer.network)
    url = terms.evm_rpc.get(network.id) or terms.evm_rpc.get("")
    if not url:
        return {}
    answer: Reply = yield Ask(url, question(offer, payer))
    known, asset = read_answer(answer.status, answer.body), network.asset(offer.asset)
    return {} if known is None or asset is None else {(network.id, asset.address): known}


def _node(choice: Choice, terms: Terms) -> str:
    network = networks.get(choice.requirement.network)
    url = terms.svm_rpc.get(network.id) or terms.svm_rpc.get("") or network.rpc_url
    if not url:
        raise UnavailableError("blockhash_unavailable", f"no node is known for {network.title}: set X402_SVM_RPC_URL")
    return url


def is_this_machine(url: str) -> bool:
    """Whether nobody stands between us and the seller, whose devnet has other addresses at every start."""
    return choosing.is_secure("", (urlsplit(url).hostname or "").lower())


def _remember(wanted: Wanted, choice: Choice, challenge: Challenge, url: str) -> dict[str, Any]:
    """What the journal keeps besides: what was bought, without the query, whom other offers would have paid, and where
    a redirect led, if one did."""
    bought = wanted.url.partition("?")[0].partition("#")[0]
    record: dict[str, Any] = {"method": wanted.method.upper(), "url": bought, "price": str(choice.amount)}
    if choice.requirement.scheme != choosing.EXACT:
        record["scheme"] = choice.requirement.scheme
    payees = [[payee.address, payee.network, payee.asset] for payee in listed(challenge)]
    if len(payees) > 1:
        record["payees"] = payees
    return record if url == wanted.url else record | {"at": url}
