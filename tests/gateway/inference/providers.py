"""Providers that do as they are told, and a catalogue of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.price_file import read_catalogue

Answer = Callable[[dict[str, Any]], Response]
HELLO = [{"role": "user", "content": "Hello, world!"}]


def chunk(content: str = "", reason: str | None = None) -> bytes:
    """One event of a stream."""
    delta = {"content": content} if content else {}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n".encode()


def usage_event(prompt: int = 3, completion: int = 2) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()


def said(words: str, prompt: int = 3, completion: int = 2) -> Answer:
    """A provider that says these words, streamed or whole."""

    def answer(asked: dict[str, Any]) -> Response:
        if asked.get("stream"):
            return events(chunk(words), chunk(reason="stop"), usage_event(prompt, completion))
        message = {"role": "assistant", "content": words}
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    return answer


def events(*said: bytes) -> Response:
    """These events, one after the other."""

    async def stream() -> AsyncIterator[bytes]:
        for event in said:
            yield event

    return StreamingResponse(stream(), media_type="text/event-stream")


def broken(status: int = 502) -> Answer:
    return lambda asked: JSONResponse({"error": {"message": "gone"}}, status)


@dataclass
class Providers:
    """Model servers by host name, in one ASGI app. `waits` holds an event for each that is to be slow."""

    answers: dict[str, Answer]
    waits: dict[str, asyncio.Event] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        name = request.url.hostname.partition(".")[0] if request.url.hostname else ""
        self.asked.append(name)
        body = await request.json()
        self.bodies.append(body)
        try:
            if name in self.waits:
                await self.waits[name].wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        await self.answers[name](body)(scope, receive, send)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self, raise_app_exceptions=False))


def stock(prices: Mapping[str, str], *, top: str = "", params: str = "", **extra: str) -> Catalogue:
    """The model `m` at a provider of each name, at that many dollars for a million tokens in and out."""
    entries = [
        f'[[models]]\nname = "m"\nprovider_name = "{name}"\n{extra.get(name, "")}\n[models.pricing]\n'
        f'prompt = {price}\ncompletion = {price}\n[models.params]\napi_base = "http://{name}.test/v1"\n{params}\n'
        for name, price in prices.items()
    ]
    return read_catalogue(top + "\n" + "".join(entries), environment={}, now=0)
