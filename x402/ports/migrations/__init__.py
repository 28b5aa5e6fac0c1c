"""A ledger's schema through the versions of this program, from the first one on (Alembic; design D9).

A ledger is brought up to date when it is opened, in one transaction: it is whole in the old schema or in the new one.
A new ledger is made in the newest schema at once; a test proves that both ways end in the same tables.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, insert, inspect, select, text

from x402.errors import MisconfiguredError
from x402.ports import grant_table, rating_table  # noqa: F401 - they belong to the schema that is made here
from x402.ports.operator_schema import statements
from x402.ports.schema import SCHEMA_VERSION, metadata, revisions
from x402.ports.schema import versions as version_rows

_HERE = Path(__file__).parent
_ONE_AT_A_TIME = (
    # A step over many rows takes as long as it takes, and whoever starts meanwhile waits for it.
    text("SET LOCAL statement_timeout = 0"),
    text("SET LOCAL lock_timeout = 0"),
    text("SELECT pg_advisory_xact_lock(402402402)"),
)


def migrate(connection: Connection) -> None:
    """Make the tables, or bring older ones up to date. Several processes may do so at once.

    Raises `MisconfiguredError` for a ledger of a newer program, and for a database that belongs to another one.
    """
    with connection.begin():
        if connection.dialect.name == "postgresql":
            for statement in _ONE_AT_A_TIME:
                connection.execute(statement)
        present = set(inspect(connection).get_table_names())
        if version_rows.name not in present:
            _create(connection, present)
            return
        version = connection.execute(select(func.max(version_rows.c.version))).scalar()
        if version is not None and version > SCHEMA_VERSION:
            raise MisconfiguredError(
                "ledger_version", f"the ledger has schema {version}, this program writes {SCHEMA_VERSION}"
            )
        if version != SCHEMA_VERSION:
            upgrade(connection, version or 0)


def upgrade(connection: Connection, version: int, target: int = SCHEMA_VERSION) -> None:
    """Bring a ledger from one schema to a newer one, within the connection's transaction. 0 is no schema yet."""
    # Most starts find nothing to do, and then don't wait for these imports.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    context, script = MigrationContext.configure(connection), ScriptDirectory(str(_HERE))
    steps = script.iterate_revisions(revision_of(target), revision_of(version) if version else "base")
    with Operations.context(context):
        for step in reversed(list(steps)):
            step.module.upgrade()
    context.stamp(script, revision_of(target))


def revision_of(version: int) -> str:
    """Alembic's name of a schema."""
    return f"{version:04}"


def _create(connection: Connection, present: set[str]) -> None:
    foreign = ", ".join(sorted(present & set(metadata.tables)))
    if foreign:
        raise MisconfiguredError(
            "foreign_tables", f"this database has tables of another program ({foreign}); give the ledger one of its own"
        )
    # None of them is there, as was just seen; asking for each takes as long as making it.
    metadata.create_all(connection, checkfirst=False)
    for statement in statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(insert(version_rows).values(version=SCHEMA_VERSION))
    connection.execute(insert(revisions).values(version_num=revision_of(SCHEMA_VERSION)))
