"""Reading a ledger from outside, for audits and bookkeeping: one snapshot, and never a write.

The file may be in use by a running gateway or facilitator: SQLite's WAL lets readers by, and the snapshot is of one
moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Row, and_, create_engine, event, exists, func, select
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.ports.audit import CONSTANTS, EventRow, History, PaymentRow
from x402.ports.schema import SCHEMA_VERSION, events, payments, versions

_SQLITE = "sqlite:///"


class LedgerSnapshot:
    """The rows of a ledger at one moment, in the order of party and payment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def payments(self, party: str = "") -> Iterator[PaymentRow]:
        """Every payment, or those of one party, oldest first."""
        query = select(payments).order_by(payments.c.created_at, payments.c.party, payments.c.pay_id)
        if party:
            query = query.where(payments.c.party == party)
        with _told():
            yield from (_payment(row) for row in self._connection.execute(query))

    def histories(self) -> Iterator[History]:
        """Every payment with its events, then events that have lost their payment."""
        told = [events.c.event, events.c.after, events.c.stage.label("told"), events.c.at, events.c.seq]
        same = and_(events.c.party == payments.c.party, events.c.pay_id == payments.c.pay_id)
        joined = select(payments, *told).select_from(payments.outerjoin(events, same))
        orphans = select(events.c.party, events.c.pay_id, *told).where(~exists().where(same))
        with _told():
            rows = self._connection.execute(joined.order_by(payments.c.party, payments.c.pay_id, events.c.seq))
            for (party, pay_id), group in groupby(rows, _key):
                known = list(group)
                yield History(party, pay_id, _payment(known[0]), _events(known))
            rows = self._connection.execute(orphans.order_by(events.c.party, events.c.pay_id, events.c.seq))
            for (party, pay_id), group in groupby(rows, _key):
                yield History(party, pay_id, None, _events(list(group)))


@contextmanager
def read_ledger(place: str) -> Iterator[LedgerSnapshot]:
    """Open a ledger, given as a file or as `sqlite:///file`, without writing to it.

    Raises `MalformedError` for what is no ledger, `MisconfiguredError` for another schema or another database, and
    `UnavailableError` when it can't be read.
    """
    path = _path(place)
    # Without its WAL beside it nobody has the file open, and SQLite would make one, which a reader should not.
    wal = Path(f"{path}-wal")
    quiet = not wal.exists()
    address = f"{_SQLITE}file:{quote(str(path))}?mode=ro{'&immutable=1' if quiet else ''}&uri=true"
    engine = create_engine(address, poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _configure(raw: Any, _: object) -> None:
        raw.isolation_level = None
        raw.execute("PRAGMA query_only=ON")
        raw.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    try:
        with _told():
            connection = engine.connect()
        with connection:
            _check_version(connection)
            yield LedgerSnapshot(connection)
        if quiet and wal.exists():
            raise UnavailableError("ledger_unavailable", "the ledger was opened by a program while it was read")
    finally:
        engine.dispose()


def _path(place: str) -> Path:
    if "://" in place and not place.startswith(_SQLITE):
        raise MisconfiguredError("unsupported_ledger", "the ledger is SQLite for now: sqlite:///path/to/file")
    path = Path(place.removeprefix(_SQLITE))
    if not path.is_file():
        raise MalformedError("no_ledger", f"{path}: no such file")
    return path.absolute()


def _check_version(connection: Connection) -> None:
    try:
        with _told():
            version = connection.execute(select(func.max(versions.c.version))).scalar()
    except UnavailableError as error:
        if isinstance(error.__cause__, OperationalError) and "no such table" in str(error.__cause__):
            raise MalformedError("not_a_ledger", "this database is no ledger of a gateway or facilitator") from error
        raise
    if version != SCHEMA_VERSION:
        raise MisconfiguredError(
            "ledger_version", f"the ledger has schema {version}, this program reads {SCHEMA_VERSION}"
        )


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
        if isinstance(error, DatabaseError) and "not a database" in str(error.orig):
            raise MalformedError("not_a_ledger", "this file is no SQLite database") from error
        raise UnavailableError("ledger_unavailable", f"the ledger can't be read: {type(error).__name__}") from error


def _key(row: Row[Any]) -> tuple[str, str]:
    return row.party, row.pay_id


def _payment(row: Row[Any]) -> PaymentRow:
    constants = {name: getattr(row, name) for name in CONSTANTS}
    return PaymentRow(row.party, row.pay_id, row.state, row.stage, row.created_at, row.updated_at, constants)


def _events(rows: list[Row[Any]]) -> tuple[EventRow, ...]:
    return tuple(EventRow(row.event, row.after, row.told, row.at) for row in rows if row.seq is not None)
