"""Facts as Prometheus counters and histograms; prometheus-client belongs to the `server` extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
    # Each of several processes tells the same of what they share, so the latest word holds.
    gauge = partial(Gauge, multiprocess_mode="mostrecent", registry=registry)
    balances = gauge("x402_signer_balance", "Wei or lamports of a key.", ("network", "signer"))
    seconds = Histogram("x402_seconds", "Durations of facts.", ("fact",), registry=registry, buckets=_SECONDS)

    answers = _count_answers(registry)
    gauges = {
        "gateway.pending": gauge("x402_pending_payments", "Payments that are not decided yet."),
        "gateway.pending_age": gauge("x402_pending_seconds", "Age of the oldest of them."),
        "gateway.deliveries": gauge("x402_webhook_deliveries_due", "Webhook deliveries to come."),
    }
    providers = gauge("x402_provider_up", "Whether a provider's model can be had.", ("provider", "model"))

    def observe(fact: Fact) -> None:
        attributes = fact.attributes
        if fact.name in gauges:
            gauges[fact.name].set(int(attributes["value"]))
            return
        if fact.name == "gateway.provider":
            providers.labels(attributes["provider"], attributes["model"]).set(int(attributes["up"]))
            return
        if fact.name == "answer.sold":
            answers(attributes)
        if fact.name == "signer.balance":
            balances.labels(attributes["network"], attributes["signer"]).set(int(attributes["balance"]))
            return
        if "fee" in attributes:
            fees.labels(attributes["network"]).inc(int(attributes["fee"]))
        facts.labels(fact.name, attributes.get("network", ""), attributes.get("reason", "")).inc()
        if "duration_us" in attributes:
            seconds.labels(fact.name).observe(int(attributes["duration_us"]) / 1_000_000)

    return observe


def _count_answers(registry: CollectorRegistry) -> Callable[[Mapping[str, str | int]], None]:
    """Answers, tokens and revenue by model, and how long they took."""
    from prometheus_client import Counter, Histogram

    labels = ("model", "provider")
    answers = Counter("x402_answers", "Answers sold.", (*labels, "paid_by", "outcome"), registry=registry)
    tokens = Counter("x402_tokens", "Tokens metered.", (*labels, "kind"), registry=registry)
    revenue = Counter("x402_revenue_units", "Charged, in atomic USDC.", (*labels, "paid_by"), registry=registry)
    latency = Histogram("x402_answer_seconds", "Until it was whole.", labels, registry=registry, buckets=_SECONDS)
    first = Histogram("x402_first_token_seconds", "Until its first token.", labels, registry=registry, buckets=_SECONDS)

    def count(told: Mapping[str, str | int]) -> None:
        whose = (told["model"], told["provider"])
        answers.labels(*whose, told["paid_by"], told["outcome"]).inc()
        revenue.labels(*whose, told["paid_by"]).inc(int(told["charged_units"]))
        for kind in ("input", "output"):
            tokens.labels(*whose, kind).inc(int(told[f"{kind}_tokens"]))
        latency.labels(*whose).observe(int(told["latency_ms"]) / 1000)
        if "first_token_ms" in told:
            first.labels(*whose).observe(int(told["first_token_ms"]) / 1000)

    return count


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The metrics page and its content type. Where several processes count into files (`PROMETHEUS_MULTIPROC_DIR`), it
    adds up those of all, of the dead as well; it reads files then, so call it on a thread."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.values import MutexValue, ValueClass

    if ValueClass is not MutexValue:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
