"""AimoClient: the seeds' own kit by its verbs, over any gateway (aimo rows 53, 92)."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from x402 import AimoClient, AimoError, AsyncAimoClient
from x402.client.profile import LEGACY, OURS
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, Moved

from .seller import Answer, Seller, delivers, offer, shop
from .test_chat import chunks

MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
PLAIN = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
IMAGE = {"created": 1, "data": [{"url": "https://a.test/i.png"}]}
VECTOR = {"object": "list", "data": [{"index": 0, "embedding": [0.5, -1]}], "usage": {"prompt_tokens": 2}}
MODELS = {"object": "list", "data": [{"id": "openai/gpt-4o"}]}


def whatever(request: Any) -> Answer:
    """A legacy gateway: every success wrapped, streams as they are."""
    path = request.url.path.removeprefix("/v1/")
    if path == "models":
        return wrapped(MODELS)
    asked = json.loads(request.content)
    if asked.get("stream"):
        return Answer(200, {"Content-Type": "text/event-stream"}, chunks("Once", " upon"))
    return wrapped({"chat/completions": PLAIN, "images/generations": IMAGE, "embeddings": VECTOR}[path])


def wrapped(data: Any) -> Answer:
    return Answer(200, body=json.dumps({"success": True, "data": data, "meta": {"request_id": "req_1"}}).encode())


def client(seller: Any, **options: Any) -> AimoClient:
    http = httpx.Client(transport=httpx.MockTransport(seller))
    return AimoClient(**({"api_key": "your_api_key_here"} | options), http_client=http)


def test_row_092_the_verbs_of_the_kit() -> None:
    seller = Seller(whatever)
    aimo = client(seller)
    assert aimo.caller.profile is LEGACY
    response = aimo.chat.completions.create(model="gpt-4", messages=MESSAGES, max_tokens=100)
    assert response.choices[0].message.content == response["choices"][0]["message"]["content"] == "Hi"
    image = aimo.images.generate(model="dall-e-3", prompt="A city", size="1024x1024", quality="standard", n=1)
    assert image.data[0].url == "https://a.test/i.png"
    vector = aimo.embeddings.create(model="text-embedding-ada-002", input="sunny")
    assert vector.data[0].embedding == [0.5, -1]
    assert [model.id for model in aimo.models.list()] == [model.id for model in aimo.models.list().data]
    told = "".join(
        chunk.choices[0].delta.content
        for chunk in aimo.chat.completions.create(model="gpt-4", messages=MESSAGES, stream=True)
        if chunk.choices[0].delta.content
    )
    assert told == "Once upon"
    sent = [json.loads(seen.content) for seen in seller.seen if seen.method == "POST"]
    assert [set(body) - {"model"} for body in sent] == [
        {"messages", "max_tokens"},
        {"prompt", "size", "quality", "n"},
        {"input"},
        {"messages", "stream"},
    ]
    assert {seen.headers["authorization"] for seen in seller.seen} == {"Bearer your_api_key_here"}
    assert {seen.url.rpartition("/v1/")[0] for seen in seller.seen} == {"https://api.aimo.network"}


def test_row_092_the_same_verbs_awaited() -> None:
    async def go() -> None:
        http = httpx.AsyncClient(transport=httpx.MockTransport(Seller(whatever)))
        async with AsyncAimoClient("k", base_url="https://a.test/v1", http_client=http) as aimo:
            response = await aimo.chat.completions.create(model="gpt-4", messages=MESSAGES)
            assert response.choices[0].message.content == "Hi"
            stream = await aimo.chat.completions.create(model="gpt-4", messages=MESSAGES, stream=True)
            assert [chunk.choices[0].delta.content async for chunk in stream] == ["Once", " upon"]
            assert (await aimo.images.generate(model="m", prompt="p")).data[0].url
            assert (await aimo.embeddings.create(model="m", input=["a", "b"])).data[0].embedding
            assert (await aimo.models.list(free=True)).data[0].id == "openai/gpt-4o"

    anyio.run(go)


@pytest.mark.parametrize("status", [401, 429, 500, 404])
def test_row_053_an_error_has_its_status(status: int) -> None:
    body = {"success": False, "error": {"code": "c", "message": "m", "details": "d"}, "meta": {"request_id": "r"}}
    aimo = client(Seller(Answer(status, body=json.dumps(body).encode())))
    with pytest.raises(AimoError) as raised:
        aimo.chat.completions.create(model="gpt-4", messages=MESSAGES)
    error = raised.value
    assert (error.status_code, error.status, error.code, error.details) == (status, status, "c", {"details": "d"})
    assert str(error) == "c: m"


def test_row_053_every_failure_of_a_call_is_one_error(wallet: Wallet) -> None:
    dear = client(Seller(shop(delivers(), offer(amount=5_000_000))), api_key="", wallet=wallet, journal=":memory:",
                  base_url="https://a.test/v1")  # fmt: skip
    with pytest.raises(AimoError) as raised:
        dear.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert isinstance(raised.value, DeclinedError)
    assert (raised.value.status_code, raised.value.moved) == (402, Moved.NO)
    gone = client(Seller(Answer(fails="ConnectError")))
    with pytest.raises(AimoError) as raised:
        gone.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert raised.value.status_code >= 500


def test_an_address_that_somebody_named_may_be_any_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client(Seller(), base_url="https://a.test/v1").caller.profile is OURS
    monkeypatch.setenv("AIMO_BASE_URL", "https://b.test/v1")
    assert client(Seller()).caller.profile is OURS
    assert client(Seller(), profile="legacy").caller.profile is LEGACY


def test_it_closes_what_it_opened() -> None:
    with AimoClient("k") as aimo:
        pass
    assert aimo.caller._http.is_closed
    http = httpx.Client()
    AimoClient("k", http_client=http).close()
    assert not http.is_closed
