"""What was measured, what was aimed at, and how both are told."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

OURS, PYTHON, TYPESCRIPT = "ours", "python", "typescript"
TOLD_PACKAGES = ("x402-engine", "uvicorn", "uvloop", "httptools", "httpx", "coincurve", "solders", "SQLAlchemy")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `row` names what was measured, `who` did it; `value` has the `unit`."""

    row: str
    who: str
    value: float
    unit: str
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at in a row: `least` or `most` alone, or `times` as good as each of the peers.

    `more` says that a larger value is the better one. `then` is what the peers did in the run after which `least` or
    `most` was set: a machine on which they are slower than that is judged by the same ratio to each of them.
    """

    row: str
    title: str
    more: bool = True
    least: float | None = None
    most: float | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    then: Mapping[str, float] = field(default_factory=dict)

    def words(self) -> str:
        """The goal as people read it."""
        parts = [f">= {factor:g}x {peer}" for peer, factor in self.times.items()]
        bar = "" if self.least is None else f">= {self.least:g}"
        bar = bar if self.most is None else f"<= {self.most:g}"
        if ratios := " and ".join(f">= {factor:.2g}x {peer}" for peer, factor in self._ratios().items()):
            bar = f"({bar}, or {ratios})" if parts else f"{bar}, or {ratios}"
        return " and ".join([*parts, *([bar] if bar else [])])

    def verdict(self, values: Mapping[str, float]) -> bool | None:
        """Whether our value reaches the goal; None while a value that it needs is missing."""
        ours = values.get(OURS)
        if ours is None or not set(self.times) <= set(values):
            return None
        if not _reaches(ours, values, self.times, self.more):
            return False
        if (self.least is None or ours >= self.least) and (self.most is None or ours <= self.most):
            return True
        if not set(self.then) <= set(values):
            return None
        return bool(self.then) and _reaches(ours, values, self._ratios(), self.more)

    def _ratios(self) -> Mapping[str, float]:
        """How many times as good as each peer the absolute goal was when it was set."""
        bar = self.least if self.least is not None else self.most
        return {} if bar is None else {peer: _ratio(bar, value, self.more) for peer, value in self.then.items()}


def _reaches(ours: float, values: Mapping[str, float], factors: Mapping[str, float], more: bool) -> bool:
    return all(_ratio(ours, values[peer], more) >= factor for peer, factor in factors.items())


def _ratio(ours: float, theirs: float, more: bool) -> float:
    """How many times better ours is."""
    good, bad = (ours, theirs) if more else (theirs, ours)
    return good / bad if bad else float("inf")


def best(figures: Iterable[Figure], *, more: bool = True) -> dict[str, Figure]:
    """The best figure of each contender; `python-async` and `python-threads` are both `python`."""
    found: dict[str, Figure] = {}
    for figure in figures:
        who = figure.who.partition("-")[0]
        known = found.get(who)
        if known is None or (figure.value > known.value) is more:
            found[who] = figure
    return found


def table(figures: Sequence[Figure], goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """A line for each goal: the peers' values and ours, the ratio to the best peer, and whether the goal is met."""
    lines = []
    for goal in goals:
        here = best((figure for figure in figures if figure.row == goal.row), more=goal.more)
        if not here:
            continue
        values = {who: figure.value for who, figure in here.items()}
        peers = [values[who] for who in (PYTHON, TYPESCRIPT) if who in values]
        rival = (max if goal.more else min)(peers) if peers else None
        ours = values.get(OURS)
        ratio = _ratio(ours, rival, goal.more) if rival and ours else None
        lines.append(
            {
                "row": goal.row, "figure": goal.title, "unit": next(iter(here.values())).unit,
                PYTHON: values.get(PYTHON), TYPESCRIPT: values.get(TYPESCRIPT), OURS: ours,
                "ratio": ratio, "goal": goal.words(), "met": goal.verdict(values),
            }
        )  # fmt: skip
    return lines


def machine() -> dict[str, Any]:
    """What it ran on: whoever compares figures needs it."""
    versions = {}
    for name in TOLD_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "commit": _commit(),
        "versions": versions,
    }


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def short(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quantile(samples: Sequence[float], part: float) -> float:
    """The value below which `part` of the samples lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def middle(figures: Sequence[Figure]) -> Figure:
    """The round in the middle: it has the median value, and its own notes."""
    return sorted(figures, key=lambda figure: figure.value)[len(figures) // 2]


def median_ms(samples: Iterable[float]) -> float:
    """Milliseconds from seconds."""
    return statistics.median(samples) * 1000


def tell(line: str) -> None:
    """A word on what is being done, out of the way of the figures."""
    print(line, file=sys.stderr, flush=True)
