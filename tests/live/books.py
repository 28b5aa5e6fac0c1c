"""What the parties wrote down, read from outside: both ledgers, the nonces, every customer's journal and call log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from tests.live.customer import JOURNAL, CallRecord, read_calls
from tests.live.nursery import ROOT
from x402.client.journal import Journal
from x402.lifecycle import Party
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_database import address_of, engine_of
from x402.ports.ledger_reading import LedgerSnapshot
from x402.ports.ledger_text import transaction_of
from x402.ports.schema import payments
from x402.stages import State

AUDIT_SECONDS = 120
_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A payment in a ledger. `units` are atomic USDC."""

    pay_id: str
    network: str
    units: int
    state: State
    transaction: str


@dataclass(frozen=True, slots=True)
class Exposure:
    """A payment in a customer's journal; `fingerprint` names the request that it was signed for."""

    pay_id: str
    network: str
    units: int
    state: State
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Nonces:
    """A facilitator's key by the ledger: the next nonce that was never handed out, and those that open rows hold."""

    signer: str
    next: int
    held: frozenset[int]


def rows(ledger: str, party: Party) -> list[Row]:
    """Every payment of one party."""
    with _reading(ledger) as connection:
        return [
            Row(
                row.pay_id, str(row.constants["network"]), int(row.constants["amount"]), State(row.state),
                transaction_of(row.stage),
            )
            for row in LedgerSnapshot(connection).payments(party)
        ]  # fmt: skip


def count(ledger: str, party: Party, states: Collection[State]) -> int:
    """How many payments of one party stand in some states now; 0 before there is a ledger."""
    query = (
        select(func.count())
        .select_from(payments)
        .where(payments.c.party == str(party), payments.c.state.in_([str(state) for state in states]))
    )
    try:
        with _reading(ledger) as connection:
            return int(connection.execute(query).scalar_one())
    except SQLAlchemyError:
        return 0


@contextmanager
def _reading(ledger: str) -> Iterator[Connection]:
    engine = engine_of(address_of(ledger))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def nonces(ledger: str, signers: Sequence[str]) -> list[Nonces]:
    """The nonce book of every signer."""

    async def read() -> list[Nonces]:
        async with SqlLedger(ledger) as book:
            found = [(signer, await book.nonces(BASE_SEPOLIA, signer)) for signer in signers]
            return [Nonces(signer, one.next, one.held) for signer, one in found]

    return asyncio.run(read())


def journal(folder: Path) -> list[Exposure]:
    """Every payment of one customer."""
    book = Journal(folder / JOURNAL, clock=lambda: 0)
    try:
        return [
            Exposure(
                record.pay_id, record.entry.subject.network, record.entry.subject.amount, record.state,
                record.entry.subject.fingerprint,
            )
            for record in book.history(_ROWS)
        ]  # fmt: skip
    finally:
        book.close()


def calls(folder: Path) -> list[CallRecord]:
    """Every logical call of one customer."""
    return list(read_calls(folder).values())


def audit(ledger: str) -> str:
    """What `x402 ledger audit` finds wrong, or `""`."""
    done = subprocess.run(
        [sys.executable, "-m", "x402", "ledger", "audit", ledger, "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    try:
        wrong = json.loads(done.stdout)["violations"]
    except (ValueError, KeyError):
        return (done.stderr or done.stdout).strip()[-300:]
    return "; ".join(f"{one['invariant']} {one['party']} {one['pay_id']}: {one['words']}" for one in wrong[:5])
