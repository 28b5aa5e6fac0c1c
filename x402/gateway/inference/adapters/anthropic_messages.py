"""Anthropic's Messages API behind OpenAI's chat completions: messages, images, tools, stop reasons, usage.

What has no counterpart there and changes nothing that a buyer can rely on (`seed`, penalties, `logit_bias`, `user`'s
meaning) is left out; what would change the answer's shape (`n`, `logprobs`, a JSON schema) is an objection. A
temperature above 1 is 1, as in the vendor's own translation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from x402.gateway.inference.adapters.anthropic_stream import STOP_REASONS, MessageEvents, usage_json
from x402.gateway.inference.adapters.api_format import CHAT, Translator
from x402.wire.nesting import read_json

VERSION = "2023-06-01"
"""The header `anthropic-version`."""

_DATA_URL = re.compile(r"data:(image/[a-z.+-]+);base64,([A-Za-z0-9+/=]+)", re.ASCII)
_CHOICES = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


class AnthropicMessages:
    """Implements `ApiFormat`."""

    def path(self, path: str) -> str | None:
        return "/messages" if path == CHAT else None

    def headers(self, api_key: str) -> dict[str, str]:
        return {"anthropic-version": VERSION} | ({"x-api-key": api_key} if api_key else {})

    def objection(self, members: Mapping[str, Any]) -> str:
        if (members.get("n") or 1) > 1:
            return "n: this model answers once per request"
        if members.get("logprobs"):
            return "logprobs: this model does not tell them"
        if (members.get("response_format") or {}).get("type", "text") != "text":
            return "response_format: this model answers in text; ask for JSON in the prompt, or use a tool"
        try:
            _messages(members.get("messages") or [])
            _tools(members)
        except ValueError as error:
            return str(error)
        return ""

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        system, messages = _messages(body.get("messages") or [])
        asked: dict[str, Any] = {
            "model": body["model"],
            "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
            "messages": messages,
            **_tools(body),
        }
        if system:
            asked["system"] = system
        if body.get("temperature") is not None:
            asked["temperature"] = min(body["temperature"], 1)
        if body.get("top_p") is not None:
            asked["top_p"] = body["top_p"]
        if body.get("stop"):
            asked["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
        if body.get("stream"):
            asked["stream"] = True
        if body.get("user"):
            asked["metadata"] = {"user_id": body["user"]}
        return asked

    def answer(self, body: bytes, created: int) -> bytes:
        said = read_json(body)
        if not isinstance(said, dict) or not isinstance(said.get("content"), list):
            raise ValueError("the answer has no content")
        blocks = [block for block in said["content"] if isinstance(block, dict)]
        calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
        text = "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
        thought = "".join(str(block.get("thinking", "")) for block in blocks if block.get("type") == "thinking")
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        reason = STOP_REASONS.get(str(said.get("stop_reason")), "stop")
        completion: dict[str, Any] = {
            "id": str(said.get("id", "")),
            "object": "chat.completion",
            "created": created,
            "model": str(said.get("model", "")),
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }
        if isinstance(said.get("usage"), dict):
            completion["usage"] = usage_json(said["usage"])
        return json.dumps(completion).encode()

    def translator(self, created: int) -> Translator | None:
        return MessageEvents(created)


def _messages(messages: list[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system's blocks and the conversation, neighbours of one role joined, as tool results have to be.

    Raises `ValueError` in words for what cannot be said.
    """
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), index)
            continue
        if role in ("tool", "function"):
            kind: dict[str, Any] = {"type": "tool_result", "tool_use_id": str(message.get("tool_call_id", ""))}
            blocks = [kind | {"content": _blocks(message.get("content"), index)}]
        else:
            blocks = _blocks(message.get("content"), index) + list(_tool_uses(message, index))
        speaker = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    return system, turns


def _blocks(content: Any, index: int) -> list[dict[str, Any]]:
    # An empty text is refused there, and says nothing.
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_block(part, index) for part in content]


def _block(part: Any, index: int) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        return {"type": "text", "text": str(part.get(kind, ""))}
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        data = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
        if data is not None:
            return {"type": "image", "source": {"type": "base64", "media_type": data[1], "data": data[2]}}
        if isinstance(url, str) and url.startswith("https://"):
            return {"type": "image", "source": {"type": "url", "url": url}}
        raise ValueError(f"messages.{index}.content: an image is a base64 data URL or an https URL for this model")
    raise ValueError(f"messages.{index}.content: this model takes text and images, no {str(kind)[:32]}")


def _tool_uses(message: Mapping[str, Any], index: int) -> Iterator[dict[str, Any]]:
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise ValueError(f"messages.{index}.tool_calls: this model knows calls of functions alone")
        try:
            arguments = read_json(function.get("arguments") or "{}")
        except (ValueError, AttributeError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError(f"messages.{index}.tool_calls: the arguments are no JSON object")
        yield {"type": "tool_use", "id": str(call.get("id", "")), "name": function.get("name"), "input": arguments}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """The members `tools` and `tool_choice`. Raises `ValueError` in words."""
    if not body.get("tools"):
        return {}
    tools = []
    for tool in body["tools"]:
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise ValueError("tools: this model takes functions alone")
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        described = {"description": function["description"]} if function.get("description") else {}
        tools.append({"name": function.get("name"), **described, "input_schema": schema})
    wanted = body.get("tool_choice") or "auto"
    if isinstance(wanted, dict):
        choice: dict[str, Any] = {"type": "tool", "name": (wanted.get("function") or {}).get("name")}
    elif wanted in _CHOICES:
        choice = dict(_CHOICES[wanted])
    else:
        raise ValueError(f"tool_choice: one of {', '.join(_CHOICES)}, or a function")
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _tool_call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id"), "type": "function", "function": function}
