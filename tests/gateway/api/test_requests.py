"""Every field and range of a chat request, checked before a price is asked; ids, preferences and tags (rows 20-33)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from x402.devnet.model import ECHO, demo_catalogue
from x402.gateway.inference import pictures
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.chat_request import parse_chat
from x402.gateway.problem import ApiProblem
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter
from x402.signed_quote import peek
from x402.telemetry import Telemetry, request_id
from x402.telemetry.logs import log_facts

Make = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello, world!"}]


def body(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": HELLO, **members}


def looking_at(*addresses: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return body(messages=[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}])


def png(size: int) -> str:
    return "data:image/png;base64," + base64.b64encode(b"x" * size).decode()


REFUSED: dict[int, list[dict[str, Any]]] = {
    20: [{"model": None}, {"model": ""}, {"model": 7}, {"model": "x" * 129}],
    21: [{"messages": None}, {"messages": []}, {"messages": "hi"}, {"messages": [{"role": "robot", "content": "x"}]}],
    22: [{"temperature": -0.1}, {"temperature": 2.1}, {"temperature": "1"}, {"temperature": True}],
    23: [{"top_p": -0.1}, {"top_p": 1.1}, {"top_p": "1"}],
    24: [{"max_tokens": 0}, {"max_tokens": 1.5}, {"max_completion_tokens": -1},
         {"max_tokens": 5, "max_completion_tokens": 5}],
    25: [{"stream": "yes"}, {"stream": 1}, {"stream_options": []}],
    26: [{"n": 0}, {"n": 17}, {"n": 1.0}],
    27: [{"stop": ["a", "b", "c", "d", "e"]}, {"stop": [""]}, {"stop": 7}],
    28: [{"presence_penalty": -2.1}, {"presence_penalty": 2.1}, {"frequency_penalty": "0"}, {"frequency_penalty": 3}],
    29: [{"user": 7}, {"user": "x" * 513}],
    30: [{"tools": {}}, {"tools": ["x"]}, {"tool_choice": 7}],
    31: [{"metadata": "x"}, {"metadata": {str(at): "x" for at in range(65)}}, {"metadata": {"a": "x" * 4097}}],
    32: [{"sort": 7}, {"sort": "beauty"}, {"provider": []}, {"provider": {"sort": "beauty"}}],
}  # fmt: skip
TAKEN: dict[int, list[dict[str, Any]]] = {
    20: [{"model": "echo-1"}, {"model": f"demo:{ECHO}"}],
    21: [{"messages": [{"role": role, "content": "x"} for role in ("system", "developer", "user", "assistant")]}],
    22: [{"temperature": 0}, {"temperature": 2}, {"temperature": 0.7}, {"temperature": None}],
    23: [{"top_p": 0}, {"top_p": 1}],
    24: [{"max_tokens": 1}, {"max_completion_tokens": 1}, {"max_tokens": None}],
    25: [{"stream": True}, {"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}],
    26: [{"n": 1}, {"n": 16}],
    27: [{"stop": "x"}, {"stop": ["a", "b", "c", "d"]}],
    28: [{"presence_penalty": -2, "frequency_penalty": 2}],
    29: [{"user": "me"}],
    30: [
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"tool_choice": {"a": 1}},
    ],
    31: [{"metadata": {}}, {"metadata": {"order": "7", "depth": {"a": [1]}}}],
    32: [{"sort": "throughput"}, {"provider": {"sort": "latency"}}],
}


async def _ranges(make: Make, row: int) -> None:
    """What is out of range is 400 and unpriced; what is in range is priced."""
    client = make()
    for members in REFUSED[row]:
        answer = await client.post(PATH, json=body(**members))
        assert answer.status_code == 400, members
        error = answer.json()["error"]
        assert error["param"].partition(".")[0] in {*members, "sort"}, error
        assert "payment-required" not in answer.headers
    for members in TAKEN[row]:
        answer = await client.post(PATH, json=body(**members))
        assert answer.status_code == 402, (members, answer.text)


async def test_row_020_model(make: Make) -> None:
    await _ranges(make, 20)


async def test_row_021_messages(make: Make) -> None:
    await _ranges(make, 21)


async def test_row_022_temperature(make: Make) -> None:
    await _ranges(make, 22)


async def test_row_023_top_p(make: Make) -> None:
    await _ranges(make, 23)


async def test_row_024_max_tokens_bounds_the_price(make: Make, town: Any) -> None:
    await _ranges(make, 24)
    client = make()
    for members, tokens in ((body(), 256), (body(max_tokens=10), 10), (body(max_completion_tokens=20), 20)):
        asked = town.challenge_of(await client.post(PATH, json=members))
        assert peek(asked.accepts[0].extra["quote"]).quote.output_tokens == tokens


async def test_row_025_stream(make: Make) -> None:
    await _ranges(make, 25)


async def test_row_026_n_multiplies_the_bound(make: Make, town: Any) -> None:
    await _ranges(make, 26)
    client = make()
    one, four = [
        peek(town.challenge_of(await client.post(PATH, json=body(n=n))).accepts[0].extra["quote"]).quote for n in (1, 4)
    ]
    assert four.lines[1].units == 4 * one.lines[1].units


async def test_row_027_stop(make: Make) -> None:
    await _ranges(make, 27)


async def test_row_028_penalties(make: Make) -> None:
    await _ranges(make, 28)


async def test_row_029_user(make: Make) -> None:
    await _ranges(make, 29)


async def test_row_030_tools(make: Make) -> None:
    await _ranges(make, 30)


async def test_row_031_metadata(make: Make) -> None:
    await _ranges(make, 31)


async def test_row_032_sort(make: Make) -> None:
    await _ranges(make, 32)


def answering(seen: list[Any]) -> Starlette:
    async def chat(request: Request) -> Response:
        seen.append({**await request.json(), "_id": request.headers.get("x-request-id")})
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]})

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


async def test_row_022_row_023_no_default_is_invented_and_unknown_fields_pass(shop: Any, town: Any, make: Make) -> None:
    seen: list[Any] = []
    client = make(answering(seen))
    members = body(logit_bias={"5": 1}, custom={"deep": [1]}, metadata={"mine": "x"}, user="me", seed=7)
    asked = town.challenge_of(await client.post(PATH, json=members))
    paid = await client.post(PATH, json=members, headers=shop.payer.pay(asked))
    assert paid.status_code == 200
    (forwarded,) = seen
    assert "temperature" not in forwarded
    assert "top_p" not in forwarded
    assert "metadata" not in forwarded
    assert (forwarded["logit_bias"], forwarded["custom"], forwarded["user"]) == ({"5": 1}, {"deep": [1]}, "me")


async def test_row_029_row_031_metadata_and_user_stay_with_the_bill(shop: Any, town: Any, make: Make) -> None:
    client = make()
    members = body(metadata={"order": "7", "deep": {"a": 1}, "none": None}, user="me")
    asked = town.challenge_of(await client.post(PATH, json=members))
    headers = {**shop.payer.pay(asked), "X-Request-ID": "mine-7"}
    assert (await client.post(PATH, json=members, headers=headers)).status_code == 200
    (bill,) = await SqlAccounts(shop.ledger).bills(BillFilter())
    assert bill.tags == {"order": "7", "deep": '{"a":1}', "user": "me"}
    assert (bill.request_id, bill.metered.provider, bill.metered.complete) == ("mine-7", "demo", True)


async def test_row_033_images_are_for_models_that_look(shop: Any, town: Any, make: Make) -> None:
    client = make()
    members = looking_at(png(100), "https://pictures.example/a.png")
    asked = town.challenge_of(await client.post(PATH, json=members))
    paid = await client.post(PATH, json=members, headers=shop.payer.pay(asked))
    assert paid.json()["usage"]["prompt_tokens"] >= 2 * 64
    known = demo_catalogue("http://model.test/v1")
    blind = Catalogue([replace(model, input_modalities=("text",)) for model in known.models], version="blind")
    answer = await make(catalogue=blind).post(PATH, json=members)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unsuitable_model")


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        (png(pictures.IMAGE_BYTES_LIMIT + 3), 413, "image_too_large"),
        ("data:image/png;base64,", 400, "invalid_value"),
        ("data:image/png;base64,####", 400, "invalid_value"),
        ("data:text/html;base64,AAAA", 400, "invalid_value"),
        ("file:///etc/passwd", 400, "invalid_value"),
        ("https://pictures.example/" + "x" * 2048, 400, "invalid_value"),
        (7, 400, "invalid_value"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_row_033_an_image_that_cannot_be_taken_says_which_and_why(
    make: Make, address: Any, status: int, code: str
) -> None:
    answer = await make().post(PATH, json=looking_at(png(10), address))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, "messages.0.content.2")
    assert "payment-required" not in answer.headers


async def test_row_033_images_are_counted_and_a_body_is_bounded(make: Make) -> None:
    many = await make().post(PATH, json=looking_at(*["https://pictures.example/a.png"] * (pictures.IMAGES_LIMIT + 1)))
    assert (many.status_code, many.json()["error"]["code"]) == (400, "too_many_images")
    large = await make().post(PATH, json=looking_at(*[png(4 * 1024 * 1024)] * 2))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


def test_a_large_body_is_large_by_its_texts_not_by_its_parts() -> None:
    with pytest.raises(ApiProblem, match="too many parts"):
        parse_chat(b'{"model": "m", "messages": [' + b"[]," * 600_000 + b"[]]}")


async def test_row_059_the_requests_id_goes_in_out_and_upstream(
    shop: Any, town: Any, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    client = make(answering(seen), telemetry=Telemetry([log_facts()]))
    asked = town.challenge_of(await client.post(PATH, json=body()))
    headers = {**shop.payer.pay(asked), "X-Request-ID": "mine-59"}
    paid = await client.post(PATH, json=body(), headers=headers)
    assert (paid.headers["x-request-id"], seen[0]["_id"]) == ("mine-59", "mine-59")
    lines = [line for line in capsys.readouterr().out.splitlines() if "sale." in line]
    assert lines
    assert all("mine-59" in line for line in lines), lines
    assert request_id.get() == ""


@pytest.mark.parametrize("odd", ["", "a b", "x" * 129, "a\tb"])
async def test_row_059_row_060_an_id_that_cannot_be_one_is_replaced(make: Make, odd: str) -> None:
    answer = await make().post("/v1/chat/completions", json={}, headers={"X-Request-ID": odd})
    given = answer.headers["x-request-id"]
    assert given.startswith("req_")
    assert answer.json()["meta"]["request_id"] == given


@pytest.mark.parametrize("preferred", ["solana", "base", "solana-devnet", "eip155:84532", "Base", "nowhere"])
async def test_row_061_the_preferred_network_comes_first(make: Make, town: Any, preferred: str) -> None:
    answer = await make().post(PATH, json=body(), headers={"X-Preferred-Network": preferred})
    first = town.challenge_of(answer).accepts[0].network
    assert first == (town.SVM if preferred.startswith("solana") else town.EVM)
