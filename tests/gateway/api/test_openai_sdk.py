"""The stock OpenAI SDK against `/api/v1`, its HTTP client paying by wallet (rows 6-8, 34, 38-41, 94)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest

from x402.client.auth import X402Auth
from x402.client.wallet import Wallet
from x402.devnet.demo_media import embedding
from x402.devnet.model import ECHO, EMBED, FREE, PICTURE, STORY
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter
from x402.settings import ClientSettings

Make = Callable[..., httpx.AsyncClient]
KEY = "0x" + "03" * 32
HELLO: Any = [{"role": "user", "content": "Hello, world!"}]
LOOK: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}},
}


@pytest.fixture
async def sdk(shop: Any, make: Make) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK with its default retries, over the app itself; the API key that it insists on says nothing."""
    shop.now = int(time.time())
    transport = make()._transport
    auth = X402Auth(Wallet(evm=KEY), journal=":memory:", settings=ClientSettings.model_construct())
    http = httpx.AsyncClient(transport=transport, auth=auth)
    async with openai.AsyncOpenAI(base_url="https://gateway.example/api/v1", api_key="x402", http_client=http) as sdk:  # type: ignore[arg-type]
        yield sdk


async def test_row_034_row_094_a_chat(sdk: openai.AsyncOpenAI, shop: Any) -> None:
    answer = await sdk.chat.completions.create(model=ECHO, messages=HELLO, max_tokens=50)
    assert (answer.object, answer.model) == ("chat.completion", ECHO)
    assert answer.choices[0].message.content == "You said: Hello, world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.created > 0
    assert answer.id
    assert len(shop.bank.moved) == 1


async def test_row_038_the_usage_is_what_is_billed(sdk: openai.AsyncOpenAI, shop: Any) -> None:
    answer = await sdk.chat.completions.create(model=STORY, messages=HELLO, max_tokens=20)
    assert answer.usage is not None
    (bill,) = await SqlAccounts(shop.ledger).bills(BillFilter())
    used = bill.metered
    assert (used.prompt_tokens, used.completion_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert bill.quoted == used.charged + bill.credited
    assert used.charged == used.prompt_tokens * 2 + used.completion_tokens * 8


async def test_row_039_tools(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=ECHO, messages=HELLO, tools=[LOOK], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls or []
    assert (call.type, answer.choices[0].finish_reason) == ("function", "tool_calls")
    assert call.function.name == "look"  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [ECHO, FREE])
async def test_row_040_row_041_a_stream(sdk: openai.AsyncOpenAI, shop: Any, model: str) -> None:
    stream = await sdk.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: Hello, world!"
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len(shop.bank.moved) == (1 if model == ECHO else 0)


async def test_row_007_embeddings(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.embeddings.create(model=EMBED, input=["one", "two"], dimensions=16)
    assert answer.data[1].embedding == pytest.approx(embedding("two", 16), abs=1e-6)
    plain = await sdk.embeddings.create(model=EMBED, input="one", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(embedding("one"))


async def test_row_006_images(sdk: openai.AsyncOpenAI, shop: Any) -> None:
    answer = await sdk.images.generate(model=PICTURE, prompt="A sunset", size="1024x1024", quality="standard", n=2)
    assert answer.data is not None
    assert all(one.url for one in answer.data)
    whole = await sdk.images.generate(model=PICTURE, prompt="A sunset", size="256x256", response_format="b64_json")
    assert whole.data is not None
    assert whole.data[0].b64_json
    assert [amount for _, amount in shop.bank.payees.values()] == [80_000, 10_000]


async def test_row_008_models(sdk: openai.AsyncOpenAI) -> None:
    listed = [model async for model in await sdk.models.list()]
    assert [model.id for model in listed] == [ECHO, STORY, FREE, EMBED, PICTURE]
    one = await sdk.models.retrieve(STORY)
    assert (one.id, one.object, one.owned_by) == (STORY, "model", "demo")


async def test_row_053_errors_are_the_sdks_own(sdk: openai.AsyncOpenAI, shop: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.chat.completions.create(model="demo/eco-1", messages=HELLO)
    assert (missing.value.status_code, missing.value.code, missing.value.param) == (404, "model_not_found", "model")
    assert missing.value.request_id.startswith("req_")  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError) as wrong:
        await sdk.chat.completions.create(model=ECHO, messages=HELLO, temperature=3)
    assert wrong.value.param == "temperature"
    assert shop.bank.moved == {}
