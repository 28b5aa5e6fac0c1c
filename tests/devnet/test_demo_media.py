"""The demo model's embeddings and pictures: deterministic, well-formed, as large as asked."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from starlette.testclient import TestClient

from x402.devnet.demo_media import embedding, encoded, picture
from x402.devnet.model import EMBED, PICTURE, create_app


def test_vectors_are_of_length_one_and_belong_to_their_text() -> None:
    for dimensions in (2, 16, 64, 1536):
        vector = embedding("a", dimensions)
        assert len(vector) == dimensions
        assert sum(number * number for number in vector) == pytest.approx(1)
        assert vector == embedding("a", dimensions) != embedding("b", dimensions)
    assert struct.unpack("<2f", base64.b64decode(encoded([0.5, -0.25]))) == (0.5, -0.25)


def test_pictures_are_pngs_of_the_size() -> None:
    png = io.BytesIO(picture("a sunset", "40x30"))
    assert png.read(8) == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    while head := png.read(8):
        size, kind = struct.unpack(">I4s", head)
        chunks[kind] = png.read(size)
        assert struct.unpack(">I", png.read(4))[0] == zlib.crc32(kind + chunks[kind])
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (40, 30)
    assert len(zlib.decompress(chunks[b"IDAT"])) == 30 * (1 + 3 * 40)


def test_the_server_makes_both() -> None:
    client = TestClient(create_app())
    plain = client.post("/v1/embeddings", json={"model": EMBED, "input": ["one two", "three"], "dimensions": 8}).json()
    assert [len(one["embedding"]) for one in plain["data"]] == [8, 8]
    assert plain["usage"]["prompt_tokens"] == 3
    tokens = client.post("/v1/embeddings", json={"model": EMBED, "input": [1, 2, 3]}).json()
    assert (len(tokens["data"]), tokens["usage"]["prompt_tokens"]) == (1, 3)
    made = client.post("/v1/images/generations", json={"model": PICTURE, "prompt": "sea", "size": "8x8", "n": 2}).json()
    assert len(made["data"]) == 2
    shown = client.get(made["data"][0]["url"])
    assert shown.headers["content-type"] == "image/png"
    assert shown.content == picture("sea", "8x8")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("embeddings", {"model": EMBED}, 400),
        ("embeddings", {"model": "demo/echo-1", "input": "x"}, 404),
        ("images/generations", {"model": PICTURE, "prompt": ""}, 400),
        ("images/generations", [], 400),
    ],
)
def test_what_it_cannot_make_it_says(path: str, body: object, status: int) -> None:
    answer = TestClient(create_app()).post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


def test_a_single_number_is_a_vector_too() -> None:
    assert abs(embedding("a", 1)[0]) == 1
