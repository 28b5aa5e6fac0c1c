"""The stock OpenAI SDK with its default retries, paying by X402Auth: one call, one signature."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest

from x402.client.auth import X402Auth
from x402.errors import DeclinedError, UnpaidError
from x402.stages import State

from .seller import Answer, Seat, Seller, asks, delivers, offer, paying, pending, receipt, shop, timeout

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
COMPLETION = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "demo",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
CHUNKS = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"demo",'
    b'"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b": x402-receipt e30=\n\n"
    b"data: [DONE]\n\n"
)


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's back-off is its own business."""
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_, **__: 0.0)


def ask(seat: Seat, auth: X402Auth, seller: Any, *, stream: bool = False, model: str = "demo", **options: Any) -> str:
    """The text of one chat completion, through the SDK on a seat."""
    common: dict[str, Any] = {"base_url": "https://seller.test/api/v1", "api_key": "x402"}
    create: dict[str, Any] = {"model": model, "messages": MESSAGES, "stream": stream}
    transport = seat.library.MockTransport(seller)
    if seat.blocking:
        with openai.OpenAI(http_client=seat.library.Client(transport=transport, auth=auth, **options), **common) as sdk:
            answer = sdk.chat.completions.create(**create)
            if stream:
                return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            return str(answer.choices[0].message.content)

    async def go() -> str:
        http = seat.library.AsyncClient(transport=transport, auth=auth, **options)
        async with openai.AsyncOpenAI(http_client=http, **common) as sdk:
            answer = await sdk.chat.completions.create(**create)
            if stream:
                return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
            return str(answer.choices[0].message.content)

    return anyio.run(go)


@pytest.mark.parametrize("stream", [False, True])
def test_it_just_works(seat: Seat, auth: X402Auth, stream: bool) -> None:
    body, kind = (CHUNKS, "text/event-stream") if stream else (COMPLETION, "application/json")
    seller = Seller(shop(Answer(200, receipt() | {"Content-Type": kind}, body, stream=True)))
    assert ask(seat, auth, seller, stream=stream) == "Hi"
    assert [(record.state, record.open) for record in auth.journal.history()] == [(State.SETTLED, False)]
    assert len(seller.seen) == 2


@pytest.mark.parametrize("trouble", [timeout(), Answer(503), Answer(500, receipt()), pending(), Answer(409)])
def test_B15_default_retries_cost_one_signature(seat: Seat, auth: X402Auth, trouble: Answer) -> None:
    done = delivers(COMPLETION)
    done.headers["Content-Type"] = "application/json"
    seller = Seller(asks(), trouble, trouble, done)
    assert ask(seat, auth, seller) == "Hi"
    assert [payment is not None for payment in seller.payments] == [False, True, True, True]
    assert len(seller.signatures) == 1
    assert len(auth.journal.history()) == 1


def test_B11_a_seller_that_never_delivers_is_paid_once(seat: Seat, auth: X402Auth) -> None:
    seller = Seller(shop(Answer(500, receipt())))
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            ask(seat, auth, seller)
    assert len(seller.seen) == 1 + 9
    assert len(seller.signatures) == 1


def test_the_control_without_memory_each_retry_costs_a_signature() -> None:
    """What these tests guard against: an auth that forgets pays three times (ecosystem finding 2)."""
    from x402.client.wallet import Wallet

    from .seller import EVM_KEY, URL

    seller = Seller(lambda request: timeout() if paying(request) else asks())
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            Seat(httpx, True).call(X402Auth(Wallet(evm=EVM_KEY), journal=":memory:"), seller, URL)
    assert len(seller.signatures) == 3


def test_refusals_reach_the_caller_as_they_are(seat: Seat, auth: X402Auth) -> None:
    seller = Seller(shop(asks(error="invalid_exact_evm_insufficient_balance")))
    with pytest.raises(UnpaidError):
        ask(seat, auth, seller)
    assert len(seller.signatures) == 1
    with pytest.raises(DeclinedError):
        ask(seat, auth, Seller(asks(offer(amount=10**9))), model="dear")


def test_B05_the_sdks_own_clients_follow_redirects_and_carry_no_payment(auth: X402Auth) -> None:
    seller = Seller(asks(), Answer(307, {"Location": "https://evil.test/v1"}), delivers(COMPLETION))
    http = openai.DefaultHttpxClient(auth=auth, transport=httpx2.MockTransport(seller))
    assert http.follow_redirects
    sdk = openai.OpenAI(http_client=http, base_url="https://seller.test/v1", api_key="x402")
    with http, pytest.raises(UnpaidError):
        sdk.chat.completions.create(model="demo", messages=MESSAGES)
    assert [seen.url for seen in seller.seen][2:] == ["https://evil.test/v1"]
    assert [payment is not None for payment in seller.payments] == [False, True, False]
