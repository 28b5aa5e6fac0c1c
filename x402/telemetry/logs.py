"""Facts as structlog lines; structlog belongs to the `server` extra and is imported when the observer is made."""

from __future__ import annotations

from x402.telemetry import Fact, Observer, request_id

_WARNINGS = ("refused", "pending", "reversed", "failed", "unavailable", "_low", "_high")
_COUNTED = frozenset({"signer.balance", "fees.spent", "verify.valid"})
_GAUGES = ("gateway.", "step.")
"""These, and what is only counted, are told again and again: they belong in the metrics alone."""


def log_facts() -> Observer:
    """An observer that writes each fact as one structured line, with a warning for what is not as it should be."""
    import structlog

    logger = structlog.get_logger("x402")

    def observe(fact: Fact) -> None:
        if fact.name in _COUNTED or fact.name.startswith(_GAUGES):
            return
        write = logger.warning if fact.name.endswith(_WARNINGS) else logger.info
        asked = request_id.get()
        write(fact.name, **({"request_id": asked} if asked else {}), **fact.attributes)

    return observe
