"""X402Auth on all four seats: what is sent, what is signed, what is remembered, whatever the seller does."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from x402 import networks
from x402.client.auth import X402Auth, async_client, client
from x402.client.choose import Policy
from x402.client.flow import outcome_of
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MalformedError, Moved, PendingError, UnavailableError, UnpaidError
from x402.lifecycle import State
from x402.schemes import exact_evm_rules, exact_svm
from x402.wire.payment import read_payment as parse_header
from x402.wire.receipt import Receipt

from .seller import (
    NOW,
    PAYEE,
    TRANSACTION,
    URL,
    Answer,
    Clock,
    Seat,
    Seller,
    asks,
    challenge,
    delivers,
    offer,
    paying,
    pending,
    read_payment,
    receipt,
    shop,
    timeout,
)


def states(auth: X402Auth) -> list[State]:
    return [record.state for record in auth.journal.history()]


class TestPaying:
    def test_a_402_is_paid_and_the_answer_returned(self, seat: Seat, auth: X402Auth, wallet: Wallet) -> None:
        seller = Seller(shop(delivers()))
        response = seat.call(auth, seller)
        assert response.status_code == 200
        assert response.json() == {"ok": True}
        assert [payment is not None for payment in seller.payments] == [False, True]
        paid = auth.receipt(response)
        assert paid is not None
        assert paid.transaction == TRANSACTION
        assert auth.last_receipt == paid
        assert states(auth) == [State.SETTLED]
        record = auth.journal.history()[0]
        assert (record.usd, record.host, record.open) == (Decimal("0.01"), "seller.test", False)
        assert record.entry.subject.payer == wallet.evm_address

    def test_the_payment_satisfies_the_facilitators_rules(self, auth: X402Auth) -> None:
        seller = Seller(shop(delivers()))
        Seat(httpx, True).call(auth, seller)
        payment = parse_header(seller.seen[1].headers.items())
        assert payment is not None
        signed = exact_evm_rules.check(payment, offer(), now=NOW)
        assert signed.recovered == signed.authorization.payer
        assert signed.authorization.valid_before == NOW + 60
        assert auth.journal.history()[0].pay_id == signed.pay_id
        assert seller.seen[1].headers["access-control-expose-headers"] == "PAYMENT-RESPONSE,X-PAYMENT-RESPONSE"
        assert seller.seen[1].content == seller.seen[0].content == b'{"model":"demo"}'

    def test_a_v1_challenge_is_paid_in_v1(self, seat: Seat, auth: X402Auth) -> None:
        body = json.dumps(challenge().as_v1()).encode()
        seller = Seller(lambda r: delivers() if paying(r) else Answer(402, {}, body))
        assert seat.call(auth, seller).status_code == 200
        assert read_payment(seller.seen[1].headers["x-payment"])["network"] == "base-sepolia"
        assert "payment-signature" not in seller.seen[1].headers

    def test_free_replies_pass_untouched(self, seat: Seat, auth: X402Auth) -> None:
        for status in (200, 204, 302, 404, 500, 503):
            seller = Seller(Answer(status, {"Location": "/x"} if status == 302 else {}, b""))
            assert seat.call(auth, seller).status_code == status
            assert len(seller.seen) == 1
        assert states(auth) == []

    def test_an_empty_balance_is_no_challenge(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(Answer(402, {}, b'{"error":{"type":"insufficient_balance","message":"top up"}}'))
        response = seat.call(auth, seller)
        assert response.status_code == 402
        assert response.json()["error"]["message"] == "top up"
        assert len(seller.seen) == 1

    def test_a_payment_of_the_callers_own_is_left_alone(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(asks())
        response = seat.call(auth, seller, headers={"PAYMENT-SIGNATURE": "mine"})
        assert response.status_code == 402
        assert seller.payments == ["mine"]

    def test_the_same_request_later_is_a_new_call(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers()))
        seat.call(auth, seller)
        seat.call(auth, seller)
        assert len(seller.signatures) == 2

    def test_a_listener_that_fails_takes_nothing_away(self, seat: Seat, wallet: Wallet, clock: Clock) -> None:
        heard: list[Receipt] = []

        def listen(paid: Receipt) -> None:
            heard.append(paid)
            raise RuntimeError("listener")

        auth = X402Auth(wallet, journal=":memory:", clock=clock, on_receipt=listen)
        assert seat.call(auth, Seller(shop(delivers()))).status_code == 200
        assert [paid.transaction for paid in heard] == [TRANSACTION]


class TestSolana:
    BLOCKHASH = "J7rBdM6AecPDEZp8aPq5iPSNKVkU5Q76F3oAV4eW5wsW"

    def offer(self, **extra: Any) -> Any:
        network = networks.get(networks.SOLANA_DEVNET)
        return offer(
            network=network.id,
            asset=network.usd.address,
            pay_to="2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4",
            extra={"feePayer": "BFK9TLC3edb13K6v4YyH3DwPb5DSUpkWvb7XnqCL9b4F", **extra},
        )

    def test_the_hinted_blockhash_spares_the_node(self, seat: Seat, auth: X402Auth, wallet: Wallet) -> None:
        wanted = self.offer(recentBlockhash=self.BLOCKHASH)
        seller = Seller(shop(delivers(), wanted))
        # The receipt names another network than the payment, so it proves nothing (fault B13).
        assert seat.call(auth, seller).status_code == 200
        assert states(auth) == [State.EXPOSED]
        payment = parse_header(seller.seen[1].headers.items())
        assert payment is not None
        limits = exact_svm.SvmLimits()
        signed = exact_svm.check(payment, wanted, managed=frozenset([wanted.extra["feePayer"]]), limits=limits)
        assert signed.transfer.payer == wallet.svm_address
        assert auth.journal.history()[0].pay_id == exact_svm.pay_id(signed.transfer, wanted.network)

    def test_without_a_hint_the_node_is_asked_through_the_same_client(
        self, seat: Seat, wallet: Wallet, clock: Clock
    ) -> None:
        auth = X402Auth(wallet, journal=":memory:", clock=clock, svm_rpc="https://node.test/rpc")
        node = b'{"jsonrpc":"2.0","id":1,"result":{"value":{"blockhash":"%s"}}}' % self.BLOCKHASH.encode()

        def answer(request: Any) -> Answer:
            if "node.test" in str(request.url):
                return Answer(200, {}, node)
            return delivers() if paying(request) else asks(self.offer())

        seller = Seller(answer)
        assert seat.call(auth, seller, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert [seen.url for seen in seller.seen] == [URL, "https://node.test/rpc", URL]
        assert b"getLatestBlockhash" in seller.seen[1].content
        assert "authorization" not in seller.seen[1].headers
        assert seller.seen[2].content == seller.seen[0].content

    @pytest.mark.parametrize(
        "node", [Answer(500), Answer(200, {}, b"{}"), Answer(200, {}, b"junk"), Answer(200, {}, b"x" * 99_999)]
    )
    def test_a_node_without_an_answer_costs_nothing(
        self, seat: Seat, wallet: Wallet, clock: Clock, node: Answer
    ) -> None:
        auth = X402Auth(wallet, journal=":memory:", clock=clock, svm_rpc="https://node.test/rpc")
        seller = Seller(lambda r: node if "node.test" in str(r.url) else asks(self.offer()))
        with pytest.raises((UnavailableError, MalformedError)):
            seat.call(auth, seller)
        assert states(auth) == []


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

    def test_A23_nothing_is_signed_anew_before_the_first_signature_is_dead(
        self, seat: Seat, auth: X402Auth, clock: Clock
    ) -> None:
        seller = Seller(shop(asks(error="invalid_exact_evm_insufficient_balance")))
        for second in (0, 59, 61, 118):
            clock.now = NOW + second
            with pytest.raises(UnpaidError):
                seat.call(auth, seller)
        assert len(seller.signatures) == 1
        clock.now = NOW + 121
        with pytest.raises(UnpaidError):
            seat.call(auth, seller)
        assert len(seller.signatures) == 2

    def test_A23_pending_outlives_the_clock(self, seat: Seat, auth: X402Auth, clock: Clock) -> None:
        late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending")
        seller = Seller(shop(Answer(402, late, b"{}")))
        for second in (0, 600, 3600):
            clock.now = NOW + second
            with pytest.raises(PendingError):
                seat.call(auth, seller)
        assert len(seller.signatures) == 1

    def test_a_dead_payment_whose_answer_is_gone_makes_room(self, seat: Seat, auth: X402Auth, clock: Clock) -> None:
        seller = Seller(asks(), timeout(), Answer(410, receipt()), asks(), delivers())
        with pytest.raises(seat.library.ReadTimeout):
            seat.call(auth, seller)
        clock.now = NOW + 3600
        assert seat.call(auth, seller).status_code == 200
        assert len(seller.signatures) == 2
        assert states(auth) == [State.SETTLED, State.SETTLED]

    def test_another_body_or_url_is_another_call(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(timeout()))
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


def test_a_real_server_and_a_real_socket(auth: X402Auth) -> None:
    """Over TCP: plain http is accepted from this very machine, and the body's end is seen on a real stream."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = delivers() if "PAYMENT-SIGNATURE" in self.headers else asks()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with client(auth) as http:
                for _ in range(2):
                    assert http.post(f"http://127.0.0.1:{server.server_port}/", content=b"{}").json() == {"ok": True}
        finally:
            server.shutdown()
            thread.join()
    assert [(record.state, record.open) for record in auth.journal.history()] == [(State.SETTLED, False)] * 2


def test_the_convenience_constructors_pay(auth: X402Auth) -> None:
    seller = Seller(shop(delivers()))
    with client(auth, transport=httpx.MockTransport(seller)) as http:
        assert http.post(URL).status_code == 200

    async def go() -> int:
        async with async_client(auth, transport=httpx.MockTransport(seller)) as http:
            return (await http.post(URL)).status_code

    assert anyio.run(go) == 200


def test_paying_loads_no_chain_library_and_no_server() -> None:
    code = "import sys, x402.client.auth, x402.client.chat; print(*(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "httpx2" in loaded
    heavy = {"web3", "solana", "fastapi", "starlette", "uvicorn", "sqlalchemy", "eth_account", "eth_abi", "openai"}
    assert heavy.isdisjoint(loaded)
