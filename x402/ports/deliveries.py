"""What is to be told to whom, in the ledger's database: written with the change that it tells of, never lost.

A trigger notes each event of a payment in the transaction that writes it (`operator_schema`). `fan_out` turns such
notes into one delivery for each webhook that wants it. A delivery is tried until it has arrived or is given up; those
about one payment go to one webhook in order, one after the other.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, insert, select, update

from x402.ports.ledger import SqlLedger
from x402.ports.operator_schema import deliveries, outbox, webhooks
from x402.ports.schema import events, payments, upsert


class DeliveryState(StrEnum):
    """How a delivery stands."""

    DUE = "due"
    ARRIVED = "arrived"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Somebody who wants to be told. `account` is empty for the operator, who is told of everything; `topics` may end
    in `*`; `secret` is sealed; `inside` allows an address that is not public."""

    webhook_id: str
    url: str
    secret: bytes = field(repr=False)
    account: str = ""
    topics: tuple[str, ...] = ("*",)
    inside: bool = False
    created_at: int = 0

    def wants(self, topic: str, account: str) -> bool:
        """Whether it is told of a topic that concerns an account."""
        if self.account and self.account.lower() != account.lower():
            return False
        return any(topic == wish or (wish.endswith("*") and topic.startswith(wish[:-1])) for wish in self.topics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event of a payment, as it stands in the ledger. `stage` is its JSON."""

    seq: int
    at: int
    event: str
    state: str
    pay_id: str
    network: str
    asset: str
    amount: str
    payer: str
    payee: str
    stage: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is told. `subject` is what must be told in order: a payment, or an account."""

    topic: str
    subject: str
    account: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way to one webhook; `status` is that of the last answer, 0 when there was none."""

    delivery_id: str
    webhook_id: str
    subject: str
    topic: str
    body: str = field(repr=False)
    state: DeliveryState = DeliveryState.DUE
    attempts: int = 0
    due_at: int = 0
    status: int = 0
    error: str = ""
    created_at: int = 0


Tell = Callable[[Happening], Message]
"""Puts an event into words. Pure: it runs inside a transaction."""


class DeliveryBook(Protocol):
    """Webhooks, and what is on its way to them. Raises `UnavailableError`."""

    async def add(self, webhook: Webhook) -> None:
        """Write a webhook, or write it anew."""
        ...

    async def remove(self, webhook_id: str) -> bool: ...

    async def webhooks(self, account: str | None = None) -> Sequence[Webhook]:
        """All of them, or those of one account; `""` is the operator's own."""
        ...

    async def announce(self, message: Message, *, only: str = "") -> int:
        """Have something told that is no event of a payment, to one webhook or to all that want it; how many do."""
        ...

    async def fan_out(self, tell: Tell, limit: int = 200) -> int:
        """Make deliveries of what the outbox holds; how many events it held."""
        ...

    async def take(self, seconds: int, limit: int) -> Sequence[tuple[Delivery, Webhook]]:
        """Take what is due and may go now, for so many seconds; the attempt is counted before it is made."""
        ...

    async def arrived(self, delivery_id: str, status: int) -> None: ...

    async def failed(self, delivery_id: str, *, status: int, error: str, due_at: int | None) -> None:
        """It did not arrive, and is tried again at unix second `due_at`; None gives it up."""
        ...

    async def again(self, delivery_id: str) -> bool:
        """Send a delivery once more, whatever became of it; False when there is none."""
        ...

    async def listed(self, *, webhook_id: str | None = None, limit: int = 100) -> Sequence[Delivery]:
        """The newest deliveries."""
        ...

    async def forget(self, before: int, limit: int = 1000) -> int:
        """Delete deliveries that ended before a unix second; how many."""
        ...

    async def waiting(self) -> int:
        """How many are due."""
        ...


class SqlDeliveries:
    """`DeliveryBook` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def add(self, webhook: Webhook) -> None:
        row = {
            "account": webhook.account,
            "url": webhook.url,
            "secret": webhook.secret,
            "topics": json.dumps(list(webhook.topics)),
            "inside": webhook.inside,
            "created_at": webhook.created_at,
        }

        def write(connection: Connection) -> None:
            statement = upsert(connection, webhooks).values(webhook_id=webhook.webhook_id, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["webhook_id"], set_=row))

        await self._ledger.run(write)

    async def remove(self, webhook_id: str) -> bool:
        def drop(connection: Connection) -> bool:
            mine = (deliveries.c.webhook_id == webhook_id) & (deliveries.c.state == DeliveryState.DUE.value)
            connection.execute(delete(deliveries).where(mine))
            gone = connection.execute(delete(webhooks).where(webhooks.c.webhook_id == webhook_id)).rowcount == 1
            if connection.execute(select(webhooks.c.webhook_id).limit(1)).first() is None:
                connection.execute(delete(outbox))
            return gone

        return await self._ledger.run(drop, _BOOK)

    async def webhooks(self, account: str | None = None) -> Sequence[Webhook]:
        return await self._ledger.run(lambda connection: _webhooks(connection, account))

    async def announce(self, message: Message, *, only: str = "") -> int:
        now = self._ledger.clock()

        def write(connection: Connection) -> int:
            known = _webhooks(connection, None)
            wanting = [
                hook
                for hook in known
                if (hook.webhook_id == only if only else hook.wants(message.topic, message.account))
            ]
            for hook in wanting:
                _insert(connection, hook, message, now)
            return len(wanting)

        return await self._ledger.run(write, _BOOK)

    async def fan_out(self, tell: Tell, limit: int = 200) -> int:
        now = self._ledger.clock()
        joined = events.join(payments, (payments.c.party == events.c.party) & (payments.c.pay_id == events.c.pay_id))
        query = (
            select(outbox.c.event, events, payments.c.network, payments.c.asset, payments.c.amount, payments.c.payer,
                   payments.c.payee)
            .select_from(outbox.join(joined, events.c.seq == outbox.c.event))
            .order_by(outbox.c.event)
            .limit(limit)
        )  # fmt: skip

        def spread(connection: Connection) -> int:
            rows = connection.execute(query).all()
            if not rows:
                return 0
            known = _webhooks(connection, None)
            for row in rows:
                message = tell(_happening(row))
                for hook in known:
                    if hook.wants(message.topic, message.account):
                        _insert(connection, hook, message, now)
            connection.execute(delete(outbox).where(outbox.c.event.in_([row.event for row in rows])))
            return len(rows)

        return await self._ledger.run(spread, _BOOK)

    async def take(self, seconds: int, limit: int) -> Sequence[tuple[Delivery, Webhook]]:
        now = self._ledger.clock()
        earlier = deliveries.alias("earlier")
        behind = exists(
            select(earlier.c.seq).where(
                earlier.c.webhook_id == deliveries.c.webhook_id,
                earlier.c.subject == deliveries.c.subject,
                earlier.c.state == DeliveryState.DUE.value,
                earlier.c.seq < deliveries.c.seq,
            )
        )
        query = (
            select(deliveries)
            .where(deliveries.c.state == DeliveryState.DUE.value, deliveries.c.due_at <= now)
            .where(deliveries.c.leased_until <= now, ~behind)
            .order_by(deliveries.c.due_at, deliveries.c.seq)
            .limit(limit)
        )

        def lease(connection: Connection) -> Sequence[tuple[Delivery, Webhook]]:
            rows = connection.execute(query).all()
            known = {hook.webhook_id: hook for hook in _webhooks(connection, None)} if rows else {}
            taken = []
            for row in rows:
                values = {"attempts": row.attempts + 1, "leased_by": self._ledger.holder, "leased_until": now + seconds}
                connection.execute(update(deliveries).where(deliveries.c.seq == row.seq).values(**values))
                if row.webhook_id in known:
                    taken.append((_delivery_of(row, attempts=row.attempts + 1), known[row.webhook_id]))
            return taken

        return await self._ledger.run(lease, _BOOK)

    async def arrived(self, delivery_id: str, status: int) -> None:
        values = {"state": DeliveryState.ARRIVED.value, "status": status, "error": "", "leased_until": 0}
        await self._ledger.run(lambda connection: self._set(connection, delivery_id, values))

    async def failed(self, delivery_id: str, *, status: int, error: str, due_at: int | None) -> None:
        state = DeliveryState.GIVEN_UP if due_at is None else DeliveryState.DUE
        values = {
            "state": state.value,
            "status": status,
            "error": error[:200],
            "due_at": due_at or 0,
            "leased_until": 0,
        }
        await self._ledger.run(lambda connection: self._set(connection, delivery_id, values))

    async def again(self, delivery_id: str) -> bool:
        values = {"state": DeliveryState.DUE.value, "due_at": self._ledger.clock(), "leased_until": 0}
        return await self._ledger.run(lambda connection: self._set(connection, delivery_id, values))

    async def listed(self, *, webhook_id: str | None = None, limit: int = 100) -> Sequence[Delivery]:
        query = select(deliveries).order_by(deliveries.c.seq.desc()).limit(limit)
        if webhook_id is not None:
            query = query.where(deliveries.c.webhook_id == webhook_id)
        return await self._ledger.run(lambda connection: [_delivery_of(row) for row in connection.execute(query)])

    async def forget(self, before: int, limit: int = 1000) -> int:
        ended = (deliveries.c.state != DeliveryState.DUE.value) & (deliveries.c.updated_at < before)
        oldest = select(deliveries.c.seq).where(ended).order_by(deliveries.c.seq).limit(limit)
        gone = delete(deliveries).where(deliveries.c.seq.in_(oldest))
        return await self._ledger.run(lambda connection: connection.execute(gone).rowcount)

    async def waiting(self) -> int:
        query = select(func.count()).where(deliveries.c.state == DeliveryState.DUE.value)
        return await self._ledger.run(lambda connection: int(connection.execute(query).scalar() or 0))

    def _set(self, connection: Connection, delivery_id: str, values: Mapping[str, Any]) -> bool:
        mine: ColumnElement[bool] = deliveries.c.delivery_id == delivery_id
        statement = update(deliveries).where(mine).values(**values, updated_at=self._ledger.clock())
        return connection.execute(statement).rowcount == 1


_BOOK = ("deliveries",)
"""One replica at a time shares out and takes, so that what is in order stays so."""


def _webhooks(connection: Connection, account: str | None) -> list[Webhook]:
    query = select(webhooks).order_by(webhooks.c.created_at, webhooks.c.webhook_id)
    if account is not None:
        query = query.where(webhooks.c.account == account)
    return [
        Webhook(
            webhook_id=row.webhook_id,
            url=row.url,
            secret=row.secret,
            account=row.account,
            topics=tuple(json.loads(row.topics)),
            inside=row.inside,
            created_at=row.created_at,
        )
        for row in connection.execute(query)
    ]


def _insert(connection: Connection, hook: Webhook, message: Message, now: int) -> None:
    row = {
        "delivery_id": f"msg_{secrets.token_hex(12)}",
        "webhook_id": hook.webhook_id,
        "subject": message.subject,
        "topic": message.topic,
        "body": message.body,
        "state": DeliveryState.DUE.value,
        "attempts": 0,
        "due_at": now,
        "status": 0,
        "error": "",
        "created_at": now,
        "updated_at": now,
        "leased_until": 0,
    }
    connection.execute(insert(deliveries).values(**row))


def _happening(row: Row[Any]) -> Happening:
    return Happening(
        seq=row.seq,
        at=row.at,
        event=row.event,
        state=row.after,
        pay_id=row.pay_id,
        network=row.network,
        asset=row.asset,
        amount=row.amount,
        payer=row.payer,
        payee=row.payee,
        stage=json.loads(row.stage),
    )


def _delivery_of(row: Row[Any], attempts: int | None = None) -> Delivery:
    return Delivery(
        delivery_id=row.delivery_id,
        webhook_id=row.webhook_id,
        subject=row.subject,
        topic=row.topic,
        body=row.body,
        state=DeliveryState(row.state),
        attempts=row.attempts if attempts is None else attempts,
        due_at=row.due_at,
        status=row.status,
        error=row.error,
        created_at=row.created_at,
    )
