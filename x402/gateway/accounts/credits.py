"""What a payment leaves behind beside its answer: a bill, and in the payer's account whatever was paid and not used.

Pure: what is made here is written by the ledger in the very transaction that marks the payment delivered, so a credit
is never lost and never given twice, whatever dies when.
"""

from __future__ import annotations

from x402 import networks
from x402.billing import PAID_IN, Bill, Booking, EntryKind, Metered, PaidBy, Posting
from x402.gateway.accounts.promotions import Promotions
from x402.gateway.hash_proof import asked_of
from x402.gateway.sale import Sale
from x402.lifecycle import Subject

DEPOSIT = "session.deposit"
"""The endpoint whose payments fill an account: all of it is credited, and nothing was sold."""

_DECIMALS = 6


def account_of(network: str, address: str) -> str:
    """The account of a wallet on one chain, as CAIP-10 (aimo §2.8)."""
    return f"{network}:{address}"


def micro_units(units: int, network: str, asset: str) -> int:
    """Atomic units of a token in atomic USDC (6 decimals), rounded down: what is credited is never more than paid."""
    known = networks.get(network).asset(asset)
    decimals = _DECIMALS if known is None else known.decimals
    if decimals >= _DECIMALS:
        return int(units // 10 ** (decimals - _DECIMALS))
    return int(units * 10 ** (_DECIMALS - decimals))


def charged_of(sale: Sale, paid: int, bound: int) -> Metered:
    """What a sale is charged: its metered price within `bound`, less the payer's discount, never more than was paid. A
    handler that meters nothing sells at a fixed price."""
    if sale.metered is not None:
        return sale.reduced(sale.metered.within(bound)).within(paid)
    if _is_upto(sale):
        # What moved is what was due, the discount taken off already.
        return Metered(model="", endpoint="", charged=paid, complete=True)
    return sale.reduced(Metered(model="", endpoint="", charged=min(bound, paid), complete=True))


def delivered(
    subject: Subject, sale: Sale, transaction: str, *, moved: int, now: int, promotions: Promotions
) -> Booking:
    """What is booked when a payment's answer goes out; `moved` is what was paid, in atomic units of its asset. All
    amounts in the booking are atomic USDC."""
    paid = micro_units(moved, subject.network, subject.asset)
    # A transfer may have paid more than it was asked for, which makes neither its answer nor its deposit larger.
    asked = asked_of(sale.requirement)
    bound = micro_units(subject.amount if asked is None else asked, subject.network, subject.asset)
    metered, account = charged_of(sale, paid, bound), account_of(subject.network, subject.payer)
    unused = paid - metered.charged
    deposit = min(unused, bound) if metered.endpoint == DEPOSIT else 0
    brought = {
        EntryKind.DEPOSIT: deposit,
        EntryKind.CREDIT: unused - deposit,
        EntryKind.GRANT: promotions.bonus(deposit),
    }
    postings = tuple(
        Posting(account=account, kind=kind, reference=subject.pay_id, units=units)
        for kind, units in brought.items()
        if units
    )
    if metered.endpoint == DEPOSIT:
        return Booking(postings=postings)
    bill = Bill(
        bill_id=subject.pay_id,
        at=now,
        account=account,
        paid_by=PaidBy.UPTO if _is_upto(sale) else PaidBy.EXACT,
        metered=metered,
        quoted=bound,
        credited=unused,
        earned=metered.charged - metered.fee,
        network=subject.network,
        transaction=transaction,
        request_id=sale.request_id,
        latency_ms=sale.latency_ms,
        first_token_ms=sale.first_token_ms,
        tags=dict(sale.tags),
    )
    return Booking(bill=bill, postings=postings)


def _is_upto(sale: Sale) -> bool:
    return sale.requirement.scheme == PaidBy.UPTO


def undelivered(subject: Subject) -> Booking:
    """What is booked for a payment that brought no answer: all of it is the payer's (fault A22, aimo row 84)."""
    paid = micro_units(subject.amount, subject.network, subject.asset)
    account = account_of(subject.network, subject.payer)
    if not paid:
        return Booking()
    posting = Posting(account=account, kind=EntryKind.CREDIT, reference=subject.pay_id, units=paid)
    return Booking(postings=(posting,))


def told(booking: Booking) -> dict[str, str] | None:
    """How a receipt tells what was credited: the account, and atomic USDC as digits; None when nothing was."""
    paid_in = [posting for posting in booking.postings if posting.kind in PAID_IN]
    return {"account": paid_in[0].account, "units": str(sum(one.units for one in paid_in))} if paid_in else None
