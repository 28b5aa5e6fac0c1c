"""Who sent a payment with which nonce, who works on it, what it is called, and what a day's fees came to."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ROWS_AT_ONCE = 1000

_payments = sa.table("payments", sa.column("party"), sa.column("pay_id"), sa.column("sender"), sa.column("nonce"))
_events = sa.table("events", sa.column("party"), sa.column("pay_id"), sa.column("event"), sa.column("stage"))


def upgrade() -> None:
    """Add the columns, and fill those of the nonces from what the first events tell."""
    op.add_column("payments", sa.Column("sender", sa.String(64), nullable=True))
    op.add_column("payments", sa.Column("nonce", sa.BigInteger, nullable=True))
    op.add_column("payments", sa.Column("leased_by", sa.String(64), nullable=True))
    op.add_column("payments", sa.Column("leased_until", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("payments", sa.Column("turn", sa.BigInteger, nullable=False, server_default="0"))
    _remember_nonces(op.get_bind())
    op.create_index("payments_by_payer", "payments", ["party", "payer", "state", "updated_at"])
    op.create_index("payments_by_sender", "payments", ["sender", "state"])
    op.create_table(
        "spending",
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("account", sa.String(300), nullable=False),
        sa.Column("units", sa.String(78), nullable=False),
        sa.PrimaryKeyConstraint("day", "account"),
    )
    op.create_table(
        "identifiers",
        sa.Column("payer", sa.String(64), nullable=False),
        sa.Column("identifier", sa.String(128), nullable=False),
        sa.Column("pay_id", sa.String(300), nullable=False),
        sa.PrimaryKeyConstraint("payer", "identifier"),
    )
    op.execute("UPDATE schema_version SET version = 2")


def _remember_nonces(connection: sa.Connection) -> None:
    first = (_events.c.party == "facilitator") & (_events.c.event == "begin")
    told = connection.execute(sa.select(_events.c.pay_id, _events.c.stage).where(first)).all()
    row = (_payments.c.party == "facilitator") & (_payments.c.pay_id == sa.bindparam("which"))
    statement = sa.update(_payments).where(row).values(sender=sa.bindparam("who"), nonce=sa.bindparam("number"))
    for start in range(0, len(told), _ROWS_AT_ONCE):
        stages = [(pay_id, json.loads(stage)) for pay_id, stage in told[start : start + _ROWS_AT_ONCE]]
        values = [
            {"which": pay_id, "who": stage["sender"], "number": stage["nonce"]}
            for pay_id, stage in stages
            if stage.get("sender") and stage.get("nonce") is not None
        ]
        if values:
            connection.execute(statement, values)
