"""What a gateway keeps of the callers whom it knows, of its providers, and of what it has to tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from x402.ports.operator_schema import statements

revision = "0003"
down_revision = "0002"


_OPEN = "state IN ('claimed', 'intended', 'owed', 'refunding', 'restored', 'reversed', 'served', 'settled', 'settling')"


def upgrade() -> None:
    """Add the tables of accounts, keys, providers, deliveries and ratings, and what keeps the ledger quick."""
    _unsettled()
    _accounts()
    _keys()
    _providers()
    _deliveries()
    _bundles()
    _ratings()
    op.execute("UPDATE schema_version SET version = 3")


def _unsettled() -> None:
    # The sums are counted when the ledger is opened.
    op.create_table(
        "unsettled",
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("asset", sa.String(64), nullable=False),
        sa.Column("payer", sa.String(64), nullable=False),
        sa.Column("units", sa.String(90), nullable=False),
        sa.PrimaryKeyConstraint("network", "asset", "payer"),
    )
    where = sa.text(_OPEN)
    columns = ["party", "turn", "created_at", "pay_id"]
    op.create_index("payments_by_turn", "payments", columns, sqlite_where=where, postgresql_where=where)
    op.create_index("answers_by_age", "answers", ["created_at"])


def _ratings() -> None:
    op.create_table(
        "ratings",
        sa.Column("bill_id", sa.String(300), primary_key=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("model", sa.String(160), nullable=False),
        sa.Column("provider", sa.String(160), nullable=False),
        sa.Column("stars", sa.Integer, nullable=False),
        sa.Column("paid", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def _accounts() -> None:
    _balances()
    _withdrawals()
    _bills()


def _balances() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", sa.String(200), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("gift", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "account_entries",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("reference", sa.String(300), nullable=False),
    )
    op.create_index("entries_by_account", "account_entries", ["account", "seq"])
    op.create_index("entries_once", "account_entries", ["kind", "reference"], unique=True)
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.String(128), nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("identifier", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("leased_by", sa.String(64), nullable=True),
        sa.Column("leased_until", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("reservations_by_name", "reservations", ["account", "identifier"])
    op.create_index("reservations_by_state", "reservations", ["state", "leased_until"])
    op.create_table(
        "key_spending",
        sa.Column("key_id", sa.String(128), primary_key=True),
        sa.Column("units", sa.BigInteger, nullable=False),
    )


def _withdrawals() -> None:
    op.create_table(
        "withdrawals",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("header", sa.Text, nullable=False),
        sa.Column("pay_id", sa.String(300), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("transaction", sa.String(128), nullable=False),
        sa.Column("leased_by", sa.String(64), nullable=True),
        sa.Column("leased_until", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("withdrawals_by_account", "withdrawals", ["account", "created_at"])
    op.create_index("withdrawals_by_state", "withdrawals", ["state", "leased_until"])


def _bills() -> None:
    op.create_table(
        "bills",
        sa.Column("bill_id", sa.String(300), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("paid_by", sa.String(16), nullable=False),
        sa.Column("key_id", sa.String(128), nullable=False),
        sa.Column("model", sa.String(160), nullable=False),
        sa.Column("provider", sa.String(160), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("quoted", sa.BigInteger, nullable=False),
        sa.Column("charged", sa.BigInteger, nullable=False),
        sa.Column("fee", sa.BigInteger, nullable=False),
        sa.Column("credited", sa.BigInteger, nullable=False),
        sa.Column("earned", sa.BigInteger, nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("transaction", sa.String(128), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("latency_ms", sa.BigInteger, nullable=False),
        sa.Column("first_token_ms", sa.BigInteger, nullable=True),
        sa.Column("tags", sa.Text, nullable=False),
    )
    op.create_index("bills_by_time", "bills", ["at", "bill_id"])
    op.create_index("bills_by_account", "bills", ["account", "at", "bill_id"])
    op.create_index("bills_by_key", "bills", ["key_id", "at"])
    op.create_index("bills_by_provider", "bills", ["provider", "at"])
    op.create_table(
        "sign_in_nonces",
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("nonce", sa.String(128), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "nonce"),
    )
    op.create_index("nonces_by_expiry", "sign_in_nonces", ["expires_at"])


def _keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("addresses", sa.Text, nullable=False),
        sa.Column("tier", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("usage_limit", sa.String(20), nullable=False),
        sa.Column("uses", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.Column("spend_limit", sa.BigInteger, nullable=True),
        sa.Column("signing", sa.LargeBinary, nullable=True),
        sa.Column("signed_only", sa.Boolean, nullable=False),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
        sa.Column("former_digest", sa.String(64), nullable=False),
        sa.Column("former_until", sa.BigInteger, nullable=False),
    )
    op.create_index("keys_by_digest", "api_keys", ["digest"], unique=True)
    op.create_index("keys_by_former_digest", "api_keys", ["former_digest"])
    op.create_index("keys_by_account", "api_keys", ["account", "created_at"])
    op.create_table(
        "key_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("events_by_key", "key_events", ["key_id"])
    op.create_table(
        "signed_requests",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False),
    )


def _providers() -> None:
    op.create_table(
        "providers",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("offer", sa.Text, nullable=False),
        sa.Column("sealed_key", sa.Text, nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "provider_days",
        sa.Column("provider", sa.String(160), nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("answered", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("provider", "day"),
    )
    op.create_table(
        "provider_credits",
        sa.Column("provider", sa.String(160), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("answers", sa.BigInteger, nullable=False),
        sa.Column("earned", sa.BigInteger, nullable=False),
        sa.Column("bonus", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("provider", "since"),
    )


def _deliveries() -> None:
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("topics", sa.Text, nullable=False),
        sa.Column("inside", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("webhooks_by_account", "webhooks", ["account"])
    op.create_table("outbox", sa.Column("event", sa.BigInteger, primary_key=True, autoincrement=False))
    op.create_table(
        "deliveries",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("delivery_id", sa.String(64), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("leased_by", sa.String(64), nullable=True),
        sa.Column("leased_until", sa.BigInteger, nullable=False),
    )
    op.create_index("deliveries_by_id", "deliveries", ["delivery_id"], unique=True)
    op.create_index("deliveries_by_state", "deliveries", ["state", "due_at"])
    op.create_index("deliveries_by_subject", "deliveries", ["webhook_id", "subject", "state", "seq"])
    op.create_table(
        "budgets",
        sa.Column("account", sa.String(200), primary_key=True),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("percents", sa.String(64), nullable=False),
        sa.Column("told_since", sa.BigInteger, nullable=False),
        sa.Column("told_percent", sa.Integer, nullable=False),
    )
    for statement in statements(op.get_bind().dialect.name):
        op.execute(statement)


def _bundles() -> None:
    """Of a facilitator: the bytes of transactions that settle several payments."""
    op.create_table(
        "bundles",
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("signer", sa.String(64), nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("network", "signer", "nonce"),
    )
