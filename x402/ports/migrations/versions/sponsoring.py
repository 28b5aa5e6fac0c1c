"""What a facilitator gives payers for their approval of Permit2."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table of grants."""
    op.create_table(
        "gas_grants",
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("approval", sa.String(66), nullable=False),
        sa.Column("payer", sa.String(64), nullable=False),
        sa.Column("asset", sa.String(64), nullable=False),
        sa.Column("approval_raw", sa.LargeBinary, nullable=False),
        sa.Column("approval_nonce", sa.BigInteger, nullable=False),
        sa.Column("wei", sa.String(78), nullable=False),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=True),
        sa.Column("funding", sa.String(66), nullable=False),
        sa.Column("funding_raw", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("network", "approval"),
    )
    op.create_index("grants_by_payer", "gas_grants", ["network", "payer"])
    op.create_index("grants_by_state", "gas_grants", ["network", "state", "created_at"])
    op.execute("UPDATE schema_version SET version = 4")
