"""The local proxy: any program of OpenAI's API pays through it, and nobody else does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import openai
import pytest

from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.profile import BETA_SIWX
from x402.client.proxy import BODY_LIMIT, Guard, create_app, is_loopback
from x402.client.wallet import Wallet
from x402.errors import MisconfiguredError
from x402.networks import BASE_SEPOLIA
from x402.stages import State
from x402.wire.receipt import Receipt

from .seller import TRANSACTION, Answer, Seller, asks, delivers, pending, receipt, shop, states

SELLER = "https://seller.test/api/v1"
COMPLETION = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "demo",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
}  # fmt: skip
ORDER: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
LATE = Receipt.settled(TRANSACTION, BASE_SEPOLIA, None)


@asynccontextmanager
async def proxy(seller: Any, auth: X402Auth | None, host: str = "127.0.0.1:8080", **options: Any) -> AsyncIterator[Any]:
    """A client of the proxy, in one process with it."""
    out = httpx.AsyncClient(transport=httpx.MockTransport(seller))
    app = create_app(SELLER, auth, http_client=out, **options)
    async with app.router.lifespan_context(app):
        yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


def asked(seller: Any, auth: X402Auth | None, path: str = "/v1/chat/completions", **how: Any) -> httpx.Response:
    """The answer to one request."""
    options = {name: how.pop(name) for name in ("guard", "api_key", "host", "profile") if name in how}

    async def go() -> httpx.Response:
        async with proxy(seller, auth, **options) as client:
            method = how.pop("method", "POST")
            response: httpx.Response = await client.request(method, path, **({"json": ORDER} | how))
            return response

    return anyio.run(go)


def test_a_program_that_knows_nothing_of_payments_pays(auth: X402Auth) -> None:
    seller = Seller(shop(delivers(json.dumps(COMPLETION).encode())))

    async def go() -> str:
        async with proxy(seller, auth) as http:
            sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="sk-of-the-program", http_client=http)
            answer = await sdk.chat.completions.create(**ORDER)
            return str(answer.choices[0].message.content)

    assert anyio.run(go) == "Hi"
    assert states(auth) == [State.SETTLED]
    assert [seen.url for seen in seller.seen] == [SELLER + "/chat/completions"] * 2
    assert all("authorization" not in seen.headers for seen in seller.seen), "the program's key is not the seller's"
    assert len(seller.signatures) == 1


def test_a_stream_passes_as_it_comes_and_its_late_receipt_is_kept(auth: X402Auth) -> None:
    events = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    comment = f": x402-receipt {LATE.as_header()[1]}\n\n".encode()
    done = Answer(200, {"Content-Type": "text/event-stream"}, events + comment + b"data: [DONE]\n\n", stream=True)
    seller = Seller(shop(done))

    async def go() -> list[str]:
        async with proxy(seller, auth) as http:
            sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="x402", http_client=http)
            return [chunk.choices[0].delta.content or "" async for chunk in await sdk.chat.completions.create(
                **ORDER, stream=True)]  # fmt: skip

    assert anyio.run(go) == ["Hi"]
    (record,) = auth.journal.history()
    assert (record.state, record.open, record.receipt) == (State.SETTLED, False, LATE)


def test_a_receipt_that_cannot_be_read_takes_no_answer_away(auth: X402Auth) -> None:
    body = b": x402-receipt %%%\n\ndata: [DONE]\n\n"
    done = Answer(200, receipt() | {"Content-Type": "text/event-stream"}, body, stream=True)
    assert asked(Seller(shop(done)), auth).content == body


def test_headers_of_the_hop_and_of_the_program_stay_here(auth: X402Auth) -> None:
    done = delivers(json.dumps(COMPLETION).encode())
    done.headers |= {"X-Request-ID": "r1", "X-RateLimit-Remaining": "7", "Set-Cookie": "a=b", "Connection": "close"}
    seller = Seller(shop(done))
    sent = {"Cookie": "c", "X-Request-ID": "mine", "Sign-In-With-X": "s", "X-PAYMENT": "p", "Accept-Encoding": "gzip"}
    answer = asked(seller, auth, headers=sent)
    assert (answer.headers["x-request-id"], answer.headers["x-ratelimit-remaining"]) == ("r1", "7")
    assert answer.headers["payment-response"] == done.headers["PAYMENT-RESPONSE"]
    assert not {"set-cookie", "connection"} & set(answer.headers)
    first = seller.seen[0].headers
    assert not {"cookie", "sign-in-with-x", "x-payment"} & first.keys()
    assert (first["x-request-id"], first["accept-encoding"], first["host"]) == ("mine", "identity", "seller.test")


def test_a_call_above_the_limit_is_refused_in_openais_words(wallet: Wallet) -> None:
    auth = X402Auth(wallet, journal=":memory:", limits=Limits(per_call="0.001"))
    seller = Seller(shop(delivers()))
    answer = asked(seller, auth)
    assert answer.status_code == 402
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["moneyMoved"]) == ("x402_error", "price_above_limit", "no")
    assert seller.signatures == set()


@pytest.mark.parametrize(
    ("step", "status", "code", "moved"),
    [
        (Answer(fails="ConnectError"), 502, "seller_unreachable", "unknown"),
        (asks(), 402, "payment_refused", "unknown"),
        (Answer(402, {"PAYMENT-REQUIRED": "%"}, b"{}"), 502, "invalid_payment_required", "no"),
    ],
)
def test_failures_are_told_with_what_became_of_the_money(
    auth: X402Auth, step: Answer, status: int, code: str, moved: str
) -> None:
    seller = Seller(step, step, step)
    answer = asked(seller, auth)
    error = answer.json()["error"]
    assert (answer.status_code, error["moneyMoved"]) == (status, moved)
    assert error["code"] == code or code == "payment_refused"


def test_A09_a_pending_payment_is_the_sellers_503(auth: X402Auth) -> None:
    answer = asked(Seller(shop(pending())), auth)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_a_stream_that_breaks_off_says_so(auth: X402Auth) -> None:
    body = b'data: {"choices":[]}\n\n' * 4
    broken = Answer(200, receipt() | {"Content-Type": "text/event-stream"}, body, breaks_off=True)
    events = asked(Seller(shop(broken)), auth).text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "seller_unreachable"
    (record,) = auth.journal.history()
    assert record.open, "the same call fetches the answer that was paid for"


def test_only_a_post_is_paid_for(auth: X402Auth) -> None:
    seller = Seller(shop(Answer(200, body=b'{"data":[]}')))
    answer = asked(seller, auth, "/v1/models?free=true", method="GET", json=None)
    assert answer.status_code == 402
    assert (seller.payments, seller.seen[0].url) == ([None], SELLER + "/models?free=true")


def test_a_wallet_that_signs_in_does_so_for_questions_too(wallet: Wallet) -> None:
    auth = X402Auth(wallet, journal=":memory:", sign_in=True)
    seller = Seller(Answer(200))
    asked(seller, auth, "/v1/session/balance", method="GET", json=None)
    asked(seller, auth)
    assert ["sign-in-with-x" in seen.headers for seen in seller.seen] == [True, True]


def test_a_key_with_the_seller_replaces_the_programs() -> None:
    seller = Seller(Answer(200))
    asked(seller, None, api_key="aimo-sk-v2-x", headers={"Authorization": "Bearer of-the-program"}, profile=BETA_SIWX)
    assert seller.seen[0].headers["authorization"] == "Bearer aimo-sk-v2-x"


class TestGuard:
    @pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://127.0.0.1:8080"])
    def test_F16_a_web_page_spends_nothing(self, auth: X402Auth, origin: str) -> None:
        seller = Seller(shop(delivers()))
        answer = asked(seller, auth, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_refused")
        assert seller.seen == []

    def test_a_page_that_was_named_may_ask(self, auth: X402Auth) -> None:
        guard = Guard(origins=("http://localhost:3000",))
        headers = {"Origin": "http://localhost:3000"}
        answer = asked(Seller(shop(delivers())), auth, guard=guard, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
        preflight = {"Access-Control-Request-Method": "POST", **headers}
        assert asked(Seller(), auth, guard=guard, method="OPTIONS", headers=preflight, json=None).status_code == 200

    @pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test:8080", "10.0.0.1"])
    def test_a_foreign_name_for_this_machine_is_refused(self, auth: X402Auth, host: str) -> None:
        seller = Seller(shop(delivers()))
        answer = asked(seller, auth, host=host)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_refused")
        assert seller.seen == []

    @pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
    def test_control_this_machines_own_names_are_served(self, auth: X402Auth, host: str) -> None:
        assert asked(Seller(shop(delivers())), auth, host=host).status_code == 200

    def test_a_key_opens_it_from_anywhere_and_nothing_else_does(self, auth: X402Auth) -> None:
        seller = Seller(shop(delivers()))
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer schlüssel".encode("latin-1")}):
            answer = asked(seller, auth, guard=Guard("right"), host="gateway.test", headers=shown)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "proxy_key_required")
        assert seller.seen == []
        right = {"Authorization": "Bearer right"}
        assert asked(seller, auth, guard=Guard("right"), host="gateway.test", headers=right).status_code == 200


def test_E04_a_request_without_an_end_is_refused(auth: X402Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BODY_LIMIT >= 16 * 1024 * 1024
    monkeypatch.setattr("x402.client.proxy.BODY_LIMIT", 100)
    seller = Seller(shop(delivers()))
    assert asked(seller, auth, content=b"a" * 101, json=None).status_code == 413
    assert seller.seen == []


def test_it_lives_and_knows_where_it_leads() -> None:
    assert asked(Seller(), None, "/health", method="GET", json=None).json() == {"status": "ok"}
    with pytest.raises(MisconfiguredError):
        create_app("", None)
    assert [is_loopback(name) for name in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "a.test", "")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
