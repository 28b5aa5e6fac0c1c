"""Every order in which messages may arrive, to a depth: a small model check of the real code (faults bar 4).

Two requests are on their way to two gateways on one database: the same payment twice, or two payments. Wherever more
than one thing may happen next, each of them is tried: any message may arrive, one may be lost, and one gateway may die.
Orders that lead to the same state (books, chain, and what everybody was told) are followed once, and questions to the
chain, which change nothing, are answered at once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.faults import CALM
from tests.simulation.loop import SimulatedLoop
from tests.simulation.parties import Cast, Purchase
from tests.simulation.presenter import present
from tests.simulation.run import Recipe, Result, play
from tests.simulation.scenarios import EVM, Scenario
from tests.simulation.world import Delivery, World

GATEWAYS = ("gateway", "gateway2")


class Pruned(Exception):
    """This state was followed before."""


@dataclass
class Explorer:
    """Follows a path of choices, then takes the first choice everywhere; remembers how many there were."""

    world: World
    cast: Cast
    path: tuple[int, ...]
    depth: int
    seen: dict[int, int]
    crashes: int = 1
    losses: int = 1
    options: list[int] = field(default_factory=list)
    """How many choices there were at each point that was passed."""

    def deliver(self) -> bool:
        """Let the next thing happen; False when there is nothing, so that time may pass."""
        deliveries = self.world.deliveries
        if not deliveries:
            return False
        question = next((index for index, one in enumerate(deliveries) if one.asks), None)
        if question is not None:
            # Blocks are made when nothing is under way, so it makes no difference when a chain was asked.
            deliveries.pop(question).arrive()
            return True
        choices = list(self._choices(deliveries)) if len(self.options) < self.depth else [_arrival(deliveries, 0)]
        index = 0
        if len(choices) > 1:
            at = len(self.options)
            if at >= len(self.path):
                self._prune(deliveries, self.depth - at)
            index = self.path[at] if at < len(self.path) else 0
            self.options.append(len(choices))
        choices[index]()
        return True

    def _choices(self, deliveries: list[Delivery]) -> Iterator[Callable[[], None]]:
        for index, delivery in enumerate(deliveries):
            yield _arrival(deliveries, index)
            if self.losses and delivery.lost is not None:
                yield self._loss(deliveries, index)
        if self.crashes:
            yield from (self._death(name) for name in GATEWAYS if self.world.lives[name].alive)

    def _loss(self, deliveries: list[Delivery], index: int) -> Callable[[], None]:
        def lose() -> None:
            self.losses -= 1
            lost = deliveries.pop(index)
            self.world.note(f"lost: {lost.what}")
            if lost.lost is not None:
                lost.lost()

        return lose

    def _death(self, name: str) -> Callable[[], None]:
        def die() -> None:
            self.crashes -= 1
            self.world.kill(self.world.lives[name], 1.0)

        return die

    def _prune(self, deliveries: list[Delivery], left: int) -> None:
        state = hash((self._state(), tuple(sorted(one.what for one in deliveries)), self.crashes, self.losses))
        if self.seen.get(state, -1) >= left:
            raise Pruned
        self.seen[state] = left

    def _state(self) -> int:
        rows = [
            tuple(
                disk.database.raw.execute("SELECT party, pay_id, state, stage, leased_by FROM payments ORDER BY 1, 2")
            )
            for disk in self.cast.disks.values()
        ]
        chain = tuple(one.transaction.hash for one in self.cast.evm.history), tuple(sorted(self.cast.evm.pool))
        heard = tuple(sorted(self.world.heard.items()))
        return hash((tuple(rows), chain, heard, round(self.world.loop.time(), 3)))


def _arrival(deliveries: list[Delivery], index: int) -> Callable[[], None]:
    def arrive() -> None:
        deliveries.pop(index).arrive()

    return arrive


@dataclass
class Explored:
    """What an exploration has found: orders played, those that met a state that was followed before, and the most
    choices in one order."""

    runs: int = 0
    pruned: int = 0
    deepest: int = 0
    violations: list[tuple[int, tuple[int, ...], str]] = field(default_factory=list)

    def join(self, other: Explored) -> None:
        """What another process has found."""
        self.runs += other.runs
        self.pruned += other.pruned
        self.deepest = max(self.deepest, other.deepest)
        self.violations += other.violations

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        violated = [{"payments": one, "path": list(path), "words": words} for one, path, words in self.violations[:20]]
        return {
            "orders": self.runs, "met_again": self.pruned, "deepest": self.deepest,
            "violations": len(self.violations), "violated": violated,
        }  # fmt: skip


def explore(*, payments: int, depth: int, prefix: tuple[int, ...] = (), runs_max: int = 10**9) -> Explored:
    """All orders below `prefix`, to `depth` choices. `payments` is 1 for one payment twice, or 2."""
    found = Explored()
    seen: dict[int, int] = {}
    stack: list[tuple[int, ...]] = [prefix]
    while stack and found.runs < runs_max:
        path = stack.pop()
        result, explorer = _follow(path, payments, depth, seen)
        found.runs += 1
        found.deepest = max(found.deepest, len(explorer.options))
        if result is None:
            found.pruned += 1
        else:
            found.violations += [(payments, path, words) for words in result.broken]
        # Every other choice behind the path is a path of its own, and each of them is found from one run only.
        for at in range(len(explorer.options) - 1, len(path) - 1, -1):
            stem = path + (0,) * (at - len(path))
            stack += [(*stem, choice) for choice in range(explorer.options[at] - 1, 0, -1)]
    return found


def explore_all(*, depth: int, jobs: int, heard: Callable[[int], None] = lambda _: None) -> Explored:
    """One payment twice, and two payments, each with all orders; several processes share the work by first choice."""
    work = [(payments, depth, prefix) for payments in (1, 2) for prefix in _branches(payments, depth)]
    found = Explored()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for part in pool.imap_unordered(_explore_branch, work):
            found.join(part)
            heard(found.runs)
    return found


def _explore_branch(work: tuple[int, int, tuple[int, ...]]) -> Explored:
    payments, depth, prefix = work
    return explore(payments=payments, depth=depth, prefix=prefix)


def _branches(payments: int, depth: int) -> list[tuple[int, ...]]:
    """Prefixes that together cover everything."""
    _, explorer = _follow((), payments, min(depth, 2), {})
    first = explorer.options[0]
    if depth < 2 or len(explorer.options) < 2:
        return [(choice,) for choice in range(first)]
    return [(0, choice) for choice in range(explorer.options[1])] + [(choice,) for choice in range(1, first)]


def _follow(path: tuple[int, ...], payments: int, depth: int, seen: dict[int, int]) -> tuple[Result | None, Explorer]:
    made: list[Explorer] = []

    def arrange(cast: Cast) -> None:
        explorer = Explorer(cast.world, cast, path, depth, seen)
        made.append(explorer)
        loop: SimulatedLoop = cast.world.loop
        cast.purchases = [Purchase(number, 0.0) for number in range(payments)]
        cast.world.mortal = set(GATEWAYS)

        def begin() -> None:
            cast.world.deliveries = []
            loop.deliver = explorer.deliver

        cast.start_client = lambda: present(cast, begin)  # type: ignore[method-assign]

    scenario = Scenario(EVM, "authorization", "replicas", purchases=0, seconds=0.0)
    try:
        return play(Recipe(scenario, weather=CALM), arrange=arrange), made[0]
    except Pruned:
        return None, made[0]


__all__ = ["Explored", "explore", "explore_all"]
