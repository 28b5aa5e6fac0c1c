"""JSON of strangers that may nest without end, read and written within the stack of whoever asks (faults E04, F12).

Python's own limit does not stop the decoder in time: libraries of the EVM raise it to 100,000 when they are imported,
and under that nested brackets in a body overflow the C stack and kill the process.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

_SAFE_DEPTH = 12_000
"""So many levels of brackets, and Python frames, fit into the C stack of any thread."""
_LOWERED = threading.Lock()
"""Held while the limit of the whole process is lowered."""


def read_json(data: str | bytes) -> Any:
    """Whatever JSON a node or a provider sent: its shape is for the caller to check. Raises `ValueError`."""
    return decode(data if isinstance(data, str) else data.decode(), json.loads)


def write_json(value: Any) -> bytes:
    """What `read_json` gave, as JSON again. Half a character, which models stream when they split an emoji (a lone
    surrogate), stays the escape that it was. Raises `ValueError` where it nests too deeply."""
    try:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def decode(text: str, decoder: Callable[[str], Any]) -> Any:
    """What the decoder makes of a text. Raises what it raises, and `ValueError` where it nests too deeply."""
    try:
        return _decode(text, decoder)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode(text: str, decoder: Callable[[str], Any]) -> Any:
    usual = sys.getrecursionlimit()
    if usual <= _SAFE_DEPTH or text.count("{") + text.count("[") <= _SAFE_DEPTH:
        return decoder(text)
    with _LOWERED:
        usual = sys.getrecursionlimit()
        sys.setrecursionlimit(_SAFE_DEPTH)
        try:
            return decoder(text)
        finally:
            sys.setrecursionlimit(usual)
