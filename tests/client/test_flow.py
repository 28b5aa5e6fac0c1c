"""The journey without any HTTP library, against sellers that hypothesis invents."""

from __future__ import annotations

import itertools
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.client.budget import Limits
from x402.client.effects import Send, Wanted
from x402.errors import X402Error
from x402.stages import State

from .driver import WHIMS, Crash, Invented, Lost, drive, terms
from .seller import NOW, URL, Answer, Clock, asks, delivers, offer

whims = st.lists(st.sampled_from([*WHIMS, "lost", "crash", "honest"]), max_size=14)


@settings(max_examples=400, deadline=None)
@given(whims=whims, calls=st.integers(1, 4), retries=st.integers(0, 3))
def test_one_signature_per_call_and_never_more_than_the_limits(whims: list[str], calls: int, retries: int) -> None:
    """A call is retried as SDKs do, after every failure; whatever the seller does, it costs one signature.

    The seller is assumed to take every payment that it ever saw.
    """
    clock = Clock()
    limits = Limits(per_call="1.00", per_day="1.50")
    with_terms, seller = terms(clock, limits), Invented(whims)
    for number in range(calls):
        wanted = Wanted("POST", URL, b"call %d" % number)
        before = len(seller.new)
        for _ in range(retries + 1):
            try:
                _, status = drive(wanted, with_terms, seller)
            except (X402Error, Lost, Crash):
                continue
            if status < 400:
                break
        assert len(seller.new) - before <= 1
    history = with_terms.journal.history()
    left = [record for record in history if record.header]
    assert {record.header for record in left} == set(seller.new)
    assert sum(record.usd for record in left) <= Decimal("1.50")
    assert all(record.usd <= 1 for record in left)
    assert all(record.state is State.RELEASED for record in history if not record.header)


@settings(max_examples=150, deadline=None)
@given(whims=whims, passing=st.lists(st.integers(0, 200), max_size=14))
def test_A23_while_one_signature_lives_no_other_is_made(whims: list[str], passing: list[int]) -> None:
    """Time passes between retries: two signatures for one request are never alive at the same moment."""
    clock = Clock()
    with_terms, seller = terms(clock), Invented(whims)
    wanted = Wanted("POST", URL, b"")
    for seconds in (*passing, 0):
        clock.now += seconds
        try:
            _, status = drive(wanted, with_terms, seller)
        except (X402Error, Lost, Crash):
            continue
        if status < 400:
            break
    lives = sorted(
        (record.entry.created_at, record.entry.subject.expires_at)
        for record in with_terms.journal.history()
        if record.header
    )
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(lives))


def test_the_driver_of_this_test_would_notice_a_second_signature() -> None:
    """The control: without the journal's memory the same retries cost a signature each."""
    clock = Clock()
    seller = Invented(["asks", "lost", "asks", "lost"])
    for _ in range(2):
        with pytest.raises(Lost):
            drive(Wanted("POST", URL, b""), terms(clock), seller)
    assert len(seller.new) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("POST", URL, b"x"), ("post", URL, b"x"), True),
        (("POST", URL, b"x"), ("POST", URL + "#part", b"x"), True),
        (("POST", URL, b"x"), ("PUT", URL, b"x"), False),
        (("POST", URL, b"x"), ("POST", URL, b"y"), False),
        (("POST", URL, b"x"), ("POST", URL + "?a", b"x"), False),
    ],
)
def test_what_makes_two_requests_the_same(
    one: tuple[str, str, bytes], other: tuple[str, str, bytes], same: bool
) -> None:
    assert (Wanted(*one).fingerprint == Wanted(*other).fingerprint) is same


def test_the_journal_remembers_where_without_the_query() -> None:
    with_terms = terms(Clock())
    drive(Wanted("POST", URL + "?token=secret", b""), with_terms, Invented(["honest", "honest"]))
    [record] = with_terms.journal.history()
    assert record.entry.subject.record == {"method": "POST", "url": URL, "price": "0.01 USDC"}
    assert record.entry.subject.expires_at == NOW + 60


def test_B09_an_offer_that_wants_a_signature_for_years_gets_ten_minutes() -> None:
    with_terms = terms(Clock())
    seller = Invented([])
    answers = iter([asks(offer(max_timeout_seconds=10**9)), delivers()])
    drive(Wanted("POST", URL, b""), with_terms, lambda request: seller(request) and next(answers))
    [record] = with_terms.journal.history()
    assert record.entry.subject.expires_at == NOW + 600


def test_B14_an_identifier_is_added_where_the_seller_wants_one() -> None:
    from .seller import read_payment

    wanted = {"payment-identifier": {"info": {"required": True}, "schema": {}}, "other": {"info": {"a": 1}}}
    seen: list[str] = []

    def seller(request: Send) -> Answer:
        if not request.payment:
            return asks(extensions=wanted)
        seen.append(request.payment[0][1])
        return timeout_once(len(seen))

    def timeout_once(count: int) -> Answer:
        if count == 1:
            raise Lost
        return delivers()

    with_terms = terms(Clock())
    with pytest.raises(Lost):
        drive(Wanted("POST", URL, b""), with_terms, seller)
    drive(Wanted("POST", URL, b""), with_terms, seller)
    assert seen[0] == seen[1]
    extensions = read_payment(seen[0])["extensions"]
    assert extensions["other"] == {"info": {"a": 1}}
    assert extensions["payment-identifier"]["info"]["required"] is True
    assert extensions["payment-identifier"]["info"]["id"].startswith("pay_")
