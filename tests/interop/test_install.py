"""The installation is pinned, idempotent, repairs itself and explains its failures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.interop import install

# The first run on a machine installs the peers, which takes minutes.
pytestmark = pytest.mark.timeout(900)

EXACT = re.compile(r"\d+\.\d+\.\d+")


def test_every_peer_is_pinned_exactly_and_no_lock_file_names_a_registry() -> None:
    manifest = json.loads((install.SOURCES / "package.json").read_text())
    for package, wanted in manifest["dependencies"].items():
        assert EXACT.fullmatch(wanted), package
    for line in (install.SOURCES / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert EXACT.fullmatch(line.partition("==")[2]), line
    assert not list(install.SOURCES.glob("*lock*"))


def test_an_installation_is_found_again_at_once_and_holds_the_pinned_versions() -> None:
    interpreter, typescript = install.install_python(), install.install_typescript()
    started = time.monotonic()
    assert (install.install_python(), install.install_typescript()) == (interpreter, typescript)
    assert time.monotonic() - started < 3

    asked = [str(interpreter), "-E", "-s", "-c", "from importlib.metadata import version; print(version('x402'))"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "2.25.0"
    for package, version in (("@x402/fetch", "2.27.0"), ("x402-fetch", "1.2.0"), ("viem", "2.56.0")):
        installed = typescript.directory / "node_modules" / package / "package.json"
        assert json.loads(installed.read_text())["version"] == version


def test_the_programs_beside_the_packages_follow_their_sources() -> None:
    directory = install.install_typescript().directory
    (directory / "wire.mjs").write_text("outdated")
    install.install_typescript()
    assert (directory / "wire.mjs").read_bytes() == (install.SOURCES / "wire.mjs").read_bytes()


def test_what_was_interrupted_or_outdated_is_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X402_INTEROP_CACHE", str(tmp_path))
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(install, "SOURCES", sources)
    (sources / "requirements.txt").write_text("# nothing\n")
    stamp = tmp_path / "python" / install.STAMP

    interpreter = install.install_python()
    first = stamp.read_text()
    assert subprocess.run([str(interpreter), "-c", ""], check=False).returncode == 0

    stamp.unlink()
    (tmp_path / "python" / "bin" / "left-over").touch()
    install.install_python()
    assert stamp.read_text() == first
    assert not (tmp_path / "python" / "bin" / "left-over").exists()

    (sources / "requirements.txt").write_text("# something else\n")
    install.install_python()
    assert stamp.read_text() != first


def test_a_failed_installation_says_what_the_installer_said_and_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X402_INTEROP_CACHE", str(tmp_path))
    monkeypatch.setattr(install, "SOURCES", tmp_path)
    (tmp_path / "requirements.txt").write_text("no such requirement\n")
    with pytest.raises(install.InstallError, match=r"(?s)ended with status 1.*[Ii]nvalid requirement"):
        install.install_python()
    assert not (tmp_path / "python" / install.STAMP).exists()


@pytest.mark.parametrize(
    ("version", "enough"),
    [("v20.18.0", True), ("v20.17.9", False), ("v18.20.4", False), ("v22.1.0", True), ("v24.0.0", True)],
)
def test_an_old_node_is_not_taken(version: str, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("node", "npm"):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\nprint({version!r})\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("X402_INTEROP_CACHE", str(tmp_path / "cache"))
    fetched: list[list[str]] = []
    monkeypatch.setattr(install, "_run", lambda command, cwd=None: fetched.append(command))
    if enough:
        assert install.find_node().node == (str(tmp_path / "node"),)
        assert fetched == []
    else:
        with pytest.raises(install.InstallError, match="holds no node"):
            install.find_node()
        assert fetched[-1][-1] == install.NODE_WHEEL


def test_an_unknown_peer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main(["rust"]) == 2
    assert "rust" in capsys.readouterr().err
