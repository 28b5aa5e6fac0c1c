"""One thread that owns the database, so that the event loop never waits for a disk.

Whatever has queued up while a commit was under way goes into the next one together, and each caller is told only
after the commit that carries its write (group commit, design D9). Who only asks is answered before that, from what
was committed already, and waits for no disk. A database that can't be reached fails those who ask, and is asked anew by
the next (faults E02, E10).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import UnlawfulEvent
from x402.ports import IdentifierTaken, NoRoom, unsettled
from x402.ports.known import forget
from x402.ports.ledger_ahead import Look, read_ahead
from x402.ports.ledger_database import DATABASE_ERRORS, LedgerDatabase, is_conflict, is_lost
from x402.ports.migrations import migrate
from x402.ports.prepared import settle

T = TypeVar("T")
Locks = tuple[tuple[str, ...], ...]
"""What a piece of work must have for itself among all replicas, by name."""

_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]
_TRIES = 5
_REFUSALS = (UnlawfulEvent, NoRoom, IdentifierTaken, KeyError)
"""What is raised before anything is written or noted."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    locks: Locks
    look: Look | None
    writes: bool


class LedgerThread:
    """Runs pieces of work on a database, one after the other, many to a commit."""

    def __init__(self, place: str) -> None:
        self._database = LedgerDatabase(place)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.commits = 0
        """How many transactions were committed in which something may have been written."""

    async def start(self) -> None:
        """Open the database, creating it when it is new. Raises `MisconfiguredError` or `UnavailableError`."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="x402-ledger", daemon=True)
        self._thread.start()
        try:
            await ready
        except asyncio.CancelledError:
            # Nobody will close what nobody knows to be open.
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what is queued and close the database."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def do(
        self, work: Callable[[Connection], T], *locks: tuple[str, ...], look: Look | None = None, writes: bool = True
    ) -> T:
        """The outcome of a piece of work, once it is durable. Raises what it raises, or `UnavailableError`.

        It may run again when the database gave it up, so it must do nothing but talk to the database.
        `look` is what may be read for it beforehand, with what others need. Work that writes nothing should say so.
        """
        if self._thread is None or not self._thread.is_alive():
            raise UnavailableError("ledger_unavailable", "the ledger is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, future, locks, look, writes))
        return await future

    def _run(self, ready: asyncio.Future[None]) -> None:
        try:
            migrate(self._database.connection())
            self._recount()
        except (*DATABASE_ERRORS, OSError, MisconfiguredError) as error:
            self._database.close()
            _tell((ready, None, error if isinstance(error, MisconfiguredError) else _unopened(error)))
            return
        _tell((ready, None, None))
        stopping = False
        while not stopping:
            batch = [self._jobs.get()]
            while batch[-1] is not None and len(batch) < self._database.jobs_max:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            stopping = batch[-1] is None
            jobs = [job for job in batch if job is not None]
            # Before anything of this batch is written, a question can only meet what is durable.
            for writes in (False, True):
                alike = [job for job in jobs if job.writes is writes]
                if alike:
                    self._commit(alike)
        self._database.close()

    def _recount(self) -> None:
        connection = self._database.connection()
        with self._database.transaction(writing=True):
            self._database.lock(connection, [unsettled.LOCK])
            unsettled.recount(connection)
            settle(connection)

    def _commit(self, batch: list[_Job]) -> None:
        """Run a batch in one transaction. A job that breaks the law has written nothing and fails alone; a failing
        database fails the batch, and then every job of it alone, so that each caller gets its own truth."""
        for _ in range(_TRIES):
            attempt = _Attempt(self._database, batch)
            try:
                attempt.run()
            except DATABASE_ERRORS as error:
                self._database.recover(error)
                # What waits for a commit that was lost may be durable, so only what came before is done again.
                again = is_conflict(error) or (is_lost(error) and not attempt.committing)
                # A database that can't begin or commit would fail each job alone as well, only slower.
                if len(batch) > 1 and (is_conflict(error) or (attempt.job_failed and not is_lost(error))):
                    for job in batch:
                        self._commit([job])
                    return
                failure = _unavailable(error)
                if again:
                    continue
            else:
                self.commits += attempt.writes
                _tell(*attempt.outcomes)
                return
            break
        _tell(*((job.future, None, failure) for job in batch))


class _Attempt:
    """One transaction with the work of many, and how far it came."""

    def __init__(self, database: LedgerDatabase, batch: list[_Job]) -> None:
        self._database, self._batch = database, batch
        self.writes = any(job.writes for job in batch)
        self.outcomes: list[_Outcome] = []
        self.job_failed = self.committing = False

    def run(self) -> None:
        with self._database.transaction(writing=self.writes) as connection:
            self._database.lock(connection, (name for job in self._batch for name in job.locks))
            try:
                self._work(connection)
            except DATABASE_ERRORS:
                self.job_failed = True
                raise
            self.committing = True

    def _work(self, connection: Connection) -> None:
        looks = [job.look for job in self._batch if job.look is not None]
        if len(looks) > 1 and not self._database.is_sqlite:
            read_ahead(connection, looks)
        for job in self._batch:
            try:
                self.outcomes.append((job.future, job.work(connection), None))
            except DATABASE_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller, not to this thread
                if not isinstance(error, _REFUSALS):
                    forget(connection)
                self.outcomes.append((job.future, None, error))
        settle(connection)


def _tell(*outcomes: _Outcome) -> None:
    """Wake each loop once, however many wait there: waking one costs more than a write."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].get_loop(), []).append(outcome)
    for loop, mine in by_loop.items():
        # A loop that was closed meanwhile has nobody left to tell.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, failure in outcomes:
        if future.done():
            continue
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


def _unopened(error: Exception) -> UnavailableError:
    # Whoever starts a program may know where its database is; whoever pays later may not.
    words = next(iter(str(getattr(error, "orig", None) or error).splitlines()), "")
    return UnavailableError("ledger_unavailable", f"the ledger can't be opened: {words}")


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError("ledger_unavailable", f"the ledger can't be used: {type(error).__name__}")
