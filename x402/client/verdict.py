"""What the reply to a presented payment proves, and what it does not (faults A03, A09, A10, B13).

Pure. Three outcomes, as everywhere: the money moved, the seller says that it did not, or nobody knows. A timeout, a
5xx or a reply without a receipt proves nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from x402 import networks
from x402.client.trust import Payee
from x402.errors import MalformedError, Moved, PendingError, UnpaidError, X402Error
from x402.lifecycle import Event, Outcome, Subject
from x402.schemes import upto_evm
from x402.stages import Refused, Settled, Stage
from x402.wire.challenge import BalanceEmpty, read_challenge
from x402.wire.headers import Pairs, values
from x402.wire.receipt import PENDING, Receipt, read_receipt

_CODE = re.compile(r"[a-z][a-z0-9_]{2,99}", re.ASCII)
_SEEN_BEFORE = frozenset({"duplicate_settlement", "invalid_exact_evm_nonce_already_used", "permit2_invalid_nonce"})
"""Refusals that say that this very payment was taken before: they prove nothing about the money (fault A10)."""
_HINTS = {
    "over_committed": " (the wallet does not cover this beside what is not settled yet: wait for that, or where Permit2"
    " moves the money let it move more, with x402 approve)"
}
"""What a bare code means to a payer."""
_RETRY_AFTER_MAX_SECONDS = 3600
_BODILESS = (204, 205)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response, as far as it matters here: `url` and `method` are those of the last hop.

    `body` is read only where it must be (402s and nodes); `complete` says that all of it has arrived, read or not, and
    `empty` that it was nothing at all. `hops` are the header fields of the redirects on the way.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    method: str
    complete: bool = True
    hops: tuple[tuple[tuple[str, str], ...], ...] = field(default=(), repr=False)
    empty: bool = False

    @property
    def bodiless(self) -> bool:
        """Whether an answer of this kind has no body, and may be empty."""
        return self.method.upper() == "HEAD" or self.status in _BODILESS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write down (`event` and `stage`, both None when nothing is proven), and what to tell the caller.

    `error` is set when the reply is no answer. `delivers` says that it is the answer that was paid for, `pending` that
    the seller itself says that the transaction may still land.
    """

    reply: Reply
    event: Event | None = None
    stage: Stage | None = None
    receipt: Receipt | None = None
    error: X402Error | None = None
    delivers: bool = False
    pending: bool = False


def judge(reply: Reply, subject: Subject, *, sent_to: str) -> Verdict:
    """The verdict of a reply to the payment `subject` that was presented at the URL `sent_to`."""
    receipt = heard_receipt(reply, subject, sent_to=sent_to)
    settled = receipt is not None and receipt.outcome is Outcome.SETTLED
    if (astray := _astray(reply, sent_to)) is not None and not settled:
        return Verdict(reply, receipt=receipt, error=astray)
    unpaid = reply.status == 402
    delivers = reply.status < 300 or (reply.status < 400 and settled)
    if reply.empty and not reply.bodiless and reply.status < 300:
        delivers = False
    if receipt is None and not unpaid:
        return Verdict(reply, delivers=delivers, pending=reply.status == 409)
    if receipt is not None and settled and not receipt.transaction:
        # Nothing was due. That is the seller's word: the signature counts until it is dead.
        again = _unpaid(*_refusal(reply, receipt, subject)) if unpaid else None
        return Verdict(reply, receipt=receipt, error=again, delivers=delivers)
    if receipt is not None and settled:
        return Verdict(
            reply,
            Event.SETTLE,
            taken(receipt, subject),
            receipt,
            error=_taken(receipt) if unpaid else None,
            delivers=delivers,
        )
    reason, message = _refusal(reply, receipt, subject)
    if reason == PENDING or (receipt is not None and receipt.outcome is Outcome.PENDING):
        waiting = _waiting(reply, receipt.transaction if receipt is not None else "") if unpaid else None
        return Verdict(reply, receipt=receipt, error=waiting, delivers=delivers, pending=True)
    error = _unpaid(reason, message) if unpaid else None
    if reason in _SEEN_BEFORE:
        return Verdict(reply, receipt=receipt, error=error, delivers=delivers)
    return Verdict(reply, Event.REFUSE, Refused(reason, message), receipt, error, delivers=delivers)


def taken(receipt: Receipt, subject: Subject) -> Settled:
    """What a seller says it has taken: all that was signed, or what it names of a maximum (scheme `upto`)."""
    if not is_metered(subject) or receipt.amount is None or int(receipt.amount) > subject.amount:
        return Settled(receipt.transaction)
    return Settled(receipt.transaction, amount=int(receipt.amount))


def is_metered(subject: Subject) -> bool:
    """Whether what was signed is a maximum."""
    return subject.record.get("scheme") == upto_evm.SCHEME


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in one spelling; `""` for what is no URL, which is nobody's origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower(), 0)
    except ValueError:
        return ""
    return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{port}"


def _astray(reply: Reply, sent_to: str) -> UnpaidError | None:
    """The error for a payment that was answered by a redirect to somebody else (fault B05).

    The payment itself does not travel with a redirect, so whoever answers was not paid.
    """
    target = origin(_target(reply))
    if target == origin(sent_to) and not (reply.hops and reply.status == 402):
        return None
    return UnpaidError(
        "redirected_after_payment",
        f"{origin(sent_to)} answered the payment with a redirect to {target or 'no address'}, which was not paid",
        details={"redirect": target},
    )


def _target(reply: Reply) -> str:
    """Whose answer this is, or where it points."""
    if not 300 <= reply.status < 400:
        return reply.url
    location = next(iter(values(reply.headers, "Location")), "")
    try:
        return urljoin(reply.url, location)
    except ValueError:
        return location


def heard_receipt(reply: Reply, subject: Subject, *, sent_to: str) -> Receipt | None:
    """The receipt for this payment: in the reply, or in the redirect by which the seller answered the payment.

    One that cannot be read, that speaks of another network or payer, or that somebody else sends, is none: it proves
    nothing (fault B13).
    """
    sources = [reply.headers] if origin(reply.url) == origin(sent_to) else []
    for headers in (*sources, *reply.hops[:1]):
        try:
            receipt = read_receipt(headers)
        except MalformedError:
            continue
        if receipt is not None and concerns(receipt, subject):
            return receipt
    return None


def concerns(receipt: Receipt, subject: Subject) -> bool:
    """Whether a receipt speaks of this payment, as far as its own words go."""
    if receipt.network and receipt.network != subject.network:
        return False
    if not receipt.payer:
        return True
    fold = str.lower if subject.network.startswith(networks.EIP155) else str
    return fold(receipt.payer) == fold(subject.payer)


def retry_after(headers: Pairs) -> int | None:
    """The seconds of a `Retry-After` header, at most an hour, or None; dates are not understood."""
    for value in values(headers, "Retry-After"):
        if value.isascii() and value.isdecimal() and len(value) < 10:
            return min(int(value), _RETRY_AFTER_MAX_SECONDS)
    return None


def _refusal(reply: Reply, receipt: Receipt | None, subject: Subject) -> tuple[str, str]:
    """The seller's reason as a code and as words; a reply that explains nothing is still a refusal."""
    if receipt is not None and receipt.error_reason:
        return _as_code(receipt.error_reason), receipt.error_message or receipt.error_reason
    try:
        heard = read_challenge(reply.headers, reply.body)
    except MalformedError:
        return "payment_refused", "the seller asks for payment again and gives no readable reason"
    if isinstance(heard, BalanceEmpty):
        return _as_code(heard.code), heard.message[:500]
    if heard.accepts and not any(Payee(subject.payee).fits(offer) for offer in heard.accepts):
        return "payee_changed", f"{subject.payee} was paid, and now the seller names other addresses"
    text = heard.error or "the seller asks for payment again and gives no reason"
    return _as_code(text), text[:500]


def _as_code(text: str) -> str:
    return text if _CODE.fullmatch(text) else "payment_refused"


def _unpaid(reason: str, message: str) -> UnpaidError:
    words = _HINTS.get(reason, "") if message == reason else f" ({message})"
    return UnpaidError(
        reason,
        f"the seller refused the payment: {reason}{words}. It was signed once and stays reserved; the same call made"
        " again presents the same payment until it expires",
        details={"reason": reason, "message": message},
    )


def _taken(receipt: Receipt) -> UnpaidError:
    return UnpaidError(
        "paid_and_asked_again",
        f"the seller took the payment in transaction {receipt.transaction} and asks for payment again",
        moved=Moved.YES,
        details={"transaction": receipt.transaction},
    )


def _waiting(reply: Reply, transaction: str) -> PendingError:
    seconds = retry_after(reply.headers)
    return PendingError(
        "the payment may still be taken; make the same call again, it presents the same payment",
        transaction=transaction,
        retry_after_seconds=2 if seconds is None else seconds,
    )
