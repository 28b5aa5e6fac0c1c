"""Facts as Prometheus counters and histograms; prometheus-client belongs to the `server` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from x402.telemetry import Fact, Observer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def count_facts(registry: CollectorRegistry) -> Observer:
    """An observer that counts facts by name, network and reason, records durations (`duration_us`) in seconds, sums up
    fees and shows what signers hold (wei or lamports)."""
    from prometheus_client import Counter, Gauge, Histogram

    facts = Counter("x402_facts", "Facts by name.", ("fact", "network", "reason"), registry=registry)
    fees = Counter("x402_fees", "Fees paid, in wei or lamports.", ("network",), registry=registry)
    balances = Gauge("x402_signer_balance", "Wei or lamports of a key.", ("network", "signer"), registry=registry)
    seconds = Histogram("x402_seconds", "Durations of facts.", ("fact",), registry=registry, buckets=_SECONDS)

    def observe(fact: Fact) -> None:
        attributes = fact.attributes
        if fact.name == "signer.balance":
            balances.labels(attributes["network"], attributes["signer"]).set(int(attributes["balance"]))
            return
        if "fee" in attributes:
            fees.labels(attributes["network"]).inc(int(attributes["fee"]))
        facts.labels(fact.name, attributes.get("network", ""), attributes.get("reason", "")).inc()
        if "duration_us" in attributes:
            seconds.labels(fact.name).observe(int(attributes["duration_us"]) / 1_000_000)

    return observe


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The metrics page and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(registry), CONTENT_TYPE_LATEST
