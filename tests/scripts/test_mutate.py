"""Mutants are made of every module that is listed, the tests notice them, and nobody explains what is not there."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    return importlib.import_module("scripts.mutants")


def groups() -> list[dict[str, list[str]]]:
    return list(tomllib.loads((ROOT / "fixtures" / "mutation.toml").read_text(encoding="utf-8"))["group"])


def survivors() -> list[dict[str, str]]:
    return list(tomllib.loads((ROOT / "fixtures" / "survivors.toml").read_text(encoding="utf-8"))["survivor"])


def test_every_module_and_every_test_of_the_list_is_there() -> None:
    modules = [module for group in groups() for module in group["modules"]]
    assert len(modules) == len(set(modules))
    for path in (*modules, *(test for group in groups() for test in group["tests"])):
        assert (ROOT / path).exists(), path


def test_who_is_explained_changes_a_line_of_today() -> None:
    for survivor in survivors():
        assert survivor["module"] in {module for group in groups() for module in group["modules"]}, survivor
        lines = (ROOT / survivor["module"]).read_text(encoding="utf-8").splitlines()
        assert survivor["was"] in " ".join(line.strip() for line in lines), survivor
        assert survivor["was"] != survivor["becomes"]
        assert len(survivor["why"]) > 30
        assert survivor["why"].endswith(".")


def test_each_operator_changes_what_it_says(mutants: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    source = """
def guard(amount: int | None, names: list[str]) -> int:
    if amount is None or amount < 1:
        raise ValueError(amount)
    try:
        names.clear()
    except KeyError:
        return 7
    return amount in names
"""
    (tmp_path / "guard.py").write_text(source)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    made = {(each.operator, each.becomes) for each in mutants.mutants("guard.py")}
    assert {
        ("LeaveOut", "pass"),
        ("AddNot", "if not amount is None or amount < 1:"),
        ("ReplaceOrWithAnd", "if amount is None and amount < 1:"),
        ("ReplaceComparisonOperator_Is_IsNot", "if amount is not None or amount < 1:"),
        ("ReplaceComparisonOperator_Lt_LtE", "if amount is None or amount <= 1:"),
        ("CatchNothing", "except ():"),
        ("TurnMembership", "return amount not in names"),
        ("ReturnNothing", "return None"),
    } <= made
    # What nothing evaluates is left alone.
    assert all("def guard" not in becomes for _, becomes in made)


def test_who_needs_a_module_waits_until_it_is_tried() -> None:
    """What was imported beforehand would know the right module."""
    without = importlib.import_module("scripts.trial")._Without(["x402/lifecycle.py", "x402/ports/__init__.py"])
    for name in ("x402.lifecycle", "x402.ports"):
        with pytest.raises(ImportError):
            without.find_spec(name, None)
    assert without.find_spec("x402.money", None) is None


def test_what_is_made_once_is_judged_by_every_test(tmp_path: Path, monkeypatch: Any) -> None:
    """The first test alone runs its lines, and all of them use what it made."""
    trial, mutants = importlib.import_module("scripts.trial"), importlib.import_module("scripts.mutants")
    source = "@cache\ndef made() -> int:\n    return 7\n\n\ndef used() -> int:\n    return made()\n"
    (tmp_path / "guard.py").write_text(source)
    monkeypatch.setattr(trial, "ROOT", tmp_path)
    tests = {"guard.py": {3: ["one"], 7: ["one"]}}
    base = trial.Baseline([], "", {"one": 1.0, "two": 2.0}, tests)
    judges = {line: trial.selected(mutants.Mutant("guard.py", "", line, "", "", ""), base) for line in (1, 3, 7)}
    assert judges == {1: ["one", "two"], 3: ["one", "two"], 7: ["one"]}


def test_other_users_may_enter_the_folder_of_a_trial() -> None:
    """The tests' PostgreSQL is another user where they run as root."""
    trial = importlib.import_module("scripts.trial")

    def look(told: Path) -> int:
        return told.write_text(oct(told.parent.stat().st_mode & 0o777))

    assert trial.forked(look, 60)[1] == "0o755"


def mutated(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "mutate"), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip


def test_a_broken_guard_is_noticed(tmp_path: Path) -> None:
    run = mutated(tmp_path, "--module", "x402/lifecycle.py", "--sample", "2", "--seed", "6", "--json")
    assert '"mutants": 2' in run.stdout, run.stderr
    assert '"noticed": 2' in run.stdout
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--module", "x402/none.py"], "not in fixtures"), (["--sample", "-1"], "at least 1")]
)
def test_what_was_mistyped_is_told(tmp_path: Path, arguments: list[str], told: str) -> None:
    run = mutated(tmp_path, *arguments)
    assert run.returncode == 2
    assert told in run.stderr
