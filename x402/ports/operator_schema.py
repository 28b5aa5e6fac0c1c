"""The operator's tables in the ledger's database: keys, webhooks and what is on its way to them, budgets.

A trigger notes each event of a gateway's payment in `outbox`, for those who want to be told. It runs in the very
transaction that writes the event, whoever writes it: a change of state that is durable is told, and one that was rolled
back never is. Where nobody has asked to be told, nothing is noted.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text

from x402.ports.schema import metadata

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
"""Events of payments that nobody was told of yet, by their `seq`; a trigger writes them (see `statements`)."""

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

budgets = Table(
    "budgets",
    metadata,
    Column("account", String(200), primary_key=True),
    Column("period", String(8), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("percents", String(64), nullable=False),
    # Of which stretch of time, and up to which percentage, somebody was told.
    Column("told_since", BigInteger, nullable=False),
    Column("told_percent", Integer, nullable=False),
)
"""What an account means to spend, and from which part of it on it wants to be told (aimo row 82)."""

_SQLITE = (
    """CREATE TRIGGER events_announced AFTER INSERT ON events
WHEN NEW.party = 'gateway' AND EXISTS (SELECT 1 FROM webhooks)
BEGIN INSERT INTO outbox (event) VALUES (NEW.seq); END""",
)
_POSTGRES = (
    """CREATE OR REPLACE FUNCTION announce_event() RETURNS trigger AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM webhooks) THEN INSERT INTO outbox (event) VALUES (NEW.seq); END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql""",
    """CREATE TRIGGER events_announced AFTER INSERT ON events
FOR EACH ROW WHEN (NEW.party = 'gateway') EXECUTE FUNCTION announce_event()""",
)


def statements(dialect: str) -> tuple[str, ...]:
    """What makes the trigger in a database of this kind."""
    return _SQLITE if dialect == "sqlite" else _POSTGRES
