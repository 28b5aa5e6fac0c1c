"""Jobs that share a transaction share its looks and its writes, and each has the outcome that it would have alone: on
both databases, the first of which has no trips to save. Faults A06, A08, E02."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text, update

from tests.ports.ledgers import logged, subject
from tests.postgres import Postgres
from x402.errors import UnavailableError
from x402.lifecycle import Entry, Event, Party, UnlawfulEvent, begin
from x402.ports import Answer, NoRoom, Room, ledger_ahead
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.ports.prepared import Prepared
from x402.ports.schema import payments
from x402.stages import Claimed, Refused, Released, Served, Settled, Settling, State

SHOP = Party.GATEWAY
SERVED = ((Event.SERVE, Served()),)
SETTLED = ((Event.SETTLE, Settling()), (Event.CONFIRM, Settled("0xtx")))


def claim(name: str, amount: int = 10, payer: str = "0xpayer") -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer), Claimed())


@asynccontextmanager
async def one_transaction(ledger: SqlLedger) -> AsyncIterator[Callable[[Awaitable[Any]], None]]:
    """What is asked for inside waits, and goes into one transaction."""
    gate, started = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: Connection) -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait(10)

    held = asyncio.ensure_future(ledger._do(hold))
    await started.wait()
    asked: list[asyncio.Future[Any]] = []
    yield lambda job: asked.append(asyncio.ensure_future(job))
    await asyncio.sleep(0)
    before = ledger.commits
    gate.set()
    await asyncio.wait([held, *asked])
    assert ledger.commits == before + 2
