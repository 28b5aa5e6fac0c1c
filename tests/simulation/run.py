"""One run: a pure function of scenario, seed, weather and plan."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anyio.to_thread

from tests.simulation.disk import Database, Disk, JournalFile
from tests.simulation.faults import CALM, Plan, Weather
from tests.simulation.invariants import Watchman
from tests.simulation.loop import SimulatedLoop
from tests.simulation.mischief import Mischief
from tests.simulation.parties import Cast
from tests.simulation.scenarios import Scenario
from tests.simulation.world import World
from x402.client import owner

_STEP_SECONDS = 4.0
_PATIENCE_SECONDS = 60.0
_QUIET_SECONDS_MAX = 420.0
_VISIT_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes a run what it is; the same recipe makes the same run."""

    scenario: Scenario
    seed: int = 0
    weather: Weather = CALM
    plan: Plan = field(default_factory=Plan)
    shuffled: bool = False


@dataclass
class Result:
    """What came of a run."""

    recipe: Recipe
    broken: list[str]
    digest: str
    trace: list[str]
    injected: Counter[str]
    crash_points: list[str]
    died_at: list[str]
    messages: int
    paid: int
    served: int
    refused: int
    signed: int
    seconds: float


@cache
def _shelf() -> tuple[dict[str, Database], JournalFile]:
    """The databases of this process, used by one run after the other."""
    return {"gateway": Database(), "settler": Database()}, JournalFile()


def play(recipe: Recipe, *, arrange: Callable[[Cast], None] | None = None) -> Result:
    """Play a recipe to its end and judge it. `arrange` may change the cast before it starts."""
    order = random.Random(f"order {recipe.seed}")
    loop = SimulatedLoop(order.randrange if recipe.shuffled else None)
    world = World(recipe.seed, recipe.weather, recipe.plan, loop)
    databases, journal = _shelf()
    journal.empty()
    for database in databases.values():
        database.empty()
    disks = {name: Disk(world, database) for name, database in databases.items()}
    cast = Cast(world, recipe.scenario, disks, journal)
    watchman = Watchman(cast)
    Mischief(cast, watchman)
    world.on_death.append(_forget_calls)
    if arrange is not None:
        arrange(cast)
    with _without_threads(world), _without_collector():
        try:
            loop.run_until_complete(_play(cast, watchman))
            watchman.judge()
        finally:
            seconds = loop.time()
            _end(world)
    rows = watchman.signed
    return Result(
        recipe=recipe,
        broken=world.broken,
        digest=world.digest(),
        trace=world.trace,
        injected=world.injected,
        crash_points=world.crash_points,
        died_at=world.died_at,
        messages=world.fates_drawn,
        paid=len(watchman.paid_now()),
        served=sum(purchase.served for purchase in cast.purchases),
        refused=sum(1 for words in (one.words for one in cast.purchases) for word in words if word == "UnpaidError"),
        signed=len(rows),
        seconds=seconds,
    )


async def _play(cast: Cast, watchman: Watchman) -> None:
    """Until the weather has cleared, everybody had time to try again, and nothing is open; or for long enough."""
    world = cast.world
    cast.start()
    for name, when in world.plan.gone:
        world.later(when, lambda name=name: _end_for_good(world, name))  # type: ignore[misc]
    gives_up = world.weather.ends_at + _PATIENCE_SECONDS
    while world.loop.time() < gives_up + _QUIET_SECONDS_MAX:
        await asyncio.sleep(_STEP_SECONDS)
        content = all(purchase.served for purchase in cast.purchases)
        if not content and world.loop.time() >= gives_up:
            cast.patient = False
            content = True
        if content and (world.fair() or not world.weather.crash) and watchman.is_quiet():
            break
    await _visit_again(cast, watchman)


def _end_for_good(world: World, name: str) -> None:
    world.start_again.pop(name, None)
    if world.lives[name].alive:
        world.kill(world.lives[name])


async def _visit_again(cast: Cast, watchman: Watchman) -> None:
    """Whoever has paid and got nothing asks once more, now that all is well."""
    wanting = watchman.paid_for_nothing()
    if not wanting:
        return
    cast.visit_again(wanting)
    for _ in range(int(_VISIT_SECONDS_MAX / _STEP_SECONDS)):
        await asyncio.sleep(_STEP_SECONDS)
        if not watchman.paid_for_nothing() and watchman.is_quiet():
            break


def _end(world: World) -> None:
    """Let every task of the run come to its end, the dead ones included, without any effect."""
    loop = world.loop
    world.over = True
    world.broken = list(world.broken)
    surprises = list(loop.surprises)
    for life in world.everybody:
        life.alive = True
    loop.bury()
    loop.forget_time()

    async def finish() -> None:
        for _ in range(20):
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            if not rest:
                break
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1.0)

    trace, injected = list(world.trace), Counter(world.injected)
    loop.run_until_complete(finish())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    world.trace, world.injected, loop.surprises = trace, injected, surprises


def _forget_calls(life: Any) -> None:
    """The calls of a dead client are as dead as it; ours live in one process, so they must be told."""
    if life.name == "client":
        owner._live.clear()


@contextmanager
def _without_threads(world: World) -> Iterator[None]:
    """Work for a thread is done at once, behind a boundary before and one after; and what parties draw for secrets,
    which decides nothing here, is always the same."""

    async def run(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await world.boundary("thread", "before")
        outcome = work(*args)
        await world.boundary("thread", "after")
        return outcome

    before = anyio.to_thread.run_sync, asyncio.to_thread, secrets.token_bytes
    anyio.to_thread.run_sync, asyncio.to_thread = run, run  # type: ignore[assignment]
    secrets.token_bytes = lambda nbytes=None: random.Random(0).randbytes(nbytes or 32)
    try:
        yield
    finally:
        anyio.to_thread.run_sync, asyncio.to_thread, secrets.token_bytes = before


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing is collected during a run: what a finaliser does would depend on what ran before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
