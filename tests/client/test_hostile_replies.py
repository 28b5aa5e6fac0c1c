"""Unreadable, endless and redirecting sellers: nothing is signed for them, nothing is carried away."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from x402.client.auth import X402Auth
from x402.client.choose import Policy
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MalformedError, UnpaidError
from x402.stages import State

from .seller import (
    PAYEE,
    Answer,
    Clock,
    Seat,
    Seller,
    asks,
    challenge,
    delivers,
    offer,
    paying,
    receipt,
    shop,
    states,
    timeout,
)


class TestHostileReplies:
    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"accepts":7}', b'{"accepts":[]}', b"\xff" * 10])
    def test_an_unreadable_402_is_an_error_and_signs_nothing(self, seat: Seat, auth: X402Auth, body: bytes) -> None:
        with pytest.raises((MalformedError, DeclinedError)):
            seat.call(auth, Seller(Answer(402, {}, body)))
        assert states(auth) == []

    def test_E04_a_402_of_any_size_is_read_up_to_a_limit(self, seat: Seat, auth: X402Auth) -> None:
        drawn = 0

        def endless() -> Any:
            nonlocal drawn
            while True:
                drawn += 1
                yield b"x" * 1024

        async def endless_async() -> Any:
            for piece in endless():
                yield piece

        class Flood:
            def __call__(self, request: Any) -> Any:
                stream = endless() if seat.blocking else endless_async()
                return seat.library.Response(402, content=stream)

        with pytest.raises(MalformedError):
            seat.call(auth, Flood())
        assert drawn < 100

    def test_E04_a_compressed_402_is_not_unpacked_without_limit(self, seat: Seat, auth: X402Auth) -> None:
        bomb = gzip.compress(b" " * 50_000_000)
        seller = Seller(Answer(402, {"Content-Encoding": "gzip"}, bomb, stream=True))
        with pytest.raises(MalformedError, match="8192"):
            seat.call(auth, seller)
        small = gzip.compress(json.dumps(challenge().as_v1()).encode())
        honest = Seller(lambda r: delivers() if paying(r) else Answer(402, {"Content-Encoding": "gzip"}, small))
        assert seat.call(auth, honest).status_code == 200

    def test_B05_another_origin_that_answers_402_is_not_paid(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(Answer(307, {"Location": "https://evil.test/pay"}), asks())
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, seller, follow_redirects=True)
        assert caught.value.code == "cross_origin_challenge"
        assert seller.signatures == set()

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("target", ["https://evil.test/x", "http://seller.test/x", "//evil.test/x"])
    @pytest.mark.parametrize("follow", [True, False])
    def test_B05_a_redirect_never_carries_the_payment_away(
        self, seat: Seat, auth: X402Auth, status: int, target: str, follow: bool
    ) -> None:
        seller = Seller(asks(), Answer(status, {"Location": target}), delivers(b"stolen"))
        with pytest.raises(UnpaidError) as caught:
            seat.call(auth, seller, follow_redirects=follow)
        assert caught.value.code == "redirected_after_payment"
        assert len(seller.seen) == (3 if follow else 2)
        assert [seen.payment is not None for seen in seller.seen] == [False, True, False][: len(seller.seen)]
        assert states(auth) == [State.EXPOSED]

    def test_a_receipt_on_a_redirect_to_the_goods_counts(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(
            asks(), Answer(303, receipt() | {"Location": "https://cdn.test/goods"}), Answer(200, {}, b"goods")
        )
        response = seat.call(auth, seller, follow_redirects=True)
        assert response.text == "goods"
        assert auth.receipt(response) is not None
        assert seller.seen[2].payment is None
        assert states(auth) == [State.SETTLED]

    def test_a_redirect_within_the_origin_is_paid_where_it_led(self, seat: Seat, auth: X402Auth) -> None:
        moved = Answer(308, {"Location": "/v2/chat"})
        seller = Seller(moved, asks(), timeout(), delivers())
        with pytest.raises(seat.library.ReadTimeout):
            seat.call(auth, seller, follow_redirects=True)
        assert seat.call(auth, seller, follow_redirects=True).status_code == 200
        assert [seen.url for seen in seller.seen][2:] == ["https://seller.test/v2/chat"] * 2
        assert len(seller.signatures) == 1

    def test_B04_a_changed_payee_is_not_paid(self, seat: Seat, wallet: Wallet, clock: Clock) -> None:
        auth = X402Auth(wallet, journal=":memory:", clock=clock, policy=Policy(payees={"seller.test": {PAYEE}}))
        assert seat.call(auth, Seller(shop(delivers()))).status_code == 200
        seller = Seller(shop(delivers(), offer(pay_to="0x" + "99" * 20)))
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, seller)
        assert caught.value.code == "payee_changed"
