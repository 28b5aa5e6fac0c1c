"""Model servers that fail, err, lie or say nothing: who pays, and what the buyer gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from x402.devnet.model import ECHO, STORY, demo_catalogue
from x402.devnet.model import create_app as create_model
from x402.gateway.inference.catalogue import Catalogue, Provider, Upstream
from x402.lifecycle import Party
from x402.signed_quote import peek
from x402.stages import State

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


HELLO = [{"role": "user", "content": "Hello, world!"}]


Make = Callable[..., httpx.AsyncClient]


def body(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": HELLO, **members}


async def test_the_quoted_bound_holds_upstream(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body(model=STORY)))
    quoted = peek(challenge.accepts[0].extra["quote"]).quote
    header = shop.payer.pay(challenge)
    answer = (await client.post("/api/v1/chat/completions", json=body(model=STORY), headers=header)).json()
    assert answer["usage"]["completion_tokens"] == quoted.output_tokens == 256
    assert answer["choices"][0]["finish_reason"] == "length"


def upstream_app(answer: Callable[[dict[str, Any]], Response], seen: list[dict[str, Any]] | None = None) -> Starlette:
    async def chat(request: Request) -> Response:
        asked = await request.json()
        if seen is not None:
            seen.append({**asked, "_headers": dict(request.headers)})
        return answer(asked)

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_an_upstream_that_fails_is_503_and_nothing_is_lost(
    shop: Any, town: Any, make: Make, status: int, stream: bool
) -> None:
    works = [False]

    def answer(asked: dict[str, Any]) -> Response:
        if not works[0]:
            return JSONResponse({"error": {"message": "secret operator detail"}}, status)
        if stream:
            return StreamingResponse(
                iter([b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n']),
                media_type="text/event-stream",
            )
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": "hi"}}]})

    client = make(upstream_app(answer))
    members = body(stream=stream)
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    header = shop.payer.pay(challenge)
    failed = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_unavailable")
    assert b"operator" not in failed.content
    if stream:
        assert town.receipt_of(failed).success
        assert await shop.ledger.totals(Party.GATEWAY, State.OWED)
    else:
        assert shop.bank.moved == {}
    works[0] = True
    assert (await client.post("/api/v1/chat/completions", json=members, headers=header)).status_code == 200
    assert len(shop.bank.moved) == 1


@pytest.mark.parametrize("status", [400, 422])
async def test_an_upstreams_refusal_of_the_request_is_told_and_not_charged(
    shop: Any, town: Any, make: Make, status: int
) -> None:
    refusal = {"error": {"message": "context too long", "code": "context_length_exceeded"}}
    client = make(upstream_app(lambda asked: JSONResponse(refusal, status)))
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    response = await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    assert (response.status_code, response.json()["error"]["code"]) == (status, "context_length_exceeded")
    assert shop.bank.moved == {}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]},
    ],
)
async def test_row_86_empty_completions_are_not_charged(shop: Any, town: Any, make: Make, answer: Any) -> None:
    client = make(upstream_app(lambda asked: JSONResponse(answer)))
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    response = await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "empty_completion")
    assert shop.bank.moved == {}


async def test_B17_absurd_usage_is_clamped_to_the_quote(shop: Any, town: Any, make: Make) -> None:
    absurd = {
        "choices": [{"message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 10**9, "completion_tokens": 10**9},
    }
    client = make(upstream_app(lambda asked: JSONResponse(absurd)))
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    paid = await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    charge = town.receipt_of(paid).extra["charge"]
    assert charge["actual"] == charge["quoted"] == str(challenge.accepts[0].amount)
    assert charge["over"] == ["prompt", "completion"]


async def test_G04_a_stream_that_errs_on_the_way_is_owed_and_made_again(shop: Any, town: Any, make: Make) -> None:
    dies = [True]

    def answer(asked: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b'data: {"choices":[{"delta":{"content":"he"},"finish_reason":null}]}\n\n'
            if dies[0]:
                yield b'data: {"error":{"message":"overloaded"}}\n\n'
                return
            yield b'data: {"choices":[{"delta":{"content":"llo"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    client = make(upstream_app(answer))
    members = body(stream=True)
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    header = shop.payer.pay(challenge)
    broken = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert "[DONE]" not in broken.text
    assert await shop.ledger.totals(Party.GATEWAY, State.OWED)
    dies[0] = False
    whole = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert whole.text.endswith("data: [DONE]\n\n")
    assert len(shop.bank.moved) == 1


async def test_what_reaches_the_upstream(shop: Any, town: Any, make: Make) -> None:
    seen: list[dict[str, Any]] = []
    done = {"choices": [{"message": {"role": "assistant", "content": "hi"}}]}
    client = make(upstream_app(lambda asked: JSONResponse(done), seen))
    members = body(metadata={"note": "mine"}, sort="price", custom={"x": 1}, max_tokens=33)
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    header = shop.payer.pay(challenge) | {"X-Request-ID": "trace-1", "Authorization": "Bearer theirs"}
    await client.post("/api/v1/chat/completions", json=members, headers=header)
    (asked,) = seen
    headers = asked.pop("_headers")
    assert asked == {"model": ECHO, "messages": HELLO, "custom": {"x": 1}, "max_tokens": 33}
    assert headers["x-request-id"] == "trace-1"
    assert "authorization" not in headers
    assert not any(name.startswith(("payment", "x-payment")) for name in headers)


async def test_G05_failover_happens_inside_one_payment(shop: Any, town: Any, make: Make) -> None:
    base = demo_catalogue("http://model.test/v1").resolve(ECHO)
    dead = Provider("dead", "Dead", replace(base.price, model=f"dead:{ECHO}"), Upstream("x", "http://dead.test/v1"))
    catalogue = Catalogue([replace(base, providers=(dead, *base.providers))], version="1")
    asked: list[str] = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        asked.append(host)
        if host == "dead.test":
            await JSONResponse({"error": "gone"}, 502)(scope, receive, send)
        else:
            await create_model()(scope, receive, send)

    client = make(route, catalogue=catalogue)
    members = body(provider={"order": ["dead"]})
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    paid = await client.post("/api/v1/chat/completions", json=members, headers=shop.payer.pay(challenge))
    assert paid.status_code == 200
    assert asked == ["dead.test", "model.test"]
    assert len(shop.bank.moved) == 1


async def test_G05_two_fallbacks_upstream_are_one_bill(shop: Any, town: Any, make: Make) -> None:
    base = demo_catalogue("http://model.test/v1").resolve(ECHO)
    dead = [
        Provider(name, name, replace(base.price, model=f"{name}:{ECHO}"), Upstream("x", f"http://{name}.test/v1"))
        for name in ("first", "second")
    ]
    catalogue = Catalogue([replace(base, providers=(*dead, *base.providers))], version="1")
    asked: list[str] = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        asked.append(host)
        if host == "model.test":
            await create_model()(scope, receive, send)
        else:
            await JSONResponse({"error": "gone"}, 502)(scope, receive, send)

    client = make(route, catalogue=catalogue)
    members = body(provider={"order": ["first", "second"]})
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    header = shop.payer.pay(challenge)
    paid = [await client.post("/api/v1/chat/completions", json=members, headers=header) for _ in range(2)]
    assert [response.status_code for response in paid] == [200, 200]
    assert asked == ["first.test", "second.test", "model.test"]
    assert shop.bank.asked.count("settle") == 1
    (units,) = (await shop.ledger.totals(Party.GATEWAY, State.DELIVERED)).values()
    assert units == challenge.accepts[0].amount
    assert len({town.receipt_of(response).as_header() for response in paid}) == 1
