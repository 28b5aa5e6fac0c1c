"""What an answer used, read from JSON or from a stream as it passes, and what that costs beside the quote.

The stream is relayed event by event in its own bytes. Two things are changed: an event that only brings `usage` is
dropped for clients that did not ask for it, because many read `choices[0]` without looking, and a receipt goes out
right before `[DONE]` as a comment, because a named event would reach stock OpenAI clients as a broken chunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.events import data_of, next_event
from x402.gateway.inference.upstream import UpstreamFailed
from x402.quote import Quote, Usage
from x402.wire.headers import encode_header
from x402.wire.receipt import Receipt

RECEIPT_COMMENT = "x402-receipt"
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


def charge_json(quoted: Quote, usage: Usage | None) -> dict[str, Any]:
    """The receipt's line about the price: what was quoted and paid, what the usage comes to, what was not needed.

    All in atomic USDC. Without a usage the quote is all that is known.
    """
    charge = quoted.actual(usage) if usage is not None else None
    actual = quoted.bound if charge is None else charge.total
    line: dict[str, Any] = {
        "model": quoted.model,
        "quoted": str(quoted.bound),
        "actual": str(actual),
        "unused": str(quoted.bound - actual),
        "prices": quoted.price_list,
    }
    if usage is not None:
        line["usage"] = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    if charge is not None and charge.over:
        line["over"] = [str(item) for item in charge.over]
    return line


def is_empty(answer: Mapping[str, Any]) -> bool:
    """Whether a completion says nothing at all: no text, no tool call (aimo row 86)."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return True
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict) and any(value for name, value in message.items() if name != "role"):
            return False
    return True


class StreamMeter:
    """Follows one SSE stream: `feed` gives the bytes that go on, `finish` those that end it."""

    def __init__(self, *, include_usage: bool) -> None:
        self.usage: Usage | None = None
        self.done = False
        self.failed = False
        self._finished = False
        self._include_usage = include_usage
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete now. Raises `UpstreamFailed` for an event without an end."""
        self._rest += chunk
        out: list[bytes] = []
        while not self.done:
            event, self._rest = next_event(self._rest)
            if event is None:
                break
            if self._passes(event):
                out.append(event)
        if len(self._rest) > EVENT_LIMIT:
            raise UpstreamFailed(f"an event is longer than {EVENT_LIMIT} bytes")
        return b"".join(out)

    def finish(self, comment: str = "") -> bytes:
        """The end of the stream, with a comment before it. Raises `UpstreamFailed` when it came too early."""
        if self.failed or not (self.done or self._finished):
            raise UpstreamFailed("the stream ended early")
        return (f": {comment}\n\n".encode() if comment else b"") + _DONE

    def _passes(self, event: bytes) -> bool:
        data = data_of(event)
        if data is None:
            return True
        if data.strip() == b"[DONE]":
            self.done = True
            return False
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            return True
        if not isinstance(chunk, dict):
            return True
        self.usage = usage_of(chunk) or self.usage
        choices = chunk.get("choices")
        if "error" in chunk and not choices:
            self.failed = True
        if isinstance(choices, list):
            self._finished |= any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)
        return self._include_usage or choices != [] or not isinstance(chunk.get("usage"), dict)


def receipt_comment(receipt: Receipt, charge: Mapping[str, Any]) -> str:
    """The comment that carries a receipt with its charge: the marker, and base64 of JSON as in the header."""
    return f"{RECEIPT_COMMENT} {encode_header(receipt.as_json() | {'extra': {'charge': dict(charge)}})}"


def begins_with_error(data: bytes) -> bool:
    """Whether the first event of a stream that says anything says that there will be no answer."""
    event: bytes | None = b""
    while event is not None:
        event, data = next_event(data)
        said = data_of(event) if event else None
        if said is not None:
            try:
                chunk = json.loads(said)
            except (ValueError, RecursionError):
                return False
            return isinstance(chunk, dict) and "error" in chunk and not chunk.get("choices")
    return False
