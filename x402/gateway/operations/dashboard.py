"""What the dashboard shows, from the books and from what the router knows: numbers as text, ready to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from x402 import networks
from x402.ports.overview import Group, Overview

HOURS = (1, 24, 168, 720)
"""The stretches of time that can be looked at, in hours."""
POINTS = 48
"""How many points a curve has."""


def step_of(hours: int) -> int:
    """How many seconds one point of the curve stands for."""
    return hours * 3600 // POINTS


def view(
    seen: Overview, *, now: int, hours: int, checks: Mapping[str, bool], providers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The dashboard's data as JSON. `providers` is what the gateway lists of them, health included."""
    step = step_of(hours)
    known = {at: (answers, charged) for at, answers, charged in seen.series}
    series = [
        {"at": at, "answers": known.get(at, (0, 0))[0], "charged": dollars(known.get(at, (0, 0))[1])}
        for at in range(seen.since, seen.since + POINTS * step, step)
    ]
    oldest = None if seen.pending_since is None else max(0, now - seen.pending_since)
    return {
        "at": now,
        "hours": hours,
        "checks": dict(checks),
        "revenue": dollars(seen.charged),
        "fee": dollars(seen.fee),
        "credited": dollars(seen.credited),
        "held": dollars(seen.held_for_others),
        "received": dollars(seen.received),
        "answers": seen.answers,
        "payments": seen.payments,
        "errors": {"failed": seen.failed, "refused": seen.refused, "owed": seen.owed},
        "pending": {"payments": seen.pending, "amount": dollars(seen.pending_units), "oldest_seconds": oldest},
        "latency_ms": {"p50": _part(seen.latencies_ms, 50), "p95": _part(seen.latencies_ms, 95)},
        "first_token_ms": {"p50": _part(seen.first_tokens_ms, 50), "p95": _part(seen.first_tokens_ms, 95)},
        "series": series,
        "models": _groups(seen.models),
        "payers": _groups(seen.payers),
        "providers": [_provider(one, seen.providers) for one in providers],
        "receipts": [
            {
                "at": one.at,
                "network": networks.get(one.network).title,
                "amount": dollars(one.amount),
                "payer": one.payer,
                "state": one.state,
                "transaction": one.transaction,
                "url": networks.get(one.network).transaction_url(one.transaction),
            }
            for one in seen.latest
        ],
    }


def dollars(units: int) -> str:
    """Atomic USDC as dollars, with two digits at least and six at most."""
    whole, rest = divmod(units, 1_000_000)
    digits = f"{rest:06d}".rstrip("0")
    return f"{whole}.{digits.ljust(2, '0')}"


def _part(ordered: Sequence[int], percent: int) -> int | None:
    """The value below which so many percent of them lie."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        {"name": one.name or "unnamed", "answers": one.answers, "charged": dollars(one.charged), "tokens": one.tokens}
        for one in groups
    ]


def _provider(listed: Mapping[str, Any], sums: Sequence[Group]) -> dict[str, Any]:
    mine = next((one for one in sums if one.name == listed["id"]), None)
    return {
        "name": listed["display_name"],
        "status": listed["status"],
        "answers": 0 if mine is None else mine.answers,
        "charged": dollars(0 if mine is None else mine.charged),
        "models": [
            {
                "id": model["id"],
                "status": model["health"]["status"],
                "latency_ms": model["health"]["latency_ms"],
                "availability_percent": model["health"]["availability_percent"],
            }
            for model in listed["models"]
        ],
    }
