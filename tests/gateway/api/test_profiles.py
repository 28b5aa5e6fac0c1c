"""Four systems on one gateway: the same request in each, and each error in the shape that its reader knows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from x402.devnet.model import ECHO, EMBED, FREE, PICTURE
from x402.errors import ConflictError, LimitedError, MalformedError, RefusedError, UnavailableError, UnidentifiedError
from x402.gateway.api.profiles import ALPHA, BETA, KEY, LEGACY, OURS, envelope_of, profile_of
from x402.gateway.envelope import Dialect, Envelope, seed_code
from x402.gateway.problem import ApiProblem
from x402.wire.challenge import BalanceEmpty, Challenge, parse_challenge, read_challenge
from x402.wire.facilitation import Verification

Make = Callable[..., httpx.AsyncClient]

HELLO = [{"role": "user", "content": "Hello, world!"}]
SIGNED_IN = {"Sign-In-With-X": base64.b64encode(b'{"message": "", "signature": ""}').decode()}
WITH_KEY = {"Authorization": "Bearer aimo-sk-dev-nobody"}
DIALECTS: list[tuple[str, dict[str, str], str]] = [
    ("/api/alpha", {}, "devnet-x402"),
    ("/api/v1", {}, "ours"),
    ("/api/v1", {"Authorization": "Bearer x402"}, "ours"),
    ("/v1", {}, "legacy"),
]


def body(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": HELLO, **members}


async def bought(shop: Any, town: Any, client: httpx.AsyncClient, path: str, members: Any, **options: Any) -> Any:
    unpaid = await client.post(path, json=members, **options)
    assert unpaid.status_code == 402, unpaid.text
    headers = {**options.get("headers", {}), **shop.payer.pay(town.challenge_of(unpaid))}
    paid = await client.post(path, json=members, headers=headers)
    assert paid.status_code == 200, paid.text
    return paid


def test_row_062_row_063_row_064_row_065_profiles_are_told_by_path_and_credentials() -> None:
    bearer, other = (("Authorization", "bearer aimo-sk-v2-abc"),), (("authorization", "Bearer sk-proj"),)
    siwx = (("sign-in-with-x", "e30="),)
    assert profile_of("/api/alpha/models", bearer) is ALPHA
    assert profile_of("/v1/chat/completions?x=1", siwx) is LEGACY
    assert profile_of("/v1", ()) is LEGACY
    assert profile_of("/v10/chat", ()) is OURS
    assert profile_of("/api/v1/chat/completions", ()) is OURS
    assert profile_of("/api/v1/chat/completions", other) is OURS
    assert profile_of("/api/v1/chat/completions", bearer) is KEY
    assert profile_of("/api/v1/chat/completions", (*bearer, *siwx)) is BETA
    assert profile_of("/elsewhere", bearer) is OURS
    assert (ALPHA.base, KEY.base, BETA.base, LEGACY.base) == ("/api/alpha", "/api/v1", "/api/v1", "/v1")


@pytest.mark.parametrize(("base", "headers", "profile"), DIALECTS)
async def test_row_002_row_004_a_chat_is_sold_in_every_profile(
    shop: Any, town: Any, make: Make, base: str, headers: dict[str, str], profile: str
) -> None:
    paid = await bought(shop, town, make(), f"{base}/chat/completions", body(max_tokens=20), headers=headers)
    answer = paid.json()
    assert answer["choices"][0]["message"]["content"] == "You said: Hello, world!"
    assert town.receipt_of(paid).success
    assert ("success" in answer) is (profile == "legacy")


async def test_row_005_inference_is_another_name_of_the_chat(shop: Any, town: Any, make: Make) -> None:
    client = make()
    paid = await bought(shop, town, client, "/v1/inference", body())
    assert paid.json()["data"]["choices"][0]["message"]["content"] == "You said: Hello, world!"
    assert (await client.post("/api/v1/inference", json=body())).status_code == 404


async def test_row_036_row_060_the_legacy_answer_is_wrapped_with_the_requests_id(
    shop: Any, town: Any, make: Make
) -> None:
    paid = await bought(shop, town, make(), "/v1/chat/completions", body(), headers={"X-Request-ID": "req_mine"})
    answer = paid.json()
    assert answer["success"] is True
    assert answer["data"]["object"] == "chat.completion"
    assert answer["choices"] == answer["data"]["choices"]
    meta = answer["meta"]
    assert (meta["request_id"], meta["model"], meta["provider"]) == ("req_mine", ECHO, "demo")
    assert meta["latency_ms"] >= 0
    assert paid.headers["x-request-id"] == "req_mine"


async def test_row_040_a_legacy_stream_is_plain(shop: Any, town: Any, make: Make) -> None:
    paid = await bought(shop, town, make(), "/v1/chat/completions", body(stream=True))
    assert paid.text.startswith("data: {")
    assert paid.text.endswith("data: [DONE]\n\n")


async def test_row_044_the_legacy_error_is_wrapped(make: Make) -> None:
    answer = await make().post("/v1/chat/completions", json=body(model="demo/eco-1"), headers={"X-Request-ID": "r-7"})
    told = answer.json()
    assert answer.status_code == 404
    assert (told["success"], told["meta"]) == (False, {"request_id": "r-7"})
    assert told["error"]["code"] == "model_not_found"
    assert isinstance(told["error"]["details"], str)
    short = (await make().post("/v1/chat/completions", json={"messages": HELLO})).json()["error"]
    assert (short["code"], short["details"]) == ("invalid_request", "In the wrong: model")


async def test_row_045_the_beta_error_has_code_and_message(make: Make) -> None:
    answer = await make().get("/api/v1/models/demo/eco-1", headers=SIGNED_IN)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["moneyMoved"]) == ("model_not_found", "no")
    assert "demo/echo-1" in error["message"]
    assert "type" not in error


@pytest.mark.parametrize(("base", "headers"), [("/api/alpha", {}), ("/api/v1", WITH_KEY)])
async def test_row_046_row_047_the_devnet_error_has_a_type_and_the_status(
    make: Make, base: str, headers: dict[str, str]
) -> None:
    answer = await make().get(f"{base}/models/demo/eco-1", headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (404, 404, "model_not_found")
    assert error["details"]["suggestions"][0] == ECHO


async def test_row_048_row_049_a_402_has_both_generations(make: Make, town: Any) -> None:
    client = make()
    for base in ("/api/alpha", "/api/v1", "/v1"):
        unpaid = await client.post(f"{base}/chat/completions", json=body())
        first, second = unpaid.json(), town.challenge_of(unpaid)
        assert first["x402Version"] == 1
        assert {offer["network"] for offer in first["accepts"]} == {"base-sepolia", "solana-devnet"}
        assert {offer.network for offer in second.accepts} == {town.EVM, town.SVM}
        read = read_challenge(unpaid.headers.multi_items(), unpaid.content)
        assert isinstance(read, Challenge)
        assert parse_challenge(first).accepts, "the body alone can be paid as well"
    assert second.as_json()["x402Version"] == 2


def challenge() -> Challenge:
    offer = {
        "scheme": "exact", "network": "eip155:84532", "amount": "1000", "asset": "0x" + "1" * 40,
        "payTo": "0x" + "2" * 40, "maxTimeoutSeconds": 300,
    }  # fmt: skip
    return parse_challenge({"x402Version": 2, "error": "PAYMENT-SIGNATURE header is required", "accepts": [offer]})


def test_row_049_the_beta_402_is_of_the_second_generation() -> None:
    told = Envelope(Dialect.BETA).challenge(challenge())
    assert isinstance(told, dict)
    assert (told["x402Version"], told["accepts"][0]["network"]) == (2, "eip155:84532")


EMPTY = RefusedError("insufficient_balance", "0.01 of 0.02 USDC are left", details={"required": "0.02"})


@pytest.mark.parametrize("dialect", list(Dialect))
def test_row_055_a_402_is_never_ambiguous(dialect: Dialect) -> None:
    """Whether it can be paid is told by its offers; whether a balance is empty by its word; it may say both."""
    envelope = Envelope(dialect, "r")
    for refusal in (None, EMPTY):
        told = envelope.challenge(challenge(), refusal)
        header = [("PAYMENT-REQUIRED", challenge().as_header())]
        content = json.dumps(told).encode() if isinstance(told, dict) else str(told).encode()
        assert isinstance(read_challenge(header, content), Challenge)
        if isinstance(told, dict):
            assert told["accepts"]
        assert ("insufficient" in content.decode()) is (refusal is not None)
    alone = envelope.error(EMPTY)
    if isinstance(alone, dict):
        assert "accepts" not in alone
        assert isinstance(read_challenge([], json.dumps(alone).encode()), BalanceEmpty)
    else:
        assert str(alone).startswith("insufficient_balance")


def test_row_050_text_is_for_who_asks_for_it() -> None:
    wants = (("Authorization", "Bearer aimo-sk-v2-a"), ("Accept", "text/plain"))
    assert envelope_of("/api/v1/models", wants).dialect is Dialect.TEXT
    both = (wants[0], ("Accept", "application/json, text/plain, */*"))
    assert envelope_of("/api/v1/models", both).dialect is Dialect.KEY
    assert envelope_of("/api/v1/models", wants[1:]).dialect is Dialect.OPENAI
    assert Envelope(Dialect.TEXT).error(MalformedError("bad", "words")) == "bad: words"


async def test_row_050_the_text_goes_out_as_text(make: Make) -> None:
    answer = await make().get("/api/v1/models/nothing", headers={**WITH_KEY, "Accept": "text/plain"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("model_not_found: ")


CODES: list[tuple[Any, int, str]] = [
    (MalformedError("invalid_request", ""), 400, "invalid_request"),
    (ApiProblem(422, "unsuitable_model", ""), 422, "invalid_request"),
    (ApiProblem(413, "image_too_large", ""), 413, "invalid_request"),
    (UnidentifiedError("unknown_key", ""), 401, "authentication_failed"),
    (ApiProblem(403, "out_of_scope", ""), 403, "authentication_failed"),
    (LimitedError("too_many_requests", ""), 429, "rate_limit_exceeded"),
    (ApiProblem(404, "model_not_found", ""), 404, "model_not_found"),
    (ApiProblem(404, "not_found", ""), 404, "invalid_request"),
    (RefusedError("insufficient_balance", ""), 402, "insufficient_credits"),
    (RefusedError("payment_expired", ""), 402, "payment_required"),
    (ApiProblem(503, "model_unavailable", ""), 503, "model_unavailable"),
    (ApiProblem(502, "empty_completion", ""), 502, "model_unavailable"),
    (UnavailableError("facilitator_unavailable", ""), 503, "model_unavailable"),
    (ConflictError("payment_already_used", ""), 409, "invalid_request"),
    (ApiProblem(500, "handler_failed", ""), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), CODES, ids=lambda value: str(value)[:40])
def test_row_051_row_052_every_error_has_a_code_of_the_seeds_and_a_status(error: Any, status: int, code: str) -> None:
    from x402.gateway.problem import status_of

    assert status_of(error) == status
    assert seed_code(error) == code
    told: Any = Envelope(Dialect.LEGACY, "r").error(error)
    assert (told["error"]["code"], told["error"]["reason"]) == (code, error.code)
    devnet: Any = Envelope(Dialect.KEY).error(error)
    assert devnet["error"]["code"] == status


@pytest.mark.parametrize("version", [1, 2])
async def test_row_054_a_refused_payment_says_what_is_wrong_with_it(
    shop: Any, town: Any, make: Make, version: int
) -> None:
    client = make()
    path = "/api/alpha/chat/completions"
    asked = town.challenge_of(await client.post(path, json=body()))
    offer = next(offer for offer in asked.accepts if offer.network == town.EVM)

    async def refused(payment: Any) -> dict[str, Any]:
        answer = await client.post(path, json=body(), headers=shop.payer.header(payment))
        told: dict[str, Any] = answer.json()
        assert answer.status_code == 402
        assert told["accepts"], "a refused payment gets its offers again"
        return told

    little = offer.model_copy(update={"amount": offer.amount - 1})
    told = await refused(shop.payer.payment(little, asked, version=version))
    assert told["type"] == "insufficient_payment"
    required, received = told["details"]["required"], told["details"]["received"]
    assert (required, received) == (f"0.{offer.amount:06}", f"0.{offer.amount - 1:06}")
    shop.bank.verdicts.append(Verification.invalid("invalid_exact_evm_payload_authorization_valid_before", "too late"))
    told = await refused(shop.payer.payment(offer, asked, version=version))
    assert (told["type"], told["moneyMoved"]) == ("payment_expired", "no")
    shop.bank.verdicts.append(Verification.invalid("invalid_exact_evm_signature", "not the payer's"))
    told = await refused(shop.payer.payment(offer, asked, version=version))
    assert told["type"] == "payment_verification_failed"
    assert told["error"] == "invalid_exact_evm_signature"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("DELETE", "/models", 405, "method_not_allowed")],
)
async def test_unknown_paths_and_methods_are_answered_in_the_profiles_shape(
    make: Make, method: str, path: str, status: int, code: str
) -> None:
    client = make()
    for base in ("/api/v1", "/api/alpha", "/v1"):
        answer = await client.request(method, base + path)
        assert answer.status_code == status
        told = answer.json()
        assert code in json.dumps(told)
        assert ("success" in told) is (base == "/v1")
        assert (status != 405) or answer.headers["allow"]


async def test_what_nobody_expected_is_a_500_in_the_profiles_shape(make: Make, shop: Any) -> None:
    client = make()

    @shop.gateway.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    answer = await client.get("/v1/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert b"secret detail" not in answer.content


async def test_row_035_the_answer_echoes_the_name_that_was_asked_for(shop: Any, town: Any, make: Make) -> None:
    client = make()
    for name in (ECHO, "echo-1", f"demo:{ECHO}"):
        paid = await bought(shop, town, client, "/api/v1/chat/completions", body(model=name))
        assert paid.json()["model"] == name
        streamed = await bought(shop, town, client, "/api/v1/chat/completions", body(model=name, stream=True))
        chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert {chunk["model"] for chunk in chunks} == {name}


@pytest.mark.parametrize(
    ("model", "path"), [(EMBED, "chat/completions"), (PICTURE, "embeddings"), (FREE, "images/generations")]
)
async def test_row_055_a_model_that_does_not_do_this_is_422(make: Make, model: str, path: str) -> None:
    members = {"model": model, "messages": HELLO, "input": "x", "prompt": "x"}
    answer = await make().post(f"/api/v1/{path}", json=members)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unsuitable_model")
