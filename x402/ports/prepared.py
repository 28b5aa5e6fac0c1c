"""Statements that are written once: SQLAlchemy Core says them in each engine's SQL, and the driver itself runs them.

Building and compiling a statement costs many times its execution on SQLite, so those on a payment's way are built when
their module is imported, compiled when an engine first meets them, and run without SQLAlchemy's layers between. They
run in the transaction of the connection that they are given, like any other statement on it.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Delete,
    Dialect,
    Select,
    Table,
    Update,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, StatementError

T = TypeVar("T")
Key = tuple[str, ...]
Insert = Callable[[Table], Any]
"""Begins an insert into a table that can say what happens on conflict; both dialects spell that alike."""

_PIPELINE = "x402.pipeline"
_GATHERED = "x402.gathered"
_SQLITE = sqlite_dialect(paramstyle="named")


def value(name: str) -> BindParameter[Any]:
    """A place in a statement for a value that is given when it runs."""
    return bindparam(name, required=False)


class _Compiled(NamedTuple):
    text: str
    constants: Mapping[str, Any]
    row: Callable[[Iterable[Any]], Any]


class Prepared:
    """One statement; or, for an insert, a function that is given the dialect's `insert` and makes one.

    Values go where the statement has a `value`, and into the `columns` that an insert or an update sets, each by
    its name. Every method raises what SQLAlchemy would: `DBAPIError`, without the values in it.
    """

    def __init__(
        self, statement: Select[Any] | Update | Delete | Callable[[Insert], Any], columns: Sequence[str] = ()
    ) -> None:
        self._statement = statement
        self._columns = list(columns) or None
        self._compiled: dict[str, _Compiled] = {}
        self._of_many = ""

    def rows(self, connection: Connection, /, **values: Any) -> list[Any]:
        """Every row of a select, its columns by name."""
        return self.ask(connection, **values).rows()

    def first(self, connection: Connection, /, **values: Any) -> Any | None:
        """The first row of a select, its columns by name, or None."""
        return self.ask(connection, **values).first()

    def scalar(self, connection: Connection, /, **values: Any) -> Any:
        """The first column of the first row, or None."""
        return self.ask(connection, **values).scalar()

    def count(self, connection: Connection, /, **values: Any) -> int:
        """How many rows an update or a delete met."""
        return self.ask(connection, **values).count()

    def do(self, connection: Connection, /, **values: Any) -> None:
        """Run it for its effect."""
        self.ask(connection, **values)

    def gather(self, connection: Connection, key: Key, /, **values: Any) -> None:
        """Run it for its effect, together with others of its kind: before anything is asked, and before a commit.

        `key` names the one row that it writes, or is empty for a new row that nobody names. Writes to one row keep
        their order; of those by one statement only the newest is done, so each must write all that it ever writes.
        """
        gathered = connection.info.get(_GATHERED)
        if gathered is not None and gathered.writer(key) not in (None, self):
            _send(connection)
            gathered = None
        if gathered is None:
            gathered = connection.info[_GATHERED] = _Gathered()
        gathered.add(self, key, values)

    def ask(self, connection: Connection, /, **values: Any) -> Answers:
        """Run it; on PostgreSQL what it answers is fetched when it is wanted."""
        _send(connection)
        compiled = self._for(connection.dialect)
        try:
            cursor = _driver(connection).execute(compiled.text, {**compiled.constants, **values})
            return Answers(connection, cursor, compiled.row)
        except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            raise _told(connection, error) from error

    def _for(self, dialect: Dialect) -> _Compiled:
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._compile(dialect)
        return compiled

    def _send(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for its effect with each of these values."""
        driver, compiled = _driver(connection), self._for(connection.dialect)
        if len(rows) == 1:
            driver.execute(compiled.text, {**compiled.constants, **rows[0]})
        elif connection.dialect.name == "sqlite":
            driver.executemany(compiled.text, [{**compiled.constants, **values} for values in rows])
        elif callable(self._statement):
            # One statement with all rows costs the server a third of as many statements.
            self._of_many = self._of_many or self._compile_many(connection.dialect, self._statement)
            driver.execute(self._of_many, {"rows": json.dumps(rows, default=_hexadecimal)})
        else:
            with driver.cursor() as cursor:
                cursor.executemany(compiled.text, [{**compiled.constants, **values} for values in rows])

    def _compile_many(self, dialect: Dialect, statement: Callable[[Insert], Any]) -> str:
        insert = statement(postgresql_insert)
        names = self._columns or []
        told = func.json_to_recordset(bindparam("rows", type_=JSON)).table_valued(
            *(column(name, insert.table.c[name].type) for name in names)
        )
        rows = select(*told.render_derived(name="told", with_types=True).c)
        return str(insert.from_select(names, rows, include_defaults=False).compile(dialect=dialect))

    def _compile(self, dialect: Dialect) -> _Compiled:
        on_sqlite = dialect.name == "sqlite"
        statement: Any = self._statement
        if not isinstance(statement, Select | Update | Delete):
            statement = statement(sqlite_insert if on_sqlite else postgresql_insert)
        compiled = statement.compile(
            # SQLite's driver takes values by name as well, like PostgreSQL's.
            dialect=_SQLITE if on_sqlite else dialect,
            column_keys=self._columns,
            compile_kwargs={"render_postcompile": True},
        )
        names = list(statement.selected_columns.keys()) if isinstance(statement, Select) else []
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        row: Any = namedtuple("Row", names)  # type: ignore[misc]
        return _Compiled(str(compiled), constants, row._make)


class _Gathered:
    """Writes that wait for each other, by their statement."""

    def __init__(self) -> None:
        self.rows: dict[Prepared, dict[Key, Mapping[str, Any]]] = {}
        self._writers: dict[Key, Prepared] = {}
        self._nameless = 0

    def writer(self, key: Key) -> Prepared | None:
        """Which statement's write to this row waits here."""
        return self._writers.get(key)

    def add(self, statement: Prepared, key: Key, values: Mapping[str, Any]) -> None:
        """One more."""
        if key:
            self._writers[key] = statement
        else:
            self._nameless += 1
            key = ("", str(self._nameless))
        self.rows.setdefault(statement, {})[key] = values


class Answers:
    """What a statement answered.

    On SQLite that is fetched at once: a statement that is not run to its end keeps its connection at the moment that it
    saw, and so from writing after another program did.
    """

    __slots__ = ("_connection", "_cursor", "_row", "_told")

    def __init__(self, connection: Connection, cursor: Any, row: Callable[[Iterable[Any]], Any]) -> None:
        self._connection, self._cursor, self._row = connection, cursor, row
        self._told: list[Any] | None = cursor.fetchall() if connection.dialect.name == "sqlite" else None

    def rows(self) -> list[Any]:
        """Every row of a select, its columns by name."""
        return [self._row(one) for one in self._fetched()]

    def first(self) -> Any | None:
        """The first row of a select, its columns by name, or None."""
        told = self._fetched()
        return self._row(told[0]) if told else None

    def scalar(self) -> Any:
        """The first column of the first row, or None."""
        told = self._fetched()
        return told[0][0] if told else None

    def count(self) -> int:
        """How many rows an update or a delete met."""
        settle(self._connection)
        return int(self._cursor.rowcount)

    def _fetched(self) -> list[Any]:
        if self._told is None:
            try:
                self._told = self._cursor.fetchall()
            except self._connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
                raise _told(self._connection, error) from error
        return self._told


def settle(connection: Connection) -> None:
    """Wait until everything that was sent is done. Raises the first failure of it.

    What was gathered is sent now. On PostgreSQL what is prepared is sent without waiting for each answer, in a pipeline
    that lasts until somebody calls this: before another kind of statement, and before a commit. So one statement's
    failure may be raised by the next ones, and the transaction is lost either way.
    """
    if not connection.invalidated:
        _send(connection)
    pipeline = None if connection.invalidated else connection.info.pop(_PIPELINE, None)
    if pipeline is None:
        return
    try:
        pipeline.__exit__(None, None, None)
    except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
        raise _told(connection, error) from error


def give_up(connection: Connection) -> None:
    """End what was sent before a transaction is rolled back: what was gathered is never sent."""
    if not connection.invalidated:
        connection.info.pop(_GATHERED, None)
    # Whatever went wrong was told already, or is undone with the rest.
    with suppress(DBAPIError):
        settle(connection)


def _send(connection: Connection) -> None:
    """Send what was gathered, without waiting for it."""
    gathered: _Gathered | None = connection.info.pop(_GATHERED, None)
    if gathered is None:
        return
    try:
        for statement, rows in gathered.rows.items():
            statement._send(connection, list(rows.values()))
    except (TypeError, ValueError, OverflowError) as error:
        # What can't even be sent is several jobs' loss, not that of the one who asks now.
        raise StatementError(type(error).__name__, None, None, error, hide_parameters=True) from error
    except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
        raise _told(connection, error) from error


def _hexadecimal(raw: bytes) -> str:
    return "\\x" + raw.hex()


def _driver(connection: Connection) -> Any:
    """The driver's connection, ready to be asked."""
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.name != "sqlite" and _PIPELINE not in connection.info:
        pipeline = raw.pipeline()
        pipeline.__enter__()
        connection.info[_PIPELINE] = pipeline
    return raw


def _told(connection: Connection, error: Exception) -> BaseException:
    """A driver's error as SQLAlchemy tells it, which knows whether the connection is lost."""
    dialect, raw = connection.dialect, connection.connection.dbapi_connection
    failures: Any = dialect.dbapi
    lost = bool(dialect.is_disconnect(error, raw, None))  # type: ignore[arg-type]
    told = DBAPIError.instance(
        None, None, error, failures.Error, hide_parameters=True, connection_invalidated=lost, dialect=dialect
    )
    if lost:
        connection.invalidate(error)
    return told
