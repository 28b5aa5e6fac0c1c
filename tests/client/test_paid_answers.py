"""What was paid for: bodies that break off, late and forged receipts, and a disk that fails."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest

from x402 import networks
from x402.client.auth import X402Auth
from x402.client.flow import outcome_of
from x402.client.wallet import Wallet
from x402.errors import UnavailableError
from x402.stages import State
from x402.wire.receipt import Receipt

from .seller import (
    PAYEE,
    TRANSACTION,
    URL,
    Answer,
    Clock,
    Seat,
    Seller,
    asks,
    delivers,
    receipt,
    shop,
    states,
)


class TestAnswers:
    def test_a_body_that_breaks_off_is_asked_for_again_with_the_same_payment(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks(), delivers(breaks_off=True), delivers(stream=True), asks(), delivers(stream=True))
        with pytest.raises(seat.library.ReadError):
            seat.call(auth, seller)
        assert states(auth) == [State.SETTLED]
        assert auth.journal.history()[0].open
        assert seat.call(auth, seller).json() == {"ok": True}
        assert len(seller.signatures) == 1
        assert not auth.journal.history()[0].open
        seat.call(auth, seller)
        assert len(seller.signatures) == 2

    def test_a_stream_is_whole_at_done(self, auth: X402Auth) -> None:
        body = b'data: {"choices":[]}\n\ndata: [DONE]\n\n' + b": trailing\n" * 20
        for library in (httpx, httpx2):
            seller = Seller(shop(delivers(body, stream=True)))
            with library.Client(transport=library.MockTransport(seller), auth=auth) as http:
                with http.stream("POST", URL) as response:
                    read = b""
                    for piece in response.iter_raw():
                        read += piece
                        if b"[DONE]\n" in read:
                            break
                assert not auth.journal.history()[0].open
                with http.stream("POST", URL) as response:
                    next(response.iter_raw())
                assert auth.journal.history()[0].open

    def test_A22_an_error_after_done_leaves_the_payment_to_the_same_call(self, seat: Seat, auth: X402Auth) -> None:
        body = b'data: {"choices":[]}\n\ndata: [DONE]\n\n' + b": trailing\n" * 20
        seller = Seller(asks(), delivers(body, breaks_off=True), delivers(body, stream=True))
        with pytest.raises(seat.library.ReadError):
            seat.call(auth, seller)
        assert auth.journal.history()[0].open
        seat.call(auth, seller)
        assert len(seller.signatures) == 1
        assert not auth.journal.history()[0].open

    def test_while_an_answer_is_read_its_payment_belongs_to_that_call(self, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(b"x" * 100, stream=True)))
        with httpx.Client(transport=httpx.MockTransport(seller), auth=auth) as http:
            with http.stream("POST", URL) as first:
                next(first.iter_raw())
                http.post(URL)
                assert len(seller.signatures) == 2
            http.post(URL)
        assert len(seller.signatures) == 2

    def test_200_without_a_receipt_is_an_answer_and_stays_exposed(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(Answer(200, {}, b"ok")))
        response = seat.call(auth, seller)
        assert response.text == "ok"
        assert auth.receipt(response) is None
        assert states(auth) == [State.EXPOSED]
        outcome = outcome_of(response)
        assert outcome is not None
        assert outcome.record is not None
        seat.call(auth, seller)
        assert len(seller.signatures) == 2

    @pytest.mark.parametrize("value", ["junk", "e30=", "eyJzdWNjZXNzIjoidHJ1ZSJ9"])
    def test_B13_a_forged_receipt_proves_nothing(self, seat: Seat, auth: X402Auth, value: str) -> None:
        response = seat.call(auth, Seller(shop(Answer(200, {"PAYMENT-RESPONSE": value}))))
        assert response.status_code == 200
        assert auth.receipt(response) is None
        assert states(auth) == [State.EXPOSED]

    def test_B13_a_receipt_of_somebody_else_proves_nothing(self, seat: Seat, auth: X402Auth) -> None:
        seat.call(auth, Seller(shop(Answer(200, receipt(payer=PAYEE)))))
        assert states(auth) == [State.EXPOSED]

    def test_a_late_receipt_settles(self, auth: X402Auth) -> None:
        response = Seat(httpx, True).call(auth, Seller(shop(Answer(200))))
        late = Receipt.settled(TRANSACTION, networks.BASE_SEPOLIA, None)
        assert auth.note_receipt(response, late)
        assert states(auth) == [State.SETTLED]
        other = Receipt.settled(TRANSACTION, networks.BASE, None)
        assert not auth.note_receipt(response, other)


class TestWithoutAJournal:
    def test_E10_nothing_is_signed_when_it_cannot_be_written_down(
        self, seat: Seat, wallet: Wallet, clock: Clock, tmp_path: Any
    ) -> None:
        (tmp_path / "file").write_text("")
        auth = X402Auth(wallet, journal=tmp_path / "file" / "journal.sqlite", clock=clock)
        seller = Seller(shop(delivers()))
        with pytest.raises(UnavailableError) as caught:
            seat.call(auth, seller)
        assert caught.value.code == "journal_unavailable"
        assert seller.signatures == set()

    def test_E10_a_disk_that_fails_at_the_exposure_lets_nothing_out(
        self, seat: Seat, auth: X402Auth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> Any:
            raise UnavailableError("journal_unavailable", "disk full")

        monkeypatch.setattr(auth.journal, "expose", full)
        seller = Seller(shop(delivers()))
        with pytest.raises(UnavailableError):
            seat.call(auth, seller)
        assert seller.signatures == set()
        assert states(auth) == [State.RELEASED]

    def test_an_answer_that_is_here_is_not_lost_with_the_disk(
        self, seat: Seat, auth: X402Auth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> Any:
            raise UnavailableError("journal_unavailable", "disk full")

        monkeypatch.setattr(auth.journal, "conclude", full)
        seller = Seller(shop(delivers()))
        assert seat.call(auth, seller).status_code == 200
        assert states(auth) == [State.EXPOSED]
