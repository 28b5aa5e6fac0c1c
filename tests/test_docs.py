"""Pages that are made from code are what the code makes, and what pages name is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from x402 import settings
from x402.cli.app import app
from x402.schemes import exact_svm_reasons

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MANUALS = ("buying.md", "selling.md", "facilitating.md", "operating.md")

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_PLACE = re.compile(r"(?:x402|tests|scripts|docs|fixtures|contracts_abi)/[\w./-]*", re.ASCII)
_VARIABLE = re.compile(r"\bX402_[A-Z0-9_]+\b")
_RAISED = re.compile(
    r"\b(Malformed|Refused|Conflict|Unavailable|Misconfigured|Declined|Unpaid)Error\(\s*\"([a-z0-9_]+)\",", re.ASCII
)
FOR_SCRIPTS = {"X402_VENV", "X402_CONSTRAINTS"}
"""Variables that only the shell scripts know."""


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up by its name.
    sys.modules[name] = module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def codes() -> ModuleType:
    return script("codes")


def test_lifecycle_page_is_drawn_from_the_table() -> None:
    assert (ROOT / "docs" / "lifecycle.md").read_text() == script("draw").page(), "run scripts/draw --write"


def test_error_page_is_made_from_the_source(codes: ModuleType) -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == codes.page(), "run scripts/codes --write"


def test_no_code_is_overlooked(codes: ModuleType) -> None:
    """A search by text finds nothing that the walk through the source does not, and the walk finds much more."""
    listed = {(kind, name) for kind, names in codes.codes().items() for name in names}
    plain = {
        (f"{kind}Error", name)
        for path in (ROOT / "x402").rglob("*.py")
        for kind, name in _RAISED.findall(path.read_text(encoding="utf-8"))
    }
    assert len(plain) > 50
    assert plain - listed == set()
    assert {("RefusedError", code) for code in exact_svm_reasons.REASONS} <= listed


@pytest.mark.parametrize(
    ("kind", "name", "how"),
    [
        ("MalformedError", "invalid_payment_required", "a constant that codecs take as an argument"),
        ("MalformedError", "invalid_base64", "the default of a parameter"),
        ("ConflictError", "payment_in_progress", "a constant of another module"),
        ("RefusedError", "asset_not_deployed_contract", "the values of a table"),
        ("UnpaidError", "payment_refused", "what a function returns"),
        ("ApiProblem", "invalid_value", "a keyword of a helper function"),
        ("PendingError", "settlement_pending", "a class with a code of its own"),
    ],
)
def test_codes_are_found_however_they_are_written(codes: ModuleType, kind: str, name: str, how: str) -> None:
    assert name in codes.codes()[kind], how


def test_every_page_is_reachable_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    pages = [page.name for page in (ROOT / "docs").glob("*.md")]
    assert pages
    assert [page for page in pages if f"docs/{page}" not in readme] == []


def broken_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading."""
    broken = []
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    return broken


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_places(text: str) -> list[str]:
    """Files and tests that a page names between backticks and that are not there."""
    missing = []
    for code in _CODE.findall(text):
        path, _, test = code.partition("::")
        if _PLACE.fullmatch(path) is None:
            continue
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(code)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert broken_links(page) == []
    assert missing_places(page.read_text(encoding="utf-8")) == []


def test_control_what_is_not_there_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](page.md#one-heading) [b](page.md#two) [c](other.md) [d](https://example.com)\n")
    assert broken_links(page) == ["page.md#two", "other.md"]
    text = (
        "`x402/quote.py` `x402/none.py` `tests/test_docs.py::test_gone` `tests/test_docs.py::broken_links` `x402 demo`"
    )
    assert missing_places(text) == ["x402/none.py", "tests/test_docs.py::test_gone"]


def test_the_variables_of_pages_are_those_of_the_settings() -> None:
    files = ("settings.py", "operator_settings.py")
    source = "".join((ROOT / "x402" / name).read_text(encoding="utf-8") for name in files)
    known = set(_VARIABLE.findall(source)) - {"X402_"}
    assert settings.ClientSettings.model_fields
    for page in PAGES:
        named = set(_VARIABLE.findall(page.read_text(encoding="utf-8")))
        assert named - known - FOR_SCRIPTS == set(), page.name
    manuals = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in MANUALS)
    assert known - set(_VARIABLE.findall(manuals)) == set(), "a variable that no manual explains"


def test_the_readme_names_every_command() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    names = [*(one.name for one in app.registered_commands), *(one.name for one in app.registered_groups)]
    commands = [f"`x402 {name}" for name in names]
    for_pages = {"codes", "draw", "rows", "interop", "venv"}
    programs = {file.name for file in (ROOT / "scripts").iterdir() if file.is_file() and not file.suffix}
    commands += [f"scripts/{name}" for name in sorted(programs - for_pages)]
    assert len(commands) > 30
    assert [command for command in commands if command not in readme] == []


def test_the_readme_is_no_longer_than_a_person_reads() -> None:
    assert PAGES[0].read_text(encoding="utf-8").count("\n") <= 220
