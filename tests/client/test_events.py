"""Server-sent events in whatever pieces they arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.client.events import EVENT_LIMIT, Comment, Event, EventDecoder
from x402.errors import MalformedError

STREAM = (
    '\ufeff: hello\r\n\r\ndata: {"a":1}\n\ndata: one\r\ndata:two\r\n\r\nevent: note\ndata: x\n\n'
    "id: 7\nretry: 10\nunknown: y\ndata\n\ndata: é€😀\r\rdata: [DONE]\n\n"
).encode()
ITEMS = [
    Comment("hello"),
    Event('{"a":1}'),
    Event("one\ntwo"),
    Event("x", "note"),
    Event(""),
    Event("é€😀"),
    Event("[DONE]"),
]


def decode(*chunks: bytes) -> list[Event | Comment]:
    decoder = EventDecoder()
    return [item for chunk in chunks for item in decoder.feed(chunk)] + list(decoder.finish())


def test_a_stream_in_one_piece() -> None:
    assert decode(STREAM) == ITEMS


def test_row_042_a_stream_byte_by_byte() -> None:
    assert decode(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == ITEMS


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_row_042_a_stream_in_any_pieces(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[start:end] for start, end in itertools.pairwise(marks))) == ITEMS


def test_a_last_event_without_an_empty_line_counts() -> None:
    assert decode(b"data: x") == [Event("x")]
    assert decode(b"data: x\r") == [Event("x")]
    assert decode(b"") == []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_break_the_decoder(chunks: list[bytes]) -> None:
    assert decode(*chunks) == decode(b"".join(chunks))


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n"])
def test_E04_an_endless_event_is_refused(piece: bytes) -> None:
    decoder = EventDecoder()
    pieces = itertools.repeat(piece, 2 * EVENT_LIMIT // len(piece))
    with pytest.raises(MalformedError):
        list(itertools.chain.from_iterable(map(decoder.feed, pieces)))
