"""A chat request, read and range-checked before anybody is asked to pay for it (aimo rows 20-33).

Known members are checked, unknown ones pass through. Whatever could reach the model's prompt counts towards the
quote, members that nobody here knows included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from x402.chat_order import FOR_THE_GATEWAY, chat_order
from x402.errors import MalformedError
from x402.gateway.inference.pictures import check_pictures
from x402.gateway.inference.ranges import Check, integer, kind, number, out_of_range, read_members, refused, tags_of
from x402.quote import ModelPrice, Order, count_images

MESSAGES_LIMIT = 2048
TOOLS_LIMIT = 128
CHOICES_LIMIT = 16
_TOKENS_LIMIT = 2**31 - 1
_STOP_LIMIT = 4
_TEXT_LIMIT = 512

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be priced and forwarded. `members` is the JSON object as it came."""

    members: Mapping[str, Any] = field(repr=False)
    model: str
    stream: bool
    include_usage: bool
    max_output_tokens: int | None
    choices: int
    images: int
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    endpoint: str = "chat.completions"
    path: str = "/chat/completions"

    def order(self, price: ModelPrice) -> Order:
        """What is bought, for the price of a model. Raises `ApiProblem` 400 for content that cannot be priced."""
        try:
            return chat_order(self.members, price)
        except MalformedError as error:
            raise refused("messages", error.message, code=error.code) from error

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`; no answer may grow beyond `output_tokens`."""
        body = {name: value for name, value in self.members.items() if name not in FOR_THE_GATEWAY}
        body["model"] = model
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        body[name] = min(body.get(name) or output_tokens, output_tokens)
        if self.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises `ApiProblem` 400 that names the member in the wrong, 413 for an image too large."""
    members = read_members(body, _CHECKS)
    _check_messages(members.get("messages"))
    if members.get("max_tokens") is not None and members.get("max_completion_tokens") is not None:
        raise refused("max_tokens", "max_tokens and max_completion_tokens cannot both be stated")
    options = members.get("stream_options") or {}
    try:
        images = count_images(members["messages"])
        if images:
            check_pictures(members["messages"])
    except MalformedError as error:
        raise refused("messages", error.message, code=error.code) from error
    return ChatRequest(
        members=members,
        model=members["model"],
        stream=members.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        max_output_tokens=members.get("max_completion_tokens") or members.get("max_tokens"),
        choices=members.get("n") or 1,
        images=images,
        tags=tags_of(members),
    )


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "messages: a list of at least one message is required")
    if len(messages) > MESSAGES_LIMIT:
        raise refused("messages", f"messages: at most {MESSAGES_LIMIT} are accepted")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise refused(where, f"{where}: an object with role and content is required")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise refused(f"{where}.role", f"{where}.role: one of {', '.join(sorted(_ROLES))} is required")
        content = message.get("content")
        if content is None and not (message.get("tool_calls") or message.get("function_call")):
            raise refused(f"{where}.content", f"{where}.content: a text or a list of parts is required")
        if content is not None and not isinstance(content, str | list):
            raise refused(f"{where}.content", f"{where}.content: a text or a list of parts is required")


def _stop(name: str, value: Any) -> None:
    marks = [value] if isinstance(value, str) else value
    fits = isinstance(marks, list) and len(marks) <= _STOP_LIMIT
    if not fits or not all(isinstance(mark, str) and 0 < len(mark) <= _TEXT_LIMIT for mark in marks):
        out_of_range(name, f"a text or a list of at most {_STOP_LIMIT} texts")


def _user(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT:
        out_of_range(name, f"a text of at most {_TEXT_LIMIT} characters")


def _tools(name: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) > TOOLS_LIMIT or not all(isinstance(tool, dict) for tool in value):
        out_of_range(name, f"a list of at most {TOOLS_LIMIT} objects")


def _tool_choice(name: str, value: Any) -> None:
    if not isinstance(value, str | dict):
        out_of_range(name, "a text or an object")


_CHECKS: Mapping[str, Check] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "max_tokens": integer(1, _TOKENS_LIMIT),
    "max_completion_tokens": integer(1, _TOKENS_LIMIT),
    "n": integer(1, CHOICES_LIMIT),
    "top_logprobs": integer(0, 20),
    "seed": integer(-(2**63), 2**63 - 1),
    "stream": kind(bool, "true or false"),
    "logprobs": kind(bool, "true or false"),
    "parallel_tool_calls": kind(bool, "true or false"),
    "stop": _stop,
    "user": _user,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "stream_options": kind(dict, "an object"),
    "response_format": kind(dict, "an object"),
    "metadata": kind(dict, "an object"),
    "provider": kind(dict, "an object"),
    "sort": kind(str, "a text"),
    "service_tier": kind(str, "a text"),
}
