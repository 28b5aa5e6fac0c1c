"""The ledger's tables: current state beside append-only events, from which the state can be rebuilt (design D9)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

SCHEMA_VERSION = 3

metadata = MetaData()

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

versions = Table("schema_version", metadata, Column("version", Integer, primary_key=True))
"""The schema's number, which programs of the first version read as well."""

revisions = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""The same for Alembic, which makes this table where there is none."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("account", String(200), nullable=False),
    Column("name", String(100), nullable=False),
    Column("hint", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("tier", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # A u64 fits no integer column of either engine.
    Column("usage_limit", String(20), nullable=False),
    Column("uses", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("spend_limit", BigInteger, nullable=True),
    Column("signing", LargeBinary, nullable=True),
    Column("signed_only", Boolean, nullable=False),
    Column("revoked_at", BigInteger, nullable=False),
    Column("former_digest", String(64), nullable=False),
    Column("former_until", BigInteger, nullable=False),
    Index("keys_by_digest", "digest", unique=True),
    Index("keys_by_former_digest", "former_digest"),
    Index("keys_by_account", "account", "created_at"),
)
"""API keys, each by the SHA-256 of its text."""

key_events = Table(
    "key_events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("key_id", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("details", Text, nullable=False),
    Index("events_by_key", "key_id"),
)
"""Who changed which key, append-only (aimo row 18)."""

signed_requests = Table(
    "signed_requests",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("until", BigInteger, nullable=False),
)
"""Signatures of requests that were accepted, each once (aimo row 19)."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String(64), primary_key=True),
    # Empty for the operator's own, who is told of every account.
    Column("account", String(200), nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("topics", Text, nullable=False),
    Column("inside", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("webhooks_by_account", "account"),
)
"""Who wants to be told, and where."""

outbox = Table("outbox", metadata, Column("event", BigInteger, primary_key=True, autoincrement=False))
"""Events of payments that nobody was told of yet, by their `seq`; a trigger writes them (see `announced`)."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("delivery_id", String(64), nullable=False),
    Column("webhook_id", String(64), nullable=False),
    Column("subject", String(300), nullable=False),
    Column("topic", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", String(200), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("leased_by", String(64), nullable=True),
    Column("leased_until", BigInteger, nullable=False),
    Index("deliveries_by_id", "delivery_id", unique=True),
    Index("deliveries_by_state", "state", "due_at"),
    Index("deliveries_by_subject", "webhook_id", "subject", "state", "seq"),
)
"""What is sent to whom, until it has arrived or is given up."""


def upsert(connection: Connection, table: Table) -> Any:
    """An insert that can say what happens on conflict, in the connection's dialect."""
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)
