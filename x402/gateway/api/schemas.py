"""JSON schemas of what the gateway takes and answers, for its OpenAPI document (aimo row 11).

The handlers read raw bodies, because a price is made from the very bytes that a payment is bound to; so what they
accept is described here. Ranges are those that are checked before a price is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.gateway.inference.batch import REQUESTS_LIMIT
from x402.gateway.inference.chat_request import CHOICES_LIMIT, TOOLS_LIMIT
from x402.gateway.inference.embeddings_request import DIMENSIONS_LIMIT
from x402.gateway.inference.images_request import IMAGES_LIMIT, PROMPT_LIMIT

Schema = dict[str, Any]


def _object(required: list[str], properties: Schema, description: str) -> Schema:
    shape: Schema = {"type": "object", "description": description, "properties": properties}
    return shape | ({"required": required} if required else {})


def _number(least: int, most: int) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def _integer(least: int, most: int | None = None, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most}) | more


def _words(*choices: str) -> Schema:
    return {"type": "string", "enum": list(choices)}


_MODEL: Schema = {
    "type": "string",
    "maxLength": 128,
    "description": "`vendor/model`, a bare name where it is the name of one model, or `provider:model`.",
}
_OURS: Schema = {
    "metadata": {"type": "object", "description": "Stays here, with the bill."},
    "user": {"type": "string", "description": "Whoever asks, in your own words; kept with the bill."},
    "sort": _words("price", "throughput", "latency"),
    "provider": {"type": "object", "description": "order, allow_fallbacks, regions, max_price, sort, cache"},
    "service_tier": _words("auto", "default", "flex", "priority"),
}
_TEXT: Schema = {"type": "string"}

SCHEMAS: Mapping[str, Schema] = {
    "DepositRequest": _object(
        [],
        {
            "amount": {"type": "string", "example": "5.00", "description": "US dollars."},
            "amount_micro_usdc": _integer(1, description="The same in atomic USDC; name one of the two."),
        },
        "How much is to be paid, and then stands on the payer's balance.",
    ),
    "ChatRequest": _object(
        ["model", "messages"],
        {
            "model": _MODEL,
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "max_tokens": _integer(1, description="Bounds the price; the model's default when absent."),
            "max_completion_tokens": _integer(1, description="The same, in its newer spelling."),
            "stream": {"type": "boolean", "default": False},
            "stream_options": {"type": "object"},
            "temperature": _number(0, 2),
            "top_p": _number(0, 1),
            "presence_penalty": _number(-2, 2),
            "frequency_penalty": _number(-2, 2),
            "n": _integer(1, CHOICES_LIMIT, default=1),
            "stop": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 4}]},
            "tools": {"type": "array", "items": {"type": "object"}, "maxItems": TOOLS_LIMIT},
            "tool_choice": {"oneOf": [_TEXT, {"type": "object"}]},
            "response_format": {"type": "object"},
            "seed": {"type": "integer"},
            **_OURS,
        },
        "A chat completion as OpenAI asks for it. Unknown members are passed on.",
    ),
    "EmbeddingsRequest": _object(
        ["model", "input"],
        {
            "model": _MODEL,
            "input": {"oneOf": [_TEXT, {"type": "array", "items": {}}], "description": "Texts, or lists of tokens."},
            "encoding_format": _words("float", "base64"),
            "dimensions": _integer(1, DIMENSIONS_LIMIT),
            **_OURS,
        },
        "Embeddings as OpenAI asks for them, priced on their prompt tokens.",
    ),
    "BatchRequest": _object(
        ["requests"],
        {
            "requests": {
                "type": "array",
                "minItems": 1,
                "maxItems": REQUESTS_LIMIT,
                "items": _object(
                    ["body"],
                    {
                        "custom_id": {"type": "string", "minLength": 1, "maxLength": 64},
                        "body": {"$ref": "#/components/schemas/ChatRequest"},
                    },
                    "One request, with a name of its own.",
                ),
            },
        },
        "Chat requests to one model, answered in order under one payment.",
    ),
    "ImagesRequest": _object(
        ["model", "prompt"],
        {
            "model": _MODEL,
            "prompt": {"type": "string", "minLength": 1, "maxLength": PROMPT_LIMIT},
            "n": _integer(1, IMAGES_LIMIT, default=1),
            "size": {"type": "string", "example": "1024x1024"},
            "quality": _words("standard", "hd", "low", "medium", "high", "auto"),
            "response_format": _words("url", "b64_json"),
            **_OURS,
        },
        "Images as OpenAI asks for them, priced per image by size and quality.",
    ),
    "Estimate": _object(
        [],
        {
            "object": _words("estimate"),
            "endpoint": _words("chat.completions", "embeddings", "images"),
            "model": _TEXT,
            "amount": {"type": "string", "description": "The most that it can cost, in atomic USDC."},
            "amount_usd": _TEXT,
            "free": {"type": "boolean"},
            "output_tokens": {"type": "integer"},
            "choices": {"type": "integer"},
            "price_list": _TEXT,
            "lines": {"type": "array", "items": {"type": "object"}},
        },
        "An itemised upper bound of a price.",
    ),
    "Challenge": _object(
        ["x402Version", "accepts"],
        {
            "x402Version": {"type": "integer", "enum": [1, 2]},
            "error": {"description": "Why: a text, or an error object where the profile has one."},
            "accepts": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        },
        "What is asked for: each of `accepts` is one way to pay. The same, in x402's second version, is in the header "
        "PAYMENT-REQUIRED as base64.",
    ),
    "Error": _object(
        ["error"],
        {
            "error": _object(
                ["code", "message"],
                {
                    "code": {"description": "A word for programs; the HTTP status in AiMo's devnet profile."},
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": "string", "nullable": True},
                    "details": {"description": "Facts; a text in the legacy profile."},
                    "mender": {"type": "string", "description": "Who can put it right."},
                    "moneyMoved": _words("no", "yes", "unknown"),
                },
                "What went wrong.",
            )
        },
        "Any other error. The legacy profile adds `success` and `meta`.",
    ),
}
"""By the name under which the OpenAPI document has them."""


def reference(name: str) -> Schema:
    """A schema by its name, as a media type."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
