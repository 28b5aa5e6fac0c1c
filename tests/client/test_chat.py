"""Chat and AsyncChat: the same steps, blocking or not."""

from __future__ import annotations

import inspect
import json
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from x402 import networks
from x402.client.answers import read_chunk
from x402.client.auth import X402Auth
from x402.client.chat import AsyncChat, Chat
from x402.client.choose import Policy
from x402.client.identity import Identity
from x402.client.wallet import Wallet
from x402.errors import (
    ApiError,
    DeclinedError,
    MalformedError,
    MisconfiguredError,
    Moved,
    PendingError,
    UnavailableError,
    UnpaidError,
)
from x402.networks import BASE_SEPOLIA
from x402.stages import State
from x402.wire.receipt import Receipt

from .seller import EVM_KEY, TRANSACTION, Answer, Seat, Seller, asks, delivers, offer, pending, receipt, shop, timeout

BASE = "https://seller.test/api/v1"
MESSAGES = [{"role": "user", "content": "Grüße"}]
COMPLETION = json.dumps({"id": "c", "choices": [{"message": {"content": "Hi"}}], "usage": {"total_tokens": 2}}).encode()
LATE = Receipt.settled(TRANSACTION, BASE_SEPOLIA, None)


def chunks(*texts: str, tail: bytes = b"data: [DONE]\n\n") -> bytes:
    events = [b'data: {"choices":[{"delta":{"content":%s}}]}\n\n' % json.dumps(text).encode() for text in texts]
    return b": hello\n\n" + b"".join(events) + tail


async def _all(stream: Any) -> list[str]:
    return [chunk.text async for chunk in stream]


class Caller:
    """One interface to both callers, for the tests."""

    def __init__(self, seat: Seat, seller: Any, auth: X402Auth | None, **options: Any) -> None:
        self.seat, self.seller, self.auth, self.options = seat, seller, auth, options

    def __call__(self, verb: str, **arguments: Any) -> Any:
        if verb in ("create", "quote", "stream"):
            arguments = {"model": "demo", "messages": MESSAGES} | arguments
        transport = self.seat.library.MockTransport(self.seller)
        if self.seat.blocking:
            http = self.seat.library.Client(transport=transport)
            with Chat(BASE, auth=self.auth, http_client=http, **self.options) as chat:
                result = getattr(chat, verb)(**arguments)
                return (result, [chunk.text for chunk in result]) if verb == "stream" else result

        async def go() -> Any:
            http = self.seat.library.AsyncClient(transport=transport)
            async with AsyncChat(BASE, auth=self.auth, http_client=http, **self.options) as chat:
                result = await getattr(chat, verb)(**arguments)
                return (result, await _all(result)) if verb == "stream" else result

        return anyio.run(go)


class TestCreate:
    def test_an_answer_with_its_receipt(self, seat: Seat, auth: X402Auth) -> None:
        done = delivers(COMPLETION)
        done.headers["X-Request-ID"] = "r1"
        seller = Seller(shop(done))
        answer = Caller(seat, seller, auth)("create", temperature=0)
        assert (answer.text, answer.request_id, answer.usage.total_tokens) == ("Hi", "r1", 2)
        assert answer.receipt is not None
        assert answer.receipt.transaction == TRANSACTION
        asked = seller.seen[0]
        assert (asked.method, asked.url) == ("POST", BASE + "/chat/completions")
        assert json.loads(asked.content) == {"model": "demo", "messages": MESSAGES, "temperature": 0}

    @pytest.mark.parametrize(
        "waits", [pending(), Answer(409, {"Retry-After": "0"}, b"{}"), Answer(503, {"Retry-After": "0"})]
    )
    def test_A09_a_pending_payment_is_waited_for_with_one_signature(
        self, seat: Seat, auth: X402Auth, waits: Answer
    ) -> None:
        seller = Seller(asks(), waits, waits, delivers(COMPLETION))
        assert Caller(seat, seller, auth)("create").text == "Hi"
        assert len(seller.signatures) == 1

    def test_A09_pending_under_402_is_waited_for_too(self, seat: Seat, auth: X402Auth) -> None:
        late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending") | {"Retry-After": "0"}
        seller = Seller(asks(), Answer(402, late, b"{}"), delivers(COMPLETION))
        assert Caller(seat, seller, auth)("create").text == "Hi"
        assert len(seller.signatures) == 1

    def test_patience_has_an_end(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(pending()))
        with pytest.raises(ApiError) as caught:
            Caller(seat, seller, auth, patience_seconds=0.5)("create")
        assert (caught.value.status_code, caught.value.moved, caught.value.retryable) == (503, Moved.UNKNOWN, True)
        assert len(seller.signatures) == 1
        late = receipt(False, transaction=TRANSACTION, error_reason="settlement_pending") | {"Retry-After": "99"}
        with pytest.raises(PendingError):
            Caller(seat, Seller(shop(Answer(402, late, b"{}"))), auth)("create", model="other")

    def test_without_retry_after_an_error_is_told_at_once(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(Answer(500, receipt(), b'{"error":{"message":"boom","type":"upstream"}}')))
        with pytest.raises(ApiError) as caught:
            Caller(seat, seller, auth)("create")
        assert (caught.value.code, caught.value.moved) == ("upstream", Moved.YES)
        assert len(seller.seen) == 2

    def test_errors_of_the_payment_come_as_they_are(self, seat: Seat, auth: X402Auth) -> None:
        with pytest.raises(DeclinedError):
            Caller(seat, Seller(asks(offer(amount=10**9))), auth)("create")
        with pytest.raises(UnpaidError):
            Caller(seat, Seller(shop(asks())), auth)("create")

    def test_a_lost_connection_says_that_the_money_is_in_doubt(self, seat: Seat, auth: X402Auth) -> None:
        with pytest.raises(UnavailableError) as caught:
            Caller(seat, Seller(shop(timeout())), auth)("create")
        assert (caught.value.code, caught.value.moved) == ("seller_unreachable", Moved.UNKNOWN)
        assert [record.state for record in auth.journal.history()] == [State.EXPOSED]

    def test_without_a_wallet_a_402_is_an_error_with_its_offers(self, seat: Seat) -> None:
        body = json.dumps({"x402Version": 1, "error": "pay", "accepts": [{"scheme": "exact"}]}).encode()
        with pytest.raises(ApiError) as caught:
            Caller(seat, Seller(Answer(402, {}, body)), None)("create")
        assert (caught.value.code, caught.value.details) == ("payment_required", {"accepts": [{"scheme": "exact"}]})


class TestStream:
    def test_chunks_text_and_receipt(self, seat: Seat, auth: X402Auth) -> None:
        body = chunks("Grü", "ße", tail=b'data: {"choices":[],"usage":{"total_tokens":7}}\n\ndata: [DONE]\n\n')
        stream, texts = Caller(seat, Seller(shop(delivers(body, stream=True))), auth)("stream")
        assert (texts, stream.text) == (["Grü", "ße", ""], "Grüße")
        assert stream.usage.total_tokens == 7
        assert stream.receipt.transaction == TRANSACTION
        assert [(record.state, record.open) for record in auth.journal.history()] == [(State.SETTLED, False)]

    def test_a_receipt_that_comes_with_the_last_chunk_settles_the_journal(self, seat: Seat, auth: X402Auth) -> None:
        comment = b": x402-receipt " + LATE.as_header()[1].encode() + b"\n\n"
        seller = Seller(shop(Answer(200, {}, chunks("Hi", tail=comment + b"data: [DONE]\n\n"), stream=True)))
        stream, texts = Caller(seat, seller, auth)("stream")
        assert texts == ["Hi"]
        assert stream.receipt == LATE
        assert [(record.state, record.open) for record in auth.journal.history()] == [(State.SETTLED, False)]
        assert auth.last_receipt == LATE

    def test_a_stream_that_breaks_off_is_an_error_and_costs_nothing_more(self, seat: Seat, auth: X402Auth) -> None:
        short = delivers(chunks("Hi", tail=b""), stream=True)
        lost = delivers(chunks("Hi", "Ho"), breaks_off=True)
        seller = Seller(asks(), lost, delivers(chunks("Hi"), stream=True), asks(), short)
        caller = Caller(seat, seller, auth)
        with pytest.raises(UnavailableError) as unreachable:
            caller("stream")
        assert unreachable.value.moved is Moved.YES
        assert caller("stream")[1] == ["Hi"]
        assert len(seller.signatures) == 1
        with pytest.raises(ApiError, match="DONE"):
            caller("stream")

    def test_A22_a_stream_that_breaks_after_its_last_chunk_is_whole(self, seat: Seat, auth: X402Auth) -> None:
        body = chunks("Hi", tail=b"data: [DONE]\n\n" + b": trailing\n" * 40)
        seller = Seller(asks(), delivers(body, breaks_off=True), delivers(chunks("Hi"), stream=True))
        caller = Caller(seat, seller, auth)
        assert caller("stream")[1] == ["Hi"]
        assert caller("stream")[1] == ["Hi"]
        assert len(seller.signatures) == 1

    def test_an_error_event_is_an_error(self, seat: Seat, auth: X402Auth) -> None:
        body = chunks("Hi", tail=b'data: {"error":{"message":"upstream died","code":"upstream"}}\n\n')
        with pytest.raises(ApiError, match="upstream died"):
            Caller(seat, Seller(shop(delivers(body, stream=True))), auth)("stream")

    def test_an_error_before_the_stream(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(Answer(404, {}, b'{"error":{"code":"model_not_found","message":"no"}}', stream=True))
        with pytest.raises(ApiError, match="model_not_found"):
            Caller(seat, seller, auth)("stream")


class TestAsking:
    def test_models(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(Answer(200, {}, b'{"object":"list","data":[{"id":"demo","pricing":{"prompt":"1"}}]}'))
        [model] = Caller(seat, seller, auth)("models")
        assert (model.id, model.pricing.prompt) == ("demo", "1")
        assert seller.seen[0].url == BASE + "/models"

    def test_a_quote_signs_nothing(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers()))
        found = Caller(seat, seller, auth)("quote", max_tokens=10)
        assert str(found.usd) == "0.01"
        assert len(seller.seen) == 1
        assert auth.journal.history() == []

    def test_a_quote_signs_nothing_even_when_the_client_would(self, auth: X402Auth) -> None:
        seller = Seller(shop(delivers()))
        http = httpx.Client(transport=httpx.MockTransport(seller), auth=auth)
        Chat(BASE, http_client=http).quote(model="demo", messages=MESSAGES)
        assert seller.payments == [None]
        Chat(BASE, http_client=http).create(model="demo", messages=MESSAGES)
        assert len(seller.signatures) == 1


class TestConstruction:
    @pytest.mark.parametrize("base", [BASE, BASE + "/", BASE + "//"])
    def test_the_base_url_is_joined_as_text(self, base: str) -> None:
        seller = Seller(Answer(200, {}, b'{"data":[]}'))
        Chat(base, http_client=httpx.Client(transport=httpx.MockTransport(seller))).models()
        assert seller.seen[0].url == BASE + "/models"

    def test_an_api_key_is_sent_and_not_shown(self) -> None:
        seller = Seller(Answer(200, {}, b'{"data":[]}'))
        chat = Chat(BASE, api_key="canary", http_client=httpx2.Client(transport=httpx2.MockTransport(seller)))
        chat.models()
        assert seller.seen[0].headers["authorization"] == "Bearer canary"
        assert "canary" not in repr(chat._line)

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MisconfiguredError, match="X402_BASE_URL"):
            Chat()
        monkeypatch.setenv("AIMO_BASE_URL", BASE)
        assert Chat().auth is None
        monkeypatch.setenv("EVM_PRIVATE_KEY", EVM_KEY)
        chat = Chat()
        assert chat.auth is not None
        assert chat.auth.terms.wallet.evm_address == Wallet(evm=EVM_KEY).evm_address
        monkeypatch.setenv("AIMO_API_KEY", "key")
        assert Chat().auth is None
        chat.close()

    def test_a_wallet_makes_an_auth_with_the_callers_bounds(self, wallet: Wallet) -> None:
        from x402.client.budget import Limits

        chat = Chat(BASE, wallet=wallet, limits=Limits(per_call="0.02"), journal=":memory:")
        assert chat.auth is not None
        assert str(chat.auth.terms.limits.per_call) == "0.02"


class TestOtherVerbs:
    def test_row_006_007_images_and_embeddings_are_bought_like_answers(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(b'{"data":[{"url":"https://a.test/i.png","embedding":[0.5]}]}')))
        image = Caller(seat, seller, auth)("images", model="m", prompt="p", n=1)
        assert image.data[0].url == "https://a.test/i.png"
        vector = Caller(seat, seller, auth)("embeddings", model="m", input=["a"])
        assert vector.data[0].embedding == [0.5]
        assert vector.receipt is not None
        assert [seen.url.removeprefix(BASE) for seen in seller.seen[::2]] == ["/images/generations", "/embeddings"]
        assert json.loads(seller.seen[-1].content) == {"model": "m", "input": ["a"]}
        assert len(seller.signatures) == 2

    def test_a_balance_is_asked_for_signed_in_and_never_paid_for(self, seat: Seat, wallet: Wallet) -> None:
        auth = X402Auth(wallet, journal=":memory:", sign_in=True)
        seller = Seller(Answer(200, body=b'{"balance_micro_usdc":7,"balance_usd":"0.000007"}'), asks())
        assert Caller(seat, seller, auth)("balance").balance_micro_usdc == 7
        assert (seller.seen[0].url, "sign-in-with-x" in seller.seen[0].headers) == (BASE + "/session/balance", True)
        with pytest.raises(ApiError):
            Caller(seat, seller, auth)("usage", since="2026-01-01", limit=None)
        assert seller.seen[1].url == BASE + "/billing/usage?since=2026-01-01"
        assert seller.signatures == set()

    def test_G07_an_order_is_named_so_that_a_balance_is_charged_once(self, seat: Seat, wallet: Wallet) -> None:
        auth = X402Auth(wallet, journal=":memory:", sign_in=True)
        seller = Seller(Answer(503, {"Retry-After": "0"}, b"{}"), Answer(200, body=COMPLETION))
        Caller(seat, seller, auth)("create")
        Caller(seat, seller, auth)("create")
        names = [seen.headers["idempotency-key"] for seen in seller.seen]
        assert names[0] == names[1] != names[2], "asked again it is the same order, called again it is another"
        sign_ins = [seen.headers["sign-in-with-x"] for seen in seller.seen]
        assert len(set(sign_ins)) == 3

    def test_G07_control_a_payment_needs_no_name(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(COMPLETION)))
        Caller(seat, seller, auth)("create")
        assert all("idempotency-key" not in seen.headers for seen in seller.seen)

    def test_a_deposit_is_one_payment_within_the_limits(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(b'{"balance_micro_usdc":10000}')))
        assert Caller(seat, seller, auth)("deposit", amount="0.010").balance_micro_usdc == 10_000
        assert json.loads(seller.seen[-1].content) == {"amount": "0.010"}
        with pytest.raises(DeclinedError):
            Caller(seat, Seller(shop(delivers(), offer(amount=5_000_000))), auth)("deposit", amount=5)
        for wrong in ("0", "-1", "one"):
            with pytest.raises(MalformedError):
                Caller(seat, seller, auth)("deposit", amount=wrong)
        assert len(seller.signatures) == 1

    def test_what_is_paid_in_goes_to_the_account_that_signs_in(self, seat: Seat, wallet: Wallet) -> None:
        """One wallet on two chains is two accounts (aimo §2.8)."""
        main, domain = networks.get(networks.BASE).usd, {"name": "USD Coin", "version": "2"}
        offers = (offer(), offer(network=networks.BASE, asset=main.address, extra=domain))

        def paid_on(identity: Identity, *named: str) -> set[str]:
            auth = X402Auth(wallet, journal=":memory:", sign_in=identity, policy=Policy(networks=named))
            Caller(seat, Seller(shop(delivers(b"{}"), *offers)), auth)("deposit", amount="0.01")
            return {record.entry.subject.network for record in auth.journal.history()}

        for chain in (BASE_SEPOLIA, networks.BASE):
            assert paid_on(Identity(wallet, chain)) == {chain}
        assert paid_on(Identity(wallet, networks.BASE), BASE_SEPOLIA) == {BASE_SEPOLIA}, "a policy is never widened"

    def test_a_withdrawal_is_asked_for_once_and_never_paid(self, seat: Seat, wallet: Wallet) -> None:
        auth = X402Auth(wallet, journal=":memory:", sign_in=True)
        seller = Seller(Answer(503, {"Retry-After": "0"}, b"{}"), Answer(200, body=b'{"id":"w"}'), asks())
        assert Caller(seat, seller, auth)("withdraw", amount="0.01").id == "w"
        with pytest.raises(ApiError):
            Caller(seat, seller, auth)("withdraw")
        assert [json.loads(seen.content) for seen in seller.seen] == [{"amount": "0.01"}] * 2 + [{}]
        names = [seen.headers["idempotency-key"] for seen in seller.seen]
        assert names[0] == names[1] != names[2]
        assert all("sign-in-with-x" in seen.headers for seen in seller.seen)
        assert seller.signatures == set()

    def test_filters_are_written_as_the_seller_reads_them(self, seat: Seat) -> None:
        seller = Seller(Answer(200, body=b'{"data":[{"id":"m"}]}'))
        assert Caller(seat, seller, None)("models", free=True, q="a b", modality=["text", "image"]).data[0].id == "m"
        assert seller.seen[0].url == BASE + "/models?free=true&q=a+b&modality=text%2Cimage"


def test_row_041_members_that_openai_always_has_are_none_when_they_are_absent() -> None:
    chunk = read_chunk('{"choices":[{"index":0,"delta":{"role":"assistant"}}]}')
    assert (chunk.choices[0].delta.content, chunk.choices[0].finish_reason, chunk.usage) == (None, None, None)
    with pytest.raises(AttributeError):
        _ = chunk.choices[0].delta.colour
    with pytest.raises(KeyError):
        _ = chunk.choices[0].delta["content"]


def test_the_two_drivers_are_one_text() -> None:
    def bare(function: Any) -> str:
        source = inspect.getsource(function)
        for blocking, waiting in (("time.sleep", "anyio.sleep"), ("response.read()", "response.aread()")):
            source = source.replace(waiting, blocking)
        return source.replace("async ", "").replace("await ", "")

    for name in ("_drive", "_carry_out"):
        assert bare(getattr(Chat, name)) == bare(getattr(AsyncChat, name))
