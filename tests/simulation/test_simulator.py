"""What the simulator says about the real code, within the time that CI has; `scripts/simulate` says more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.campaign import Figures, names, play_all, play_some
from tests.simulation.exhaustive import explore
from tests.simulation.faults import Fate, Plan, Weather
from tests.simulation.recipes import crash_points, recipe_of
from tests.simulation.run import Recipe, play
from tests.simulation.scenarios import Scenario, base_scenarios

ROOT = Path(__file__).parents[2]
CRASH_POINTS = 2_000
JOBS = min(4, os.cpu_count() or 1)


def told(figures: Figures) -> list[str]:
    """The violations, for a person."""
    return [f"scripts/simulate --replay {name}: {words}" for name, words in figures.violations]


def test_control_every_plot_goes_well_when_nothing_goes_wrong() -> None:
    for scenario in base_scenarios():
        result = play(Recipe(scenario))
        assert result.broken == [], scenario.name
        assert result.paid == result.served == result.signed == scenario.purchases, scenario.name


@pytest.mark.timeout(900)
def test_A22_A09_no_coin_is_lost_at_two_thousand_crash_points() -> None:
    figures = play_all(crash_points()[:CRASH_POINTS], jobs=JOBS)
    assert told(figures) == []
    assert len(figures.points) == CRASH_POINTS
    assert figures.served >= CRASH_POINTS


@pytest.mark.timeout(600)
def test_storms_of_many_faults_lose_nothing() -> None:
    figures = play_some([f"storm:{seed}" for seed in range(STORMS)])
    assert told(figures) == []
    assert figures.served > STORMS
    for fault in ("crash", "http.mute", "http.cut", "send.mute", "read.lags", "disk.unsure", "reorg", "stranger"):
        assert figures.injected[fault], f"{fault} never happened"


@pytest.mark.timeout(600)
def test_A22_D01_crowds_that_share_transactions_lose_nothing() -> None:
    figures = play_some([f"crowd:{seed}" for seed in range(CROWDS)])
    assert told(figures) == []
    assert figures.served > 2 * CROWDS
    assert figures.injected["bundle.transactions"] > CROWDS // 2


@pytest.mark.timeout(600)
def test_B16_G03_what_is_charged_by_its_use_costs_no_more_whatever_happens() -> None:
    figures = play_some([f"meter:{seed}" for seed in range(METERS)])
    assert told(figures) == []
    assert figures.paid > METERS
    for fault in ("crash", "http.mute", "http.cut", "disk.unsure", "cancel"):
        assert figures.injected[fault], f"{fault} never happened"


STORMS = 60
CROWDS = 24
METERS = 60


@pytest.mark.timeout(600)
def test_E02_after_ten_minutes_without_nodes_everything_ends_well() -> None:
    figures = play_some(list(names(16, 0, liveness=True)))
    assert told(figures) == []
    assert figures.injected["read.lost"] > 100


@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_run() -> None:
    wanted = [f"gust:{seed}" for seed in range(80)]
    once = [play(recipe_of(name)).digest for name in wanted]
    again = [play(recipe_of(name)).digest for name in wanted]
    assert once == again
    assert len(set(once)) == len(once)


def test_the_same_seed_is_the_same_run_in_another_process_with_another_hash_seed() -> None:
    program = "import json, sys; from tests.simulation.recipes import recipe_of; from tests.simulation.run import play;"
    program += "print(json.dumps([play(recipe_of(name)).digest for name in sys.argv[1:]]))"
    wanted = [f"gust:{seed}" for seed in range(10)] + [f"storm:{seed}" for seed in range(5)]
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, *wanted], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert json.loads(done.stdout) == [play(recipe_of(name)).digest for name in wanted]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("payments", [1, 2])
def test_A04_every_order_of_two_requests_serves_each_payment_once(payments: int) -> None:
    found = explore(payments=payments, depth=5)
    assert found.violations == []
    assert found.deepest == 5
    assert found.runs > 50


def test_a_name_plays_what_it_says() -> None:
    result = play(recipe_of("crash:0:40"))
    assert len(result.died_at) == 1
    assert (
        play(recipe_of("fate:0:7:mute")).injected["read.mute"] + play(recipe_of("fate:0:7:mute")).injected.total() >= 1
    )
    for junk in ("", "crash", "crash:999:1", "storm:x", "fate:0:1:nonsense", "weather:1"):
        with pytest.raises(ValueError):
            recipe_of(junk)


def test_A09_an_answer_that_is_lost_after_the_send_costs_nobody_anything() -> None:
    """Every send of the plot, with each fate that a send can have."""
    sends = 0
    for message in range(40):
        for fate in (Fate.MUTE, Fate.LATE, Fate.VANISHES):
            result = play(Recipe(Scenario(), plan=Plan(fates={message: fate})))
            assert result.broken == []
            assert result.served == 1
            sends += result.injected[f"send.{fate}"]
    assert sends == 3


def test_A16_a_reorganisation_is_told_and_heals_where_it_can() -> None:
    weather = Weather(reorg=1.0, ends_at=30.0)
    results = [play(Recipe(Scenario(), seed, weather)) for seed in range(24)]
    assert [result.broken for result in results] == [[]] * len(results)
    assert sum(result.injected["reorg.transactions"] for result in results) >= 6
    assert sum(result.paid for result in results) >= 6
