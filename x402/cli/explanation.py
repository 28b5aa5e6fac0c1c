"""What an explanation is made of, and the words in which amounts, networks and times are put."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from x402 import networks
from x402.money import Amount, show_units


@dataclass(frozen=True, slots=True)
class Section:
    """A group of facts under a title, and what is wrong in it. A fact without a name continues the one before it."""

    title: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The section for programs."""
        facts: dict[str, str] = {}
        last = ""
        for name, value in self.facts:
            last = name or last
            facts[last] = f"{facts[last]}; {value}" if last in facts else value
        return {"title": self.title, "facts": facts, "problems": list(self.problems)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A message in words. `kind` is a name for programs, `summary` one sentence, `message` the decoded JSON."""

    kind: str
    summary: str
    sections: tuple[Section, ...]
    problems: tuple[str, ...] = ()
    message: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """Every problem, those of sections after those of the whole."""
        inside = (f"{section.title}: {problem}" for section in self.sections for problem in section.problems)
        return (*self.problems, *inside)

    def as_json(self) -> dict[str, Any]:
        """The explanation for programs."""
        return {
            "kind": self.kind,
            "summary": self.summary,
            "sections": [section.as_json() for section in self.sections],
            "problems": list(self.all_problems),
            "message": dict(self.message),
        }


def title_of(network: str) -> str:
    """A network for people: its title, its id, and whether its money is real."""
    known = networks.find(network)
    if known is None:
        return f"{network} (unknown)"
    return f"{known.title} ({known.id}), {'test network, play money' if known.testnet else 'REAL MONEY'}"


def money(units: int, network: str, asset: str) -> str:
    """An atomic amount for people; only a pinned asset has decimals that can be believed."""
    known = networks.find(network)
    pinned = known.asset(asset) if known else None
    if pinned is None:
        return f"{units} atomic units of a token that is not known"
    if not 0 <= units <= pinned.largest:
        return f"{units} atomic units, which {pinned.symbol} cannot express"
    return f"{Amount(units, pinned)} ({units} atomic)"


def usd(units: int) -> str:
    """Atomic USDC (6 decimals) as dollars."""
    return "$" + show_units(units, 6)


def span(seconds: int) -> str:
    """A length of time in the largest units that matter."""
    rest = abs(seconds)
    parts = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {name}")
    return " ".join(parts[:2]) or "0 s"


def deadline(at: int, now: int) -> str:
    """A unix second relative to now."""
    return f"{span(at - now)} from now" if at > now else f"{span(now - at)} ago"


def compact(value: Any) -> str:
    """JSON in one line, cut to a length that fits a screen."""
    text = json.dumps(value, ensure_ascii=True, separators=(", ", ": "))
    return text if len(text) <= 300 else text[:300] + "…"
