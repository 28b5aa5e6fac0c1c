"""Bills as rows: what each answer cost, and whose share in it is whose."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from x402.billing import Bill, Metered, PaidBy
from x402.ports.prepared import Prepared
from x402.ports.schema import bills

_BILL = Prepared(
    lambda insert: insert(bills).on_conflict_do_nothing().returning(bills.c.bill_id),
    [column.name for column in bills.columns],
)


def add(connection: Connection, bill: Bill) -> bool:
    """Write a bill, with a row for every provider that has a share in it; False when it is there already."""
    written = [_add_part(connection, part) for part in bill.parts()]
    return written[0]


def _add_part(connection: Connection, bill: Bill) -> bool:
    metered = bill.metered
    row = {
        "bill_id": bill.bill_id,
        "at": bill.at,
        "account": bill.account,
        "paid_by": str(bill.paid_by),
        "key_id": bill.key_id,
        "model": metered.model,
        "provider": metered.provider,
        "endpoint": metered.endpoint,
        "prompt_tokens": metered.prompt_tokens,
        "completion_tokens": metered.completion_tokens,
        "images": metered.images,
        "complete": metered.complete,
        "quoted": bill.quoted,
        "charged": metered.charged,
        "fee": metered.fee,
        "credited": bill.credited,
        "earned": bill.earned,
        "network": bill.network,
        "transaction": bill.transaction,
        "request_id": bill.request_id,
        "outcome": bill.outcome,
        "latency_ms": bill.latency_ms,
        "first_token_ms": bill.first_token_ms,
        "tags": json.dumps(bill.tags, separators=(",", ":")),
    }
    return _BILL.scalar(connection, **row) is not None


def bill_of(row: Any) -> Bill:
    """A row of `bills`."""
    metered = Metered(
        model=row.model,
        provider=row.provider,
        endpoint=row.endpoint,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        images=row.images,
        charged=row.charged,
        fee=row.fee,
        complete=row.complete,
    )
    return Bill(
        bill_id=row.bill_id,
        at=row.at,
        account=row.account,
        paid_by=PaidBy(row.paid_by),
        metered=metered,
        quoted=row.quoted,
        credited=row.credited,
        earned=row.earned,
        key_id=row.key_id,
        network=row.network,
        transaction=row.transaction,
        request_id=row.request_id,
        outcome=row.outcome,
        latency_ms=row.latency_ms,
        first_token_ms=row.first_token_ms,
        tags=json.loads(row.tags),
    )
