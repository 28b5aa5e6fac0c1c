"""Pages that are made from code are what the code makes, and every command in them can be run."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_lifecycle_page_is_drawn_from_the_table() -> None:
    assert (ROOT / "docs" / "lifecycle.md").read_text() == script("draw").page(), "run scripts/draw --write"


def test_every_page_is_reachable_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md")]
    assert pages
    assert [page for page in pages if f"docs/{page}" not in readme] == []
