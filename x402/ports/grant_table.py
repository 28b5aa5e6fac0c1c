"""The table of gas that was given for approvals (`x402.ports.grants`), part of the schema."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, PrimaryKeyConstraint, String, Table

from x402.ports.schema import metadata

gas_grants = Table(
    "gas_grants",
    metadata,
    Column("network", String(64), nullable=False),
    Column("approval", String(66), nullable=False),
    Column("payer", String(64), nullable=False),
    Column("asset", String(64), nullable=False),
    Column("approval_raw", LargeBinary, nullable=False),
    Column("approval_nonce", BigInteger, nullable=False),
    # Decimal digits: wei fit no integer column of either engine.
    Column("wei", String(78), nullable=False),
    Column("sender", String(64), nullable=False),
    Column("nonce", BigInteger, nullable=True),
    Column("funding", String(66), nullable=False),
    Column("funding_raw", LargeBinary, nullable=False),
    Column("state", String(8), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("network", "approval"),
    Index("grants_by_payer", "network", "payer"),
    Index("grants_by_state", "network", "state", "created_at"),
)
"""One row per approval of a payer that a facilitator has sponsored."""
