"""X402Auth on all four seats: a 402 is paid, once, in the dialect and on the chain that was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import pytest

from x402 import networks
from x402.client.auth import X402Auth, async_client, client
from x402.client.wallet import Wallet
from x402.errors import MalformedError, UnavailableError
from x402.schemes import exact_evm_rules, exact_svm
from x402.stages import State
from x402.wire.payment import read_payment as parse_header
from x402.wire.receipt import Receipt

from .seller import (
    NOW,
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
    read_payment,
    shop,
    states,
)


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
