"""Starts the peers as processes, waits for servers to be ready, reads the verdict of clients.

Peers are configured by environment variables only (see the head of each program in `peers/`) and see
nothing else of this process but the PATH and the proxy-free network.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

from tests.interop.install import SOURCES, install_python, install_typescript

READY_SECONDS_MAX = 60
CLIENT_SECONDS_MAX = 120
STOP_SECONDS_MAX = 5
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")


class Peer(StrEnum):
    """The programs in `peers/`, by file name."""

    PYTHON_CLIENT = "python_client.py"
    PYTHON_SERVER = "python_server.py"
    PYTHON_FACILITATOR = "python_facilitator.py"
    PYTHON_ASYNC_FACILITATOR = "python_async_facilitator.py"
    FETCH_CLIENT = "fetch_client.mjs"
    FETCH_V1_CLIENT = "fetch_v1_client.mjs"
    EXPRESS_SERVER = "express_server.mjs"
    EXPRESS_FACILITATOR = "express_facilitator.mjs"


class PeerError(RuntimeError):
    """A peer did not become ready or gave no verdict; the message ends with what it wrote last."""


@dataclass(frozen=True)
class Exchange:
    """One HTTP request of a client: the answer's status, the payment headers the request carried, and
    what the server said where it refused (the challenge's `error` in v2, else the body)."""

    status: int
    paid_with: tuple[str, ...]
    refusal: str | None


@dataclass(frozen=True)
class Verdict:
    """What a client peer reports. `receipt` is the decoded settlement header, if the answer had one."""

    sdk: str
    ok: bool
    status: int | None
    body: str
    receipt: Mapping[str, Any] | None
    exchanges: tuple[Exchange, ...]
    error: str | None

    @property
    def reason(self) -> str:
        """Why the client has no paid answer, in the words of whoever refused; empty if it has one."""
        if self.ok:
            return ""
        if self.error:
            return self.error
        if self.receipt and not self.receipt.get("success"):
            return f"HTTP {self.status}: settlement failed with {self.receipt.get('errorReason')}"
        last = self.exchanges[-1].refusal if self.exchanges else None
        return f"HTTP {self.status}: {last or self.body or 'no reason given'}"


def command_of(peer: Peer) -> list[str]:
    """The command line that starts a peer, installing its environment first where that is missing.

    Raises `tests.interop.install.InstallError`.
    """
    if peer.endswith(".py"):
        # -E and -s keep this project's `x402` out of the official SDK's sight.
        return [str(install_python()), "-E", "-s", str(SOURCES / peer)]
    typescript = install_typescript()
    return [*typescript.node, str(typescript.directory / peer)]


@contextmanager
def running(peer: Peer, environment: Mapping[str, str]) -> Iterator[str]:
    """Runs a server peer for the length of the block and yields its base URL.

    Raises `PeerError` if it is not ready within a minute.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command_of(peer),
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,  # A line left in a buffer of ours would never be seen by the selector.
            start_new_session=True,
        )
        try:
            yield _ready_url(peer, process, log)
        finally:
            _stop(process)


def ask(peer: Peer, environment: Mapping[str, str]) -> Verdict:
    """Runs a client peer to its end and returns its verdict.

    Raises `PeerError` if it takes longer than two minutes or ends without one.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command_of(peer),
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=CLIENT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise PeerError(f"{peer} gave no verdict in {CLIENT_SECONDS_MAX} s{_tail(log)}") from None
        finally:
            _stop(process)
        lines = output.decode(errors="replace").strip().splitlines()
        try:
            return _verdict(json.loads(lines[-1]))
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise PeerError(f"{peer} gave no verdict ({error!r}){_tail(log)}") from error


def _verdict(report: Mapping[str, Any]) -> Verdict:
    return Verdict(
        sdk=report["sdk"],
        ok=report["ok"],
        status=report.get("status"),
        body=report.get("body", ""),
        receipt=report.get("receipt"),
        exchanges=tuple(_exchange(entry) for entry in report["exchanges"]),
        error=report.get("error"),
    )


def _exchange(entry: Mapping[str, Any]) -> Exchange:
    return Exchange(entry["status"], tuple(entry["paidWith"]), entry["refusal"])


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # The devnet, the sellers and the facilitators are all on loopback.
    return inherited | {"NO_PROXY": "127.0.0.1,localhost"} | dict(given)


def _ready_url(peer: Peer, process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_SECONDS_MAX
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(timeout=left):
                break
            line = process.stdout.readline().decode(errors="replace")
            if line.startswith("ready http://"):
                return line.removeprefix("ready ").strip()
            if not line:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=STOP_SECONDS_MAX)
                raise PeerError(f"{peer} ended with status {process.returncode}{_tail(log)}")
    raise PeerError(f"{peer} was not ready in {READY_SECONDS_MAX} s{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the peer and whatever it started: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            continue
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace").strip()
    return "; it wrote:\n" + "\n".join(text.splitlines()[-20:]) if text else ""
