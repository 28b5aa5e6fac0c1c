"""Server-sent events in their own bytes, cut out of a stream however it was split on the way."""

from __future__ import annotations


def next_event(data: bytes) -> tuple[bytes | None, bytes]:
    """The first event that is complete, with the empty line that ends it, and what comes after it."""
    ends = [(data.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r")]
    found = min(((at, size) for at, size in ends if at >= 0), default=None)
    if found is None:
        return None, data
    end = found[0] + found[1]
    return data[:end], data[end:]


def data_of(event: bytes) -> bytes | None:
    """What an event says, or None for a comment."""
    lines = [line for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines) if lines else None
