"""Style as a test: what the house agreed on, checked in every file (style page §3)."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import x402

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "x402").rglob("*.py")) + sorted((ROOT / "contracts_abi").glob("*.py"))
PYTHON = PACKAGE + sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES = 400
FUNCTION_LINES = 70

VAGUE = {"utils", "helpers", "common", "base", "manager", "types", "interfaces", "misc", "core", "shared"}
MONEY = ("money.py", "quote.py", "price.py", "signed_quote.py", "prompt_bound.py", "schemes/*.py", "gateway/counter.py")
FLOATS_ALLOWED = {
    ("money.py", "parse_price"): "names floats only to refuse them",
}
PLACES = ("/wo" + "rk/", "/tm" + "p/bash", "/ro" + "ot/", "../sha" + "red", "/op" + "t/venv")
REGISTRIES = ("registry.npm" + "js.org", "py" + "pi.org", "files.python" + "hosted.org")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + r"Error")
BANNER = re.compile(r"^\s*#\s*(?:[-=#*~_]\s*){4,}|^\s*#.*[-=#*~_]{6,}\s*$")
EXCUSE = re.compile(r"# noqa: BLE001 - \w+")

EXPORTED = [
    "AimoClient", "AimoError", "Amount", "ApiError", "Asset", "AsyncAimoClient", "AsyncChat", "Challenge", "Chat",
    "ConflictError", "DeclinedError", "Limits", "MalformedError", "MisconfiguredError", "Network", "Payment",
    "Paywall", "PendingError", "Quote", "Receipt", "RefusedError", "Requirement", "UnavailableError", "UnpaidError",
    "Wallet", "X402Auth", "X402Error",
]  # fmt: skip

ANSWERS_RPC = ("x402/devnet/svm/queries.py", "x402/devnet/svm/transactions.py")
"""Functions named after the JSON-RPC methods that they answer; Solana's own reference explains those."""

TRY = "try:\n    a()\n"

Rule = Callable[[str, str], Iterator[str]]
"""From a file's path and text to the lines that break the rule."""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length_of_file(path: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines"


def length_of_functions(path: str, text: str) -> Iterator[str]:
    for node in functions(ast.parse(text)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            yield f"{node.lineno}: {node.name} has {lines} lines"


def names_of_modules(path: str, text: str) -> Iterator[str]:
    if VAGUE & {part.lstrip("_") for part in Path(path).with_suffix("").parts}:
        yield "says nothing about what is inside"


def banners(path: str, text: str) -> Iterator[str]:
    yield from (f"{at}: {line.strip()}" for at, line in enumerate(text.splitlines(), 1) if BANNER.search(line))


def unfinished(path: str, text: str) -> Iterator[str]:
    yield from (f"{at}: {line.strip()}" for at, line in enumerate(text.splitlines(), 1) if UNFINISHED.search(line))


def broad_excepts(path: str, text: str) -> Iterator[str]:
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"Exception"}
        if not caught & {"Exception", "BaseException"}:
            continue
        raised = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        logged = any(isinstance(inner, ast.Attribute) and inner.attr == "exception" for inner in ast.walk(node))
        if not (raised or logged) and not EXCUSE.search(lines[node.lineno - 1]):
            yield f"{node.lineno}: {lines[node.lineno - 1].strip()}"


def floats(path: str, text: str) -> Iterator[str]:
    inside = path.removeprefix("x402/")
    if not any(Path(inside).match(pattern) for pattern in MONEY):
        return
    tree = ast.parse(text)
    excused = {
        id(inner) for node in functions(tree) if (inside, node.name) in FLOATS_ALLOWED for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        named = isinstance(node, ast.Name) and node.id == "float"
        written = isinstance(node, ast.Constant) and type(node.value) is float
        if (named or written) and id(node) not in excused:
            yield f"{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]


def undocumented(path: str, text: str) -> Iterator[str]:
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None:
        yield "1: the module"
    if not any(Path(path).match(pattern) for pattern in ANSWERS_RPC):
        yield from _undocumented(tree)


def _undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None and not _plain_data(node):
                yield f"{node.lineno}: class {node.name}"
            if not _is_protocol(node):
                yield from _undocumented(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            method = isinstance(scope, ast.ClassDef)
            excused = method and (len(node.body) == 1 or node.name in _promised())
            if ast.get_docstring(node) is None and not excused:
                yield f"{node.lineno}: {node.name}"


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(parent).startswith("Protocol") for parent in node.bases)


@cache
def _promised() -> frozenset[str]:
    """The methods of every Protocol in the package: they are explained there, once for all who implement them."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE)
    protocols = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _is_protocol(node)
    )
    return frozenset(method.name for protocol in protocols for method in functions(protocol))


def _plain_data(node: ast.ClassDef) -> bool:
    """A dataclass of a few named fields, whose names say it all."""
    decorated = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    return decorated and all(isinstance(member, ast.AnnAssign) for member in node.body) and len(node.body) <= 3


def machine_places(path: str, text: str) -> Iterator[str]:
    for at, line in enumerate(text.splitlines(), 1):
        if any(place in line for place in (*PLACES, *REGISTRIES)):
            yield f"{at}: {line.strip()[:100]}"


def broken(rule: Rule, files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in rule(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(
    "rule", [length_of_file, length_of_functions, names_of_modules, banners, unfinished, broad_excepts]
)
def test_every_python_file_keeps(rule: Rule) -> None:
    assert broken(rule, PYTHON) == []


@pytest.mark.parametrize("rule", [floats, undocumented])
def test_the_package_keeps(rule: Rule) -> None:
    assert broken(rule, PACKAGE) == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    texts = [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:4096]]
    assert len(texts) > 50
    assert broken(machine_places, texts) == []


def test_the_exported_names_are_pinned() -> None:
    assert x402.__all__ == EXPORTED
    assert set(EXPORTED) <= set(dir(x402))
    with pytest.raises(AttributeError, match="Chalenge"):
        x402.Chalenge  # noqa: B018


def test_the_floats_that_are_allowed_still_exist() -> None:
    for (file, function), reason in FLOATS_ALLOWED.items():
        assert reason
        names = {node.name for node in functions(ast.parse((ROOT / "x402" / file).read_text()))}
        assert function in names


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"),
    [
        (length_of_file, "x402/a.py", "a = 1\n" * 401, "a = 1\n" * 400),
        (length_of_functions, "x402/a.py", "def f():\n" + "    a = 1\n" * 70, "def f():\n" + "    a = 1\n" * 69),
        (names_of_modules, "x402/wire/utils.py", "", None),
        (names_of_modules, "x402/common/a.py", "", None),
        (banners, "x402/a.py", "# ---------- part ----------\n", "# One thing, and why.\n"),
        (banners, "x402/a.py", "# ========\n", "a = 1  # -- so be it\n"),
        (unfinished, "x402/a.py", "a = 1  # TO" + "DO: more\n", "# nothing to do\n"),
        (unfinished, "x402/a.py", "raise NotImplemented" + "Error\n", "return NotImplemented\n"),
        (broad_excepts, "x402/a.py", TRY + "except Exception:\n    pass\n", TRY + "except ValueError:\n    pass\n"),
        (broad_excepts, "x402/a.py", TRY + "except:\n    pass\n", TRY + "except BaseException:\n    b()\n    raise\n"),
        (broad_excepts, "x402/a.py", TRY + "except (OSError, Exception) as e:\n    pass\n", None),
        (
            broad_excepts,
            "x402/a.py",
            TRY + "except Exception:  # noqa: BLE001\n    pass\n",
            TRY + "except Exception:  # noqa: BLE001 - an observer may not stop a sale\n    pass\n",
        ),
        (floats, "x402/quote.py", "a = float(b)\n", "a = int(b)\n"),
        (floats, "x402/schemes/exact_evm.py", "def f(a: float) -> None: ...\n", "def f(a: int) -> None: ...\n"),
        (floats, "x402/price.py", "a = 0.1\n", "a = '0.1'\n"),
        (undocumented, "x402/a.py", '"""m"""\ndef f(): ...\n', '"""m"""\ndef _f(): ...\n'),
        (undocumented, "x402/a.py", '"""m"""\nclass A:\n    a = 1\n', '"""m"""\nclass A:\n    """a"""\n'),
        (undocumented, "x402/a.py", "a = 1\n", '"""m"""\n'),
        (machine_places, "a", PLACES[0] + "main", "working"),
        (machine_places, "a", "https://" + REGISTRIES[0], "the package index"),
    ],
)
def test_control_each_rule_can_fail(rule: Rule, path: str, bad: str, good: str | None) -> None:
    assert list(rule(path, bad))
    assert good is None or list(rule(path, good)) == []
