"""What a payment leaves in the books, by scheme and endpoint: what it was charged, its bill, and what is credited."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.payments import evm_requirement
from x402.billing import Booking, EntryKind, Metered, PaidBy
from x402.discount import Discount, Step
from x402.gateway.accounts import credits
from x402.gateway.accounts.promotions import Promotions
from x402.gateway.sale import Sale
from x402.gateway.terms import Flow
from x402.lifecycle import Subject

OFFER = evm_requirement(amount=1000)
PAYER = "0xpayer"
SUBJECT = Subject("pay", OFFER.network, OFFER.asset, PAYER, OFFER.pay_to, OFFER.amount)
ACCOUNT = f"{OFFER.network}:{PAYER}"


def sold(scheme: str = "exact", metered: Metered | None = None, discount: Discount | None = None) -> Sale:
    offer = OFFER.model_copy(update={"scheme": scheme})
    sale = Sale("pay", PAYER, offer.pay_to, offer.network, offer.asset, offer.amount, Flow.METERED, offer)
    sale.metered, sale.discount = metered, discount
    return sale


def booked(sale: Sale, moved: int = 1000, promotions: Promotions | None = None) -> Booking:
    return credits.delivered(SUBJECT, sale, "0xtx", moved=moved, now=7, promotions=promotions or Promotions())


@pytest.mark.parametrize(
    ("scheme", "moved", "charged"), [("exact", 1000, 900), ("upto", 400, 400), ("upto", 1000, 1000)]
)
def test_B16_what_moved_for_upto_has_its_discount_taken_off_already(scheme: str, moved: int, charged: int) -> None:
    """A handler that meters nothing sells at a fixed price: of `exact` the discount is still to be credited."""
    booking = booked(sold(scheme, discount=Discount(0, Decimal(10))), moved)
    assert booking.bill is not None
    assert (booking.bill.paid_by, booking.bill.metered.charged) == (PaidBy(scheme), charged)
    assert (booking.bill.metered.complete, booking.bill.credited, booking.bill.quoted) == (True, moved - charged, 1000)
    assert sum(posting.units for posting in booking.postings) == moved - charged


@pytest.mark.parametrize("endpoint", ["chat.completions", "session.deposit", "videos"])
def test_row_075_only_a_deposit_sells_nothing(endpoint: str) -> None:
    booking = booked(sold(metered=Metered(model="", endpoint=endpoint, charged=0)))
    kind = EntryKind.DEPOSIT if endpoint == credits.DEPOSIT else EntryKind.CREDIT
    assert [(posting.account, posting.kind, posting.units) for posting in booking.postings] == [(ACCOUNT, kind, 1000)]
    assert (booking.bill is None) is (kind is EntryKind.DEPOSIT)


def test_row_078_a_receipt_tells_what_was_paid_in_and_not_what_was_given() -> None:
    deposit = sold(metered=Metered(model="", endpoint=credits.DEPOSIT, charged=0))
    booking = booked(deposit, promotions=Promotions(bonuses=(Step(0, Decimal(10)),)))
    assert [(posting.kind, posting.units) for posting in booking.postings] == [
        (EntryKind.DEPOSIT, 1000), (EntryKind.GRANT, 100),
    ]  # fmt: skip
    assert credits.told(booking) == {"account": ACCOUNT, "units": "1000"}


def test_row_084_all_of_what_brought_no_answer_is_the_payers() -> None:
    (posting,) = credits.undelivered(SUBJECT).postings
    assert (posting.account, posting.kind, posting.reference, posting.units) == (ACCOUNT, EntryKind.CREDIT, "pay", 1000)
    nothing = Subject("pay", OFFER.network, OFFER.asset, PAYER, OFFER.pay_to, 0)
    assert credits.undelivered(nothing) == Booking()
    assert credits.told(Booking()) is None


TRANSFER = OFFER.model_copy(update={"scheme": "hash-proof", "extra": {"asked": "400"}})
"""What a transfer of 1,000 units is taken for where 400 were asked."""


def test_B17_a_bill_quotes_the_price_and_not_what_was_transferred_beyond_it() -> None:
    sale = sold()
    sale.requirement = TRANSFER
    booking = booked(sale)
    assert booking.bill is not None
    assert (booking.bill.quoted, booking.bill.metered.charged, booking.bill.credited) == (400, 400, 600)


def test_row_078_what_is_transferred_beyond_a_deposit_is_credited_without_a_bonus() -> None:
    sale = sold(metered=Metered(model="", endpoint=credits.DEPOSIT, charged=0))
    sale.requirement = TRANSFER
    booking = booked(sale, promotions=Promotions(bonuses=(Step(0, Decimal(10)),)))
    assert [(posting.kind, posting.units) for posting in booking.postings] == [
        (EntryKind.DEPOSIT, 400), (EntryKind.CREDIT, 600), (EntryKind.GRANT, 40),
    ]  # fmt: skip
    assert credits.told(booking) == {"account": ACCOUNT, "units": "1000"}
