"""What people get to see of the matrix: the page, the table, and `scripts/interop` with its exit codes."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from tests.interop.cells import CELLS, Cell, matching
from tests.interop.matrix import Outcome
from tests.interop.pages import page, pins, row, table

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "interop"
RED = Outcome(CELLS[1], "HTTP 402: <b>price | unknown</b>\nsecond line", 0)
GREEN = Outcome(CELLS[0], "", 219, "0xab")


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_loader("interop", SourceFileLoader("interop", str(SCRIPT)))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def call(*typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *typed], capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
    )


def rows(text: str) -> list[list[str]]:
    """The rows of the page's first table, without its head."""
    lines = [line for line in text.partition("## What the names mean")[0].splitlines() if line.startswith("| ")]
    return [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_page_shows_the_cells_and_versions_of_today() -> None:
    text = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
    assert [shown[:5] for shown in rows(text)] == [list(row(Outcome(cell, ""))[:5]) for cell in CELLS], (
        "run scripts/interop --write-docs"
    )
    assert [name for name, pin in pins().items() if f"| {name} | {pin} |" not in text] == []


def test_the_page_counts_and_keeps_red_cells_in_the_table_with_their_reason() -> None:
    text = page([GREEN, RED], date(2026, 1, 2), {"viem": "1"})
    assert "2026-01-02: **1 of 2 cells are green**" in text
    assert rows(text)[0][5:] == ["219", "green"]
    assert rows(text)[1][6] == "RED: HTTP 402: &lt;b>price \\| unknown&lt;/b> second line"
    assert "| viem | 1 |" in text


def test_the_table_shows_red_cells_and_takes_no_markup_from_them() -> None:
    screen = io.StringIO()
    Console(file=screen, width=200).print(table([GREEN, Outcome(CELLS[1], "says [bold]no[/bold]")]))
    assert "RED: says [bold]no[/bold]" in screen.getvalue()
    assert "1 of 2 cells are green" in screen.getvalue()


def test_help_has_an_example() -> None:
    shown = call("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "example: scripts/interop --cells" in shown.stdout


def test_cells_are_listed_and_unknown_ones_are_named(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--list", "--json", "--cells", "openai"]) == 0
    assert json.loads(capsys.readouterr().out) == [cell.name for cell in matching("openai")]
    assert script.main(["--cells", "no such cell"]) == 2
    assert "'no such cell'" in capsys.readouterr().err


def test_the_page_is_never_written_from_a_part_of_the_matrix(script: ModuleType) -> None:
    with pytest.raises(SystemExit) as refused:
        script.main(["--write-docs", "--cells", "openai"])
    assert refused.value.code == 2


@pytest.mark.timeout(900)
def test_one_cell_runs_from_the_command_line() -> None:
    done = call("--json", "--cells", "openai SDK, async > our gateway > ours, solana*")
    assert done.returncode == 0, done.stderr
    [outcome] = json.loads(done.stdout)
    assert outcome["transaction"]
    assert {
        name: outcome[name] for name in ("client", "server", "facilitator", "network", "version", "ok", "reason")
    } == {
        "client": "openai SDK, async",
        "server": "our gateway",
        "facilitator": "ours",
        "network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "version": 2,
        "ok": True,
        "reason": "",
    }
    assert done.stderr == ""


@pytest.mark.parametrize(("red", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_tells_whether_a_cell_is_red(
    red: bool, code: int, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(cells: Sequence[Cell], say: Callable[[str], None]) -> Iterator[Outcome]:
        yield from (Outcome(cell, "out of order" if red and cell is CELLS[3] else "") for cell in cells)

    script.play = play  # type: ignore[attr-defined]
    script.PAGE = tmp_path / "interop.md"  # type: ignore[attr-defined]
    assert script.main(["--write-docs"]) == code
    assert len(rows(script.PAGE.read_text(encoding="utf-8"))) == len(CELLS)
    assert ("RED: out of order" in script.PAGE.read_text(encoding="utf-8")) is red
    assert ("RED: out of order" in capsys.readouterr().out) is red
