"""A gateway that sells what the seeds' examples ask for, over a real town: both chains, facilitator, demo model."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from x402.devnet.town import Town
from x402.devnet.town_serving import listen, serving
from x402.gateway.app import create_app
from x402.gateway.inference.price_file import read_catalogue
from x402.settings import GatewaySettings

SECONDS = 60
PROVIDER = "8W7X1tGnWh9CXwnPD7wgke31Gdcqmex4LapJvQ2afBUq"
"""The provider whom the seeds name; a public key, of which nobody here has the private one."""

T = TypeVar("T")

_PRICE = "prompt = 0.5\ncompletion = 1.5\n"
MODELS = {
    "openai/gpt-4o": ("demo/echo-1", _PRICE),
    "openai/gpt-4": ("demo/echo-1", "unit = 'per_1k'\nprompt = 0.03\ncompletion = 0.03\n"),
    "openai/gpt-3.5-turbo": ("demo/echo-1", "unit = 'per_1k'\nprompt = 0.002\ncompletion = 0.002\n"),
    "anthropic/claude-3-5-sonnet": ("demo/echo-1", _PRICE),
    "deepseek/deepseek-chat": ("demo/story-1", _PRICE),
    "deepseek-chat-v3": ("demo/echo-1", _PRICE),
}
"""What is sold: the model of the seeds, the demo's model behind it, and the price (aimo row 76)."""


def price_list(api_base: str) -> str:
    """The operator's TOML."""
    entries = [
        f'[[models]]\nname = "{name}"\n'
        + (f'provider_id = "{PROVIDER}"\n' if "/" not in name else "")
        + f'[models.pricing]\n{price}[models.params]\nmodel = "{model}"\napi_base = "{api_base}"\n'
        for name, (model, price) in MODELS.items()
    ]
    return "\n".join(entries)


@dataclass(frozen=True)
class Street:
    """A town with the seeds' gateway in it. `url` is the gateway's, without a path."""

    town: Town
    url: str


class _Loop:
    """A loop on a thread of its own, so that blocking programs can talk to what runs on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="street")
        self._thread.start()

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _open(stack: AsyncExitStack) -> Street:
    town = await stack.enter_async_context(Town())
    listener = listen()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(
        GatewaySettings.model_construct(),
        catalogue=read_catalogue(price_list(f"{town.urls.model}/v1"), environment={}, now=0),
        facilitator=town.urls.facilitator,
        pay_to=town.parties.pay_to,
        ledger=town.gateway_ledger,
        public_url=url,
    )
    await stack.enter_async_context(serving(app, listener))
    return Street(town, url)


@pytest.fixture(scope="session")
def street() -> Iterator[Street]:
    loop, stack = _Loop(), AsyncExitStack()
    try:
        yield loop.now(_open(stack))
    finally:
        loop.now(stack.aclose())
        loop.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or URL of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("X402_", "AIMO_", "OPENAI_", "EVM_", "SVM_", "SOLANA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
