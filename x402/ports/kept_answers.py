"""Answers that were paid for, as statements inside the ledger's transactions."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, select

from x402.lifecycle import Party
from x402.ports import Answer
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import answers, payments
from x402.stages import State

_ENDED = (
    State.DELIVERED, State.RELEASED, State.REFUSED, State.REFUNDED, State.CREDITED, State.LOST, State.FINAL,
)  # fmt: skip
_COLUMNS = ("status", "headers", "body", "complete", "created_at")


def _newest(insert: Insert) -> object:
    row = insert(answers)
    newer = {name: row.excluded[name] for name in _COLUMNS}
    return row.on_conflict_do_update(index_elements=["pay_id"], set_=newer)


# None of these states leads to one in which a new answer goes out, so the row tells since when it is over.
_ended = (
    select(payments.c.pay_id)
    .where(payments.c.party == str(Party.GATEWAY), payments.c.pay_id == answers.c.pay_id)
    .where(payments.c.state.in_([str(state) for state in _ENDED]), payments.c.updated_at <= value("before"))
)
_KEEP = Prepared(_newest, ("pay_id", *_COLUMNS))
_READ = Prepared(select(answers).where(answers.c.pay_id == value("pay_id")))
_DROP = Prepared(delete(answers).where(answers.c.pay_id == value("pay_id")))
# An answer is no younger than the end of its payment, so the older ones are all there is to look at.
_FORGET = Prepared(delete(answers).where(answers.c.created_at <= value("before"), _ended.exists()))


def keep(connection: Connection, pay_id: str, answer: Answer, now: int) -> None:
    """Write an answer down, in place of an older one."""
    values = {"status": answer.status, "headers": json.dumps(answer.headers), "body": answer.body}
    values |= {"complete": answer.complete, "created_at": now}
    _KEEP.gather(connection, ("answer", pay_id), pay_id=pay_id, **values)


def read(connection: Connection, pay_id: str) -> Answer | None:
    """The answer of a payment."""
    row = _READ.first(connection, pay_id=pay_id)
    if row is None:
        return None
    headers = tuple((name, value) for name, value in json.loads(row.headers))
    return Answer(row.status, headers, row.body, bool(row.complete))


def drop(connection: Connection, pay_id: str) -> None:
    """Delete the answer of one payment."""
    _DROP.gather(connection, ("answer", pay_id), pay_id=pay_id)


def forget(connection: Connection, before: int) -> int:
    """Delete the answers of payments that ended at unix second `before` or earlier; how many."""
    return _FORGET.count(connection, before=before)
