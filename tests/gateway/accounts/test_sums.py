"""What a sale comes to in the books, by hand: charges, credits, deposits and gifts (fault B17, aimo rows 77-84)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.payments import evm_requirement, upto_requirement
from x402.billing import Booking, EntryKind, Metered, PaidBy, Posting
from x402.discount import Discount
from x402.gateway.accounts import credits
from x402.gateway.accounts.promotions import Promotions
from x402.gateway.sale import Sale
from x402.gateway.terms import Flow
from x402.lifecycle import Subject
from x402.networks import BASE_SEPOLIA
from x402.ports.accounts import Balance, BillFilter, Payout, Reservation, TooLittle, Withdrawal

PAYER, PAYEE = "0x" + "11" * 20, "0x" + "22" * 20
ACCOUNT = f"{BASE_SEPOLIA}:{PAYER}"


def sale(scheme: str = "exact", amount: int = 1000, **members: Any) -> Sale:
    offer = evm_requirement(PAYEE, amount) if scheme == "exact" else upto_requirement(PAYEE, PAYEE, amount)
    made = Sale(
        pay_id="pay", payer=PAYER, payee=PAYEE, network=BASE_SEPOLIA, asset=offer.asset, amount=amount,
        flow=Flow.UPFRONT, requirement=offer,
    )  # fmt: skip
    for name, value in members.items():
        setattr(made, name, value)
    return made


def booked(sold: Sale, moved: int) -> Booking:
    subject = Subject("pay", BASE_SEPOLIA, sold.asset, PAYER, PAYEE, sold.amount, 0, "print", {})
    return credits.delivered(subject, sold, "0xpaid", moved=moved, now=77, promotions=Promotions())


@pytest.mark.parametrize(("scheme", "charged", "by"), [("exact", 900, PaidBy.EXACT), ("upto", 1000, PaidBy.UPTO)])
def test_row_078_what_is_not_metered_is_charged_whole_less_a_discount_that_was_not_taken_yet(
    scheme: str, charged: int, by: PaidBy
) -> None:
    sold = sale(scheme, discount=Discount(0, Decimal(10)))
    bill = booked(sold, 1000).bill
    assert bill is not None
    assert (bill.metered.charged, bill.metered.complete, bill.credited, bill.paid_by) == (
        charged, True, 1000 - charged, by,
    )  # fmt: skip
    assert (bill.at, bill.account, bill.quoted, bill.earned) == (77, ACCOUNT, 1000, charged)


@pytest.mark.parametrize(("endpoint", "kind"), [("session.deposit", EntryKind.DEPOSIT), ("videos", EntryKind.CREDIT)])
def test_only_a_deposit_sells_nothing(endpoint: str, kind: EntryKind) -> None:
    made = booked(sale(metered=Metered(model="m", endpoint=endpoint, charged=400)), 1000)
    assert [(one.kind, one.units, one.account) for one in made.postings] == [(kind, 600, ACCOUNT)]
    assert (made.bill is None) is (kind is EntryKind.DEPOSIT)


def test_a_receipt_tells_what_was_paid_in_and_not_the_gift_beside_it() -> None:
    def posting(kind: EntryKind, units: int) -> Posting:
        return Posting(account=ACCOUNT, kind=kind, reference="pay", units=units)

    brought = (posting(EntryKind.DEPOSIT, 5), posting(EntryKind.CREDIT, 3), posting(EntryKind.GRANT, 7))
    assert credits.told(Booking(postings=brought)) == {"account": ACCOUNT, "units": "8"}
    assert credits.told(Booking()) is None


def test_row_084_what_was_not_answered_is_credited_whole_and_nothing_is_nothing() -> None:
    for amount, credited in ((1000, [1000]), (0, [])):
        subject = Subject("pay", BASE_SEPOLIA, sale().asset, PAYER, PAYEE, amount, 0, "print", {})
        assert [one.units for one in credits.undelivered(subject).postings] == credited


def test_gifts_are_spent_and_never_paid_out() -> None:
    assert [Balance(account="a", units=5, gift=gift).withdrawable for gift in (0, 2, 5, 9)] == [5, 3, 0, 0]


def test_what_nobody_has_said_is_nothing_yet() -> None:
    assert Balance(account="a") == Balance(account="a", units=0, reserved=0, gift=0)
    wanted = Withdrawal(id="w", account="a", units=1)
    assert (wanted.state, wanted.attempt, wanted.created_at, wanted.updated_at) == (Payout.ASKED, 0, 0, 0)
    assert (BillFilter().since, BillFilter().until) == (0, 4_611_686_018_427_387_904)
    assert len({Reservation(id="r", account="a", units=1), Reservation(id="r", account="a", units=1)}) == 1
    assert str(TooLittle("gift", 3, 5)) == "5 units are wanted, and 3 are there (gift)"
