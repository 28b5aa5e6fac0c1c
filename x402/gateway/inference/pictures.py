"""Images in a chat: how many, how large, and in which form, before anybody is asked to pay (aimo row 33).

An image is sent whole as a `data:` URL, or named by an address that the model's server fetches; the gateway fetches
nothing, and so nothing can be reached through it (fault E05).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from x402.gateway.inference.ranges import refused

IMAGES_LIMIT = 32
"""Images in one request."""
IMAGE_BYTES_LIMIT = 5 * 1024 * 1024
"""Bytes of one image, decoded."""
URL_LIMIT = 2048

_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.ASCII | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


def check_pictures(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ApiProblem` 413 for too many images or one too large, and 400 for one that cannot be an image."""
    for count, (where, part) in enumerate(_pictures(messages), 1):
        if count > IMAGES_LIMIT:
            raise refused(where, f"{where}: a request has at most {IMAGES_LIMIT} images", code="too_many_images")
        address = _address(part)
        if address is not None:
            _check(where, address)


def _pictures(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for at, message in enumerate(messages):
        content = message.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] in ("image_url", "input_image", "image"):
                yield f"messages.{at}.content.{index}", part


def _address(part: Mapping[str, Any]) -> Any:
    """Where the image is, in OpenAI's two spellings; other parts have shapes that only their upstream knows."""
    if part["type"] == "image":
        return None
    stated = part.get("image_url")
    return stated.get("url", "") if isinstance(stated, Mapping) else stated or ""


def _check(where: str, address: Any) -> None:
    if not isinstance(address, str):
        raise refused(where, f"{where}: image_url.url is a text", code="invalid_value")
    data = _DATA.match(address)
    if data is None:
        if not address.startswith(("https://", "http://")) or len(address) > URL_LIMIT:
            words = f"an http(s) URL of at most {URL_LIMIT} characters, or data:image/...;base64,..."
            raise refused(where, f"{where}: an image is {words}", code="invalid_value")
        return
    digits = len(address) - data.end()
    if digits * 3 // 4 > IMAGE_BYTES_LIMIT:
        words = f"the image has {digits * 3 // 4} bytes, and at most {IMAGE_BYTES_LIMIT} are taken; make it smaller"
        raise refused(where, f"{where}: {words}", code="image_too_large", status=413)
    if not digits or _BASE64.fullmatch(address, data.end()) is None:
        raise refused(where, f"{where}: the image is not base64", code="invalid_value")
