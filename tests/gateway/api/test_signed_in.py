"""Behind a wallet's sign-in, as the beta sells it, and behind a key: a balance pays for what was used (rows 1, 3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.accounts.wallets import Signer
from x402.billing import EntryKind, Posting
from x402.devnet.model import ECHO, EMBED, PICTURE, STORY
from x402.gateway.problem import EMPTY_BALANCE
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter

Make = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello, world!"}]
EVM = "eip155:84532"
ACCOUNT = f"{EVM}:{Signer().address(EVM)}"


def signed_in(shop: Any) -> dict[str, str]:
    where: Any = {"domain": "gateway.example", "uri": "https://gateway.example/api/v1"}
    return Signer().header(shop.now, **where)


async def fill(shop: Any, units: int) -> SqlAccounts:
    book = SqlAccounts(shop.ledger)
    await book.post(Posting(account=ACCOUNT, kind=EntryKind.DEPOSIT, reference="fill", units=units))
    return book


@pytest.mark.parametrize("stream", [False, True])
async def test_row_003_row_064_the_balance_pays_for_what_was_used(shop: Any, make: Make, stream: bool) -> None:
    client = make()
    book = await fill(shop, 10_000)
    members = {"model": STORY, "messages": HELLO, "max_tokens": 20, "stream": stream, "user": "me"}
    answer = await client.post(PATH, json=members, headers=signed_in(shop))
    assert answer.status_code == 200, answer.text
    assert "payment-response" not in answer.headers
    await shop.gateway.state.paywall.members.tab.drain(5)
    (bill,) = await book.bills(BillFilter(account=ACCOUNT))
    assert bill.metered.completion_tokens == 20
    assert bill.metered.complete
    assert (await book.balance(ACCOUNT)).units == 10_000 - bill.metered.charged
    assert bill.tags == {"user": "me"}
    assert shop.bank.moved == {}


async def test_row_064_an_empty_balance_says_both(shop: Any, make: Make, town: Any) -> None:
    await fill(shop, 1)
    answer = await make().post(PATH, json={"model": ECHO, "messages": HELLO}, headers=signed_in(shop))
    told = answer.json()
    assert answer.status_code == 402
    assert told["x402Version"] == 2
    assert told["error"] in EMPTY_BALANCE
    assert told["accepts"] == json.loads(town.challenge_of(answer).model_dump_json(by_alias=True))["accepts"]
    assert told["details"]


async def test_row_045_row_064_a_bad_sign_in_is_told_in_the_betas_shape(make: Make) -> None:
    answer = await make().post(PATH, json={"model": ECHO, "messages": HELLO}, headers={"SIGN-IN-WITH-X": "e30="})
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert error["code"]
    assert error["message"]
    assert "type" not in error


async def test_row_003_the_stock_sdk_signs_in_by_a_header(shop: Any, make: Make) -> None:
    book = await fill(shop, 10_000)
    http: Any = httpx.AsyncClient(transport=make()._transport)
    options: Any = {"base_url": "https://gateway.example/api/v1", "api_key": "x402", "http_client": http}
    async with openai.AsyncOpenAI(default_headers=signed_in(shop), **options) as sdk:
        whole = await sdk.chat.completions.create(model=ECHO, messages=HELLO)
        assert whole.choices[0].message.content == "You said: Hello, world!"
        stream = await sdk.chat.completions.create(model=ECHO, messages=HELLO, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert said == "You said: Hello, world!"
    await shop.gateway.state.paywall.members.tab.drain(5)
    assert len(await book.bills(BillFilter(account=ACCOUNT))) == 2
    assert shop.bank.moved == {}


async def key_of(shop: Any, client: httpx.AsyncClient) -> str:
    made = await client.post("/api/v1/keys", json={}, headers=signed_in(shop))
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


async def test_row_001_row_062_row_094_the_stock_sdk_needs_only_a_key(shop: Any, make: Make) -> None:
    """Chat, stream, images, embeddings and models, as any program does it that knows OpenAI's API."""
    client = make()
    book = await fill(shop, 1_000_000)
    key = await key_of(shop, client)
    assert key.startswith("aimo-sk-v2-")
    http: Any = httpx.AsyncClient(transport=client._transport)
    async with openai.AsyncOpenAI(base_url="https://gateway.example/api/v1", api_key=key, http_client=http) as sdk:
        whole = await sdk.chat.completions.create(model=ECHO, messages=HELLO)
        assert whole.choices[0].message.content == "You said: Hello, world!"
        stream = await sdk.chat.completions.create(model=ECHO, messages=HELLO, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert said == "You said: Hello, world!"
        assert (await sdk.images.generate(model=PICTURE, prompt="sea", size="256x256")).data
        assert (await sdk.embeddings.create(model=EMBED, input="one")).data[0].embedding
        assert [model.id async for model in await sdk.models.list()]
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="nobody/nothing", messages=HELLO)
        assert missing.value.body["type"] == "model_not_found"  # type: ignore[index]
    await shop.gateway.state.paywall.members.tab.drain(5)
    bills = await book.bills(BillFilter(account=ACCOUNT))
    assert [bill.metered.endpoint for bill in bills].count("chat.completions") == 2
    assert {bill.key_id for bill in bills} != {""}
    spent = sum(bill.metered.charged for bill in bills)
    assert (await book.balance(ACCOUNT)).units == 1_000_000 - spent
    assert shop.bank.moved == {}


async def test_row_004_row_065_the_old_address_takes_a_key_and_bare_names(shop: Any, make: Make) -> None:
    client = make()
    await fill(shop, 1_000_000)
    bearer = {"Authorization": f"Bearer {await key_of(shop, client)}"}
    for path in ("/v1/chat/completions", "/v1/inference"):
        told = (await client.post(path, json={"model": "echo-1", "messages": HELLO}, headers=bearer)).json()
        assert told["choices"][0]["message"]["content"] == "You said: Hello, world!"
        assert (told["success"], told["meta"]["model"]) == (True, "echo-1")


@pytest.mark.parametrize("base", ["/api/v1", "/v1"])
async def test_row_051_row_052_a_bad_key_is_401_in_its_profiles_shape(make: Make, base: str) -> None:
    bad = {"Authorization": "Bearer aimo-sk-v2-nobody"}
    answer = await make().post(f"{base}/chat/completions", json={"model": ECHO, "messages": HELLO}, headers=bad)
    error = answer.json()["error"]
    assert answer.status_code == 401
    assert (error["code"], error["reason"]) == (
        ("authentication_failed", "invalid_api_key") if base == "/v1" else (401, "invalid_api_key")
    )
    assert "payment-required" not in answer.headers
