"""A demo model server: OpenAI-compatible, deterministic, and honest about being a demo.

No intelligence is involved. `demo/echo-1` says the last message again, `demo/story-1` tells a story as long as it may,
`demo/free-1` is an echo that costs nothing, `demo/embed-1` makes embeddings and `demo/picture-1` pictures. Tokens are
words and marks, counted truthfully, so that everything a gateway does with `usage`, limits, streams and tools can be
tried without a model.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from x402.devnet.demo_media import embeddings_answer, picture
from x402.gateway.inference.catalogue import Catalogue, Model, Provider, Upstream
from x402.price import ModelPrice, PriceUnit, Rate

ECHO, STORY, FREE = "demo/echo-1", "demo/story-1", "demo/free-1"
EMBED, PICTURE = "demo/embed-1", "demo/picture-1"
CHATS = (ECHO, STORY, FREE)
CONTEXT_TOKENS = 8192
IMAGE_TOKENS = 64
DEFAULT_TOKENS = 256

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+$")
_STORY = (
    "A courier found a coin that paid for one question. She asked the sea where it ended, and the sea counted its "
    "waves aloud. Each number cost her a moment, and each moment was written in a book of salt. When the coin was "
    "spent the sea fell silent, gave back what was left over, and wished her a calm way home. "
)
_DEFAULTS: dict[str, Any] = {"string": "demo", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True, slots=True)
class _Ask:
    """A chat request as far as the demo understands it."""

    model: str
    tokens: list[str]
    call: dict[str, Any] | None
    n: int
    limit: int
    stream: bool
    include_usage: bool
    prompt_tokens: int

    @property
    def completion(self) -> list[str]:
        return [] if self.call else self.tokens[: self.limit]

    @property
    def finish_reason(self) -> str:
        if self.call:
            return "tool_calls"
        return "length" if len(self.tokens) > self.limit else "stop"

    @property
    def usage(self) -> dict[str, int]:
        each = count(self.call["function"]["arguments"]) + 4 if self.call else len(self.completion)
        each = min(each, self.limit)
        total = each * self.n
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": total,
            "total_tokens": self.prompt_tokens + total,
        }


class _Unfit(Exception):
    """A request that the demo refuses, with a status and OpenAI's error members."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def split(text: str) -> list[str]:
    """The demo's tokens: words and marks, each with the space before it; joined they are the text again."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(split(text))


def create_app(*, delay_seconds: float = 0.0) -> Starlette:
    """The server. `delay_seconds` passes before each token of a stream, as with a model that thinks."""

    async def chat(request: Request) -> Response:
        try:
            ask = _read(await request.body())
        except _Unfit as error:
            return _refusal(error)
        if ask.stream:
            return StreamingResponse(_stream(ask, delay_seconds), media_type="text/event-stream")
        return JSONResponse(_whole(ask))

    async def models(request: Request) -> Response:
        names = (*CHATS, EMBED, PICTURE)
        entries = [{"id": id, "object": "model", "created": 0, "owned_by": "demo"} for id in names]
        return JSONResponse({"object": "list", "data": entries})

    async def embeddings(request: Request) -> Response:
        asked = await _asked(request, EMBED, "input")
        if isinstance(asked, Response):
            return asked
        return JSONResponse(embeddings_answer(asked, _input_tokens(asked["input"])))

    async def images(request: Request) -> Response:
        asked = await _asked(request, PICTURE, "prompt")
        if isinstance(asked, Response):
            return asked
        size = asked.get("size") or "256x256"
        png = picture(asked["prompt"], "256x256" if size == "auto" else size)
        data: dict[str, Any] = {"b64_json": base64.b64encode(png).decode()}
        if asked.get("response_format") != "b64_json":
            name = hashlib.sha256(png).hexdigest()[:24]
            pictures[name] = png
            data = {"url": str(request.url_for("show", name=name))}
        return JSONResponse({"created": int(time.time()), "data": [data] * (asked.get("n") or 1)})

    async def show(request: Request) -> Response:
        png = pictures.get(request.path_params["name"])
        return Response(png, media_type="image/png") if png else Response(status_code=404)

    pictures: dict[str, bytes] = {}
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/images/generations", images, methods=["POST"]),
            Route("/v1/pictures/{name}.png", show, methods=["GET"], name="show"),
        ]
    )


def demo_catalogue(api_base: str) -> Catalogue:
    """All of the demo's models, from its one server; `api_base` ends in `/v1`."""

    def model(title: str, price: ModelPrice, takes: tuple[str, ...] = ("text",), makes: str = "text") -> Model:
        direct = replace(price, model=f"demo:{price.model}")
        provider = Provider("demo", "Demo model server", direct, Upstream(price.model, api_base))
        return Model(price.model, price.model, title, (provider,), price, "demo", 0, takes, (makes,))

    looks = ("text", "image")
    return Catalogue(
        (
            model("Echo (demo)", _chat(ECHO, "0.5", "1.5"), looks),
            model("Story (demo)", _chat(STORY, "2", "8"), looks),
            model("Free echo (demo)", _chat(FREE, "0", "0"), looks),
            model("Embeddings (demo)", ModelPrice(model=EMBED, prompt=_tokens("0.02")), makes="embedding"),
            model("Pictures (demo)", ModelPrice(model=PICTURE, image=_each("0.01"), image_kinds=_KINDS), makes="image"),
        ),
        version="demo-1",
    )


def _tokens(dollars: str) -> Rate:
    return Rate.of(dollars, PriceUnit.PER_1M)


def _each(dollars: str) -> Rate:
    return Rate.of(dollars, PriceUnit.EACH)


_KINDS = (("1024x1024", _each("0.04")), ("1024x1792", _each("0.08")), ("hd 1024x1024", _each("0.08")))


def _chat(name: str, prompt: str, completion: str) -> ModelPrice:
    return ModelPrice(
        model=name,
        prompt=_tokens(prompt),
        completion=_tokens(completion),
        default_output_tokens=DEFAULT_TOKENS,
        max_output_tokens=4096,
        context_length=CONTEXT_TOKENS,
        image_tokens=IMAGE_TOKENS,
    )


async def _asked(request: Request, model: str, member: str) -> dict[str, Any] | Response:
    """The JSON of a request for `model` that has `member`, or the answer that refuses it."""
    try:
        asked: dict[str, Any] = json.loads(await request.body())
        if asked["model"] != model:
            raise _Unfit(404, "model_not_found", f"the demo has no model {str(asked['model'])[:80]!r} for this")
        if not asked[member]:
            raise KeyError(member)
    except (ValueError, KeyError, TypeError):
        return _refusal(_Unfit(400, "invalid_request", f"model and {member} are required"))
    except _Unfit as error:
        return _refusal(error)
    return asked


def _refusal(error: _Unfit) -> Response:
    body = {"message": str(error), "type": "invalid_request_error", "code": error.code, "param": None}
    return JSONResponse({"error": body}, error.status)


def _input_tokens(given: Any) -> int:
    if isinstance(given, str):
        return count(given)
    return sum(1 if isinstance(one, int) else count(one) if isinstance(one, str) else len(one) for one in given)


def _read(body: bytes) -> _Ask:
    try:
        asked = json.loads(body)
        model, messages = asked["model"], asked["messages"]
        last = _text(messages[-1].get("content"))
        images = sum(_images(message.get("content")) for message in messages)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Unfit(400, "invalid_request", "model and messages are required") from error
    if model not in CHATS:
        raise _Unfit(404, "model_not_found", f"the demo has no model {str(model)[:80]!r}")
    tools = asked.get("tools") or []
    prompt = sum(4 + count(_text(message.get("content"))) for message in messages) + 3
    prompt += sum(count(json.dumps(tool)) for tool in tools) + images * IMAGE_TOKENS
    if prompt > CONTEXT_TOKENS:
        raise _Unfit(400, "context_length_exceeded", f"the demo reads at most {CONTEXT_TOKENS} tokens")
    tokens = _answer(model, last, asked.get("stop"))
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or DEFAULT_TOKENS
    options = asked.get("stream_options") or {}
    return _Ask(
        model=model,
        tokens=tokens,
        call=_tool_call(asked.get("tool_choice"), tools),
        n=asked.get("n") or 1,
        limit=limit,
        stream=asked.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        prompt_tokens=prompt,
    )


def _answer(model: str, last: str, stop: Any) -> list[str]:
    text = _STORY * 80 if model == STORY else f"You said: {last}"
    for mark in [stop] if isinstance(stop, str) else stop or []:
        text = text.partition(mark)[0]
    return split(text)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def _images(content: Any) -> int:
    return sum(1 for part in content if part.get("type") == "image_url") if isinstance(content, list) else 0


def _tool_call(choice: Any, tools: Sequence[Any]) -> dict[str, Any] | None:
    """The call that was asked for by name, or the first tool when one is required; arguments by type."""
    functions = [
        tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if choice == "required" and functions:
        wanted = functions[0].get("name")
    function = next((one for one in functions if wanted and one.get("name") == wanted), None)
    if function is None:
        return None
    properties = (function.get("parameters") or {}).get("properties") or {}
    arguments = {name: _DEFAULTS.get(kind.get("type", "string"), "demo") for name, kind in properties.items()}
    text = json.dumps(arguments)
    digest = hashlib.sha256(f"{wanted}{text}".encode()).hexdigest()[:24]
    return {"id": f"call_{digest}", "type": "function", "function": {"name": wanted, "arguments": text}}


def _frame(ask: _Ask, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{ask.model}{ask.tokens}{ask.limit}".encode()).hexdigest()[:24]
    return {"id": f"chatcmpl-{digest}", "object": kind, "created": int(time.time()), "model": ask.model}


def _whole(ask: _Ask) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if ask.call else "".join(ask.completion)}
    if ask.call:
        message["tool_calls"] = [ask.call]
    choices = [{"index": index, "message": message, "finish_reason": ask.finish_reason} for index in range(ask.n)]
    return _frame(ask, "chat.completion") | {"choices": choices, "usage": ask.usage}


async def _stream(ask: _Ask, delay_seconds: float) -> AsyncIterator[bytes]:
    frame = _frame(ask, "chat.completion.chunk")

    def event(choices: list[dict[str, Any]], **members: Any) -> bytes:
        return f"data: {json.dumps({**frame, 'choices': choices, **members})}\n\n".encode()

    def choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": index, "delta": delta, "finish_reason": finish_reason}]

    for index in range(ask.n):
        yield event(choice(index, {"role": "assistant", "content": ""}))
        if ask.call:
            yield event(choice(index, {"tool_calls": [{"index": 0, **ask.call}]}))
        for token in ask.completion:
            await asyncio.sleep(delay_seconds)
            yield event(choice(index, {"content": token}))
        yield event(choice(index, {}, ask.finish_reason))
    if ask.include_usage:
        yield event([], usage=ask.usage)
    yield b"data: [DONE]\n\n"
