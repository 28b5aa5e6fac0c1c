"""What an adapter does: OpenAI's request into another API's, and that one's answer back into OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

CHAT = "/chat/completions"
EMBEDDINGS = "/embeddings"
IMAGES = "/images/generations"


class Translator(Protocol):
    """One streamed answer on its way."""

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's events for what has become complete. Raises `ValueError` for what is no event."""
        ...


class ApiFormat(Protocol):
    """One API. Pure: bytes and JSON in, bytes and JSON out. Paths are OpenAI's, below the base URL."""

    def path(self, path: str) -> str | None:
        """Where this API has the same, or None when it has nothing like it."""
        ...

    def headers(self, api_key: str) -> dict[str, str]:
        """How the operator's key is presented; an empty key is none."""
        ...

    def objection(self, members: Mapping[str, Any]) -> str:
        """What of a request cannot be said in this API, in words; `""` when all of it can."""
        ...

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body to send."""
        ...

    def answer(self, body: bytes, created: int) -> bytes:
        """OpenAI's whole answer. `created` is a unix second. Raises `ValueError` for what is no answer."""
        ...

    def translator(self, created: int) -> Translator | None:
        """For one streamed answer; None when it is OpenAI's already, and passes as it is."""
        ...
