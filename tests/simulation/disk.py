"""Disks: the real ledger and the real journal over SQLite databases that survive their processes.

What is committed is durable, and nothing else is: a batch of the ledger's jobs is run and committed in one moment of
the world, so that a process that dies before it leaves nothing, and one that dies after it leaves everything. The
ledger's thread is replaced by these moments; statements, law and group commit are the real ones.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, RootTransaction, create_engine
from sqlalchemy.pool import StaticPool

from tests.simulation.faults import Fate
from tests.simulation.loop import LIFE, Life
from tests.simulation.world import World
from x402.client.journal import IN_MEMORY, Journal
from x402.errors import UnavailableError
from x402.ports import Clock
from x402.ports.known import forget, keep
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_ahead import Look
from x402.ports.ledger_database import DATABASE_ERRORS, listen_to
from x402.ports.prepared import settle
from x402.ports.schema import SCHEMA_VERSION, metadata, versions

T = TypeVar("T")
_Job = tuple[Life | None, Callable[[Connection], Any], "asyncio.Future[Any]", bool]


class Database:
    """One ledger database, emptied and used again from run to run, because creating a schema is slow."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        listen_to(engine)
        metadata.create_all(engine)
        self.connection = engine.connect()
        self.raw: sqlite3.Connection = self.connection.connection.dbapi_connection  # type: ignore[assignment]
        """The same database, for those who only look."""
        self.empty()

    def empty(self) -> None:
        """As a new database."""
        if self.connection.in_transaction():
            self.connection.rollback()
        forget(self.connection)
        for table in metadata.sorted_tables:
            self.raw.execute(f"DELETE FROM {table.name}")
        self.raw.execute(f"INSERT INTO {versions.name} (version) VALUES (?)", (SCHEMA_VERSION,))


class Disk:
    """Commits the jobs that have queued up, all of them or none."""

    def __init__(self, world: World, database: Database) -> None:
        self.world = world
        self.database = database
        self.commits = 0
        self.on_commit: list[Callable[[], None]] = []
        self._jobs: list[_Job] = []

    async def do(self, work: Callable[[Connection], T], label: str, *, writes: bool = True) -> T:
        """The outcome of a job once it is durable. Raises what it raises, or `UnavailableError`. Who writes nothing
        comes first, as in the ledger's thread."""
        await self.world.boundary(label, "before")
        outcome: asyncio.Future[T] = self.world.loop.create_future()
        self._jobs.append((LIFE.get(), work, outcome, writes))
        if len(self._jobs) == 1:
            self.world.post("disk", self.world.latency("disk"), self._sync)
        try:
            result = await outcome
        except asyncio.CancelledError:
            raise
        except Exception:
            await self.world.boundary(label, "after")
            raise
        await self.world.boundary(label, "after")
        return result

    def _sync(self) -> None:
        jobs, self._jobs = self._jobs, []
        # The thread dies with its process, and what only waited for it was never done.
        batch = sorted((job for job in jobs if job[0] is None or job[0].alive), key=lambda job: job[-1])
        fate = self.world.fate("disk")
        if fate is Fate.SLOW:
            self._jobs = batch + self._jobs
            self.world.later(self.world.chance.uniform(0.5, 3.0), self._sync)
            return
        outcomes = self._commit(batch, fate)
        for (life, *_), (_, outcome, failure) in zip(batch, outcomes, strict=True):
            self.world.remember(life, outcome if failure is None else failure)
        for told in self.on_commit:
            told()
        self.world.post("disk's answer", 0.0, lambda: _tell(outcomes))

    def _commit(self, batch: list[_Job], fate: Fate) -> list[tuple[asyncio.Future[Any], Any, Exception | None]]:
        outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        away = UnavailableError("ledger_unavailable", "the ledger can't be used: the disk is full")
        transaction = self.database.connection.begin()
        try:
            for _, work, outcome, _ in batch:
                try:
                    outcomes.append((outcome, work(self.database.connection), None))
                except DATABASE_ERRORS:
                    raise
                except Exception as error:  # noqa: BLE001 - it belongs to the caller, as in the ledger's thread
                    outcomes.append((outcome, None, error))
            settle(self.database.connection)
            if fate is Fate.FULL:
                self._roll_back(transaction)
                return [(outcome, None, away) for _, _, outcome, _ in batch]
            transaction.commit()
            keep(self.database.connection)
            self.commits += 1
        except DATABASE_ERRORS as error:
            self._roll_back(transaction)
            return [(outcome, None, _wrapped(error)) for _, _, outcome, _ in batch]
        if fate is Fate.UNSURE:
            return [(outcome, None, away) for outcome, _, _ in outcomes]
        return outcomes

    def _roll_back(self, transaction: RootTransaction) -> None:
        transaction.rollback()
        forget(self.database.connection)


def _tell(outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for outcome, result, error in outcomes:
        if outcome.done():
            continue
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)


def _wrapped(error: Exception) -> UnavailableError:
    return UnavailableError("ledger_unavailable", f"the ledger can't be used: {type(error).__name__}: {error}")


class SimulatedLedger(SqlLedger):
    """The real ledger of one life, on a disk that other lives may share."""

    def __init__(self, disk: Disk, *, clock: Clock, holder: str) -> None:
        super().__init__("sqlite://", clock=clock)
        self.holder = holder
        self._disk = disk

    async def start(self) -> None:
        """The database is there."""

    async def close(self) -> None:
        """Nothing is open."""

    async def _do(
        self, work: Callable[[Connection], T], *locks: tuple[str, ...], look: Look | None = None, writes: bool = True
    ) -> T:
        name = work.__qualname__.split(".")[1] if "." in work.__qualname__ else work.__qualname__
        return await self._disk.do(work, f"ledger.{name}", writes=writes)


class JournalFile:
    """A client's journal database, emptied and used again from run to run."""

    def __init__(self) -> None:
        with Journal(IN_MEMORY, clock=lambda: 0)._file.reading() as connection:
            self.connection = connection

    def empty(self) -> None:
        """As a new journal."""
        tables = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            self.connection.execute(f"DELETE FROM {name}")

    def open(self, clock: Clock) -> Journal:
        """The journal of one life."""
        journal = Journal(IN_MEMORY, clock=clock)
        journal._file._connection, journal._file._opened_by = self.connection, os.getpid()
        return journal
