"""An embeddings request, read and range-checked before anybody is asked to pay for it (aimo row 7).

It is priced on its prompt tokens alone: a text is bounded by its UTF-8 bytes, tokens that come as numbers are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.ranges import Check, integer, kind, one_of, out_of_range, read_members, refused, tags_of
from x402.prompt_bound import bound_text_tokens
from x402.quote import ModelPrice, Order

INPUTS_LIMIT = 2048
DIMENSIONS_LIMIT = 65_536
INPUT_TOKENS = 8
"""Per input: what a tokenizer puts around a text."""

_OURS = frozenset({"metadata", "sort", "provider", "service_tier"})


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A request that can be priced and forwarded. `members` is the JSON object as it came."""

    members: Mapping[str, Any] = field(repr=False)
    model: str
    inputs: tuple[str | tuple[int, ...], ...] = field(repr=False)
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    stream: bool = False
    endpoint: str = "embeddings"
    path: str = "/embeddings"

    def order(self, price: ModelPrice) -> Order:
        """What is bought, for the price of a model. Raises `ApiProblem` 400 for a text that no UTF-8 can carry."""
        try:
            prompt = sum(
                INPUT_TOKENS
                + (
                    bound_text_tokens(one, tokenizer_factor=price.tokenizer_factor)
                    if isinstance(one, str)
                    else len(one)
                )
                for one in self.inputs
            )
        except MalformedError as error:
            raise refused("input", error.message, code=error.code) from error
        return Order(price.model, prompt, max_output_tokens=0)

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`."""
        return {name: value for name, value in self.members.items() if name not in _OURS} | {"model": model}


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """The request in a body. Raises `ApiProblem` 400 that names the member in the wrong."""
    members = read_members(body, _CHECKS)
    return EmbeddingsRequest(members, members["model"], _inputs(members.get("input")), tags_of(members))


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One text, several, the tokens of one text, or of several."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(one) is int for one in value)):
        value = [value]
    if not isinstance(value, list) or not value or len(value) > INPUTS_LIMIT:
        raise refused("input", f"input: a text, or a list of 1 to {INPUTS_LIMIT} texts or lists of tokens is required")
    return tuple(_input(f"input.{index}", one) for index, one in enumerate(value))


def _input(where: str, value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(type(one) is int and 0 <= one < 2**31 for one in value):
        return tuple(value)
    return out_of_range(where, "a text that is not empty, or a list of tokens,")


_CHECKS: Mapping[str, Check] = {
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1, DIMENSIONS_LIMIT),
    "user": kind(str, "a text"),
    "metadata": kind(dict, "an object"),
    "provider": kind(dict, "an object"),
    "sort": kind(str, "a text"),
    "service_tier": kind(str, "a text"),
}
