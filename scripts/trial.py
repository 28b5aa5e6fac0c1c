"""Tests against one wrong module: each mutant meets the tests that run its line, in a process forked for it.

The parent has imported every library that the tests use, and of ours what can be imported without the modules that are
tried, so that a child starts soon and takes the mutant for the module. Tests that start processes of their own see the
right module there.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import coverage
import pytest
from mutants import Mutant

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", "--disable-warnings"]
MEMORY_BYTES = 8 << 30
SLACK_SECONDS, SLACK_FACTOR = 5, 6
"""So many seconds more, and times longer, than with the right module may a test take before it counts as hanging."""
START_SECONDS = 60
"""How long a process may take, on a machine that does other work as well, to import what its tests need."""


@dataclass(frozen=True)
class Baseline:
    """What the tests do with the right module."""

    failed: list[str]
    """Tests that fail with the right module, and so can't judge a wrong one."""
    words: str
    """The end of what pytest printed."""
    seconds: dict[str, float]
    """By test that passes."""
    tests: dict[str, dict[int, list[str]]]
    """By module and line: the tests that run it, and "" when importing the module does."""


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.name = _name(mutant.module)
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        file = str(ROOT / self.mutant.module)
        inside = [str(Path(file).parent)] if file.endswith("__init__.py") else None
        loader = _Loader(fullname, file, self.mutant.source)
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


class _Without(MetaPathFinder):
    """Lets nobody import these modules, so that nothing can be imported that needs one of them."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.names = {_name(module) for module in modules}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in self.names:
            raise ImportError(fullname)


def _name(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class _Stopwatch:
    """Tells coverage which test runs; how long each took, and which failed."""

    def __init__(self, cover: coverage.Coverage) -> None:
        self.cover = cover
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.cover.switch_context(item.nodeid)
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - started
            self.cover.switch_context("")


def preload(modules: Sequence[str], tests: Sequence[str]) -> None:
    """Import what `tests` import, except `modules` and what needs them: done once, children inherit it."""

    def names(told: Path) -> int:
        result = pytest.main([*OPTIONS, "--collect-only", *tests])
        told.write_text(json.dumps([name for name in sys.modules if name.partition(".")[0] != "tests"]))
        return int(result)

    _, text, _ = forked(names, 300)
    known = sys.stdlib_module_names | _installed() | {"x402", "contracts_abi"}
    without = _Without(modules)
    sys.meta_path.insert(0, without)
    for name in json.loads(text or "[]"):
        if name not in sys.modules and name.partition(".")[0] in known:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    sys.meta_path.remove(without)


def _installed() -> frozenset[str]:
    return frozenset(importlib.metadata.packages_distributions())


def baseline(modules: Sequence[str], tests: Sequence[str]) -> Baseline:
    """Run all of the modules' tests against them as they are, and see which test runs which line."""

    def run(told: Path) -> int:
        cover = coverage.Coverage(data_file=None, include=[str(ROOT / module) for module in modules], config_file=False)
        watch = _Stopwatch(cover)
        cover.start()
        result = pytest.main([*OPTIONS, *tests], plugins=[watch])
        cover.stop()
        data = cover.get_data()
        lines = {module: data.contexts_by_lineno(str(ROOT / module)) for module in modules}
        told.write_text(json.dumps([watch.seconds, watch.failed, lines]))
        return int(result)

    _, text, printed = forked(run, 1200)
    seconds, failed, seen = json.loads(text) if text else ({}, [], {})
    judges = {name: spent for name, spent in seconds.items() if name not in failed}
    by_line = {
        module: {int(line): [name for name in names if name in judges or not name] for line, names in lines.items()}
        for module, lines in seen.items()
    }
    return Baseline(failed, printed[-2000:], judges, by_line)


def selected(mutant: Mutant, base: Baseline) -> list[str]:
    """The tests that run the statement of the mutant, quick ones first; all of them when importing does, or when what
    the first of them makes is kept for the others."""
    statement = _statement(mutant)
    lines = base.tests.get(mutant.module, {})
    running = {name for line in statement for name in lines.get(line, [])}
    if running == {""} or _is_kept(mutant):
        running = set(base.seconds)
    running.discard("")
    spent: dict[str, float] = {}
    for name in running:
        file = name.partition("::")[0]
        spent[file] = spent.get(file, 0) + base.seconds[name]
    return sorted(running, key=lambda name: (spent[name.partition("::")[0]], base.seconds[name], name))


def _statement(mutant: Mutant) -> range:
    """The lines of the innermost statement, without the block under it, that holds the mutant's line."""
    best = range(mutant.line, mutant.line + 1)
    smallest = sys.maxsize
    for node in ast.walk(ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.stmt):
            continue
        body: list[ast.stmt] = getattr(node, "body", [])
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
        if node.lineno <= mutant.line <= last and last - node.lineno < smallest:
            best, smallest = range(node.lineno, last + 1), last - node.lineno
    return best


def _is_kept(mutant: Mutant) -> bool:
    """Whether the mutant's line stands in a function whose result is made once, or decorates it."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno - len(node.decorator_list) <= mutant.line <= (node.end_lineno or 0)
        and any(isinstance(one, ast.Name) and one.id == "cache" for one in node.decorator_list)
        for node in ast.walk(ast.parse((ROOT / mutant.module).read_text(encoding="utf-8")))
    )


def outcome(mutant: Mutant, base: Baseline) -> str:
    """`killed`, `hung` (which is noticed too), `survived`, or `unseen` when no test runs the line."""
    tests = selected(mutant, base)
    if not tests:
        return "unseen"

    def run(told: Path) -> int:
        sys.meta_path.insert(0, _Finder(mutant))
        return int(pytest.main([*OPTIONS, "-x", f"--timeout={_patience([slowest])}", *tests]))

    seconds = [base.seconds[name] for name in tests]
    slowest, limit = max(seconds), _patience(seconds)
    code, _, _ = forked(run, START_SECONDS + limit)
    return "hung" if code is None else "killed" if code else "survived"


def _patience(seconds: Sequence[float]) -> float:
    return SLACK_SECONDS + SLACK_FACTOR * sum(seconds)


def forked(run: Callable[[Path], int], limit_seconds: float) -> tuple[int | None, str, str]:
    """Run in a child of its own process group: its exit code (None when it was stopped), what it told, and printed."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        # The tests' PostgreSQL is another user's than root's, and lives inside.
        Path(folder).chmod(0o755)
        told, printed = Path(folder, "told"), Path(folder, "printed")
        pid = os.fork()
        if pid == 0:
            _child(run, told, printed)
        code = _wait(pid, limit_seconds)
        text = told.read_text(encoding="utf-8") if told.exists() else ""
        return code, text, printed.read_text(encoding="utf-8", errors="replace")


def _child(run: Callable[[Path], int], told: Path, printed: Path) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        out = os.open(printed, os.O_CREAT | os.O_WRONLY)
        null = os.open(os.devnull, os.O_RDONLY)
        for wanted, given in ((0, null), (1, out), (2, out)):
            os.dup2(given, wanted)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.environ |= {"TMPDIR": str(told.parent), "HYPOTHESIS_STORAGE_DIRECTORY": str(told.parent)}
        tempfile.tempdir = None
        os.chdir(ROOT)
        code = run(told)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(pid: int, limit_seconds: float) -> int | None:
    until = time.monotonic() + limit_seconds
    pause = 0.005
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _end_group(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            _end_group(pid)
            os.waitpid(pid, 0)
            return None
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)


def _end_group(pid: int) -> None:
    """What a test of a mutant left running goes with it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def described(results: Sequence[tuple[Mutant, str]]) -> list[dict[str, Any]]:
    """The mutants that nothing noticed, for programs."""
    return [
        {
            "module": mutant.module,
            "line": mutant.line,
            "operator": mutant.operator,
            "was": mutant.was,
            "becomes": mutant.becomes,
            "outcome": result,
        }
        for mutant, result in results
        if result in ("survived", "unseen")
    ]
