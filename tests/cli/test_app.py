"""The tree of commands: every one explains itself with an example, and asking for help costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import run
from x402.cli.app import app, only

COMMANDS = [
    ("demo",),
    ("devnet", "up"),
    ("chat",),
    ("models",),
    ("quote",),
    ("inspect",),
    ("history",),
    ("resolve",),
    ("trust",),
    ("wallet", "new"),
    ("wallet", "show"),
    ("gateway",),
    ("facilitator",),
    ("facilitator", "keygen"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"x402 {' '.join(command)}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_takes_a_key(command: tuple[str, ...]) -> None:
    options = [word for word in run(*command, "--help").stdout.split() if word.startswith("--")]
    assert options
    assert [option for option in options if "key" in option or "secret" in option] == []


def test_help_loads_nothing_heavy() -> None:
    heavy = ("web3", "fastapi", "sqlalchemy", "pydantic", "httpx", "solders", "uvicorn", "eth_account", "openai")
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from x402.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_module_and_the_version_answer() -> None:
    from x402 import __version__

    command = [sys.executable, "-m", "x402", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"x402-engine {__version__}"


@pytest.mark.parametrize("command", ["chat", "facilitator", "wallet"])
def test_one_command_alone_explains_itself_as_it_does_among_all(command: str) -> None:
    alone, among_all = (
        CliRunner().invoke(tree, [command, "--help"], prog_name="x402") for tree in (only(command), app)
    )
    assert alone.exit_code == 0
    assert alone.stdout == among_all.stdout


@pytest.mark.parametrize("word", ["", "--help", "facilitater"])
def test_a_word_that_names_no_command_is_answered_by_all_of_them(word: str) -> None:
    assert only(word) is app
    assert only("facilitator") is not app
