"""Reading a ledger from outside, for audits and bookkeeping: one snapshot, and never a write.

The ledger may be in use by a running gateway or facilitator: SQLite's WAL and PostgreSQL let readers by, and the
snapshot is of one moment. Ledgers of older programs are read as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Row, and_, create_engine, event, exists, func, inspect, select
from sqlalchemy.pool import StaticPool

from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.ports.account_reading import AccountRow, account_rows
from x402.ports.ledger_database import DATABASE_ERRORS, address_of, engine_of
from x402.ports.ledger_text import CONSTANTS, EventRow, History, PaymentRow
from x402.ports.schema import SCHEMA_VERSION, accounts, events, payments, versions

_COLUMNS = [payments.c[name] for name in
            ("party", "pay_id", "state", "stage", "created_at", "updated_at", *CONSTANTS)]  # fmt: skip
"""What every version of the schema has."""

_NO_TABLE = "42P01"


class LedgerSnapshot:
    """The rows of a ledger at one moment, in the order of party and payment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def payments(self, party: str = "") -> Iterator[PaymentRow]:
        """Every payment, or those of one party, oldest first."""
        query = select(*_COLUMNS).order_by(payments.c.created_at, payments.c.party, payments.c.pay_id)
        if party:
            query = query.where(payments.c.party == party)
        with _told():
            yield from (_payment(row) for row in self._connection.execute(query))

    def accounts(self) -> Iterator[AccountRow]:
        """Every account with its entries; none in a ledger of an older program."""
        with _told():
            if inspect(self._connection).has_table(accounts.name):
                yield from account_rows(self._connection)

    def histories(self) -> Iterator[History]:
        """Every payment with its events, then events that have lost their payment."""
        told = [events.c.event, events.c.after, events.c.stage.label("told"), events.c.at, events.c.seq]
        same = and_(events.c.party == payments.c.party, events.c.pay_id == payments.c.pay_id)
        joined = select(*_COLUMNS, *told).select_from(payments.outerjoin(events, same))
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
    """Open a ledger, given as a file or as `sqlite:///file` or `postgresql://...`, without writing to it.

    Raises `MalformedError` for what is no ledger, `MisconfiguredError` for the schema of a newer program or another
    database, and `UnavailableError` when it can't be read.
    """
    url = address_of(place) if "://" in place else None
    if url is not None and url.drivername != "sqlite":
        with _snapshot(engine_of(url)) as snapshot:
            yield snapshot
        return
    path = Path(place if url is None else url.database or "")
    if not path.is_file():
        raise MalformedError("no_ledger", f"{path}: no such file")
    # Without its WAL beside it nobody has the file open, and SQLite would make one, which a reader should not.
    wal = Path(f"{path.absolute()}-wal")
    quiet = not wal.exists()
    with _snapshot(_file(path.absolute(), quiet=quiet)) as snapshot:
        yield snapshot
    if quiet and wal.exists():
        raise UnavailableError("ledger_unavailable", "the ledger was opened by a program while it was read")


@contextmanager
def _snapshot(engine: Engine) -> Iterator[LedgerSnapshot]:
    try:
        with _told():
            connection = engine.connect()
        with connection:
            if engine.dialect.name == "postgresql":
                connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True, stream_results=True
                )
            _check_version(connection)
            yield LedgerSnapshot(connection)
    finally:
        engine.dispose()


def _file(path: Path, *, quiet: bool) -> Engine:
    address = f"sqlite:///file:{quote(str(path))}?mode=ro{'&immutable=1' if quiet else ''}&uri=true"
    engine = create_engine(address, poolclass=StaticPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _configure(raw: Any, _: object) -> None:
        raw.isolation_level = None
        raw.execute("PRAGMA query_only=ON")
        raw.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _check_version(connection: Connection) -> None:
    try:
        with _told():
            version = connection.execute(select(func.max(versions.c.version))).scalar()
    except UnavailableError as error:
        cause = getattr(error.__cause__, "orig", None)
        if "no such table" in str(cause) or getattr(cause, "sqlstate", None) == _NO_TABLE:
            raise MalformedError("not_a_ledger", "this database is no ledger of a gateway or facilitator") from error
        raise
    if version is None or version > SCHEMA_VERSION:
        raise MisconfiguredError(
            "ledger_version", f"the ledger has schema {version}, this program reads {SCHEMA_VERSION}"
        )


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        cause = getattr(error, "orig", error)
        if "not a database" in str(cause):
            raise MalformedError("not_a_ledger", "this file is no SQLite database") from error
        words = next(iter(str(cause).splitlines()), "")
        raise UnavailableError(
            "ledger_unavailable", f"the ledger can't be read: {type(error).__name__}: {words}"
        ) from error


def _key(row: Row[Any]) -> tuple[str, str]:
    return row.party, row.pay_id


def _payment(row: Row[Any]) -> PaymentRow:
    constants = {name: getattr(row, name) for name in CONSTANTS}
    return PaymentRow(row.party, row.pay_id, row.state, row.stage, row.created_at, row.updated_at, constants)


def _events(rows: list[Row[Any]]) -> tuple[EventRow, ...]:
    return tuple(EventRow(row.event, row.after, row.told, row.at) for row in rows if row.seq is not None)
