"""The ledger's tables: current state beside append-only events, from which the state can be rebuilt (design D9)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    column,
    literal_column,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

SCHEMA_VERSION = 3

_OPEN_STATES = ("claimed", "intended", "owed", "refunding", "reversed", "served", "settled", "settling")

metadata = MetaData()


def has_open_state() -> ColumnElement[bool]:
    """Whether a row may be open, whosever it is, word for word as the index `payments_by_turn` asks it."""
    return column("state").in_([literal_column(f"'{state}'") for state in _OPEN_STATES])


payments = Table(
    "payments",
    metadata,
    Column("party", String(16), nullable=False),
    Column("pay_id", String(300), nullable=False),
    Column("state", String(16), nullable=False),
    Column("network", String(64), nullable=False),
    Column("asset", String(64), nullable=False),
    Column("payer", String(64), nullable=False),
    Column("payee", String(64), nullable=False),
    # Decimal digits: a uint256 fits no integer column of either engine.
    Column("amount", String(78), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("fingerprint", String(128), nullable=False),
    Column("record", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("raw", LargeBinary, nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # Who sent the last attempt with which nonce: states after INTENDED tell neither, and the nonce stays taken.
    Column("sender", String(64), nullable=True),
    Column("nonce", BigInteger, nullable=True),
    # Who works on the row, until which unix second, and its place in the order in which open rows are taken.
    Column("leased_by", String(64), nullable=True),
    Column("leased_until", BigInteger, nullable=False, server_default="0"),
    Column("turn", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("party", "pay_id"),
    Index("payments_by_state", "party", "state", "created_at"),
    Index("payments_by_payer", "party", "payer", "state", "updated_at"),
    Index("payments_by_sender", "sender", "state"),
    Index(
        "payments_by_turn",
        "party",
        "turn",
        "created_at",
        "pay_id",
        sqlite_where=has_open_state(),
        postgresql_where=has_open_state(),
    ),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("party", String(16), nullable=False),
    Column("pay_id", String(300), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    Column("stage", Text, nullable=False),
    Index("events_by_payment", "party", "pay_id"),
)

answers = Table(
    "answers",
    metadata,
    Column("pay_id", String(300), primary_key=True),
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("answers_by_age", "created_at"),
)

nonces = Table(
    "nonces",
    metadata,
    Column("network", String(64), nullable=False),
    Column("signer", String(64), nullable=False),
    Column("next", BigInteger, nullable=False),
    PrimaryKeyConstraint("network", "signer"),
)

returned_nonces = Table(
    "returned_nonces",
    metadata,
    Column("network", String(64), nullable=False),
    Column("signer", String(64), nullable=False),
    Column("nonce", BigInteger, nullable=False),
    PrimaryKeyConstraint("network", "signer", "nonce"),
)

spending = Table(
    "spending",
    metadata,
    Column("day", BigInteger, nullable=False),
    Column("account", String(300), nullable=False),
    Column("units", String(78), nullable=False),
    PrimaryKeyConstraint("day", "account"),
)

identifiers = Table(
    "identifiers",
    metadata,
    Column("payer", String(64), nullable=False),
    Column("identifier", String(128), nullable=False),
    Column("pay_id", String(300), nullable=False),
    PrimaryKeyConstraint("payer", "identifier"),
)
"""Which payment a payer has given a name of his own (the extension `payment-identifier`)."""

unsettled = Table(
    "unsettled",
    metadata,
    Column("network", String(64), nullable=False),
    Column("asset", String(64), nullable=False),
    Column("payer", String(64), nullable=False),
    Column("units", String(90), nullable=False),
    PrimaryKeyConstraint("network", "asset", "payer"),
)
"""What a gateway's payers have promised and not paid, in atomic units as digits; of all together without a payer."""

versions = Table("schema_version", metadata, Column("version", Integer, primary_key=True))
"""The schema's number, which programs of the first version read as well."""

revisions = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""The same for Alembic, which makes this table where there is none."""


def upsert(connection: Connection, table: Table) -> Any:
    """An insert that can say what happens on conflict, in the connection's dialect."""
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)
