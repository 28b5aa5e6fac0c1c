"""Recipes by name: a name is all that is needed to play a run again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from tests.simulation.faults import CALM, Fate, Plan, Weather, storm
from tests.simulation.run import Recipe, play
from tests.simulation.scenarios import Scenario, base_scenarios, some_crowd, some_meter, some_scenario

_FATES = (Fate.LOST, Fate.MUTE, Fate.LATE, Fate.LAGS, Fate.VANISHES, Fate.TWICE, Fate.CUT, Fate.FULL, Fate.UNSURE)
OUTAGE_SECONDS = 600.0


def recipe_of(name: str) -> Recipe:
    """The recipe of a name: `crash:SCENARIO:BOUNDARY`, `fate:SCENARIO:MESSAGE:FATE`, `storm:SEED`, `gust:SEED` (a short
    storm), `crowd:SEED` (a storm over many who pay at once), `meter:SEED` (one over payments that are charged by what
    they use), `alive:SEED`.

    Raises `ValueError` for anything else.
    """
    kind, _, rest = name.partition(":")
    parts = rest.split(":")
    if kind == "crash" and len(parts) == 2:
        return Recipe(_base(int(parts[0])), plan=Plan(deaths=frozenset({int(parts[1])})))
    if kind == "fate" and len(parts) == 3:
        return Recipe(_base(int(parts[0])), plan=Plan(fates={int(parts[1]): Fate(parts[2])}))
    if kind == "storm" and len(parts) == 1:
        return _storm(int(parts[0]))
    if kind == "gust" and len(parts) == 1:
        return _gust(int(parts[0]))
    if kind == "crowd" and len(parts) == 1:
        return _crowd(int(parts[0]))
    if kind == "meter" and len(parts) == 1:
        return _meter(int(parts[0]))
    if kind == "alive" and len(parts) == 1:
        return _alive(int(parts[0]))
    forms = "crash:SCENARIO:BOUNDARY, fate:SCENARIO:MESSAGE:FATE, and with a SEED: storm, gust, crowd, meter, alive"
    raise ValueError(f"{name!r} names no run; the forms are {forms}")


def systematic() -> Iterator[str]:
    """Every boundary of every base scenario, and then every message of each with every fate."""
    calm = [_calm(index) for index in range(len(base_scenarios()))]
    for index, (points, _) in enumerate(calm):
        yield from (f"crash:{index}:{point}" for point in points)
    for index, (_, messages) in enumerate(calm):
        yield from (f"fate:{index}:{message}:{fate}" for message in range(messages) for fate in _FATES)


def crash_points() -> list[str]:
    """The names of all runs with one death, those of short scenarios first."""
    found = [(len(_calm(index)[0]), index) for index in range(len(base_scenarios()))]
    return [f"crash:{index}:{point}" for _, index in sorted(found) for point in _calm(index)[0]]


@cache
def _calm(index: int) -> tuple[tuple[int, ...], int]:
    """The boundaries and the number of messages of a base scenario in which nothing goes wrong."""
    result = play(Recipe(_base(index)))
    return tuple(int(point.partition(" ")[0]) for point in result.crash_points), result.messages


def _base(index: int) -> Scenario:
    scenarios = base_scenarios()
    if not 0 <= index < len(scenarios):
        raise ValueError(f"there are {len(scenarios)} base scenarios")
    return scenarios[index]


def _storm(seed: int) -> Recipe:
    chance = random.Random(f"storm {seed}")
    weather = storm(chance.choice((0.3, 1.0, 2.0)), ends_at=chance.choice((40.0, 80.0, 160.0)))
    return Recipe(some_scenario(chance), seed, weather, shuffled=chance.random() < 0.5)


def _gust(seed: int) -> Recipe:
    chance = random.Random(f"gust {seed}")
    scenario = replace(some_scenario(chance), purchases=1, seconds=0.2)
    return Recipe(scenario, seed, storm(1.0, ends_at=12.0), shuffled=chance.random() < 0.5)


def _crowd(seed: int) -> Recipe:
    chance = random.Random(f"crowd {seed}")
    weather = storm(chance.choice((0.1, 0.3, 1.0)), ends_at=chance.choice((20.0, 40.0)))
    return Recipe(some_crowd(chance), seed, weather, shuffled=chance.random() < 0.5)


def _meter(seed: int) -> Recipe:
    chance = random.Random(f"meter {seed}")
    weather = storm(chance.choice((0.1, 0.3, 1.0)), ends_at=chance.choice((20.0, 40.0, 80.0)))
    return Recipe(some_meter(chance), seed, weather, shuffled=chance.random() < 0.5)


def _alive(seed: int) -> Recipe:
    """Liveness: nodes away for ten minutes, or one of two replicas dead for good, on top of a light storm."""
    chance = random.Random(f"alive {seed}")
    scenario = some_scenario(chance)
    plan, weather = Plan(), storm(chance.choice((0.0, 0.3)), ends_at=60.0)
    if chance.random() < 0.5:
        start = chance.uniform(0.5, 10.0)
        weather = Weather(weather.fates, start + OUTAGE_SECONDS, outage=(start, start + OUTAGE_SECONDS))
    elif scenario.place == "replicas":
        plan = Plan(gone=((chance.choice(("gateway", "gateway2")), chance.uniform(1.0, 20.0)),))
    return Recipe(scenario, seed, weather, plan)


__all__ = ["CALM", "crash_points", "recipe_of", "systematic"]
