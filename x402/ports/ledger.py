"""The durable memory behind `ports.Ledger`: SQLAlchemy Core on one thread, many writes to one commit.

All work on the database happens on one thread of its own, so the event loop never waits for a disk. Whatever has
queued up while a commit was under way goes into the next one together, and each caller is told only after the
commit that carries its write (group commit, design D9). Every change of state is checked against the law of
`lifecycle.py` in the very transaction that writes it.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Entry, Event, Party, Subject, advance, open_states
from x402.ports import Answer, Clock, nonce_book
from x402.ports.audit import BEGIN, attest
from x402.ports.schema import SCHEMA_VERSION, answers, events, metadata, payments, upsert, versions
from x402.stages import STAGES, Stage, State

T = TypeVar("T")
_BATCH = 512
_STOP: Any = None


def _wall_clock() -> int:
    return int(time.time())


class SqlLedger:
    """A ledger on SQLite (`sqlite:///path`, WAL, synchronous=FULL) or in memory (`sqlite://`).

    Use as an async context manager, or call `start` and `close`.
    """

    def __init__(self, url: str = "sqlite://", *, clock: Clock = _wall_clock) -> None:
        if not url.startswith("sqlite"):
            raise MisconfiguredError("unsupported_ledger", "the ledger is SQLite for now: sqlite:///path/to/file")
        self._url = url
        self._clock = clock
        self._jobs: queue.SimpleQueue[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.commits = 0
        """How many transactions were committed: fewer than writes, when writes came together."""

    async def __aenter__(self) -> SqlLedger:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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

    # The interface of ports.Ledger.

    async def begin(self, entry: Entry) -> tuple[Entry, bool]:
        return await self._do(lambda connection: self._begin(connection, entry))

    async def advance(self, party: Party, pay_id: str, event: Event, stage: Stage) -> Entry:
        return await self._do(lambda connection: self._advance(connection, party, pay_id, event, stage))

    async def find(self, party: Party, pay_id: str) -> Entry | None:
        return await self._do(lambda connection: _find(connection, party, pay_id))

    async def unresolved(self, party: Party) -> Sequence[Entry]:
        states = [str(state) for state in open_states(party)]
        query = (
            select(payments)
            .where(payments.c.party == str(party), payments.c.state.in_(states))
            .order_by(payments.c.created_at, payments.c.pay_id)
        )
        return await self._do(lambda connection: [_entry(row) for row in connection.execute(query)])

    async def totals(self, party: Party, state: State) -> dict[tuple[str, str], int]:
        query = select(payments.c.network, payments.c.asset, payments.c.amount).where(
            payments.c.party == str(party), payments.c.state == str(state)
        )

        def total(connection: Connection) -> dict[tuple[str, str], int]:
            sums: dict[tuple[str, str], int] = {}
            for network, asset, amount in connection.execute(query):
                sums[network, asset] = sums.get((network, asset), 0) + int(amount)
            return sums

        return await self._do(total)

    async def keep_answer(self, pay_id: str, answer: Answer) -> None:
        row = {
            "status": answer.status,
            "headers": json.dumps(answer.headers),
            "body": answer.body,
            "complete": answer.complete,
            "created_at": self._clock(),
        }

        def keep(connection: Connection) -> None:
            statement = upsert(connection, answers).values(pay_id=pay_id, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["pay_id"], set_=row))

        await self._do(keep)

    async def answer(self, pay_id: str) -> Answer | None:
        def read(connection: Connection) -> Answer | None:
            row = connection.execute(select(answers).where(answers.c.pay_id == pay_id)).one_or_none()
            if row is None:
                return None
            headers = tuple((name, value) for name, value in json.loads(row.headers))
            return Answer(row.status, headers, row.body, row.complete)

        return await self._do(read)

    async def forget_answers(self, before: int) -> int:
        # DELIVERED is terminal, so a row was last written when its answer went out.
        delivered = (
            select(payments.c.pay_id)
            .where(payments.c.party == str(Party.GATEWAY), payments.c.pay_id == answers.c.pay_id)
            .where(payments.c.state == str(State.DELIVERED), payments.c.updated_at <= before)
        )
        return await self._do(lambda connection: connection.execute(delete(answers).where(delivered.exists())).rowcount)

    async def reserve_nonce(self, network: str, signer: str, chain_nonce: int) -> int:
        return await self._do(lambda connection: nonce_book.reserve(connection, network, signer, chain_nonce))

    async def return_nonce(self, network: str, signer: str, nonce: int) -> None:
        await self._do(lambda connection: nonce_book.give_back(connection, network, signer, nonce))

    async def mend_nonces(self, network: str, signer: str, chain_nonce: int) -> None:
        await self._do(lambda connection: nonce_book.mend(connection, network, signer, chain_nonce))

    async def ping(self) -> None:
        await self._do(lambda connection: connection.execute(update(versions).values(version=SCHEMA_VERSION)))

    # Writing.

    def _begin(self, connection: Connection, entry: Entry) -> tuple[Entry, bool]:
        now = self._clock()
        subject = entry.subject
        stage, raw = _dump_stage(entry.stage)
        constants = {
            "network": subject.network,
            "asset": subject.asset,
            "payer": subject.payer,
            "payee": subject.payee,
            "amount": str(subject.amount),
            "expires_at": subject.expires_at,
            "fingerprint": subject.fingerprint,
            "record": json.dumps(dict(subject.record), separators=(",", ":")),
        }
        statement = upsert(connection, payments).values(
            party=str(entry.party),
            pay_id=subject.pay_id,
            state=str(entry.state),
            **constants,
            stage=stage,
            raw=raw,
            created_at=now,
            updated_at=now,
        )
        won = connection.execute(statement.on_conflict_do_nothing()).rowcount == 1
        if won:
            self._log(connection, entry, BEGIN, attest(stage, constants), now)
            return Entry(entry.party, subject, entry.stage, now, now), True
        older = _find(connection, entry.party, subject.pay_id)
        if older is None:
            raise UnavailableError("ledger_unavailable", "the ledger lost a row between two statements")
        return older, False

    def _advance(self, connection: Connection, party: Party, pay_id: str, what: Event, stage: Stage) -> Entry:
        entry = _find(connection, party, pay_id)
        if entry is None:
            raise KeyError(f"{party} knows no payment {pay_id}")
        moved = advance(entry, what, stage)
        now = self._clock()
        text, raw = _dump_stage(stage)
        values = {"state": str(moved.state), "stage": text, "updated_at": now}
        if raw is not None:
            values["raw"] = raw
        connection.execute(
            update(payments).where(payments.c.party == str(party), payments.c.pay_id == pay_id).values(**values)
        )
        self._log(connection, moved, str(what), text, now)
        return Entry(party, moved.subject, stage, entry.created_at, now)

    def _log(self, connection: Connection, entry: Entry, what: str, stage: str, now: int) -> None:
        row = {"party": str(entry.party), "pay_id": entry.subject.pay_id, "at": now, "event": what}
        connection.execute(insert(events).values(**row, after=str(entry.state), stage=stage))

    # The thread.

    async def _do(self, work: Callable[[Connection], T]) -> T:
        if self._thread is None or not self._thread.is_alive():
            raise UnavailableError("ledger_unavailable", "the ledger is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        return await future

    def _run(self, ready: asyncio.Future[None]) -> None:
        try:
            connection = _open(self._url)
        except (SQLAlchemyError, OSError, MisconfiguredError, ImportError) as error:
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


def _find(connection: Connection, party: Party, pay_id: str) -> Entry | None:
    query = select(payments).where(payments.c.party == str(party), payments.c.pay_id == pay_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _entry(row)


def _dump_stage(stage: Stage) -> tuple[str, bytes | None]:
    members = {member.name: getattr(stage, member.name) for member in fields(stage)}
    raw = members.pop("raw", None)
    return json.dumps(members, separators=(",", ":")), raw


def _entry(row: Row[Any]) -> Entry:
    members = json.loads(row.stage)
    kind = STAGES[State(row.state)]
    if "raw" in {member.name for member in fields(kind)}:
        members["raw"] = row.raw
    subject = Subject(
        pay_id=row.pay_id,
        network=row.network,
        asset=row.asset,
        payer=row.payer,
        payee=row.payee,
        amount=int(row.amount),
        expires_at=row.expires_at,
        fingerprint=row.fingerprint,
        record=json.loads(row.record),
    )
    return Entry(Party(row.party), subject, kind(**members), row.created_at, row.updated_at)
