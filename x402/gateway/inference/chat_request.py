"""A chat request, read and range-checked before anybody is asked to pay for it (aimo rows 20-33).

Known members are checked, unknown ones pass through. Whatever could reach the model's prompt counts towards the
quote, members that nobody here knows included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from x402.errors import MalformedError
from x402.gateway.inference.price_rules import Tier
from x402.gateway.problem import ApiProblem
from x402.quote import ModelPrice, Order, bound_prompt_tokens, count_images
from x402.wire.strict import parse_object

REQUEST_LIMIT = 1024 * 1024
MESSAGES_LIMIT = 2048
TOOLS_LIMIT = 128
CHOICES_LIMIT = 16
_TOKENS_LIMIT = 2**31 - 1
_STOP_LIMIT = 4
_TEXT_LIMIT = 512

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_OURS = frozenset({"metadata", "sort", "provider", "service_tier"})
"""Members that speak to the gateway and stay with it."""
_SCALARS = frozenset(
    {"model", "messages", "tools", "n", "stream", "stream_options", "user", "seed", "temperature", "top_p"}
    | {"max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"}
    | {"logprobs", "top_logprobs", "parallel_tool_calls"}
)
"""Members that never reach the prompt, or are counted elsewhere."""


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

    def order(self, price: ModelPrice) -> Order:
        """What is bought, for the price of a model. Raises `ApiProblem` 400 for content that cannot be priced."""
        others = [value for name, value in self.members.items() if name not in _SCALARS | _OURS]
        try:
            prompt = bound_prompt_tokens(
                self.members["messages"],
                self.members.get("tools") or (),
                schemas=others,
                tokenizer_factor=price.tokenizer_factor,
            )
            return Order(price.model, prompt, self.max_output_tokens, self.choices, self.images)
        except MalformedError as error:
            raise refused("messages", error.message, code=error.code) from error

    @property
    def tier(self) -> Tier:
        """How urgent it is; a tier that only OpenAI knows is the ordinary one here."""
        stated = self.members.get("service_tier")
        return Tier(stated) if stated in list(Tier) else Tier.DEFAULT

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`; no answer may grow beyond `output_tokens`."""
        body = {name: value for name, value in self.members.items() if name not in _OURS}
        body["model"] = model
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        body[name] = min(body.get(name) or output_tokens, output_tokens)
        if self.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body


def refused(param: str, message: str, *, code: str = "invalid_request", status: int = 400) -> ApiProblem:
    """A request that its sender must mend."""
    return ApiProblem(status, code, message, kind="invalid_request_error", param=param)


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises `ApiProblem` 400 that names the member in the wrong."""
    try:
        members = parse_object(body, limit=REQUEST_LIMIT, code="invalid_request")
    except MalformedError as error:
        raise refused("", f"the request body: {error.message}") from error
    for name, check in _CHECKS.items():
        value = members.get(name)
        if value is not None:
            check(name, value)
    model = members.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= 128:
        raise refused("model", "model: a name of 1 to 128 characters is required")
    _check_messages(members.get("messages"))
    if members.get("max_tokens") is not None and members.get("max_completion_tokens") is not None:
        raise refused("max_tokens", "max_tokens and max_completion_tokens cannot both be stated")
    options = members.get("stream_options") or {}
    try:
        images = count_images(members["messages"])
    except MalformedError as error:
        raise refused("messages", error.message, code=error.code) from error
    return ChatRequest(
        members=members,
        model=model,
        stream=members.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        max_output_tokens=members.get("max_completion_tokens") or members.get("max_tokens"),
        choices=members.get("n") or 1,
        images=images,
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


def _out_of_range(name: str, wanted: str) -> NoReturn:
    raise refused(name, f"{name}: {wanted} is required", code="invalid_value")


def _number(least: int, most: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            _out_of_range(name, f"a number from {least} to {most}")

    return check


def _integer(least: int, most: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            _out_of_range(name, f"a whole number from {least} to {most}")

    return check


def _is(kind: type, words: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            _out_of_range(name, words)

    return check


def _stop(name: str, value: Any) -> None:
    marks = [value] if isinstance(value, str) else value
    fits = isinstance(marks, list) and len(marks) <= _STOP_LIMIT
    if not fits or not all(isinstance(mark, str) and 0 < len(mark) <= _TEXT_LIMIT for mark in marks):
        _out_of_range(name, f"a text or a list of at most {_STOP_LIMIT} texts")


def _tools(name: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) > TOOLS_LIMIT or not all(isinstance(tool, dict) for tool in value):
        _out_of_range(name, f"a list of at most {TOOLS_LIMIT} objects")


def _tool_choice(name: str, value: Any) -> None:
    if not isinstance(value, str | dict):
        _out_of_range(name, "a text or an object")


_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "max_tokens": _integer(1, _TOKENS_LIMIT),
    "max_completion_tokens": _integer(1, _TOKENS_LIMIT),
    "n": _integer(1, CHOICES_LIMIT),
    "top_logprobs": _integer(0, 20),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stream": _is(bool, "true or false"),
    "logprobs": _is(bool, "true or false"),
    "parallel_tool_calls": _is(bool, "true or false"),
    "stop": _stop,
    "user": _is(str, "a text"),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "stream_options": _is(dict, "an object"),
    "response_format": _is(dict, "an object"),
    "metadata": _is(dict, "an object"),
    "provider": _is(dict, "an object"),
    "sort": _is(str, "a text"),
    "service_tier": _is(str, "a text"),
}
