"""A gateway that sells what the seeds' examples ask for, over a real town: both chains, facilitator, demo model."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import pytest

from x402.billing import Bill
from x402.client.auth import X402Auth
from x402.client.chat import AsyncChat
from x402.client.choose import Policy
from x402.client.identity import Identity
from x402.devnet.town import Town
from x402.devnet.town_serving import listen, serving
from x402.gateway.app import create_app
from x402.gateway.inference.price_file import read_catalogue
from x402.networks import BASE_SEPOLIA
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter
from x402.settings import GatewaySettings

SECONDS = 60
PROVIDER = "8W7X1tGnWh9CXwnPD7wgke31Gdcqmex4LapJvQ2afBUq"
"""The provider whom the seeds name; a public key, of which nobody here has the private one."""

T = TypeVar("T")

_ECHO, _STORY = "demo/echo-1", "demo/story-1"
_LISTED = "prompt = 0.5\ncompletion = 1.5\n"
_CHAT = "context_length = 8192\ndefault_output_tokens = 256\n"


def _per_1k(dollars: str) -> str:
    return f"unit = 'per_1k'\nprompt = {dollars}\ncompletion = {dollars}\n"


MODELS = {
    "openai/gpt-4o": (_ECHO, _CHAT, _LISTED),
    "openai/gpt-4": (_ECHO, _CHAT, _per_1k("0.03")),
    "openai/gpt-3.5-turbo": (_ECHO, _CHAT, _per_1k("0.002")),
    "anthropic/claude-3-5-sonnet": (_ECHO, _CHAT, _LISTED),
    "deepseek/deepseek-chat": (_STORY, _CHAT, _LISTED),
    "deepseek-chat-v3": (_ECHO, f"{_CHAT}provider_id = '{PROVIDER}'\n", _LISTED),
    "openai/text-embedding-ada-002": (
        "demo/embed-1",
        "output_modalities = ['embedding']\n",
        "prompt = 0.1\ncompletion = 0\n",
    ),
    "openai/dall-e-3": ("demo/picture-1", "output_modalities = ['image']\n", "images = { '1024x1024' = 0.040 }\n"),
}
"""What is sold: the model of the seeds, the demo's model behind it, what it is, and its price (aimo row 76)."""


def price_list(api_base: str) -> str:
    """The operator's TOML."""
    return "\n".join(
        f"[[models]]\nname = '{name}'\n{labels}[models.pricing]\n{price}"
        f"[models.params]\nmodel = '{model}'\napi_base = '{api_base}'\n"
        for name, (model, labels, price) in MODELS.items()
    )


class Loop:
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


@dataclass(frozen=True)
class Street:
    """A town with the seeds' gateway in it. `url` is the gateway's, without a path; `identity` is the buyer, who has
    paid into a balance, and `key` an API key that spends it."""

    town: Town
    url: str
    identity: Identity
    key: str
    loop: Loop
    provider: str = PROVIDER

    def bills(self) -> Sequence[Bill]:
        """What the gateway has written down for the buyer, newest first."""
        book = SqlAccounts(self.town.gateway_ledger)
        return self.loop.now(book.bills(BillFilter(account=self.identity.account)))

    def buyer(self, network: str = "", *, sign_in: Identity | bool = False) -> X402Auth:
        """The buyer's `auth=`, with a journal of its own."""
        return X402Auth(
            self.town.parties.buyer,
            policy=Policy(networks=(network,) if network else (), mainnet=False),
            journal=":memory:",
            svm_rpc=self.town.urls.svm_rpc,
            sign_in=sign_in,
        )


async def _open(stack: AsyncExitStack, loop: Loop) -> Street:
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
    street = Street(town, url, Identity(town.parties.buyer, BASE_SEPOLIA), "", loop)
    return replace(street, key=await _key(street))


async def _key(street: Street) -> str:
    """A key as its owner makes one: a wallet pays in, signs in, and asks for it."""
    auth = street.buyer(sign_in=street.identity)
    async with AsyncChat(f"{street.url}/api/v1", auth=auth) as chat:
        await chat.deposit("0.90")
    async with httpx.AsyncClient(auth=auth.sign_in) as client:
        made = await client.post(f"{street.url}/api/v1/keys", json={"name": "seeds"})
    return str(made.json()["key"])


@pytest.fixture(scope="session")
def street() -> Iterator[Street]:
    loop, stack = Loop(), AsyncExitStack()
    try:
        yield loop.now(_open(stack, loop))
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
