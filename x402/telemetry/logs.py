"""Facts as structlog lines; structlog belongs to the `server` extra and is loaded for the first line."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

from x402.telemetry import Fact, Observer, request_id

_WARNINGS = ("refused", "pending", "reversed", "failed", "unavailable", "_low", "_high")
_COUNTED = frozenset({"signer.balance", "fees.spent", "verify.valid"})
_GAUGES = ("gateway.", "step.")
"""These, and what is only counted, are told again and again: they belong in the metrics alone."""


def log_facts() -> Observer:
    """An observer that writes each fact as one structured line, with a warning for what is not as it should be.

    The first line waits until structlog is loaded, a twentieth of a second; `load_writer` does that before. Raises
    `ModuleNotFoundError` where it isn't installed.
    """
    if find_spec("structlog") is None:
        raise ModuleNotFoundError("No module named 'structlog'", name="structlog")

    def observe(fact: Fact) -> None:
        if fact.name in _COUNTED or fact.name.startswith(_GAUGES):
            return
        writer = load_writer()
        write = writer.warning if fact.name.endswith(_WARNINGS) else writer.info
        asked = request_id.get()
        write(fact.name, **({"request_id": asked} if asked else {}), **fact.attributes)

    return observe


@cache
def load_writer() -> Any:
    """Who writes the lines. Raises `ModuleNotFoundError` where structlog isn't installed."""
    import structlog

    return structlog.get_logger("x402")
