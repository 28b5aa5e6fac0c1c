"""What an answer used, read from JSON or from a stream as it passes.

The stream is relayed event by event in its own bytes. Three things are changed: `model` is the name that the buyer
asked for (aimo row 35), an event that only brings `usage` is dropped for clients that did not ask for it, because many
read `choices[0]` without looking, and a receipt goes out right before `[DONE]` as a comment, because a named event
would reach stock OpenAI clients as a broken chunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.events import data_of, next_event
from x402.gateway.inference.tally import tokens_of
from x402.gateway.inference.upstream import UpstreamFailed
from x402.quote import Usage
from x402.wire.headers import encode_header
from x402.wire.nesting import read_json, write_json
from x402.wire.receipt import Receipt

RECEIPT_COMMENT = "x402-receipt"
BILL_COMMENT = "x402-bill"
"""What marks the charge of a stream that a balance pays for: no token moved, so it is no receipt."""
EVENT_LIMIT = 1024 * 1024

_DONE = b"data: [DONE]\n\n"


def usage_of(answer: Mapping[str, Any]) -> Usage | None:
    """The usage in a completion or chunk, or None when there is none that makes sense."""
    stated = answer.get("usage")
    if not isinstance(stated, Mapping):
        return None
    try:
        return Usage(stated["prompt_tokens"], stated["completion_tokens"])
    except (KeyError, TypeError, MalformedError):
        return None


def is_empty(answer: Mapping[str, Any]) -> bool:
    """Whether a completion says nothing at all, or ends in an error: no text, no tool call (aimo row 86)."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return True
    if any(isinstance(choice, dict) and choice.get("finish_reason") == "error" for choice in choices):
        return True
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict) and any(value for name, value in message.items() if name != "role"):
            return False
    return True


class StreamMeter:
    """Follows one SSE stream: `feed` gives the bytes that go on, `finish` those that end it.

    `model` is what the stream's chunks call the model. `said` counts what was said so far, in tokens (`tally`); beyond
    `most` the stream is cut.
    """

    def __init__(self, *, include_usage: bool, model: str = "", most: int | None = None) -> None:
        self.usage: Usage | None = None
        self.said = 0
        self.done = False
        self.failed = False
        self._finished = False
        self._include_usage = include_usage
        self._model = model
        self._most = most
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete now. Raises `UpstreamFailed` for an event without an end."""
        self._rest += chunk
        out: list[bytes] = []
        while not self.done:
            event, self._rest = next_event(self._rest)
            if event is None:
                break
            out.append(self._relayed(event))
            if self._most is not None and self.said > self._most:
                # What was paid for is delivered; an upstream that goes on is not listened to (fault G03).
                out.append(self._cut())
        if len(self._rest) > EVENT_LIMIT:
            raise UpstreamFailed(f"an event is longer than {EVENT_LIMIT} bytes")
        return b"".join(out)

    def finish(self, comment: str = "") -> bytes:
        """The end of the stream, with a comment before it. Raises `UpstreamFailed` when it came too early."""
        if self.failed or not (self.done or self._finished):
            raise UpstreamFailed("the stream ended early")
        return (f": {comment}\n\n".encode() if comment else b"") + _DONE

    def _cut(self) -> bytes:
        """The event that ends a stream where no more is paid for."""
        self.done, self._rest = True, b""
        head = {"id": "cut", "object": "chat.completion.chunk", "created": 0, "model": self._model}
        chunk = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        return f"data: {json.dumps(chunk)}\n\n".encode()

    def _relayed(self, event: bytes) -> bytes:
        """What goes on of an event: itself, most often."""
        data = data_of(event)
        if data is None:
            return event
        if data.strip() == b"[DONE]":
            self.done = True
            return b""
        try:
            chunk = read_json(data)
        except ValueError:
            return event
        if not isinstance(chunk, dict):
            return event
        choices = chunk.get("choices")
        self.usage = usage_of(chunk) or self.usage
        self._hear(chunk, choices if isinstance(choices, list) else [])
        if not self._include_usage and choices == [] and isinstance(chunk.get("usage"), dict):
            return b""
        if self._model and chunk.get("model") not in (None, self._model):
            with suppress(ValueError):
                return b"data: " + write_json({**chunk, "model": self._model}) + b"\n\n"
        return event

    def _hear(self, chunk: Mapping[str, Any], choices: list[Any]) -> None:
        if "error" in chunk and not choices:
            self.failed = True
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            self.said += tokens_of(choice.get("delta"))
            self._finished |= bool(choice.get("finish_reason"))
            self.failed |= choice.get("finish_reason") == "error"


def receipt_comment(receipt: Receipt, charge: Mapping[str, Any]) -> str:
    """The comment that carries a receipt with its charge: the marker, and base64 of JSON as in the header."""
    return f"{RECEIPT_COMMENT} {encode_header(receipt.as_json() | {'extra': {'charge': dict(charge)}})}"


def bill_comment(charge: Mapping[str, Any]) -> str:
    """The comment that carries the charge of a stream out of a balance."""
    return f"{BILL_COMMENT} {encode_header(dict(charge))}"


def begins_with_error(data: bytes) -> bool:
    """Whether the first event of a stream that says anything says that there will be no answer."""
    event: bytes | None = b""
    while event is not None:
        event, data = next_event(data)
        said = data_of(event) if event else None
        if said is not None:
            try:
                chunk = read_json(said)
            except ValueError:
                return False
            return isinstance(chunk, dict) and "error" in chunk and not chunk.get("choices")
    return False
