"""The table of ratings (`x402.ports.ratings`), part of the schema."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table

from x402.ports.schema import metadata

ratings = Table(
    "ratings",
    metadata,
    Column("bill_id", String(300), primary_key=True),
    Column("account", String(200), nullable=False),
    Column("model", String(160), nullable=False),
    Column("provider", String(160), nullable=False),
    Column("stars", Integer, nullable=False),
    Column("paid", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""One row per bill that was rated."""
