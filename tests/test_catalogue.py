"""Every fault of the catalogue has a test that carries its id and an honest control beside it, or says why not."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent

WHOLE = """
[groups]
A = "a"
"""
TESTS = ["tests/a/test_x.py::test_A01_no", "tests/a/test_y.py::test_yes", "tests/b/test_z.py::test_elsewhere"]
REASON = "It waits for something that another issue brings, and that is not there yet."


@pytest.fixture(scope="module")
def catalogue() -> ModuleType:
    loader = SourceFileLoader("catalogue_script", str(ROOT / "scripts" / "catalogue"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_every_fault_is_proven_or_says_why_not(catalogue: ModuleType) -> None:
    listed = catalogue.read(catalogue.CATALOGUE.read_text(encoding="utf-8"))
    assert len(listed.faults) == 117
    assert list(catalogue.problems(listed, catalogue.tests_in(ROOT))) == []


def test_the_page_is_made_from_the_catalogue(catalogue: ModuleType) -> None:
    listed = catalogue.read(catalogue.CATALOGUE.read_text(encoding="utf-8"))
    text = catalogue.PAGE.read_text(encoding="utf-8")
    made = catalogue.table(listed, catalogue.tests_in(ROOT))
    assert text == catalogue.page(text, made), "run scripts/catalogue --write"


def test_tests_are_found_wherever_they_are(catalogue: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests" / "inner").mkdir(parents=True)
    (tmp_path / "tests" / "inner" / "test_a.py").write_text(
        "async def test_A01_B02_two(): ...\nclass TestX:\n    def test_base64_e10(self): ...\ndef helper_C03_(): ...\n"
    )
    (tmp_path / "tests" / "not_a_test.py").write_text("def test_C03_here(): ...\n")
    found = catalogue.tests_in(tmp_path)
    assert found == ["tests/inner/test_a.py::test_A01_B02_two", "tests/inner/test_a.py::test_base64_e10"]
    assert catalogue.proofs(found) == {"A01": [found[0]], "B02": [found[0]]}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("", "has neither a test nor a reason"),
        (f'reason = "{REASON}"\n', "and a reason for having none"),
        ('control = ["tests/a/test_y.py::test_gone"]\n', "is no test"),
        ('control = ["tests/b/test_z.py::test_elsewhere"]\n', "is not beside any of its tests"),
        ('control = ["tests/a/test_x.py::test_A01_no"]\n', "cannot be its own control"),
    ],
)
def test_control_what_is_missing_is_told(catalogue: ModuleType, entry: str, told: str) -> None:
    honest = 'control = ["tests/a/test_y.py::test_yes"]\n'
    for text, expected in ((entry, True), (honest, False)):
        listed = catalogue.read(f'{WHOLE}[fault.A01]\nwhat = "w"\nloses = "l"\n{text}')
        tests = TESTS[1:] if not text else TESTS
        lines = [line for line in catalogue.problems(listed, tests) if line.startswith("A01")]
        assert any(told in line for line in lines) is expected, lines
        assert expected or lines == []


@pytest.mark.parametrize(("reason", "accepted"), [(REASON, True), ("not yet", False), (REASON[:-1], False)])
def test_control_a_reason_is_a_sentence(catalogue: ModuleType, reason: str, accepted: bool) -> None:
    listed = catalogue.read(f'{WHOLE}[fault.A01]\nwhat = "w"\nloses = "l"\nreason = "{reason}"\n')
    lines = [line for line in catalogue.problems(listed, TESTS[1:]) if line.startswith("A01")]
    assert (lines == []) is accepted


def test_control_ids_that_nobody_knows_are_told(catalogue: ModuleType) -> None:
    listed = catalogue.read(catalogue.CATALOGUE.read_text(encoding="utf-8"))
    told = list(catalogue.problems(listed, [*catalogue.tests_in(ROOT), "tests/test_x.py::test_G99_unheard_of"]))
    assert "G99 is no fault that anybody knows" in told
