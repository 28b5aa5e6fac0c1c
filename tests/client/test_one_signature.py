"""One call, one signature: what the auth does when the seller stalls, lies, dies or asks again."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from x402.client.auth import X402Auth
from x402.client.breaker import Breaker
from x402.errors import DeclinedError, Moved, PendingError, UnpaidError
from x402.stages import State
from x402.wire.challenge import Requirement

from .seller import (
    NOW,
    TRANSACTION,
    URL,
    Answer,
    Chain,
    Clock,
    Seat,
    Seller,
    asks,
    delivers,
    offer,
    paying,
    pending,
    receipt,
    shop,
    states,
    timeout,
)


class TestOneSignature:
    def test_A09_timeout_after_exposure_keeps_the_payment_and_presents_it_again(
        self, seat: Seat, auth: X402Auth
    ) -> None:
        seller = Seller(asks(), timeout(), timeout(), delivers())
        for _ in range(2):
            with pytest.raises(seat.library.ReadTimeout):
                seat.call(auth, seller)
            assert states(auth) == [State.EXPOSED]
        assert seat.call(auth, seller).status_code == 200
        assert seller.payments[1:] == [seller.payments[1]] * 3
        assert states(auth) == [State.SETTLED]

    def test_B15_the_retry_carries_identical_bytes_and_asks_no_new_402(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), Answer(502), delivers())
        assert seat.call(auth, seller).status_code == 502
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.seen) == 3
        assert len(seller.signatures) == 1

    def test_A09_pending_is_returned_and_found_later(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), pending(), pending(), delivers())
        assert seat.call(auth, seller).status_code == 503
        assert states(auth) == [State.EXPOSED]
        assert seat.call(auth, seller).status_code == 503
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 1

    def test_A09_pending_under_402_is_no_refusal(self, seat: Seat, auth: X402Auth) -> None:
        late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending")
        seller = Seller(asks(), Answer(402, late | {"Retry-After": "7"}, b"{}"), delivers())
        with pytest.raises(PendingError) as caught:
            seat.call(auth, seller)
        assert (caught.value.transaction, caught.value.retry_after_seconds) == (TRANSACTION, 7)
        assert states(auth) == [State.EXPOSED]
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 1

    def test_B06_a_dearer_second_402_is_not_signed(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), asks(offer(amount=1_000_000), error="insufficient_payment"))
        for _ in range(3):
            with pytest.raises(UnpaidError) as caught:
                seat.call(auth, seller)
            assert caught.value.code == "insufficient_payment"
            assert caught.value.moved is Moved.UNKNOWN
        assert len(seller.signatures) == 1
        assert states(auth) == [State.REFUSED]
        assert auth.journal.spent(3600) == Decimal("0.01")

    def test_B11_paid_and_answered_with_500_is_not_paid_again(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), Answer(500, receipt()), Answer(500, receipt()), delivers())
        assert seat.call(auth, seller).status_code == 500
        assert states(auth) == [State.SETTLED]
        assert seat.call(auth, seller).status_code == 500
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 1
        assert auth.journal.totals() == {State.SETTLED: Decimal("0.01")}

    def test_B11_paid_and_asked_again(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), Answer(402, asks().headers | receipt(), b"{}"))
        with pytest.raises(UnpaidError) as caught:
            seat.call(auth, seller)
        assert caught.value.moved is Moved.YES
        assert states(auth) == [State.SETTLED]

    def test_A23_nothing_is_signed_anew_before_the_chain_proves_the_first_signature_dead(
        self, seat: Seat, auth: X402Auth, clock: Clock, chain: Chain
    ) -> None:
        seller = Seller(shop(asks(error="invalid_exact_evm_insufficient_balance")))
        for second, asked in ((0, 0), (59, 0), (61, 0), (118, 0), (121, 1), (3600, 2)):
            clock.now = NOW + second
            with pytest.raises(UnpaidError) as caught:
                seat.call(auth, seller)
            assert chain.asked == asked
            unproven = caught.value.code == "unproven_payment"
            assert unproven is (asked > 0)
        assert len(seller.signatures) == 1
        chain.proves = "unused"
        with pytest.raises(UnpaidError):
            seat.call(auth, seller)
        assert len(seller.signatures) == 2
        assert states(auth) == [State.REFUSED, State.RELEASED]

    def test_A23_what_the_chain_shows_as_taken_is_never_signed_anew(
        self, seat: Seat, auth: X402Auth, clock: Clock, chain: Chain
    ) -> None:
        seller = Seller(shop(asks(error="expired")))
        chain.proves = "taken"
        for second in (0, 3600, 7200):
            clock.now = NOW + second
            with pytest.raises(UnpaidError) as caught:
                seat.call(auth, seller)
        assert caught.value.moved is Moved.YES
        assert len(seller.signatures) == 1
        assert states(auth) == [State.SETTLED]
        # Somebody who would rather pay again than wait says so, and the first payment still counts.
        auth.journal.give_up(auth.journal.history()[0].pay_id)
        with pytest.raises(UnpaidError):
            seat.call(auth, seller)
        assert len(seller.signatures) == 2
        assert auth.journal.spent(86_400) == Decimal("0.02")

    def test_E09_a_clock_that_jumps_makes_no_second_signature(self, seat: Seat, auth: X402Auth, clock: Clock) -> None:
        seller = Seller(asks(), timeout(), asks(), asks(), delivers())
        with pytest.raises(seat.library.ReadTimeout):
            seat.call(auth, seller)
        for jump in (3600, -3600):
            clock.now = NOW + jump
            with pytest.raises(UnpaidError):
                seat.call(auth, seller)
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 1

    @pytest.mark.parametrize(
        ("second", "code"), [(offer(amount=10_001), "price_raised"), (offer(pay_to="0x" + "99" * 20), "payee_changed")]
    )
    def test_B06_what_follows_a_dead_payment_is_neither_dearer_nor_to_somebody_else(
        self, seat: Seat, auth: X402Auth, clock: Clock, chain: Chain, second: Requirement, code: str
    ) -> None:
        seller = Seller(asks(), timeout(), asks(second), asks(offer(amount=9_999)), delivers())
        chain.proves = "unused"
        with pytest.raises(seat.library.ReadTimeout):
            seat.call(auth, seller)
        clock.now = NOW + 3600
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, seller)
        assert caught.value.code == code
        assert len(seller.signatures) == 1
        # The control: the next call is a new one, and a cheaper price is paid at once.
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 2

    def test_B04_a_payee_that_changes_after_the_payment_is_named(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), asks(offer(pay_to="0x" + "99" * 20), error="try_again"))
        with pytest.raises(UnpaidError) as caught:
            seat.call(auth, seller)
        assert caught.value.code == "payee_changed"
        assert len(seller.signatures) == 1

    def test_A22_the_same_call_presents_the_same_bytes_after_a_lost_200(self, seat: Seat, auth: X402Auth) -> None:
        """The answer was sent, and broke off on its way: nothing is signed anew, and the good arrives."""
        lost = delivers(b'{"good":"of some length"}', breaks_off=True)
        seller = Seller(asks(), lost, lost, delivers(b'{"good":"of some length"}'))
        for _ in range(2):
            with pytest.raises(seat.library.ReadError):
                seat.call(auth, seller)
        assert seat.call(auth, seller).json() == {"good": "of some length"}
        assert seller.payments[1:] == [seller.payments[1]] * 3
        assert states(auth) == [State.SETTLED]

    def test_A23_pending_outlives_the_clock(self, seat: Seat, auth: X402Auth, clock: Clock) -> None:
        late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending")
        seller = Seller(shop(Answer(402, late, b"{}")))
        for second in (0, 600, 3600):
            clock.now = NOW + second
            with pytest.raises(PendingError):
                seat.call(auth, seller)
        assert len(seller.signatures) == 1

    def test_A23_a_paid_answer_that_is_gone_is_paid_again_only_by_a_person(
        self, seat: Seat, auth: X402Auth, clock: Clock
    ) -> None:
        seller = Seller(asks(), timeout(), Answer(410, receipt()), Answer(410, receipt()), asks(), delivers())
        with pytest.raises(seat.library.ReadTimeout):
            seat.call(auth, seller)
        clock.now = NOW + 3600
        for _ in range(2):
            assert seat.call(auth, seller).status_code == 410
        assert len(seller.signatures) == 1
        auth.journal.give_up(auth.journal.history()[0].pay_id)
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 2
        assert states(auth) == [State.SETTLED, State.SETTLED]

    def test_another_body_or_url_is_another_call(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(timeout()))
        auth.terms = replace(auth.terms, breaker=Breaker(failures=9))
        for options in ({}, {"content": b"other"}, {"url": URL + "?x=1"}, {"method": "PUT"}):
            with pytest.raises(seat.library.ReadTimeout):
                seat.call(auth, seller, **options)
        assert len(seller.signatures) == 4

    def test_equal_calls_at_the_same_time_are_two_calls(self, auth: X402Auth) -> None:
        inner = Seller(shop(delivers()))

        def answer(request: Any) -> Answer:
            if not paying(request):
                return asks()
            if len(seller.signatures) == 1:
                Seat(httpx, True).call(auth, inner)
            return delivers()

        seller = Seller(answer)
        Seat(httpx, True).call(auth, seller)
        assert len(inner.signatures) == len(seller.signatures) == 1
        assert inner.signatures != seller.signatures
