"""A request for images to be made, read and range-checked before anybody is asked to pay for it (aimo row 6).

It is priced per image, `n` of them, at the rate of their size and quality.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.ranges import Check, integer, kind, one_of, out_of_range, read_members, refused, tags_of
from x402.prompt_bound import bound_text_tokens
from x402.quote import ModelPrice, Order

PROMPT_LIMIT = 32_000
IMAGES_LIMIT = 10

_OURS = frozenset({"metadata", "sort", "provider", "service_tier"})
_SIZE = re.compile(r"auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", re.ASCII)
_QUALITIES = ("standard", "hd", "low", "medium", "high", "auto")


@dataclass(frozen=True)
class ImagesRequest:
    """A request that can be priced and forwarded. `members` is the JSON object as it came."""

    members: Mapping[str, Any] = field(repr=False)
    model: str
    prompt: str = field(repr=False)
    count: int
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    stream: bool = False
    endpoint: str = "images"
    path: str = "/images/generations"

    @property
    def features(self) -> frozenset[str]:
        """What the price of one image hangs on: its size and quality, as far as they are stated."""
        stated = (self.members.get("size"), self.members.get("quality"))
        return frozenset(one for one in stated if one and one != "auto")

    def order(self, price: ModelPrice) -> Order:
        """What is bought, for the price of a model. Raises `ApiProblem` 400 for an image of a kind without a price."""
        try:
            prompt = bound_text_tokens(self.prompt, tokenizer_factor=price.tokenizer_factor)
            price.image_rate(self.features)
        except MalformedError as error:
            param = "size" if error.code == "unpriced_image" else "prompt"
            raise refused(param, error.message, code=error.code) from error
        return Order(price.model, prompt, 0, images=self.count, features=self.features, made=True)

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`."""
        return {name: value for name, value in self.members.items() if name not in _OURS} | {"model": model}


def parse_images(body: bytes) -> ImagesRequest:
    """The request in a body. Raises `ApiProblem` 400 that names the member in the wrong."""
    members = read_members(body, _CHECKS)
    prompt = members.get("prompt")
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= PROMPT_LIMIT:
        raise refused("prompt", f"prompt: a text of 1 to {PROMPT_LIMIT} characters is required")
    if members.get("stream"):
        raise refused("stream", "stream: images are not streamed here", code="invalid_value")
    return ImagesRequest(members, members["model"], prompt, members.get("n") or 1, tags_of(members))


def _size(name: str, value: Any) -> None:
    if not isinstance(value, str) or _SIZE.fullmatch(value) is None:
        out_of_range(name, 'a size such as "1024x1024", or "auto",')


_CHECKS: Mapping[str, Check] = {
    "n": integer(1, IMAGES_LIMIT),
    "size": _size,
    "quality": one_of(*_QUALITIES),
    "response_format": one_of("url", "b64_json"),
    "user": kind(str, "a text"),
    "metadata": kind(dict, "an object"),
    "provider": kind(dict, "an object"),
    "sort": kind(str, "a text"),
    "service_tier": kind(str, "a text"),
}
