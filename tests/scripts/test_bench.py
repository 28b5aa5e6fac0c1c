"""`scripts/bench` works, and the counts that it prints hold. Times are never asserted here: they belong to people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benching.figures import OURS, Figure, Goal, best, table
from benching.plot import curves

from tests.interop.install import install_anvil

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What the program prints for a quick look at what is counted."""
    install_anvil()
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench"),
        "verify",
        "settle",
        "client",
        "paywall",
        "--quick",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def values(measured: dict[str, Any]) -> dict[str, float]:
    return {each["row"]: each["value"] for each in measured["figures"] if each["who"] == OURS}


def test_a_verify_asks_the_node_at_most_once(measured: dict[str, Any]) -> None:
    counted = values(measured)
    assert counted["verify-requests"] <= 1
    assert counted["verify-requests-shared"] <= 0.5
    assert counted["verify-requests-offline"] == 0


def test_a_paid_call_takes_no_round_trip_more_than_a_free_one(measured: dict[str, Any]) -> None:
    assert values(measured)["round-trips"] == 0


def test_one_payment_settled_by_many_is_one_transaction(measured: dict[str, Any]) -> None:
    counted = values(measured)
    assert (counted["race"], counted["race-transactions"]) == (20, 1)


def test_what_is_said_is_what_moved(measured: dict[str, Any]) -> None:
    settled = [each for each in measured["figures"] if each["row"] in ("settle", "settle-blocks", "settle-many")]
    assert len(settled) >= 2
    for each in settled:
        done, _, wanted = each["notes"]["settled"].partition("/")
        assert (done, each["notes"]["money"], each["notes"]["reverted"]) == (wanted, "exact", 0), each


def test_every_paid_request_is_served(measured: dict[str, Any]) -> None:
    [paywall] = [each for each in measured["figures"] if each["row"] == "paywall"]
    done, _, wanted = paywall["notes"]["served"].partition("/")
    assert done == wanted


@pytest.mark.parametrize(
    ("goal", "values", "met"),
    [
        (Goal("r", "t", times={"python": 10.0}), {"python": 10.0, "ours": 100.0}, True),
        (Goal("r", "t", times={"python": 10.0}), {"python": 10.0, "ours": 99.0}, False),
        (Goal("r", "t", more=False, times={"python": 2.0}), {"python": 10.0, "ours": 5.0}, True),
        (Goal("r", "t", more=False, times={"python": 2.0}), {"python": 10.0, "ours": 5.1}, False),
        (Goal("r", "t", least=3.0), {"ours": 3.0}, True),
        (Goal("r", "t", least=3.0), {"ours": 2.9}, False),
        (Goal("r", "t", more=False, most=0.0), {"ours": 0.0}, True),
        (Goal("r", "t", times={"python": 1.0}), {"ours": 5.0}, None),
        (Goal("r", "t", least=1.0), {"python": 5.0}, None),
        (Goal("r", "t", least=9.0, then={"python": 3.0}), {"python": 1.0, "ours": 3.0}, True),
        (Goal("r", "t", least=9.0, then={"python": 3.0}), {"python": 1.0, "ours": 2.9}, False),
        (Goal("r", "t", least=9.0, then={"python": 3.0}), {"python": 4.0, "ours": 9.0}, True),
        (Goal("r", "t", least=9.0, then={"python": 3.0}), {"ours": 8.0}, None),
        (
            Goal("r", "t", more=False, most=8.0, then={"python": 4.0, "typescript": 2.0}),
            {"python": 6.0, "typescript": 3.0, "ours": 12.0},
            True,
        ),
        (
            Goal("r", "t", more=False, most=8.0, then={"python": 4.0, "typescript": 2.0}),
            {"python": 6.0, "typescript": 2.9, "ours": 12.0},
            False,
        ),
    ],
)
def test_a_goal_is_judged_by_the_same_run(goal: Goal, values: dict[str, float], met: bool | None) -> None:
    assert goal.verdict(values) is met


def test_the_better_half_of_a_peer_counts() -> None:
    figures = [
        Figure("r", "python-async", 5, "/s"),
        Figure("r", "python-threads", 7, "/s"),
        Figure("r", "ours", 14, "/s"),
    ]
    assert best(figures)["python"].value == 7
    [line] = table(figures, [Goal("r", "t", times={"python": 2.0})])
    assert (line["python"], line["typescript"], line["ratio"], line["met"]) == (7, None, 2.0, True)


def test_a_picture_is_well_formed_and_has_every_curve() -> None:
    drawn = curves("a <b> & c", "x", "y", {"one": [(1, 10), (4, 40)], "two": [(1, 0), (4, 5)]})
    root = ElementTree.fromstring(drawn)
    lines = [node for node in root.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 2
    assert "a <b> & c" in "".join(root.itertext())
