"""Rows 71 and 89: what is measured of every provider, and what it promised."""

from __future__ import annotations

from x402.gateway.inference.health import Health


class Hands:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_row_071_latency_and_throughput_move_with_what_is_seen() -> None:
    health = Health(Hands())
    health.answered("p:m", 1.0)
    health.answered("p:m", 2.0)
    health.delivered("p:m", 100, 2.0)
    health.delivered("p:m", 0, 2.0)
    assert health.latency("p:m") == 1.2
    assert health.throughput("p:m") == 50
    shown = health.of("p:m")
    assert (shown["status"], shown["latency_ms"], shown["tokens_per_second"]) == ("up", 1200, 50.0)


def test_row_089_availability_over_a_day_against_the_promise() -> None:
    hands = Hands()
    health = Health(hands)
    for _ in range(199):
        health.answered("p:m", 0.1)
    health.failed("p:m")
    assert (health.of("p:m")["availability_percent"], health.of("p:m")["meets_slo"]) == (99.5, True)
    hands.now = 3600.0
    health.failed("p:m")
    assert (health.of("p:m")["availability_percent"], health.of("p:m")["meets_slo"]) == (99.0, False)
    hands.now = 89_000.0
    assert health.availability("p:m") == (0, 1), "what is older than a day counts no more"
    hands.now = 200_000.0
    assert health.of("p:m")["availability_percent"] is None


def test_the_usual_latency_needs_a_few_answers() -> None:
    health = Health(Hands())
    for index in range(7):
        health.answered("p:m", index)
    assert health.latency_below("p:m", 0.95) is None
    health.answered("p:m", 7)
    assert (health.latency_below("p:m", 0.5), health.latency_below("p:m", 1.0)) == (4, 7)


def test_who_was_never_asked_is_unknown_and_not_out() -> None:
    health = Health(Hands())
    assert health.of("x")["status"] == "unknown"
    assert not health.is_out("x")
    health.failed("x")
    assert health.of("x")["status"] == "outage"
