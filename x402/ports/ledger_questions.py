"""What is asked about many payments at once, as statements inside the ledger's transactions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from sqlalchemy import Connection, select

from x402.lifecycle import Entry, Party, open_states
from x402.ports.ledger_entry import entry_of
from x402.ports.prepared import Prepared, value
from x402.ports.schema import payments, whole_payments
from x402.stages import State

_UNDONE = (State.REVERSED, State.LOST)
_of_state = (payments.c.party == value("party")) & (payments.c.state == value("state"))
_TOTALS = Prepared(select(payments.c.network, payments.c.asset, payments.c.amount, payments.c.stage).where(_of_state))
_FAILURES = Prepared(
    select(payments.c.state, payments.c.stage).where(
        payments.c.party == value("party"),
        payments.c.payer == value("payer"),
        payments.c.state.in_([str(State.REFUSED), *map(str, _UNDONE)]),
        payments.c.updated_at >= value("since"),
    )
)


@cache
def _unresolved(party: Party) -> Prepared:
    states = sorted(str(state) for state in open_states(party))
    open_rows = whole_payments.where(payments.c.party == str(party), payments.c.state.in_(states))
    return Prepared(open_rows.order_by(payments.c.created_at, payments.c.pay_id))


def unresolved(connection: Connection, party: Party) -> Sequence[Entry]:
    """Every row of a party whose outcome is open, oldest first."""
    return [entry_of(row) for row in _unresolved(party).rows(connection)]


def totals(connection: Connection, party: Party, state: State) -> dict[tuple[str, str], int]:
    """Sum of what is due or has moved, by (network, asset), of the rows in one state; atomic."""
    sums: dict[tuple[str, str], int] = {}
    for network, asset, amount, stage in _TOTALS.rows(connection, party=str(party), state=str(state)):
        due = json.loads(stage).get("amount")
        sums[network, asset] = sums.get((network, asset), 0) + int(amount if due is None else due)
    return sums


def failures_of(connection: Connection, party: Party, payer: str, since: int) -> int:
    """How many of a payer's payments are REVERSED or LOST, or were REFUSED after they were verified."""
    # A gateway refuses only what was verified and handed over, whoever noticed that it could not settle.
    always = party is Party.GATEWAY
    rows = _FAILURES.rows(connection, party=str(party), payer=payer, since=since)
    return sum(always or state in _UNDONE or bool(json.loads(stage).get("transaction")) for state, stage in rows)
