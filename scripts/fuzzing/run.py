"""Running cases and judging them: unhandled exceptions, HTTP 500, hangs, and memory that grows.

A case fails by anything that is no refusal of its target, by a task that fails behind its back, by an error that is
only told to the log, or by taking longer than a second twice.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from fuzzing import (
    book_targets,
    chain_targets,
    gateway_doors,
    message_targets,
    node_targets,
    service_doors,
    wire_targets,
)
from fuzzing.case import Broken, Target
from fuzzing.figures import Failure, Figures, Report
from fuzzing.hurry import SPEED, HurriedLoop
from fuzzing.tape import Tape
from x402.errors import X402Error
from x402.gateway.inference.upstream import UpstreamFailed
from x402.gateway.recording import BrokenOff

HANG_SECONDS = 1.0
"""A case that takes longer, and does so again when it is repeated, hangs."""
TAPE_BYTES = 128
ROUNDS = 20
_GIVE_UP_SECONDS = 10.0
_KEPT_FAILURES = 20
_SHARED = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Books lie in memory of the system, not of this process: its own growth is what is measured."""
_TOLD = (X402Error, UpstreamFailed, BrokenOff, asyncio.CancelledError)
"""Errors that the log may speak of: somebody was answered all the same."""


class Hung(Broken):
    """A case that did not come to an end."""


@asynccontextmanager
async def open_targets(families: Sequence[str] = ()) -> AsyncIterator[list[Target]]:
    """Every target of these families, or all, with the parties that stand behind them."""
    plain = {"wire": wire_targets, "chain": chain_targets, "message": message_targets}
    rooms: dict[str, tuple[Callable[[Path], Any], Callable[[Any], list[Target]]]] = {
        "book": (book_targets.open_books, book_targets.targets),
        "node": (node_targets.open_peers, node_targets.targets),
        "facilitator": (service_doors.open_service, service_doors.targets),
        "gateway": (gateway_doors.open_counters, gateway_doors.targets),
    }
    found: list[Target] = []
    for family, module in plain.items():
        if not families or family in families:
            found += getattr(module, "TARGETS")  # noqa: B009 - modules have no common type
    async with AsyncExitStack() as stack:
        place = stack.enter_context(TemporaryDirectory(prefix="x402-fuzz-", dir=_SHARED))
        for family, (opened, targets) in rooms.items():
            if not families or family in families:
                found += targets(await stack.enter_async_context(opened(Path(place))))
        yield found


class Bench:
    """Runs cases one after the other, on one loop, and writes down what became of them."""

    def __init__(self, seed: int, targets: Sequence[Target]) -> None:
        self.targets = {target.name: target for target in targets}
        self.report = Report(seed, {target.name: Figures(target.name) for target in targets})
        self._draws = {target.name: random.Random(f"{seed}:{target.name}") for target in targets}
        self._unheard: list[str] = []
        self._kinds: set[tuple[str, str]] = set()

    async def run(self, cases: int, step: Callable[[int], None] = lambda done: None) -> Report:
        """So many cases, shared among the targets by weight, in rounds."""
        started = time.perf_counter()
        shares = share(cases, list(self.targets.values()))
        settled = resident_mb()
        with self._listening():
            for number in range(ROUNDS):
                for name, wanted in shares.items():
                    before, after = wanted * number // ROUNDS, wanted * (number + 1) // ROUNDS
                    for _ in range(after - before):
                        await self._case(self.targets[name])
                    step(after - before)
                if number % 4 == 1 or number == ROUNDS - 1:
                    # Tasks that failed behind everybody's back are told of when they are collected.
                    gc.collect()
                    await asyncio.sleep(0)
                if number == ROUNDS // 10 - 1:
                    settled = resident_mb()
        self.report.rss_mb = resident_mb()
        self.report.growth_mb = max(0.0, self.report.rss_mb - settled)
        self.report.seconds = time.perf_counter() - started
        return self.report

    async def replay(self, name: str, data: bytes) -> Report:
        """Exactly one case."""
        with self._listening():
            await self._judge(self.targets[name], data)
            gc.collect()
            await asyncio.sleep(0)
            self._blame(self.targets[name], data)
        return self.report

    async def _case(self, target: Target) -> None:
        data = target.make(Tape(self._draws[target.name].randbytes(TAPE_BYTES)))
        await self._judge(target, data)

    async def _judge(self, target: Target, data: bytes) -> None:
        figures = self.report.figures[target.name]
        started, worked = time.perf_counter(), time.process_time()
        try:
            accepted = await self._within(target, data)
            seconds, work = time.perf_counter() - started, time.process_time() - worked
            if seconds > HANG_SECONDS:
                # A busy machine may hold up anything once.
                again = time.perf_counter()
                await self._within(target, data)
                if time.perf_counter() - again > HANG_SECONDS:
                    raise Hung(f"{seconds:.1f} s, and again as long")
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - also the panics of Rust libraries: all of them are findings
            self._fail(target, data, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
            return
        figures.timed(seconds, work)
        if accepted:
            figures.accepted += 1
        else:
            figures.refused += 1
        if self._unheard:
            self._blame(target, data)

    async def _within(self, target: Target, data: bytes) -> bool:
        """The verdict, unless it never comes: a loop of Python's own is broken by a signal, a wait by a timeout."""
        with alarm(_GIVE_UP_SECONDS):
            try:
                async with asyncio.timeout(_GIVE_UP_SECONDS * SPEED):
                    return await target.judge(data)
            except TimeoutError:
                raise Hung(f"no end within {_GIVE_UP_SECONDS:.0f} s") from None

    def _blame(self, target: Target, data: bytes) -> None:
        """What nobody was told is a failure of the case in which it came out."""
        for words in self._unheard:
            self._fail(target, data, "told to nobody: " + words.strip().splitlines()[-1], words)
        self._unheard.clear()

    def _fail(self, target: Target, data: bytes, words: str, trace: str) -> None:
        self.report.figures[target.name].failed += 1
        kind = (target.name, words[:60])
        if kind not in self._kinds and len(self.report.failures) < _KEPT_FAILURES:
            self._kinds.add(kind)
            self.report.failures.append(Failure(target.name, data, self.report.seed, words, trace))

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hear what tasks and logs say when nobody else does."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: self._unheard.append(_words(told)))
        ears = _Ears(self._unheard)
        root = logging.getLogger()
        quiet = logging.lastResort
        logging.lastResort = None
        root.addHandler(ears)
        try:
            yield
        finally:
            root.removeHandler(ears)
            logging.lastResort = quiet
            loop.set_exception_handler(None)


class _Ears(logging.Handler):
    """Exceptions that are told to the log and to nobody else."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, _TOLD):
            self._heard.append("".join(traceback.format_exception(error)))


def _words(told: dict[str, Any]) -> str:
    error = told.get("exception")
    return "".join(traceback.format_exception(error)) if error is not None else str(told.get("message", told))


def share(cases: int, targets: Sequence[Target]) -> dict[str, int]:
    """How many of the cases each target gets, by weight; at least one."""
    whole = sum(target.weight for target in targets)
    shares = {target.name: max(1, cases * target.weight // whole) for target in targets}
    heaviest = max(targets, key=lambda target: target.weight).name
    shares[heaviest] = max(1, shares[heaviest] + cases - sum(shares.values()))
    return shares


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Hung` in code that neither ends nor waits."""

    def ring(_: int, __: FrameType | None) -> None:
        raise Hung(f"busy for {seconds:.0f} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    # A timer of somebody else's, such as a test's own, goes on afterwards.
    left = signal.setitimer(signal.ITIMER_REAL, seconds * 1.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


def resident_mb() -> float:
    """How much memory this process has now, in MiB; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
    return pages * resource.getpagesize() / 2**20


def on_hurried_loop(work: Callable[[], Any]) -> Any:
    """The result of a coroutine on a loop whose timers hurry."""
    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        return runner.run(work())
