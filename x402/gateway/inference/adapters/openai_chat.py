"""OpenAI's own API: everything passes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.gateway.inference.adapters.api_format import Translator


class OpenAiChat:
    """Implements `ApiFormat`."""

    def path(self, path: str) -> str | None:
        return path

    def headers(self, api_key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def objection(self, members: Mapping[str, Any]) -> str:
        return ""

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return dict(body)

    def answer(self, body: bytes, created: int) -> bytes:
        return body

    def translator(self, created: int) -> Translator | None:
        return None
