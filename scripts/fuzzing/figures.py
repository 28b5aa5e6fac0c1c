"""What a run has to tell: figures by target, and the first finding of each kind."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Any

GROWTH_LIMIT_MB = 20.0
"""How much the process may grow between the first tenth of the cases and the last."""
_BUCKETS_PER_OCTAVE = 8


@dataclass(frozen=True)
class Failure:
    """A broken promise, and the input that breaks it."""

    target: str
    data: bytes
    seed: int
    words: str
    trace: str

    @property
    def case(self) -> str:
        """The input as base64, for `--replay`."""
        return base64.b64encode(self.data).decode()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"target": self.target, "seed": self.seed, "case": self.case, "error": self.words, "trace": self.trace}


class Times:
    """How long cases took, in buckets of an eighth of an octave, so that millions of them take no memory."""

    def __init__(self, *others: Times) -> None:
        self._buckets: list[int] = [0] * 256
        for one in others:
            self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, one._buckets, strict=True)]

    def add(self, seconds: float) -> None:
        """One more."""
        place = int(math.log2(max(seconds * 1e6, 1.0)) * _BUCKETS_PER_OCTAVE)
        self._buckets[min(place, 255)] += 1

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the cases came to an end, rounded up by at most 9 %."""
        wanted, seen = share * sum(self._buckets), 0
        for place, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted and seen:
                return float(2 ** ((place + 1) / _BUCKETS_PER_OCTAVE)) / 1e3
        return 0.0


@dataclass
class Figures:
    """What became of one target's cases."""

    name: str
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    worst: float = 0.0
    wall: Times = field(default_factory=lambda: Times())
    cpu: Times = field(default_factory=lambda: Times())

    @property
    def cases(self) -> int:
        """All of them."""
        return self.accepted + self.refused + self.failed

    def timed(self, wall: float, cpu: float) -> None:
        """One more case, in seconds that passed and seconds of work."""
        self.worst = max(self.worst, wall)
        self.wall.add(wall)
        self.cpu.add(cpu)

    def as_json(self) -> dict[str, Any]:
        """For programs; times in milliseconds."""
        return {
            "target": self.name,
            "cases": self.cases,
            "accepted": self.accepted,
            "refused": self.refused,
            "failures": self.failed,
            "p50_ms": round(self.wall.quantile(0.5), 3),
            "p99_ms": round(self.wall.quantile(0.99), 3),
            "p99_cpu_ms": round(self.cpu.quantile(0.99), 3),
            "worst_ms": round(self.worst * 1e3, 1),
        }


@dataclass
class Report:
    """A whole run."""

    seed: int
    figures: dict[str, Figures]
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    rss_mb: float = 0.0
    growth_mb: float = 0.0

    @property
    def cases(self) -> int:
        """Of all targets."""
        return sum(one.cases for one in self.figures.values())

    @property
    def failed(self) -> int:
        """Cases that broke a promise; `failures` holds the first of each kind."""
        return sum(one.failed for one in self.figures.values())

    @property
    def p99_ms(self) -> float:
        """Of all cases together, in milliseconds that passed; a busy machine adds to it."""
        return Times(*(one.wall for one in self.figures.values())).quantile(0.99)

    @property
    def p99_cpu_ms(self) -> float:
        """Of all cases together, in milliseconds of work, which a busy machine changes little."""
        return Times(*(one.cpu for one in self.figures.values())).quantile(0.99)

    @property
    def ok(self) -> bool:
        """Nothing failed, and memory stayed flat."""
        return not self.failed and self.growth_mb < GROWTH_LIMIT_MB

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "cases": self.cases,
            "failures": self.failed,
            "seconds": round(self.seconds, 1),
            "p99_ms": round(self.p99_ms, 3),
            "p99_cpu_ms": round(self.p99_cpu_ms, 3),
            "rss_mb": round(self.rss_mb, 1),
            "rss_growth_mb": round(self.growth_mb, 1),
            "targets": [one.as_json() for one in self.figures.values()],
            "findings": [one.as_json() for one in self.failures],
        }
