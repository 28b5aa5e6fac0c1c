"""`x402 devnet up` as a process: ready, useful, and gone without a trace."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.cli.conftest import LiveTown, end, run, spawn


def test_what_is_printed_is_what_a_person_needs(live_town: LiveTown) -> None:
    assert {"gateway", "facilitator", "model", "evm_rpc", "svm_rpc", "chat"} <= set(live_town.urls)
    shown = json.loads(run("wallet", "show", "--json", **live_town.environment).stdout)
    assert shown == {"evm": live_town.buyer["evmAddress"], "svm": live_town.buyer["svmAddress"], "testnetOnly": True}


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_and_leaves_nothing_behind(ending: int, tmp_path: Path) -> None:
    """Started as a script starts what goes on in the background: with SIGINT ignored."""
    process = spawn("devnet", "up", "--any-port", env=_environment(tmp_path), in_background=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "x402 chat" in line:
            break
    words = "".join(lines)
    gateway = next(word for word in words.split() if word.endswith("/api/v1"))
    opener = build_opener(ProxyHandler({}))
    assert b"demo/echo-1" in opener.open(f"{gateway}/models", timeout=10).read()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("x402-town-")]
    code, errors = end(process, ending)
    assert (code, errors) == (0, "")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("x402-town-")] == []
    with pytest.raises(OSError):
        opener.open(f"{gateway}/models", timeout=10)


def test_a_state_directory_in_use_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite").touch()
    result = run("devnet", "up", "--any-port", "--state", str(tmp_path))
    assert result.exit_code == 3
    assert "another --state" in result.stderr


def test_an_unknown_engine_is_refused_in_words() -> None:
    result = run("devnet", "up", "--engine", "ganache")
    assert result.exit_code == 2
    assert "py-evm or anvil" in result.stderr


def _environment(directory: Path) -> dict[str, str]:
    import os

    return {**os.environ, "TMPDIR": str(directory), "COLUMNS": "200"}
