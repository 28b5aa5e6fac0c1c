"""What a request would cost: the itemised quote without a payment, which the buyer can recompute (design D10)."""

from __future__ import annotations

from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.desk import Desk
from x402.gateway.inference.ranges import REQUEST_LIMIT, refused
from x402.quote import Quote
from x402.wire.strict import parse_object


def estimate(body: bytes, chat: Desk[Any], embeddings: Desk[Any], images: Desk[Any]) -> dict[str, Any]:
    """The price of a chat (`messages`), of embeddings (`input`) or of images (`prompt`).

    Raises `ApiProblem` for what could not be sold either.
    """
    try:
        members = parse_object(body, limit=REQUEST_LIMIT, code="invalid_request")
    except MalformedError as error:
        raise refused("", f"the request body: {error.message}") from error
    found = [
        desk
        for name, desk in (("messages", chat), ("input", embeddings), ("prompt", images))
        if members.get(name) is not None
    ]
    if len(found) != 1:
        raise refused("messages", "messages, input or prompt: one of them is required, the one that is to be priced")
    ordered = found[0].order(body, None)
    return {"object": "estimate", "endpoint": ordered.request.endpoint} | quote_json(ordered.quoted)


def quote_json(quoted: Quote) -> dict[str, Any]:
    """A quote in words: amounts in atomic USDC, rates with their unit."""
    return {
        "model": quoted.model,
        "amount": str(quoted.bound),
        "amount_usd": format(quoted.usd, "f"),
        "free": quoted.free,
        "output_tokens": quoted.output_tokens,
        "choices": quoted.choices,
        "price_list": quoted.price_list,
        "lines": [
            {
                "item": str(line.item),
                "units": line.units,
                "rate": str(line.rate),
                "unit": str(line.rate.unit),
                "amount": format(line.amount, "f"),
            }
            for line in quoted.lines
        ],
    }
