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
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

SCHEMA_VERSION = 4

_OPEN_STATES = ("claimed", "intended", "owed", "refunding", "restored", "reversed", "served", "settled", "settling")

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

accounts = Table(
    "accounts",
    metadata,
    Column("account", String(200), primary_key=True),
    # Atomic USDC: what may be spent, what is set aside, and how much of both was given by the operator.
    Column("balance", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("gift", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

account_entries = Table(
    "account_entries",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("account", String(200), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("reference", String(300), nullable=False),
    Index("entries_by_account", "account", "seq"),
    Index("entries_once", "kind", "reference", unique=True),
)
"""Every movement of every account, append-only: the sums are the balances."""

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(200), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("key_id", String(128), nullable=False),
    Column("fingerprint", String(128), nullable=False),
    # The caller's own name for the request, unique among an account's reservations that were not released.
    Column("identifier", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("leased_by", String(64), nullable=True),
    Column("leased_until", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("reservations_by_name", "account", "identifier"),
    Index("reservations_by_state", "state", "leased_until"),
)

key_spending = Table(
    "key_spending",
    metadata,
    Column("key_id", String(128), primary_key=True),
    Column("units", BigInteger, nullable=False),
)
"""What each key has spent or set aside."""

withdrawals = Table(
    "withdrawals",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(200), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    # The signed payment that is on its way, its identity, and how many were signed.
    Column("header", Text, nullable=False),
    Column("pay_id", String(300), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("transaction", String(128), nullable=False),
    Column("leased_by", String(64), nullable=True),
    Column("leased_until", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("withdrawals_by_account", "account", "created_at"),
    Index("withdrawals_by_state", "state", "leased_until"),
)

bills = Table(
    "bills",
    metadata,
    Column("bill_id", String(300), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("account", String(200), nullable=False),
    Column("paid_by", String(16), nullable=False),
    Column("key_id", String(128), nullable=False),
    Column("model", String(160), nullable=False),
    Column("provider", String(160), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("quoted", BigInteger, nullable=False),
    Column("charged", BigInteger, nullable=False),
    Column("fee", BigInteger, nullable=False),
    Column("credited", BigInteger, nullable=False),
    Column("earned", BigInteger, nullable=False),
    Column("network", String(64), nullable=False),
    Column("transaction", String(128), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("first_token_ms", BigInteger, nullable=True),
    Column("tags", Text, nullable=False),
    Index("bills_by_time", "at", "bill_id"),
    Index("bills_by_account", "account", "at", "bill_id"),
    Index("bills_by_key", "key_id", "at"),
    Index("bills_by_provider", "provider", "at"),
)
"""One row per answer that was sold, or given away (`x402.billing.Bill`). Amounts are atomic USDC."""

sign_in_nonces = Table(
    "sign_in_nonces",
    metadata,
    Column("account", String(200), nullable=False),
    Column("nonce", String(128), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("account", "nonce"),
    Index("nonces_by_expiry", "expires_at"),
)
"""Nonces that were used to sign in; they are forgotten when the sign-in could not be valid any more."""

providers = Table(
    "providers",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("account", String(200), nullable=False),
    Column("offer", Text, nullable=False),
    # The provider's API key, encrypted: it is presented to the provider and shown to nobody.
    Column("sealed_key", Text, nullable=False),
    Column("standing", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

provider_days = Table(
    "provider_days",
    metadata,
    Column("provider", String(160), nullable=False),
    Column("day", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    PrimaryKeyConstraint("provider", "day"),
)
"""How each provider did on each day."""

provider_credits = Table(
    "provider_credits",
    metadata,
    Column("provider", String(160), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("account", String(200), nullable=False),
    Column("answers", BigInteger, nullable=False),
    Column("earned", BigInteger, nullable=False),
    Column("bonus", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("provider", "since"),
)
"""What each provider was credited, span by span: no bill counts twice."""

bundles = Table(
    "bundles",
    metadata,
    Column("network", String(64), nullable=False),
    Column("signer", String(64), nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    PrimaryKeyConstraint("network", "signer", "nonce"),
)
"""The newest signed bytes of a transaction that settles several payments, which its payments' rows don't repeat."""

_bundle = select(bundles.c.raw).where(
    payments.c.raw.is_(None),
    bundles.c.network == payments.c.network,
    bundles.c.signer == payments.c.sender,
    bundles.c.nonce == payments.c.nonce,
)
whole_payments = select(payments, _bundle.scalar_subquery().label("bundle"))
"""Payments with the bytes that they share with others, as `ledger_entry.entry_of` reads them."""


def upsert(connection: Connection, table: Table) -> Any:
    """An insert that can say what happens on conflict, in the connection's dialect."""
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)
