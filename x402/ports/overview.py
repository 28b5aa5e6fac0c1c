"""What an operator wants to see at a glance, as sums over the books: read only, and a few statements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, func, select

from x402.lifecycle import Party, open_states
from x402.ports.ledger import SqlLedger
from x402.ports.schema import accounts, bills, payments
from x402.stages import State

PAID = (
    State.SETTLED, State.DELIVERED, State.OWED, State.REFUNDING, State.REFUNDED, State.RESTORED, State.FINAL,
)  # fmt: skip
LATEST = 20
SAMPLE = 2000
"""Of how many of the newest bills the latency is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What the bills of one model, payer or provider come to; amounts are atomic USDC."""

    name: str
    answers: int
    charged: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment that was settled; `transaction` as its chain names it."""

    at: int
    network: str
    amount: int
    payer: str
    state: str
    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """How a gateway did since a unix second. Amounts are atomic USDC, times milliseconds or unix seconds."""

    since: int
    answers: int
    charged: int
    fee: int
    credited: int
    failed: int
    payments: int
    received: int
    refused: int
    owed: int
    pending: int
    pending_units: int
    pending_since: int | None
    held_for_others: int
    latencies_ms: Sequence[int]
    first_tokens_ms: Sequence[int]
    series: Sequence[tuple[int, int, int]]
    """Start of a stretch of time, answers and amount in it; stretches without either are left out."""
    models: Sequence[Group]
    payers: Sequence[Group]
    providers: Sequence[Group]
    latest: Sequence[Payment]


class Glance(Protocol):
    """Whoever can be asked how a gateway did."""

    async def overview(self, since: int, step_seconds: int) -> Overview:
        """Everything since a unix second, with one point for each `step_seconds`. Raises `UnavailableError`."""
        ...

    async def pending(self) -> tuple[int, int, int | None]:
        """Payments that are not decided, their atomic amount, and the unix second of the oldest."""
        ...


class SqlGlance:
    """`Glance` over the ledger's database."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def overview(self, since: int, step_seconds: int) -> Overview:
        return await self._ledger.run(lambda connection: _overview(connection, since, step_seconds))

    async def pending(self) -> tuple[int, int, int | None]:
        return await self._ledger.run(_pending)


_SHOP = payments.c.party == str(Party.GATEWAY)
_TOKENS = bills.c.prompt_tokens + bills.c.completion_tokens


def _overview(connection: Connection, since: int, step_seconds: int) -> Overview:
    lately = bills.c.at >= since
    sums = connection.execute(
        select(func.count(), func.sum(bills.c.charged), func.sum(bills.c.fee), func.sum(bills.c.credited)).where(lately)
    ).one()
    failed = connection.execute(select(func.count()).where(lately, bills.c.outcome != "served")).scalar()
    states = _states(connection, since)
    pending, pending_units, pending_since = _pending(connection)
    held = connection.execute(select(func.sum(accounts.c.balance + accounts.c.reserved))).scalar()
    newest = select(bills.c.latency_ms, bills.c.first_token_ms).where(lately, bills.c.outcome == "served")
    times = connection.execute(newest.order_by(bills.c.at.desc()).limit(SAMPLE)).all()
    return Overview(
        since=since,
        answers=int(sums[0]),
        charged=int(sums[1] or 0),
        fee=int(sums[2] or 0),
        credited=int(sums[3] or 0),
        failed=int(failed or 0),
        payments=sum(states.get(state, (0, 0))[0] for state in PAID),
        received=sum(states.get(state, (0, 0))[1] for state in PAID),
        refused=states.get(State.REFUSED, (0, 0))[0],
        owed=states.get(State.OWED, (0, 0))[0],
        pending=pending,
        pending_units=pending_units,
        pending_since=pending_since,
        held_for_others=int(held or 0),
        latencies_ms=sorted(row.latency_ms for row in times),
        first_tokens_ms=sorted(row.first_token_ms for row in times if row.first_token_ms is not None),
        series=_series(connection, since, step_seconds),
        models=_groups(connection, bills.c.model, since),
        payers=_groups(connection, bills.c.account, since),
        providers=_groups(connection, bills.c.provider, since),
        latest=_latest(connection),
    )


def _states(connection: Connection, since: int) -> dict[State, tuple[int, int]]:
    """Payments by state, how many and how much. Amounts are digits, so they are summed here."""
    found: dict[State, tuple[int, int]] = {}
    query = select(payments.c.state, payments.c.amount).where(_SHOP, payments.c.updated_at >= since)
    for state, amount in connection.execute(query):
        count, units = found.get(State(state), (0, 0))
        found[State(state)] = (count + 1, units + int(amount))
    return found


def _pending(connection: Connection) -> tuple[int, int, int | None]:
    undecided = [str(state) for state in open_states(Party.GATEWAY) if state not in PAID]
    rows = connection.execute(
        select(payments.c.amount, payments.c.created_at).where(_SHOP, payments.c.state.in_(undecided))
    ).all()
    oldest = min((row.created_at for row in rows), default=None)
    return len(rows), sum(int(row.amount) for row in rows), oldest


def _series(connection: Connection, since: int, step_seconds: int) -> list[tuple[int, int, int]]:
    step = ((bills.c.at - since) // step_seconds).label("step")
    query = (
        select(step, func.count(), func.sum(bills.c.charged)).where(bills.c.at >= since).group_by(step).order_by(step)
    )
    return [(since + int(at) * step_seconds, int(count), int(units)) for at, count, units in connection.execute(query)]


def _groups(connection: Connection, column: Any, since: int, limit: int = 8) -> list[Group]:
    charged = func.sum(bills.c.charged)
    query = (
        select(column, func.count(), charged, func.sum(_TOKENS))
        .where(bills.c.at >= since)
        .group_by(column)
        .order_by(charged.desc(), column)
        .limit(limit)
    )
    return [
        Group(name=name, answers=int(count), charged=int(units), tokens=int(tokens))
        for name, count, units, tokens in connection.execute(query)
    ]


def _latest(connection: Connection) -> list[Payment]:
    query = (
        select(payments)
        .where(_SHOP, payments.c.state.in_([str(state) for state in PAID]))
        .order_by(payments.c.updated_at.desc(), payments.c.pay_id)
        .limit(LATEST)
    )
    return [
        Payment(
            at=row.updated_at,
            network=row.network,
            amount=int(row.amount),
            payer=row.payer,
            state=row.state,
            transaction=str(json.loads(row.stage).get("transaction", "")),
        )
        for row in connection.execute(query)
    ]
