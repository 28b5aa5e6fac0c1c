"""The two databases that a ledger may stand in, and what differs between them: SQLite and PostgreSQL.

SQLite has one writer at a time, so whoever writes is alone. On PostgreSQL several replicas write at once; what one
piece of work must have for itself it names beforehand, and a transaction takes all its names first and in one order,
so that two replicas hardly ever wait for each other in a circle. Addresses may carry a password: nothing here repeats
one in an error.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import sleep
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, bindparam, create_engine, event, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from x402.errors import MisconfiguredError
from x402.ports.known import forget, keep, resume
from x402.ports.prepared import give_up, settle
from x402.ports.schema import bundles, payments, unsettled

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, UnicodeError)
"""What a statement may raise: Python's sqlite3 can't even say what is wrong with a schema whose bytes are no text."""

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_PATIENCE = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
             "tcp_user_timeout": 20_000}  # fmt: skip
"""How a lost network is noticed, seconds and milliseconds; libpq's names."""

_SESSION = ("SET lock_timeout = '20s'", "SET statement_timeout = '30s'",
            "SET idle_in_transaction_session_timeout = '20s'", "SET plan_cache_mode = force_custom_plan")  # fmt: skip
"""A replica that stops in the middle of a transaction loses it, and the others go on. A statement is planned for the
tables as they are: a plan that is kept from when they were empty reads all of them when they have grown."""

_WRITING = "x402.writing"

_LOG_PAGES = 4000
"""How long the log of changes grows, in pages of 4 KiB, before they go to the file: most change again and again."""

_TRIES, _TRY_SECONDS = 200, 0.05
"""How often a busy database is asked for the log of changes, and the pause between."""

_CONFLICTS = frozenset({"40001", "40P01", "53200"})
"""SQLSTATE of serialization failures, deadlocks, and no memory left for locks, which fewer jobs need less of: nothing
was written, and the same work may succeed now."""

_LOCK = text("SELECT pg_advisory_xact_lock(name) FROM (SELECT unnest(:names) AS name ORDER BY 1) AS sorted").bindparams(
    bindparam("names", type_=ARRAY(BigInteger))
)


def address_of(place: str) -> URL:
    """A ledger's address. Raises `MisconfiguredError`, which doesn't repeat it."""
    try:
        url = make_url(place)
    except ArgumentError:
        url = URL.create("unknown")
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise MisconfiguredError(
            "unsupported_ledger",
            "the ledger is SQLite or PostgreSQL: sqlite:///path/to/file or postgresql://user@host/database",
        )
    return url


def engine_of(url: URL) -> Engine:
    """An engine whose errors hold no parameters. Raises `MisconfiguredError` when the driver isn't installed."""
    if url.drivername == "sqlite":
        arguments: dict[str, Any] = {"timeout": 30, "check_same_thread": False}
        return create_engine(url, poolclass=StaticPool, connect_args=arguments, hide_parameters=True)
    arguments = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    try:
        return create_engine(
            url,
            poolclass=NullPool,
            connect_args=arguments,
            hide_parameters=True,
            # A transaction that had to wait must see what it waited for.
            isolation_level="READ COMMITTED",
        )
    except ImportError as error:
        raise MisconfiguredError(
            "extra_missing", "a ledger on PostgreSQL needs the extra postgres: pip install 'x402-engine[postgres]'"
        ) from error


def listen_to(engine: Engine) -> None:
    """Have the transactions of an engine begin and end as those of a ledger do."""
    on_sqlite = engine.dialect.name == "sqlite"
    event.listen(engine, "connect", _configure_sqlite if on_sqlite else _configure_postgres)
    event.listen(engine, "before_cursor_execute", _before_another)
    event.listen(engine, "rollback", give_up)
    if on_sqlite:
        event.listen(engine, "begin", _begin_at_once)


class LedgerDatabase:
    """A connection for writing, which is opened again when it is lost. For one thread."""

    def __init__(self, place: str) -> None:
        self._url = address_of(place)
        self.is_sqlite = self._url.drivername == "sqlite"
        # The locks of a transaction share PostgreSQL's memory for locks with those of the other replicas.
        self.jobs_max = 512 if self.is_sqlite else 256
        self._engine: Engine | None = None
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """The open connection, or a new one. Raises what connecting raises."""
        if self._engine is None:
            self._engine = engine_of(self._url)
            listen_to(self._engine)
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    @contextmanager
    def transaction(self, *, writing: bool) -> Iterator[Connection]:
        """One transaction, committed at its end. On SQLite, who is not `writing` waits for nobody who is."""
        connection = self.connection()
        connection.info[_WRITING] = writing
        try:
            with connection.begin():
                yield connection
        except BaseException:
            forget(connection)
            raise
        keep(connection)

    def lock(self, connection: Connection, names: Iterable[tuple[str, ...]]) -> None:
        """Have these names to this transaction alone, until it ends."""
        if not self.is_sqlite:
            numbers = sorted({_number(name) for name in names})
            if numbers:
                connection.execute(_LOCK, {"names": numbers})

    def recover(self, error: Exception) -> None:
        """After a failure: forget a connection that can be made anew, because it may be the reason."""
        # A SQLite file is never opened a second time: another file could stand in its place by now.
        if not self.is_sqlite and not is_conflict(error):
            self._disconnect()

    def close(self) -> None:
        """Close the connection and the file."""
        self._disconnect()
        if self._engine is not None:
            # Only the pool closes the file; then SQLite leaves one file behind, without a WAL.
            self._engine.dispose()
            self._engine = None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def is_conflict(error: Exception) -> bool:
    """Whether the database gave up one of several transactions that were in each other's way."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def is_lost(error: Exception) -> bool:
    """Whether the connection is gone."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _number(name: tuple[str, ...]) -> int:
    digest = hashlib.sha256("\n".join(name).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _configure_sqlite(raw: Any, _: object) -> None:
    # Python's sqlite3 would otherwise begin transactions by its own rules.
    raw.isolation_level = None
    raw.execute("PRAGMA busy_timeout=30000")
    _keep_a_log(raw)
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")


def _keep_a_log(raw: Any) -> None:
    """Have changes written ahead. SQLite makes nobody wait who asks for that while another process does the same."""
    for _ in range(_TRIES):
        try:
            raw.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            sleep(_TRY_SECONDS)
        else:
            return
    raw.execute("PRAGMA journal_mode=WAL")


def _begin_at_once(connection: Connection) -> None:
    raw: Any = connection.connection.dbapi_connection
    raw.execute("BEGIN IMMEDIATE" if connection.info.get(_WRITING, True) else "BEGIN")
    resume(connection)


def _before_another(connection: Connection, _: Any, __: Any, ___: Any, context: Any, ____: Any) -> None:
    """Before a statement that is not prepared: it meets what was gathered, and may write past what is known."""
    settle(connection)
    made = getattr(context, "compiled", None)
    table = getattr(getattr(made, "statement", None), "table", None)
    if made is None or context.is_text or table in (payments, unsettled, bundles):
        forget(connection)


def _configure_postgres(raw: Any, _: object) -> None:
    for statement in _SESSION:
        raw.execute(statement)
    # What was answered must be on the disk, whatever the server was told for others.
    if raw.execute("SHOW synchronous_commit").fetchone()[0] == "off":
        raw.execute("SET synchronous_commit = on")
    raw.commit()
