"""What a chat request orders, by its JSON alone: the seller prices it with this, and so does a buyer who pays ahead."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from x402.price import ModelPrice
from x402.prompt_bound import bound_prompt_tokens, count_images
from x402.quote import Order

FOR_THE_GATEWAY = frozenset({"metadata", "sort", "provider", "service_tier"})
"""Members that speak to the gateway and stay with it."""
_CHANGES_PRICES = ("provider", "service_tier", "sort")
_SCALARS = frozenset(
    {"model", "messages", "tools", "n", "stream", "stream_options", "user", "seed", "temperature", "top_p"}
    | {"max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"}
    | {"logprobs", "top_logprobs", "parallel_tool_calls"}
)
"""Members that never reach the prompt, or are counted elsewhere."""


def variant_of(members: Mapping[str, Any], region: str = "") -> str:
    """What sets requests of one model apart whose prices may differ: who shall serve them, and how soon. `""` for those
    without a wish."""
    wishes = {name: members[name] for name in _CHANGES_PRICES if members.get(name) is not None}
    if region:
        wishes["region"] = region
    text = json.dumps(wishes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if wishes else ""


def chat_order(members: Mapping[str, Any], price: ModelPrice) -> Order:
    """The order in a request, for the price of a model. Members that nobody here knows count as prompt.

    Raises `MalformedError` for content that cannot be priced, and `TypeError` for a member of another type than the
    API's (a gateway checks them before).
    """
    others = [value for name, value in members.items() if name not in _SCALARS | FOR_THE_GATEWAY]
    prompt = bound_prompt_tokens(
        members["messages"], members.get("tools") or (), schemas=others, tokenizer_factor=price.tokenizer_factor
    )
    output = members.get("max_completion_tokens") or members.get("max_tokens")
    return Order(price.model, prompt, output, members.get("n") or 1, count_images(members["messages"]))
