"""Kill anybody at any moment, start them again, and see whether a coin was lost (faults A06, A22; bar 2).

Rounds of two halves. First customers buy while gateways, facilitators and customers are killed at random moments, one
or two at a time, and started again. Then nobody is killed any more, and every call that has no answer is made once
more: now whatever was paid for must have been served. `x402 resolve` asks the chains what a journal does not know, and
a call whose payment has died unused may pay anew. What was left open at the gateways and facilitators has
`OPEN_SECONDS` to be decided. Then the chains and all books must agree to the unit.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.live import books
from tests.live.chain_facts import Chains
from tests.live.customer import CallRecord
from tests.live.verdict import OPEN, Facts, Figures, figures, judge, paid_not_served
from tests.live.village import Size, Village
from x402.lifecycle import Party
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.stages import State

KILLS_PER_ROUND = 40
BOTH = 0.2
"""How often two are killed at one moment."""
DOWN_SECONDS_MAX = 0.4
BACK_AT_WORK = 0.8
"""How often nobody else is killed until those who were have come back."""
OPEN_SECONDS = 30.0
RETRY_SECONDS = 120.0
_AT_WORK = {
    Party.GATEWAY: (State.CLAIMED, State.SERVED, State.SETTLING, State.SETTLED),
    Party.FACILITATOR: (State.INTENDED,),
}
Say = Callable[[int, str], None]
"""Hears how many kills are done, and what goes on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `pace_seconds` is the mean time between two kills, `rps` calls a second in all."""

    kills: int
    seed: int = 1
    rps: float = 10.0
    pace_seconds: float = 1.2
    size: Size = field(default_factory=Size)
    ledgers: Mapping[str, str] | None = None
    engine: str = "auto"


@dataclass(slots=True)
class Report:
    """What was done and what came of it. `hits` are kills that met a payment at work in what they killed."""

    seed: int
    engine: str = ""
    kills: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    cut: int = 0
    """Calls that their customer's own death cut off."""
    failed_once: int = 0
    """Calls that had no answer at first and got one when they were made again."""
    slowest_open_seconds: float = 0.0
    figures: Figures | None = None
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The report for programs; units of money as texts of atomic USDC."""
        told = asdict(self.figures) if self.figures is not None else {}
        told["units"] = {network: str(units) for network, units in told.get("units", {}).items()}
        return {
            "ok": not self.wrong,
            "seed": self.seed,
            "engine": self.engine,
            "seconds": round(self.seconds, 1),
            "kills": {**self.kills, "total": self.kills.total()},
            "hits": {**self.hits, "total": self.hits.total()},
            "rounds": self.rounds,
            "calls_cut": self.cut,
            "calls_answered_when_made_again": self.failed_once,
            "slowest_open_seconds": round(self.slowest_open_seconds, 2),
            **told,
            "wrong": self.wrong,
        }


def run(plan: Plan, folder: Path, say: Say = lambda done, words: None) -> Report:
    """Play it through; stops after the first round that ends in a wrong verdict."""
    began = time.monotonic()
    chance = random.Random(plan.seed)
    report = Report(plan.seed)
    say(0, "starting the chains")
    with Village(folder, plan.size, ledgers=plan.ledgers, engine=plan.engine) as village:
        report.engine = village.urls.engine
        pay_to = {network: village.seller.address(network) for network in (BASE_SEPOLIA, SOLANA_DEVNET)}
        chains = Chains(village.urls.evm, village.urls.svm, pay_to)
        try:
            services = [*village.facilitators, *village.gateways]
            for name in services:
                village.start(name)
            village.wait_ready(services)
            while not report.wrong and report.kills.total() < plan.kills:
                _round(village, chains, plan, chance, report, say)
                _judge(village, chains, report)
                report.rounds += 1
        finally:
            chains.close()
    report.seconds = time.monotonic() - began
    return report


def _round(village: Village, chains: Chains, plan: Plan, chance: random.Random, report: Report, say: Say) -> None:
    for name in village.customers:
        village.start(name, mode="trade", rate=plan.rps / len(village.customers))
    everybody = [*village.facilitators, *village.gateways, *village.customers]
    for _ in range(KILLS_PER_ROUND):
        left = plan.kills - report.kills.total()
        if left <= 0:
            break
        time.sleep(chance.uniform(0.1, 2 * plan.pace_seconds - 0.1 - DOWN_SECONDS_MAX / 2))
        names = _targets(village, everybody, chance)[:left]
        _kill(village, names, report)
        time.sleep(chance.uniform(0.0, DOWN_SECONDS_MAX))
        for name in names:
            village.start(name, mode="trade", rate=plan.rps / len(village.customers))
        if chance.random() < BACK_AT_WORK:
            # Who dies while it still starts is met as well, but nobody else would ever be where there is little CPU.
            village.wait_ready([name for name in names if not name.startswith("customer")], "/health")
        say(report.kills.total(), f"round {report.rounds + 1}: killed {' and '.join(names)}")
    say(report.kills.total(), f"round {report.rounds + 1}: quiet, every call without an answer is made once more")
    _quieten(village, report)
    before = _calls(village)
    _all(village, "retry", report)
    facts = gather(village, chains, audited=False)
    report.wrong += paid_not_served(facts)
    for mode in ("resolve", "retry", "resolve"):
        _all(village, mode, report)
    unanswered = {call.name for call in before if not call.answers}
    report.failed_once += sum(1 for call in _calls(village) if call.name in unanswered and call.answers)


def _targets(village: Village, everybody: list[str], chance: random.Random) -> list[str]:
    """One or two; a role first, so that many customers do not draw all the fire."""
    roles = {name.partition("-")[0] for name in everybody}
    drawn = chance.sample(sorted(roles), 2 if chance.random() < BOTH else 1)
    return [chance.choice([name for name in everybody if name.startswith(role)]) for role in drawn]


def _kill(village: Village, names: list[str], report: Report) -> None:
    for name in names:
        status = village.kill(name)
        if status is not None:
            report.wrong.append(f"{name} had ended by itself with status {status}; see {village.log_of(name)}")
    for name in names:
        role = name.partition("-")[0]
        report.kills[role] += 1
        at_work = _at_work(village, name)
        report.hits[role] += at_work > 0
        report.cut += at_work if role == "customer" else 0


def _at_work(village: Village, name: str) -> int:
    """How many calls or payments the one who has just died was busy with."""
    role = name.partition("-")[0]
    if role == "customer":
        return sum(1 for call in books.calls(village.folder / name) if call.cut)
    party = Party(role)
    return books.count(village.ledgers[role], party, _AT_WORK[party])


def _quieten(village: Village, report: Report) -> None:
    for name in village.customers:
        village.nursery.kill(village.children[name], signal.SIGTERM)
    for name in village.customers:
        # One that was started a moment ago may not have begun to listen for the signal.
        _end(village, name, report, fine=(0, -signal.SIGTERM))
    village.wait_ready([*village.facilitators, *village.gateways])


def _all(village: Village, mode: str, report: Report) -> None:
    for name in village.customers:
        village.start(name, mode=mode)
    for name in village.customers:
        _end(village, name, report)


def _calls(village: Village) -> list[CallRecord]:
    return [call for name in village.customers for call in books.calls(village.folder / name)]


def _end(village: Village, name: str, report: Report, fine: tuple[int, ...] = (0,)) -> None:
    status = village.wait_ended(name, RETRY_SECONDS)
    if status not in fine:
        report.wrong.append(f"{name} ended with status {status}; see {village.log_of(name)}")


def _judge(village: Village, chains: Chains, report: Report) -> None:
    began = time.monotonic()
    while time.monotonic() - began < OPEN_SECONDS and _is_open(village):
        time.sleep(0.1)
    report.slowest_open_seconds = max(report.slowest_open_seconds, time.monotonic() - began)
    facts = gather(village, chains)
    report.figures = figures(facts)
    report.wrong += judge(facts)


def _is_open(village: Village) -> bool:
    return any(books.count(village.ledgers[book], Party(book), states) for book, states in OPEN.items())


def gather(village: Village, chains: Chains, *, audited: bool = True) -> Facts:
    """Read the chains and everybody's books; `audited` has the ledgers audited too."""
    folders = [village.folder / name for name in village.customers]
    return Facts(
        moved=chains.transfers(),
        received=chains.received(),
        gateway=books.rows(village.ledgers["gateway"], Party.GATEWAY),
        facilitator=books.rows(village.ledgers["facilitator"], Party.FACILITATOR),
        journals=[one for folder in folders for one in books.journal(folder)],
        calls=_calls(village),
        signed=chains.signed(village.signers),
        nonces=books.nonces(village.ledgers["facilitator"], village.signers),
        audits={name: books.audit(url) for name, url in village.ledgers.items()} if audited else {},
    )
