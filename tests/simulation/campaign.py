"""Many runs on all cores, and their figures."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from tests.simulation.recipes import recipe_of, systematic
from tests.simulation.run import Result, play

_CHUNK = 25
_EVIDENCE_MAX = 20

# What the parties tell those who run them is not what a campaign tells.
logging.getLogger("x402").addHandler(logging.NullHandler())


@dataclass
class Figures:
    """What was played and what came of it. `violations` are (run, words); `points` are the places of deaths."""

    runs: int = 0
    signed: int = 0
    paid: int = 0
    served: int = 0
    refused: int = 0
    virtual_seconds: float = 0.0
    points: set[tuple[str, str]] = field(default_factory=set)
    injected: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, result: Result) -> None:
        """Count one run."""
        self.runs += 1
        self.signed += result.signed
        self.paid += result.paid
        self.served += result.served
        self.refused += result.refused
        self.virtual_seconds += result.seconds
        self.points |= {(result.recipe.scenario.name, place) for place in result.died_at}
        self.injected += result.injected
        self.violations += [(name, words) for words in dict.fromkeys(result.broken)]

    def join(self, other: Figures) -> None:
        """Count what another process has counted."""
        self.runs += other.runs
        self.signed += other.signed
        self.paid += other.paid
        self.served += other.served
        self.refused += other.refused
        self.virtual_seconds += other.virtual_seconds
        self.points |= other.points
        self.injected += other.injected
        self.violations += other.violations

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "runs": self.runs,
            "distinct_crash_points": len(self.points),
            "payments_signed": self.signed,
            "payments_settled": self.paid,
            "purchases_served": self.served,
            "refusals": self.refused,
            "virtual_hours": round(self.virtual_seconds / 3600, 1),
            "faults": dict(sorted(self.injected.items())),
            "violations": len(self.violations),
            "violated": [{"run": name, "words": words} for name, words in self.violations[:_EVIDENCE_MAX]],
        }


def names(runs: int, seed: int, *, liveness: bool = False) -> Iterator[str]:
    """The first `runs` runs: everything systematic once, then storms, crowds and meters from `seed` on."""
    if liveness:
        yield from (f"alive:{number}" for number in range(seed, seed + runs))
        return
    storms = (name for number in count(seed) for name in (f"storm:{number}", f"crowd:{number}", f"meter:{number}"))
    yield from islice(_mixed(systematic(), storms), runs)


def _mixed(one: Iterator[str], other: Iterator[str]) -> Iterator[str]:
    """In turn, so that a short campaign has some of both."""
    for name in one:
        yield name
        yield next(other)
    yield from other


def play_all(wanted: Iterable[str], *, jobs: int, heard: Callable[[Figures], None] = lambda _: None) -> Figures:
    """Play runs by name; `heard` is told the figures as they grow."""
    total = Figures()
    chunks = _chunks(iter(wanted))
    if jobs <= 1:
        for chunk in chunks:
            total.join(play_some(chunk))
            heard(total)
        return total
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=400) as pool:
        for figures in pool.imap_unordered(play_some, chunks):
            total.join(figures)
            heard(total)
    return total


def play_some(wanted: list[str]) -> Figures:
    """The figures of a few runs. A run that fails to end is a violation as well."""
    figures = Figures()
    for name in wanted:
        try:
            figures.add(name, play(recipe_of(name)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run that shows it has a name
            figures.runs += 1
            figures.violations.append((name, f"X0 the run ended in {type(error).__name__}: {error}"))
    return figures


def _chunks(wanted: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(wanted, _CHUNK)):
        yield chunk
