"""The stock `openai` package, with nothing changed but its base URL, against a whole town (aimo row 94)."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from x402.client.chat import Chat
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.stages import State

from .conftest import Street

MESSAGES: Any = [{"role": "user", "content": "Why is the sky blue?"}]


def everything(sdk: openai.OpenAI) -> None:
    """Chat, stream, images, embeddings, models."""
    assert "openai/gpt-4o" in [model.id for model in sdk.models.list()]
    answer = sdk.chat.completions.create(model="openai/gpt-4o", messages=MESSAGES, max_tokens=20)
    assert "sky" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    with sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20, stream=True) as stream:
        assert "sky" in "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    image = sdk.images.generate(model="dall-e-3", prompt="A city", size="1024x1024", quality="standard", n=1)
    assert image.data is not None
    assert str(image.data[0].url).startswith("http")
    vectors = sdk.embeddings.create(model="text-embedding-ada-002", input=["sun", "rain"])
    assert len(vectors.data) == 2
    assert len(vectors.data[0].embedding) == len(vectors.data[1].embedding) > 1


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
def test_row_094_the_stock_package_with_a_wallet(street: Street, network: str) -> None:
    auth = street.buyer(network)
    http = httpx2.Client(auth=auth)
    with openai.OpenAI(base_url=f"{street.url}/api/v1", api_key="x402", http_client=http, max_retries=0) as sdk:
        everything(sdk)
    paid = auth.journal.history()
    assert [record.state for record in paid] == [State.SETTLED] * 4
    assert {record.entry.subject.network for record in paid} == {network}


def test_row_094_the_stock_package_signed_in(street: Street) -> None:
    """A balance pays for everything, by what was used; nothing is paid on chain."""
    auth = street.buyer(sign_in=street.identity)
    http = httpx2.Client(auth=auth)
    with Chat(f"{street.url}/api/v1", auth=auth) as chat:
        before = chat.balance().balance_micro_usdc
        with openai.OpenAI(base_url=f"{street.url}/api/v1", api_key="x402", http_client=http, max_retries=0) as sdk:
            everything(sdk)
        after = chat.balance().balance_micro_usdc
    assert auth.journal.history() == []
    assert 40_000 < before - after < 50_000, "an image for $0.04, and some tokens"


@pytest.mark.parametrize("path", ["/api/v1", "/api/alpha"])
def test_row_094_the_stock_package_with_a_key(street: Street, path: str) -> None:
    with openai.OpenAI(base_url=street.url + path, api_key=street.key, max_retries=0) as sdk:
        everything(sdk)


def test_row_094_an_error_is_the_packages_own(street: Street) -> None:
    with openai.OpenAI(base_url=f"{street.url}/api/v1", api_key="x402", max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError) as raised:
            sdk.chat.completions.create(model="gpt-40", messages=MESSAGES)
        assert raised.value.code == "model_not_found"
        with pytest.raises(openai.APIStatusError) as unpaid:
            sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert unpaid.value.status_code == 402
