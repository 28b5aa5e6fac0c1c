"""Facts as structlog lines; structlog belongs to the `server` extra and is imported when the observer is made."""

from __future__ import annotations

from x402.telemetry import Fact, Observer

_WARNINGS = ("refused", "pending", "reversed", "failed", "unavailable")


def log_facts() -> Observer:
    """An observer that writes each fact as one structured line, with a warning for what is not as it should be."""
    import structlog

    logger = structlog.get_logger("x402")

    def observe(fact: Fact) -> None:
        write = logger.warning if fact.name.endswith(_WARNINGS) else logger.info
        write(fact.name, **fact.attributes)

    return observe
