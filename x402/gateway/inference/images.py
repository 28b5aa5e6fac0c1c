"""Images as goods: priced per image that is made, at the rate of its size and quality (aimo row 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.abilities import MAKES_IMAGES
from x402.gateway.inference.desk import Trade
from x402.gateway.inference.images_request import ImagesRequest, parse_images
from x402.gateway.inference.tally import Tally
from x402.gateway.inference.upstream import UpstreamFailed
from x402.quote import Usage


def _count(members: Mapping[str, Any], tally: Tally) -> None:
    data = members.get("data")
    if not isinstance(data, list):
        raise UpstreamFailed("the answer has no images", status=200)
    made = sum(1 for one in data if isinstance(one, dict) and (one.get("url") or one.get("b64_json")))
    if not made:
        tally.nothing()
        return
    usage = members.get("usage")
    stated = usage.get("input_tokens", usage.get("prompt_tokens")) if isinstance(usage, Mapping) else None
    try:
        # The images are there to be counted; of the prompt's tokens only the upstream knows.
        tally.hear(0, Usage(tally.used.prompt_tokens if stated is None else stated, 0, made))
    except (TypeError, MalformedError):
        tally.hear(0, Usage(tally.used.prompt_tokens, 0, made))


IMAGES: Trade[ImagesRequest] = Trade("Images", MAKES_IMAGES, parse_images, _count)
"""What is particular to images."""
