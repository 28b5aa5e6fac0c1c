"""The demo model's other talents: embeddings by hash, and pictures of one colour. Deterministic, and honest."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from typing import Any

DIMENSIONS = 64
DIMENSIONS_LIMIT = 1536
SIDE_LIMIT = 4096


def embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1 that is always the same for a text, and another one for another."""
    blocks = -(-dimensions // 16)
    digest = b"".join(hashlib.sha256(f"{block} {text}".encode()).digest() for block in range(blocks))
    numbers = [value / 2**15 for value in struct.unpack(f"<{blocks * 16}h", digest)[:dimensions]]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def encoded(vector: list[float]) -> str:
    """The vector as OpenAI sends it for `encoding_format: base64`: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def picture(prompt: str, size: str) -> bytes:
    """A PNG of `size` (`"64x32"`), in the colour that the prompt's hash gives."""
    width, height = (min(int(side), SIDE_LIMIT) for side in size.split("x"))
    colour = hashlib.sha256(prompt.encode()).digest()[:3]
    rows = (b"\0" + colour * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def embeddings_answer(asked: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The body of an answer to an embeddings request; `tokens` is what its inputs come to."""
    given = asked["input"]
    inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    dimensions = asked.get("dimensions") or DIMENSIONS
    vectors = [embedding(one if isinstance(one, str) else repr(one), dimensions) for one in inputs]
    coded = asked.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector) if coded else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}
