"""A real town in a process of its own, and the command line called in this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from x402.cli.app import app

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True)
class LiveTown:
    """What `x402 devnet up --json` printed."""

    urls: dict[str, str]
    buyer: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What a person is told to export."""
        return {
            "X402_WALLET_FILE": self.buyer["walletFile"],
            "X402_BASE_URL": self.urls["chat"],
            "X402_SVM_RPC_URL": self.urls["svm_rpc"],
        }


def spawn(*arguments: str, in_background: bool = False, **options: Any) -> subprocess.Popen[str]:
    """The command line as a real process, which ignores SIGINT from its birth when it is `in_background`."""
    command = [sys.executable, "-m", "x402", *arguments]
    if in_background:
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def end(process: subprocess.Popen[str], with_signal: int = signal.SIGINT) -> tuple[int, str]:
    """Interrupt a process of ours; its exit code and what it wrote to standard error."""
    process.send_signal(with_signal)
    try:
        _, errors = process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors


@pytest.fixture(scope="session")
def live_town() -> Iterator[LiveTown]:
    """A whole world behind URLs, shared by all tests of the command line."""
    process = spawn("devnet", "up", "--any-port", "--json")
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate(timeout=START_SECONDS)[1])
    told = json.loads(line)
    try:
        yield LiveTown(told["urls"], told["buyer"])
    finally:
        code, errors = end(process)
    assert (code, errors) == (0, "")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine, and no home of a person, reaches a test."""
    for name in ("X402_WALLET_FILE", "X402_BASE_URL", "X402_API_KEY", "X402_EVM_PRIVATE_KEY", "X402_SVM_PRIVATE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("X402_JOURNAL", str(tmp_path / "journal.sqlite"))


def run(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    """One command in this process; `exit_code`, `stdout` and `stderr` tell what came of it."""
    return CliRunner().invoke(app, list(arguments), input=stdin, env=environment)
