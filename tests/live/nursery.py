"""Processes that start in milliseconds and can be killed for good: forked from one that has imported everything.

The nursery is itself a process, `python -m tests.live.nursery`. It imports the programs and runs none of them; a child
is a fork of it that becomes a session of its own and runs one program from its `main`. Nobody but the nursery reaps its
children, so a process id is never that of a stranger. When whoever started the nursery dies, by whatever way, the
nursery ends, and every child with it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

ROOT = Path(__file__).parents[2]
ENTRIES = ("x402.cli", "tests.live.customer", "tests.live.oracle")
"""Modules whose `main` a child may run."""
PRELOADED = (
    *ENTRIES, "x402.cli.serve", "x402.facilitator.service", "x402.gateway.app", "x402.client.chat", "uvicorn", "uvloop",
    "httptools",
)  # fmt: skip
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class NurseryError(RuntimeError):
    """The nursery has ended, or could not do what it was asked."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the nursery's. `log` receives everything that it prints."""

    name: str
    pid: int
    log: Path


class Nursery:
    """Starts programs and ends them; a context manager, at whose end nothing is left running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.live.nursery"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._ask({"do": "greet"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(STOP_SECONDS)

    def start(
        self, name: str, entry: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> Child:
        """Run the `main` of the module `entry`, with nothing of our environment but the usual and `environment`."""
        order = {"entry": entry, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        return Child(name, self._ask({"do": "start", **order})["pid"], log)

    def kill(self, child: Child, number: int = signal.SIGKILL) -> int | None:
        """Send a signal; SIGKILL returns once the process is gone. None, or the status with which it had ended by
        itself before: negative for a signal."""
        status = self._ask({"do": "kill", "pid": child.pid, "signal": number})["status"]
        return None if status is None else int(status)

    def ended(self, child: Child) -> int | None:
        """The status with which a child ended by itself, or None while it runs."""
        status = self._ask({"do": "ended", "pid": child.pid})["status"]
        return None if status is None else int(status)

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise NurseryError("the nursery does not run")
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except OSError as error:
            raise NurseryError(f"the nursery is gone: {error}") from error
        line = process.stdout.readline()
        if not line:
            raise NurseryError("the nursery is gone")
        told: dict[str, Any] = json.loads(line)
        return told


@dataclass(frozen=True, slots=True)
class _Task:
    """What a child was born for."""

    entry: str
    arguments: list[str]
    environment: dict[str, str]
    log: str


class _Keeper:
    """The nursery's own side: reads orders, forks, reaps."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders = orders
        self._answers = answers
        self._alive: set[int] = set()
        self._ended: dict[int, int] = {}

    def serve(self) -> _Task | None:
        """Follow orders until there are none. Returns a task in every child, and None once in the nursery itself."""
        for line in self._orders:
            order = json.loads(line)
            answer: dict[str, Any] = {}
            match order["do"]:
                case "start":
                    del order["do"]
                    pid = os.fork()
                    if pid == 0:
                        return _Task(**order)
                    self._alive.add(pid)
                    answer = {"pid": pid}
                case "kill":
                    answer = {"status": self._kill(order["pid"], order["signal"])}
                case "ended":
                    answer = {"status": self._reap(order["pid"], os.WNOHANG)}
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()
        for pid in self._alive:
            # Each child leads a session, and what it started goes with it.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in tuple(self._alive):
            self._reap(pid, 0)
        return None

    def _kill(self, pid: int, number: int) -> int | None:
        status = self._reap(pid, os.WNOHANG)
        if status is not None:
            return status
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._reap(pid, 0)
        return None

    def _reap(self, pid: int, options: int) -> int | None:
        if pid in self._ended:
            return self._ended[pid]
        known, status = os.waitpid(pid, options)
        if not known:
            return None
        self._alive.discard(pid)
        self._ended[pid] = os.waitstatus_to_exitcode(status)
        return self._ended[pid]


def _become(task: _Task) -> NoReturn:
    """Turn this fork into the program, as if it had been started from a shell."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(task.environment)
    sys.argv = [task.entry, *task.arguments]
    importlib.import_module(task.entry).main()
    sys.exit(0)


def _nurse() -> None:
    # The pipes move away from the standard streams, so that no child can write into an answer.
    orders = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in PRELOADED:
        importlib.import_module(name)
    task = _Keeper(orders, answers).serve()
    if task is not None:
        os.close(orders.fileno())
        os.close(answers.fileno())
        _become(task)


if __name__ == "__main__":
    _nurse()
