"""Anthropic's stream of events as OpenAI's chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from x402.gateway.inference.events import data_of, next_event
from x402.wire.nesting import read_json

STOP_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""`finish_reason` by `stop_reason`."""

_EVENT_LIMIT = 1024 * 1024


def usage_json(usage: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's usage: what was read from or written to the provider's cache is part of the prompt."""
    cached = _count(usage, "cache_read_input_tokens")
    prompt = _count(usage, "input_tokens") + cached + _count(usage, "cache_creation_input_tokens")
    completion = _count(usage, "output_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class MessageEvents:
    """Implements `Translator` for one answer."""

    def __init__(self, created: int) -> None:
        self._rest = b""
        self._frame: dict[str, Any] = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": "",
        }
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()

    def feed(self, chunk: bytes) -> bytes:
        self._rest += chunk
        out: list[bytes] = []
        while True:
            event, self._rest = next_event(self._rest)
            if event is None:
                break
            data = data_of(event)
            if data is not None:
                out += self._translate(read_json(data))
        if len(self._rest) > _EVENT_LIMIT:
            raise ValueError(f"an event is longer than {_EVENT_LIMIT} bytes")
        return b"".join(out)

    def _translate(self, event: Any) -> list[bytes]:
        if not isinstance(event, dict):
            raise ValueError("an event is no object")
        kind, index = event.get("type"), event.get("index")
        place = index if isinstance(index, int) else 0
        if kind == "message_start":
            message = _member(event, "message")
            self._frame |= {"id": str(message.get("id", "")), "model": str(message.get("model", ""))}
            self._usage |= _member(message, "usage")
            return [self._delta({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._begun(place, _member(event, "content_block"))
        if kind == "content_block_delta":
            return self._grown(place, _member(event, "delta"))
        if kind == "content_block_stop" and place in self._silent:
            # A call without arguments: its reader expects an object all the same.
            self._silent.discard(place)
            return [self._call(place, {"function": {"arguments": "{}"}})]
        if kind == "message_delta":
            self._usage |= _member(event, "usage")
            reason = _member(event, "delta").get("stop_reason")
            return [self._delta({}, STOP_REASONS.get(str(reason), "stop"))] if reason else []
        if kind == "message_stop":
            return [_event(self._frame | {"choices": [], "usage": usage_json(self._usage)}), b"data: [DONE]\n\n"]
        if kind == "error":
            error = _member(event, "error")
            told = {"message": str(error.get("message", ""))[:500], "type": str(error.get("type", ""))[:64]}
            return [_event({"error": told})]
        return []

    def _begun(self, place: int, block: Mapping[str, Any]) -> list[bytes]:
        if block.get("type") != "tool_use":
            text = block.get("text")
            return [self._delta({"content": text})] if isinstance(text, str) and text else []
        self._calls[place] = len(self._calls)
        self._silent.add(place)
        function = {"name": block.get("name"), "arguments": ""}
        return [self._call(place, {"id": block.get("id"), "type": "function", "function": function})]

    def _grown(self, place: int, delta: Mapping[str, Any]) -> list[bytes]:
        kind = delta.get("type")
        if kind == "text_delta":
            return [self._delta({"content": str(delta.get("text", ""))})]
        if kind == "thinking_delta":
            return [self._delta({"reasoning_content": str(delta.get("thinking", ""))})]
        if kind == "input_json_delta" and delta.get("partial_json"):
            self._silent.discard(place)
            return [self._call(place, {"function": {"arguments": str(delta["partial_json"])}})]
        return []

    def _call(self, place: int, members: dict[str, Any]) -> bytes:
        return self._delta({"tool_calls": [{"index": self._calls.get(place, 0), **members}]})

    def _delta(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return _event(self._frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _member(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else 0
