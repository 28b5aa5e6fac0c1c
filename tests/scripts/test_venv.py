"""The bootstrap that everything else stands on: which Python it takes, and what it never touches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """#!/bin/sh
case "$*" in
    *print*) echo 3.12 ;;
    *version_info*) exit {supported} ;;
    *ensurepip*) exit {whole} ;;
    *) echo "Python 3.12.0" ;;
esac
"""


def venv(*words: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/venv; with `path`, only what lies there is found besides the shell's own tools."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "X402_VENV")}
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.run(
        ["/bin/bash", str(ROOT / "scripts" / "venv"), *words],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH without any Python."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("dirname", "cat", "ls", "mkdir", "flock"):
        for home in (Path("/usr/bin"), Path("/bin")):
            if (home / name).exists() and not (place / name).exists():
                (place / name).symlink_to(home / name)
    return place


def fake_python(place: Path, name: str, *, supported: bool = True, whole: bool = True) -> None:
    (place / name).write_text(FAKE.format(supported=int(not supported), whole=int(not whole)))
    (place / name).chmod(0o755)


def test_without_a_supported_python_it_says_which_ones(tools: Path, tmp_path: Path) -> None:
    fake_python(tools, "python3", supported=False)
    told = venv(path=tools, X402_VENV=str(tmp_path / "v"))
    assert told.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in told.stderr


def test_a_python_without_ensurepip_is_told_with_the_package_to_install(tools: Path, tmp_path: Path) -> None:
    fake_python(tools, "python3.12", whole=False)
    told = venv(path=tools, X402_VENV=str(tmp_path / "v"))
    assert told.returncode == 1
    assert "apt install python3.12-venv" in told.stderr


def test_a_python_that_was_named_and_does_not_serve_is_told(tmp_path: Path) -> None:
    told = venv(X402_VENV=str(tmp_path / "v"), PYTHON="/bin/false")
    assert told.returncode == 1
    assert "PYTHON=/bin/false is no Python 3.11" in told.stderr


def test_a_folder_with_somebodys_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    told = venv(X402_VENV=str(tmp_path))
    assert told.returncode == 1
    assert "no virtual environment" in told.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_an_environment_of_another_python_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("")
    (tmp_path / "bin").mkdir()
    fake_python(tmp_path / "bin", "python", supported=False)
    told = venv(X402_VENV=str(tmp_path), PYTHON=sys.executable)
    assert told.returncode == 1
    assert "not 3.11 to 3.13" in told.stderr


@pytest.mark.parametrize("script", ["venv", "test", "demo", "fund", "pay", "verify", "settle"])
def test_every_script_explains_itself_with_an_example(script: str) -> None:
    file = ROOT / "scripts" / script
    start = ["/bin/bash"] if file.read_text().startswith("#!/usr/bin/env bash") else [sys.executable]
    told = subprocess.run(
        [*start, str(file), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # Nothing may be installed to be told what a script does.
        env={**os.environ, "X402_VENV": str(ROOT / ".cache" / "no-such-environment")},
    )
    assert told.returncode == 0, told
    assert "usage: " in told.stdout
    assert "example: " in told.stdout
    assert os.access(file, os.X_OK)


def test_what_was_mistyped_is_told(tmp_path: Path) -> None:
    assert venv("everything").returncode == 2
    told = venv(X402_VENV=str(tmp_path / "v"), X402_CONSTRAINTS=str(tmp_path / "none"))
    assert "X402_CONSTRAINTS=none does without" in told.stderr
