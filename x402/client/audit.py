"""Whether a journal keeps its word: what was signed and is not dead fits the limits, with what was paid (invariant I6).

It is computed from the rows alone, without any of the code that lets a payment through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from x402 import networks
from x402.client.budget import Limits, cap_per_call
from x402.client.choose import DEFAULT_CAP
from x402.client.record import Record
from x402.errors import X402Error
from x402.money import Amount
from x402.stages import State
from x402.wire.payment import read_payment


def audit(records: Sequence[Record], limits: Limits) -> list[str]:
    """What is wrong with the rows of a journal, in the order in which they were written; empty when nothing is.

    A payment that was released is no money, and was room for those after it only once it was dead.
    """
    counted = [record for record in records if record.state is not State.RELEASED]
    return [words for one in (*_rows(records, limits), *_windows(counted, limits)) for words in one]


def _rows(records: Iterable[Record], limits: Limits) -> Iterable[list[str]]:
    cap = cap_per_call(limits.per_call, default=DEFAULT_CAP)
    for record in records:
        wrong = []
        if record.usd > cap:
            wrong.append(f"{record.pay_id}: ${record.usd} is above the limit of ${cap} for one call")
        if record.usd != _price(record):
            wrong.append(f"{record.pay_id}: ${record.usd} is not what it pays")
        if record.state in (State.EXPOSED, State.REFUSED, State.SETTLED) and not _presents(record):
            wrong.append(f"{record.pay_id}: {record.state} without the payment that was presented")
        if record.state is State.HELD and record.header:
            wrong.append(f"{record.pay_id}: held with a header that may have left")
        yield wrong


def _windows(counted: Sequence[Record], limits: Limits) -> Iterable[list[str]]:
    """Each payment with those before it in each window that ends with it."""
    for index, record in enumerate(counted):
        subject = record.entry.subject
        for words, bound, seconds, host, payee in limits.windows(record.host, subject.payee):
            since = record.entry.created_at - seconds
            total = sum(
                (
                    other.usd
                    for other in counted[: index + 1]
                    if other.entry.created_at > since
                    and host in ("", other.host)
                    and payee.lower() in ("", other.entry.subject.payee.lower())
                ),
                Decimal(0),
            )
            if total > bound:
                yield [f"{record.pay_id}: ${total} by then, above the limit of ${bound} for {words}"]


def _price(record: Record) -> Decimal | None:
    subject = record.entry.subject
    network = networks.find(subject.network)
    asset = network.asset(subject.asset) if network is not None else None
    return Amount(subject.amount, asset).decimal if asset is not None else None


def _presents(record: Record) -> bool:
    """Whether the header is a payment at all."""
    try:
        return read_payment([(record.header_name, record.header)]) is not None
    except X402Error:
        return False
