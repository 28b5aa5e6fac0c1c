"""The gateway as its buyers meet it: chat, streams, models, errors, receipts."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from x402.devnet.model import ECHO, FREE, STORY, demo_catalogue
from x402.devnet.model import create_app as create_model
from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.app import catalogue_of, create_app
from x402.gateway.upstream import UpstreamClient
from x402.lifecycle import Party, State
from x402.quote import Quote
from x402.settings import GatewaySettings

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
HELLO = [{"role": "user", "content": "Hello, world!"}]
Make = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def make(shop: Any, town: Any) -> AsyncIterator[Make]:
    """Builds a gateway over a model server, the demo's unless another is given."""
    shop.open()
    clients: list[httpx.AsyncClient] = []

    def build(model: Any = None, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(model or create_model(), raise_app_exceptions=False)
        upstream = UpstreamClient(httpx.AsyncClient(transport=transport))
        app = create_app(
            GatewaySettings.model_construct(quote_key=None),
            **{
                "catalogue": demo_catalogue("http://model.test/v1"),
                "facilitator": shop.bank,
                "pay_to": town.PAY_TO,
                "ledger": shop.ledger,
                "public_url": "https://gateway.example",
                "upstream": upstream,
                "clock": lambda: shop.now,
                **options,
            },
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://gateway.test"
        )
        client.app = app  # type: ignore[attr-defined]
        clients.append(client)
        return client

    yield build
    for client in clients:
        await client.aclose()


def body(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": HELLO, **members}


@pytest.mark.parametrize("base", ["/api/alpha", "/api/v1"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_a_plain_answer_is_paid_by_quote(
    shop: Any, town: Any, make: Make, base: str, version: int, network: str
) -> None:
    client = make()
    unpaid = await client.post(f"{base}/chat/completions", json=body(max_tokens=50))
    assert unpaid.status_code == 402
    challenge = town.challenge_of(unpaid)
    assert challenge.resource.url == f"https://gateway.example{base}/chat/completions"
    quoted = Quote.peek(challenge.accepts[0].extra["quote"])
    assert (quoted.model, quoted.bound, quoted.output_tokens) == (ECHO, challenge.accepts[0].amount, 50)
    assert "paymentFlow" not in challenge.accepts[0].extra
    header = shop.payer.pay(challenge, network, version=version)
    paid = await client.post(f"{base}/chat/completions", json=body(max_tokens=50), headers=header)
    assert paid.status_code == 200, paid.text
    answer = paid.json()
    assert answer["choices"][0]["message"]["content"] == "You said: Hello, world!"
    receipt = town.receipt_of(paid)
    assert receipt.success
    assert receipt.network == network
    if version == 2:
        charge = receipt.extra["charge"]
        assert charge["quoted"] == str(quoted.bound)
        assert int(charge["actual"]) + int(charge["unused"]) == quoted.bound
        assert charge["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
    again = await client.post(f"{base}/chat/completions", json=body(max_tokens=50), headers=header)
    assert again.content == paid.content


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_is_settled_first_and_ends_with_its_receipt(
    shop: Any, town: Any, make: Make, include_usage: bool
) -> None:
    client = make()
    members = body(stream=True, **({"stream_options": {"include_usage": True}} if include_usage else {}))
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    assert challenge.accepts[0].extra["paymentFlow"] == "upfront"
    header = shop.payer.pay(challenge)
    paid = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert paid.status_code == 200
    assert paid.headers["content-type"].startswith("text/event-stream")
    assert paid.headers["cache-control"] == "no-store"
    receipt = town.receipt_of(paid)
    frames = [frame for frame in paid.text.split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    assert frames[-2].startswith(": x402-receipt ")
    told = json.loads(base64.b64decode(frames[-2].removeprefix(": x402-receipt ")))
    assert told["transaction"] == receipt.transaction
    assert told["extra"]["charge"]["quoted"] == str(challenge.accepts[0].amount)
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert any(chunk["choices"] == [] for chunk in chunks) is include_usage
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == "You said: Hello, world!"
    again = await client.post("/api/v1/chat/completions", json=members, headers=header)
    assert again.content == paid.content
    assert len(shop.bank.moved) == 1


async def test_free_models_ask_for_nothing(shop: Any, make: Make) -> None:
    client = make()
    for stream in (False, True):
        response = await client.post("/api/v1/chat/completions", json=body(model=FREE, stream=stream))
        assert response.status_code == 200
        assert "payment-response" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")
    assert "x402-receipt" not in response.text
    assert "verify" not in shop.bank.asked


async def test_the_quoted_bound_holds_upstream(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body(model=STORY)))
    quoted = Quote.peek(challenge.accepts[0].extra["quote"])
    header = shop.payer.pay(challenge)
    answer = (await client.post("/api/v1/chat/completions", json=body(model=STORY), headers=header)).json()
    assert answer["usage"]["completion_tokens"] == quoted.output_tokens == 256
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_B02_a_quote_for_a_small_model_buys_no_big_one(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body(max_tokens=10)))
    header = shop.payer.pay(challenge)
    for changed in (body(max_tokens=1000), body(model=STORY, max_tokens=10), body(max_tokens=10, stream=True)):
        response = await client.post("/api/v1/chat/completions", json=changed, headers=header)
        assert response.status_code == 402
    assert "verify" not in shop.bank.asked


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"model": "demo/eco-1"}, 404, "model_not_found"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"messages": []}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, 400, "unpriceable_content"),
    ],
)
async def test_what_cannot_run_is_never_priced(
    shop: Any, make: Make, members: dict[str, Any], status: int, code: str
) -> None:
    client = make()
    response = await client.post("/api/v1/chat/completions", json=body(**members))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert "payment-required" not in response.headers
    if status == 404:
        assert error["details"]["suggestions"][0] == ECHO


async def test_models_are_listed_with_prices_for_both_kinds_of_reader(make: Make) -> None:
    client = make()
    for base in ("/api/v1", "/api/alpha"):
        listing = (await client.get(f"{base}/models")).json()
        assert listing["object"] == "list"
        echo = next(model for model in listing["data"] if model["id"] == ECHO)
        assert echo["pricing"]["prompt"] == "0.5"
        assert echo["providers"][0]["id"] == "demo"


async def test_request_ids_go_in_and_out(make: Make) -> None:
    client = make()
    assert (await client.get("/health", headers={"X-Request-ID": "mine-1"})).headers["x-request-id"] == "mine-1"
    for odd in ("a b", "x" * 200, ""):
        assert (await client.get("/health", headers={"X-Request-ID": odd})).headers["x-request-id"].startswith("req_")
    unpaid = await client.post("/api/v1/chat/completions", json=body(), headers={"X-Request-ID": "mine-2"})
    assert (unpaid.status_code, unpaid.headers["x-request-id"]) == (402, "mine-2")


async def test_operations_tell_the_truth(shop: Any, make: Make) -> None:
    client = make()
    assert (await client.get("/health")).json() == {"status": "ok"}
    ready = await client.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"] == {"ledger": True, "facilitator": True, "reconciled": False}
    client.app.state.paywall.reconciled.set()  # type: ignore[attr-defined]
    assert (await client.get("/ready")).json()["ready"] is True
    challenge = await client.post("/api/v1/chat/completions", json=body())
    assert challenge.status_code == 402
    assert b"python_info" not in (await client.get("/metrics")).content
    assert "/api/v1/chat/completions" in (await client.get("/openapi.json")).json()["paths"]


async def test_metrics_count_sales(shop: Any, town: Any, make: Make) -> None:
    client = make()
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    text = (await client.get("/metrics")).text
    assert 'x402_facts_total{fact="sale.delivered",network="eip155:84532"' in text


async def test_F16_browsers_may_call_the_gateway(make: Make) -> None:
    client = make()
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,payment-signature",
    }
    preflight = await client.options("/api/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    response = await client.post("/api/v1/chat/completions", json=body(), headers={"Origin": "https://page.example"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "PAYMENT-REQUIRED" in response.headers["access-control-expose-headers"]


async def test_tools_and_images_pass_through(shop: Any, town: Any, make: Make) -> None:
    client = make()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    members = body(
        tools=[tool],
        tool_choice="required",
        messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}],
    )
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=members))
    paid = await client.post("/api/v1/chat/completions", json=members, headers=shop.payer.pay(challenge))
    assert paid.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"


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


async def test_failover_happens_inside_one_payment(shop: Any, town: Any, make: Make) -> None:
    from dataclasses import replace

    from x402.gateway.catalogue import Catalogue, Provider, Upstream

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
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body()))
    paid = await client.post("/api/v1/chat/completions", json=body(), headers=shop.payer.pay(challenge))
    assert paid.status_code == 200
    assert asked == ["dead.test", "model.test"]
    assert len(shop.bank.moved) == 1


async def test_E02_without_a_facilitator_nothing_is_free(shop: Any, make: Make) -> None:
    shop.bank.kinds = UnavailableError("facilitator_unavailable", "away")
    client = make()
    response = await client.post("/api/v1/chat/completions", json=body())
    assert response.status_code == 503
    assert (await client.get("/ready")).json()["checks"]["facilitator"] is False


def test_settings_say_what_is_missing(tmp_path: Any) -> None:
    with pytest.raises(MisconfiguredError, match="X402_PRICES"):
        catalogue_of(GatewaySettings.model_construct(), now=0)
    with pytest.raises(MisconfiguredError, match="X402_EVM_PAY_TO"):
        _ = GatewaySettings.model_construct().pay_to
    with pytest.raises(MisconfiguredError, match="nowhere"):
        catalogue_of(GatewaySettings.model_construct(price_file=tmp_path / "nowhere.toml"), now=0)
    listed = GatewaySettings.model_construct(upstream_url="https://u.example/v1", model_names="gpt-4o-mini, ")
    assert [model.id for model in catalogue_of(listed, now=1_800_000_000).models] == ["gpt-4o-mini"]


def test_mainnet_is_refused_unless_it_is_meant() -> None:
    options: dict[str, Any] = {
        "catalogue": demo_catalogue("http://model.test/v1"),
        "pay_to": {"base": "0x" + "5e" * 20},
        "ledger": "sqlite://",
    }
    with pytest.raises(MisconfiguredError, match="X402_MAINNET"):
        create_app(GatewaySettings.model_construct(), **options)
    assert create_app(GatewaySettings.model_construct(mainnet=True), **options)
