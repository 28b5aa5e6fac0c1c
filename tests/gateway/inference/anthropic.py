"""A model server that speaks Anthropic's Messages API, on a real port, and is as strict about it as the vendor is."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from x402.devnet.town_serving import listen, serving

KEY = "sk-ant-test"
USAGE = {"input_tokens": 11, "output_tokens": 1, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}


def refusal(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status)


@dataclass
class Vendor:
    """What is answered is put together from the request; `dies` ends a stream with an error."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    dies: bool = False
    junk: bytes = b""
    url: str = ""

    async def messages(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if request.headers.get("x-api-key") != KEY or request.headers.get("anthropic-version") != "2023-06-01":
            return refusal(401, "authentication_error", "invalid x-api-key")
        if self.status != 200:
            return refusal(self.status, "overloaded_error", "Overloaded")
        wrong = _wrong(body)
        if wrong:
            return refusal(400, "invalid_request_error", wrong)
        if self.junk:
            return Response(self.junk, media_type="text/event-stream" if body.get("stream") else "application/json")
        content, reason = _content(body)
        if not body.get("stream"):
            message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
            usage = USAGE | {"output_tokens": 9}
            return JSONResponse(message | {"content": content, "stop_reason": reason, "usage": usage})
        return StreamingResponse(self._events(body, content, reason), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], content: list[dict[str, Any]], reason: str) -> AsyncIterator[bytes]:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        yield _event("message_start", message=message | {"usage": USAGE})
        yield _event("ping")
        for index, block in enumerate(content):
            if block["type"] == "text":
                yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""})
                for word in block["text"].split(" "):
                    event = _event("content_block_delta", index=index, delta={"type": "text_delta", "text": f"{word} "})
                    # Cut where no event ends, as networks do.
                    yield event[:17]
                    yield event[17:]
            else:
                yield _event("content_block_start", index=index, content_block={**block, "input": {}})
                told = json.dumps(block["input"]) if block["input"] else ""
                for part in (told[:5], told[5:]):
                    delta = {"type": "input_json_delta", "partial_json": part}
                    yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
            if self.dies:
                yield _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
                return
        yield _event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 9})
        yield _event("message_stop")


def _event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def _wrong(body: dict[str, Any]) -> str:
    """What the vendor refuses, in its words."""
    known = {"model", "max_tokens", "messages", "system", "stream", "temperature", "top_p", "stop_sequences", "tools",
             "tool_choice", "metadata"}  # fmt: skip
    if extra := body.keys() - known:
        return f"{extra.pop()}: Extra inputs are not permitted"
    if type(body.get("max_tokens")) is not int:
        return "max_tokens: Field required"
    if not 0 <= body.get("temperature", 1) <= 1:
        return "temperature: range: 0..1"
    roles = [message["role"] for message in body["messages"]]
    if not roles or roles[0] != "user" or any(one == other for one, other in itertools.pairwise(roles)):
        return "messages: roles must alternate"
    blocks = [block for message in body["messages"] for block in message["content"]]
    if any(block["type"] == "text" and not block["text"] for block in blocks):
        return "messages: text content blocks must be non-empty"
    uses = {block["id"] for block in blocks if block["type"] == "tool_use"}
    results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
    return "" if uses == results else "messages: tool_use ids were found without tool_result blocks"


def _content(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    if body.get("tools") and body["tool_choice"]["type"] in ("any", "tool"):
        tool = body["tools"][0]
        given = dict.fromkeys(tool["input_schema"].get("properties", {}), "here")
        block = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": given}
        return [{"type": "text", "text": "Let me look."}, block], "tool_use"
    return [{"type": "text", "text": "Hello to you"}], "max_tokens" if body["max_tokens"] < 3 else "end_turn"


@asynccontextmanager
async def vendor() -> AsyncIterator[Vendor]:
    """One that runs, at `url`."""
    found = Vendor()
    app = Starlette(routes=[Route("/v1/messages", found.messages, methods=["POST"])])
    listener = listen()
    async with serving(app, listener):
        found.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        yield found
