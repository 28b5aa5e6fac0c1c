"""Statements that are written once: SQLAlchemy Core says them in each engine's SQL, and the driver itself runs them.

Building and compiling a statement costs many times its execution on SQLite, so those on a payment's way are built when
their module is imported, compiled when an engine first meets them, and run without SQLAlchemy's layers between. They
run in the transaction of the connection that they are given, like any other statement on it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import BindParameter, Connection, Delete, Dialect, Select, Table, Update, bindparam
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")
Insert = Callable[[Table], Any]
"""Begins an insert into a table that can say what happens on conflict; both dialects spell that alike."""

_PIPELINE = "x402.pipeline"
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

    def ask(self, connection: Connection, /, **values: Any) -> Answers:
        """Run it; what it answers is fetched when it is wanted."""
        compiled = self._for(connection.dialect)
        try:
            cursor = _driver(connection).execute(compiled.text, {**compiled.constants, **values})
        except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            raise _told(connection, error) from error
        return Answers(connection, cursor, compiled.row)

    def _for(self, dialect: Dialect) -> _Compiled:
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._compile(dialect)
        return compiled

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


class Answers:
    """What a statement answered."""

    __slots__ = ("_connection", "_cursor", "_row")

    def __init__(self, connection: Connection, cursor: Any, row: Callable[[Iterable[Any]], Any]) -> None:
        self._connection, self._cursor, self._row = connection, cursor, row

    def rows(self) -> list[Any]:
        """Every row of a select, its columns by name."""
        return [self._row(one) for one in self._fetch(self._cursor.fetchall)]

    def first(self) -> Any | None:
        """The first row of a select, its columns by name, or None."""
        one = self._fetch(self._cursor.fetchone)
        return None if one is None else self._row(one)

    def scalar(self) -> Any:
        """The first column of the first row, or None."""
        one = self._fetch(self._cursor.fetchone)
        return None if one is None else one[0]

    def count(self) -> int:
        """How many rows an update or a delete met."""
        settle(self._connection)
        return int(self._cursor.rowcount)

    def _fetch(self, fetch: Callable[[], T]) -> T:
        try:
            return fetch()
        except self._connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            raise _told(self._connection, error) from error


def settle(connection: Connection) -> None:
    """Wait until everything that was sent is done. Raises the first failure of it.

    On PostgreSQL what is prepared is sent without waiting for each answer, in a pipeline that lasts until somebody
    calls this: before another kind of statement, and before a commit. So one statement's failure may be raised by the
    next ones, and the transaction is lost either way.
    """
    pipeline = None if connection.invalidated else connection.info.pop(_PIPELINE, None)
    if pipeline is None:
        return
    try:
        pipeline.__exit__(None, None, None)
    except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
        raise _told(connection, error) from error


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
