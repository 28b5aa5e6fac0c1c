"""Embeddings as goods: priced on prompt tokens alone (aimo row 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.abilities import MAKES_EMBEDDINGS
from x402.gateway.inference.desk import Trade
from x402.gateway.inference.embeddings_request import EmbeddingsRequest, parse_embeddings
from x402.gateway.inference.tally import Tally
from x402.gateway.inference.upstream import UpstreamFailed
from x402.quote import Usage


def _count(members: Mapping[str, Any], tally: Tally) -> None:
    data = members.get("data")
    if not isinstance(data, list) or not data:
        raise UpstreamFailed("the answer has no embeddings", status=200)
    usage = members.get("usage")
    try:
        stated = Usage(usage["prompt_tokens"], 0) if isinstance(usage, Mapping) else None
    except (KeyError, TypeError, MalformedError):
        stated = None
    # Numbers say nothing that could be counted, so without a usage it is one token and our share of the prompt.
    tally.hear(1, stated)


EMBEDDINGS: Trade[EmbeddingsRequest] = Trade("Embeddings", MAKES_EMBEDDINGS, parse_embeddings, _count)
"""What is particular to embeddings."""
