"""How every provider's offer does: outages, latency, throughput and availability, measured on real requests.

Kept in memory by each process for itself: it decides which provider is asked next, never what anybody pays. Times are
seconds of any clock that only runs forward.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OUTAGE_SECONDS = 30.0
"""How long after a failure an offer is asked last (aimo row 69)."""
WINDOW_SECONDS = 86_400.0
"""Over how long availability is counted (aimo row 89)."""
SLO_PERCENT = 99.5
"""What a provider promises (aimo row 89); the gateway itself aims at 99.9."""

_SLOTS = 48
_SAMPLES = 64
_SAMPLES_LEAST = 8
_ALPHA = 0.2

Timer = Callable[[], float]


def loop_time() -> float:
    """Seconds of the running event loop."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class _Record:
    """What is known of one offer. `slots` are (number of the slot, answered, failed), the newest last."""

    latency: float | None = None
    throughput: float | None = None
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    failed_at: float | None = None
    slots: deque[list[int]] = field(default_factory=lambda: deque(maxlen=_SLOTS))


class Health:
    """The health of all offers, by their id `provider_id:name`."""

    def __init__(self, timer: Timer = loop_time) -> None:
        self.timer = timer
        self._records: dict[str, _Record] = {}
        self._fresh: dict[str, list[int]] = {}

    def answered(self, endpoint: str, seconds: float) -> None:
        """An answer began so long after it was asked for."""
        record = self._record(endpoint)
        record.latencies.append(seconds)
        record.latency = _moved(record.latency, seconds)
        record.failed_at = None
        self._count(endpoint, record, 1)

    def delivered(self, endpoint: str, tokens: int, seconds: float) -> None:
        """An answer of so many tokens took so long from its first byte to its last."""
        if tokens > 0 and seconds > 0:
            record = self._record(endpoint)
            record.throughput = _moved(record.throughput, tokens / seconds)

    def failed(self, endpoint: str) -> None:
        """No answer came, or it broke off."""
        record = self._record(endpoint)
        record.failed_at = self.timer()
        self._count(endpoint, record, 2)

    def is_out(self, endpoint: str) -> bool:
        """Whether the offer failed in the last half minute, and has not answered since."""
        record = self._records.get(endpoint)
        return record is not None and record.failed_at is not None and self.timer() < record.failed_at + OUTAGE_SECONDS

    def latency(self, endpoint: str) -> float | None:
        """Seconds to the first byte, lately; None when nobody has asked yet."""
        return self._known(endpoint).latency

    def throughput(self, endpoint: str) -> float | None:
        """Tokens per second, lately."""
        return self._known(endpoint).throughput

    def latency_below(self, endpoint: str, part: float) -> float | None:
        """The latency that this part of the last answers kept below; None while there are too few of them."""
        samples = sorted(self._known(endpoint).latencies)
        return samples[min(len(samples) - 1, int(len(samples) * part))] if len(samples) >= _SAMPLES_LEAST else None

    def availability(self, endpoint: str) -> tuple[int, int]:
        """How many requests were answered in the last day, and how many failed."""
        since = self._slot() - _SLOTS
        slots = [slot for slot in self._known(endpoint).slots if slot[0] > since]
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)

    def of(self, endpoint: str) -> dict[str, Any]:
        """All of it as JSON, for lists and pages. `status` is `up`, `outage`, or `unknown` before the first request."""
        record = self._known(endpoint)
        answered, failed = self.availability(endpoint)
        asked = answered + failed
        status = "outage" if self.is_out(endpoint) else ("up" if asked else "unknown")
        return {
            "status": status,
            "latency_ms": None if record.latency is None else round(record.latency * 1000),
            "tokens_per_second": None if record.throughput is None else round(record.throughput, 1),
            "availability_percent": round(100 * answered / asked, 2) if asked else None,
            "requests": asked,
            "failures": failed,
            "meets_slo": 100 * answered >= SLO_PERCENT * asked if asked else None,
        }

    def _known(self, endpoint: str) -> _Record:
        return self._records.get(endpoint) or _Record()

    def _record(self, endpoint: str) -> _Record:
        return self._records.setdefault(endpoint, _Record())

    def _slot(self) -> int:
        return int(self.timer() // (WINDOW_SECONDS / _SLOTS))

    def fresh(self) -> Mapping[str, tuple[int, int]]:
        """What was answered and what failed since this was asked last, by provider: for the book of days."""
        fresh, self._fresh = self._fresh, {}
        return {provider: (counts[0], counts[1]) for provider, counts in fresh.items()}

    def keep(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Take back what could not be written down."""
        for provider, (answered, failed) in counts.items():
            known = self._fresh.setdefault(provider, [0, 0])
            known[0] += answered
            known[1] += failed

    def _count(self, endpoint: str, record: _Record, what: int) -> None:
        self._fresh.setdefault(endpoint.partition(":")[0], [0, 0])[what - 1] += 1
        slot = self._slot()
        if not record.slots or record.slots[-1][0] != slot:
            record.slots.append([slot, 0, 0])
        record.slots[-1][what] += 1


def _moved(known: float | None, sample: float) -> float:
    """The moving average after one more sample."""
    return sample if known is None else known + _ALPHA * (sample - known)
