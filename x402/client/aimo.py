"""The caller with the verbs of AiMo's own kit, so that its examples run with one line changed (aimo row 92):

    from x402 import AimoClient, AimoError

    client = AimoClient(api_key="...")
    client.chat.completions.create(model="gpt-4", messages=[...])

It is `Chat` under other names: a key, a sign-in or a wallet opens it, as its profile says.
"""

from __future__ import annotations

from typing import Any, Self

from x402.client.chat import AsyncChat, Chat
from x402.client.profile import LEGACY
from x402.errors import X402Error
from x402.settings import ClientSettings

AimoError = X402Error
"""Whatever goes wrong in a call: `status_code`, `code`, `message`, and whether money moved."""


class _Completions:
    def __init__(self, caller: Chat | AsyncChat) -> None:
        self._caller = caller

    def create(self, *, model: str, messages: Any, stream: bool = False, **params: Any) -> Any:
        """A whole answer, or with `stream` an iterator over its chunks. Awaited in an asynchronous client."""
        verb = self._caller.stream if stream else self._caller.create
        return verb(model=model, messages=messages, **params)


class _Talk:
    def __init__(self, caller: Chat | AsyncChat) -> None:
        self.completions = _Completions(caller)


class _Images:
    def __init__(self, caller: Chat | AsyncChat) -> None:
        self._caller = caller

    def generate(self, *, model: str, prompt: str, **params: Any) -> Any:
        """Images: `answer.data[0].url`. Awaited in an asynchronous client."""
        return self._caller.images(model=model, prompt=prompt, **params)


class _Embeddings:
    def __init__(self, caller: Chat | AsyncChat) -> None:
        self._caller = caller

    def create(self, *, model: str, input: Any, **params: Any) -> Any:
        """Vectors: `answer.data[0].embedding`. Awaited in an asynchronous client."""
        return self._caller.embeddings(model=model, input=input, **params)


class _Models:
    def __init__(self, caller: Chat | AsyncChat) -> None:
        self._caller = caller

    def list(self, **filters: Any) -> Any:
        """What is sold. Awaited in an asynchronous client."""
        return self._caller.models(**filters)


class _Client:
    """What both clients are made of: one caller, and its verbs under the kit's names."""

    def __init__(self, caller: Chat | AsyncChat) -> None:
        self.chat = _Talk(caller)
        self.images = _Images(caller)
        self.embeddings = _Embeddings(caller)
        self.models = _Models(caller)


def _options(api_key: str | None, base_url: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """An address that somebody named may be any gateway; without one it is the kit's own."""
    named = base_url or ClientSettings.read().base_url
    profile = {} if named or "profile" in options else {"profile": LEGACY}
    return {"base_url": base_url, "api_key": api_key, **profile, **options}


class AimoClient(_Client):
    """AiMo's client; blocking. `api_key` and `base_url` are the environment's when absent (`AIMO_API_KEY`,
    `AIMO_BASE_URL`); `options` are those of `Chat`, such as `profile` and `wallet`. Raises `AimoError`."""

    def __init__(self, api_key: str | None = None, *, base_url: str | None = None, **options: Any) -> None:
        self.caller = Chat(**_options(api_key, base_url, options))
        super().__init__(self.caller)

    def close(self) -> None:
        """Close the HTTP client, unless it was given."""
        self.caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncAimoClient(_Client):
    """AiMo's client; asynchronous. As `AimoClient`, with every call awaited."""

    def __init__(self, api_key: str | None = None, *, base_url: str | None = None, **options: Any) -> None:
        self.caller = AsyncChat(**_options(api_key, base_url, options))
        super().__init__(self.caller)

    async def aclose(self) -> None:
        """Close the HTTP client, unless it was given."""
        await self.caller.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
