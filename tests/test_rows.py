"""Every row of AiMo's system that can be software has a test that carries its number, or is on a list that shrinks."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
REASON = "It is the work of people and of a company, which no program can do for them."


@pytest.fixture(scope="module")
def rows() -> ModuleType:
    loader = SourceFileLoader("rows_script", str(ROOT / "scripts" / "rows"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def listed(number: int = 1, classes: str = "a", awaited: str = "", more: str = 'kept = "k"') -> str:
    """A list of rows in which only one is not as it should be; the others are not software."""
    text = f"awaited = [{awaited}]\n[[parts]]\ntitle = 'All'\nfirst = 1\nlast = 101\n"
    for other in range(1, 102):
        if other != number:
            text += f'[row.{other:03}]\ntitle = "t"\nclass = "d"\nreason = "{REASON}"\n'
    return text + f'[row.{number:03}]\ntitle = "t"\nclass = "{classes}"\n{more}\n'


def test_every_row_is_shown_or_awaited(rows: ModuleType) -> None:
    table = rows.read(rows.ROWS.read_text(encoding="utf-8"))
    assert len(table.rows) == 101
    assert list(rows.problems(table, rows.tests_in(ROOT))) == []


def test_the_page_is_made_from_the_rows(rows: ModuleType) -> None:
    table = rows.read(rows.ROWS.read_text(encoding="utf-8"))
    text = rows.PAGE.read_text(encoding="utf-8")
    assert text == rows.page(text, rows.drawn(table, rows.tests_in(ROOT))), "run scripts/rows --write"


def test_the_parts_hold_every_row_once(rows: ModuleType) -> None:
    table = rows.read(rows.ROWS.read_text(encoding="utf-8"))
    covered = [number for _, first, last in table.parts for number in range(first, last + 1)]
    assert covered == list(range(1, 102))


def test_tests_are_found_wherever_they_are(rows: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests" / "inner").mkdir(parents=True)
    (tmp_path / "tests" / "inner" / "test_a.py").write_text(
        "async def test_row_007_008_it_row_101(): ...\nclass TestX:\n    def test_arrow_008(self): ...\n"
        "def test_row_9_short(): ...\ndef helper_row_010(): ...\n"
    )
    (tmp_path / "tests" / "not_a_test.py").write_text("def test_row_011_here(): ...\n")
    found = rows.tests_in(tmp_path)
    assert found == ["tests/inner/test_a.py::test_row_007_008_it_row_101"]
    assert rows.proofs(found) == {7: found, 8: found, 101: found}


TEST = "tests/test_x.py::test_row_001_it"


@pytest.mark.parametrize(
    ("text", "tests", "told"),
    [
        (listed(), [], "has no test"),
        (listed(), [TEST, "tests/test_x.py::test_row_102_it"], "row 102 is in no list"),
        (listed(awaited="1"), [TEST], "is still awaited: run scripts/rows --write"),
        (listed(awaited="102"), [TEST], "is awaited and is no row"),
        (listed(more=""), [TEST], "does not say what is kept"),
        (listed(classes="e"), [TEST], "has no class of"),
        (listed(classes="cd"), [TEST], "a row of class d has a reason"),
        (listed(more=f'kept = "k"\nreason = "{REASON}"'), [TEST], "a row of class d has a reason"),
        (listed(classes="d", more='reason = "no"'), [], "a row of class d has a reason"),
        (listed(classes="d", more=f'reason = "{REASON}"'), [TEST], "is no software, and still has a test"),
        (listed(102), [TEST], "are not 1 to 101"),
    ],
)
def test_control_what_is_missing_is_told(rows: ModuleType, text: str, tests: list[str], told: str) -> None:
    assert list(rows.problems(rows.read(listed()), [TEST])) == []
    assert list(rows.problems(rows.read(listed(awaited="1")), [])) == []
    assert any(told in line for line in rows.problems(rows.read(text), tests))


def test_the_list_of_awaited_rows_only_shrinks(rows: ModuleType) -> None:
    text = rows.ROWS.read_text(encoding="utf-8")
    before = rows.read(text).awaited
    assert rows.without_awaited(text, []) == text
    for number in before[:1]:
        shorter = rows.without_awaited(text, [f"tests/test_x.py::test_row_{number:03}_it"])
        assert rows.read(shorter).awaited == before[1:]
        assert rows.read(shorter).rows == rows.read(text).rows
    assert rows.read(rows.without_awaited(listed(awaited="1"), [TEST])).awaited == ()


def test_the_rows_are_there_for_programs(rows: ModuleType) -> None:
    shown = json.loads(rows.as_json(rows.read(listed(awaited="1")), []))
    assert len(shown) == 101
    assert shown[-1]["number"] == 101
    first = next(row for row in shown if row["number"] == 1)
    assert (first["tests"], first["awaited"], first["kept"]) == ([], True, "k")
