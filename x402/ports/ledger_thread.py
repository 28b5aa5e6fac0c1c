"""One thread that owns the database, so that the event loop never waits for a disk.

Whatever has queued up while a commit was under way goes into the next one together, and each caller is told only
after the commit that carries its write (group commit, design D9).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from x402.errors import MisconfiguredError, UnavailableError
from x402.ports.schema import SCHEMA_VERSION, metadata, versions

T = TypeVar("T")
_BATCH = 512
_STOP: Any = None


class LedgerThread:
    """Runs pieces of work on a database, one after the other, many to a commit."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs: queue.SimpleQueue[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.commits = 0
        """How many transactions were committed."""

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
            self._jobs.put(_STOP)
            await asyncio.to_thread(thread.join)

    async def do(self, work: Callable[[Connection], T]) -> T:
        """The outcome of a piece of work, once it is durable. Raises what it raises, or `UnavailableError`."""
        if self._thread is None or not self._thread.is_alive():
            raise UnavailableError("ledger_unavailable", "the ledger is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        return await future

    def _run(self, ready: asyncio.Future[None]) -> None:
        try:
            connection = _open(self._url)
        except (SQLAlchemyError, OSError, MisconfiguredError, ImportError, UnicodeError) as error:
            # Python's sqlite3 can't even say what is wrong with a schema whose bytes are no text.
            failure = error if isinstance(error, MisconfiguredError) else _unavailable(error)
            _tell(ready, None, failure)
            return
        _tell(ready, None, None)
        with connection:
            stopping = False
            while not stopping:
                batch = [self._jobs.get()]
                while batch[-1] is not _STOP and len(batch) < _BATCH:
                    try:
                        batch.append(self._jobs.get_nowait())
                    except queue.Empty:
                        break
                stopping = batch[-1] is _STOP
                self._commit(connection, [job for job in batch if job is not _STOP])
        # Only the pool closes the file; then SQLite leaves one file behind, without a WAL.
        connection.engine.dispose()

    def _commit(
        self, connection: Connection, batch: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]]
    ) -> None:
        """Run a batch in one transaction. A job that breaks the law has written nothing and fails alone; a failing
        database fails the batch, and then every job of it alone, so that each caller gets its own truth."""
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        job_failed = False
        try:
            with connection.begin():
                for work, future in batch:
                    try:
                        outcomes.append((future, work(connection), None))
                    except SQLAlchemyError:
                        job_failed = True
                        raise
                    except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller, not to this thread
                        outcomes.append((future, None, error))
            self.commits += 1
        except (SQLAlchemyError, sqlite3.Error) as error:
            # A database that can't begin or commit would fail each job alone as well, only slower.
            if job_failed and len(batch) > 1:
                for job in batch:
                    self._commit(connection, [job])
                return
            outcomes = [(future, None, _unavailable(error)) for _, future in batch]
        for future, result, failure in outcomes:
            _tell(future, result, failure)


def _tell(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    def resolve() -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)

    # A loop that was closed meanwhile has nobody left to tell.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(resolve)


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError("ledger_unavailable", f"the ledger can't be used: {type(error).__name__}")


def _open(url: str) -> Connection:
    engine = create_engine(url, poolclass=StaticPool, connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(raw: Any, _: object) -> None:
        # Python's sqlite3 would otherwise begin transactions by its own rules.
        raw.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    metadata.create_all(engine)
    connection = engine.connect()
    with connection.begin():
        version = connection.execute(select(func.max(versions.c.version))).scalar()
        if version is None:
            connection.execute(insert(versions).values(version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            raise MisconfiguredError(
                "ledger_version", f"the ledger has schema {version}, this program writes {SCHEMA_VERSION}"
            )
    return connection
