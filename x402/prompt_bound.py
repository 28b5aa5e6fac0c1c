"""How many tokens a prompt can be at most, before anybody has tokenized it (design D11).

A byte-level BPE tokenizer never makes more tokens than the text has UTF-8 bytes, so bytes bound the text. What the
chat template adds is bounded by the allowances below, which are generous on purpose: they cost a fraction of a cent
in the bound, and the charge follows the upstream's own count. A content part whose tokens nothing here can bound
(a file by reference, video) is refused, because a price that is too low is worse than an answer that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from x402.errors import MalformedError
from x402.money import EXACT_CONTEXT, round_up
from x402.price import exact

REQUEST_TOKENS = 128
"""Once per request: begin-of-text, the reply's priming, and the default system text that some templates insert."""
MESSAGE_TOKENS = 16
"""Per message: turn markers and separators (ChatML needs 5, Llama 3 needs 6)."""
TOOLS_TOKENS = 512
"""Once when there are tools: the instructions for calling them (Anthropic adds 346, Hermes templates about 150)."""
TOOL_TOKENS = 16
"""Per tool: the frame around its schema."""

TokenCount = Callable[[str], int]
"""An exact tokenizer, where its vocabulary is at hand: text → tokens."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_CODE = "invalid_messages"


def bound_text_tokens(text: str, *, tokenizer_factor: Decimal = Decimal(1), count: TokenCount | None = None) -> int:
    """The most tokens that `text` can be: its UTF-8 bytes times the model's `tokenizer_factor`, or the exact `count`.

    Raises `MalformedError("invalid_messages")` for text that no UTF-8 can carry (lone surrogates).
    """
    if count is not None:
        return count(text)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise MalformedError(_CODE, "the text is not valid Unicode") from error
    return round_up(EXACT_CONTEXT.multiply(Decimal(size), exact(tokenizer_factor)))


def bound_prompt_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] = (),
    *,
    schemas: Iterable[Any] = (),
    tokenizer_factor: Decimal = Decimal(1),
    count: TokenCount | None = None,
) -> int:
    """The most prompt tokens that a chat request can be, images apart (see `count_images`).

    `schemas` are other JSON values that reach the prompt, such as `response_format` or `tool_choice`. Raises
    `MalformedError("invalid_messages")` for messages of no known shape and `MalformedError("unpriceable_content")`
    for content parts whose tokens cannot be bounded.
    """
    total = REQUEST_TOKENS
    for message in _checked(messages):
        total += MESSAGE_TOKENS
        for text in _texts(message):
            total += bound_text_tokens(text, tokenizer_factor=tokenizer_factor, count=count)
    if tools:
        total += TOOLS_TOKENS
    for tool in tools:
        total += TOOL_TOKENS + bound_text_tokens(_as_json(tool), tokenizer_factor=tokenizer_factor, count=count)
    for schema in schemas:
        if schema is not None:
            total += bound_text_tokens(_as_json(schema), tokenizer_factor=tokenizer_factor, count=count)
    return total


def count_images(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many images the messages carry. Raises `MalformedError("invalid_messages")` as `bound_prompt_tokens` does."""
    return sum(
        1 for message in _checked(messages) for part in _parts(message.get("content")) if part["type"] in _IMAGE_PARTS
    )


def _checked(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise MalformedError(_CODE, "messages is a list")
    for message in messages:
        if not isinstance(message, Mapping):
            raise MalformedError(_CODE, "a message is an object with role and content")
        yield message


def _parts(content: Any) -> Iterator[Mapping[str, Any]]:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise MalformedError(_CODE, "a message's content is a string or a list of parts")
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise MalformedError(_CODE, "a content part is an object with a type")
        yield part


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in _parts(content):
        yield from _part_texts(part)
    for name, value in message.items():
        if name == "content" or value is None:
            continue
        yield str(name)
        if isinstance(value, str):
            yield value
        else:
            # Templates re-render tool calls with their own spacing: twice the text covers any of it.
            yield _as_json(value) * 2


def _part_texts(part: Mapping[str, Any]) -> Iterator[str]:
    kind = part["type"]
    if kind in _IMAGE_PARTS:
        return
    if kind in _TEXT_PARTS:
        for name, value in part.items():
            if name != "type" and value is not None:
                yield value if isinstance(value, str) else _as_json(value)
    elif kind == "input_audio":
        yield _audio(part.get("input_audio"))
    else:
        raise MalformedError(
            "unpriceable_content", f"the tokens of a {kind[:40]!r} part cannot be bounded, so it cannot be priced"
        )


def _audio(audio: Any) -> str:
    # Models count 10 to 32 tokens a second. MP3 needs at least a thousand base64 characters for that, WAV far more;
    # other codecs shrink silence to almost nothing, so for them the text's length would be no bound.
    if not isinstance(audio, Mapping) or not isinstance(audio.get("data"), str):
        raise MalformedError(_CODE, "input_audio carries base64 data and a format")
    if audio.get("format") not in ("wav", "mp3"):
        raise MalformedError("unpriceable_content", "only wav and mp3 audio can be priced before it is heard")
    return str(audio["data"])


def _as_json(value: Any) -> str:
    # Indented and escaped, as the most verbose templates print it; any other rendering is shorter.
    try:
        return json.dumps(value, indent=4)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(_CODE, "a tool or schema is not plain JSON") from error
