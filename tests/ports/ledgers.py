"""Rows, files and child processes for tests of the ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, make_url

from x402.lifecycle import Entry, Party, Subject, begin
from x402.ports import Sign
from x402.ports.ledger import SqlLedger
from x402.ports.prepared import Prepared
from x402.stages import Intended

ME = Party.FACILITATOR
NETWORK = "eip155:84532"


def subject(name: str = "pay", amount: int = 1000) -> Subject:
    """A payment of that name."""
    return Subject(name, NETWORK, "0xasset", "0xpayer", "0xpayee", amount, 99, "print", {"deep": {"json": [1, None]}})


def intended(name: str = "pay", nonce: int = 5, amount: int = 1000) -> Entry:
    """The facilitator's first memory of it."""
    stage = Intended("0xtx", b"\x00raw\xff", 2**200, "0xsender", nonce)
    return begin(ME, subject(name, amount), stage)


def signing(name: str = "pay", attempt: int = 1, earlier: tuple[str, ...] = (), sender: str = "0xsender") -> Sign:
    """What signs a payment of that name: its transaction tells the nonce that it was given."""

    def sign(nonce: int) -> Intended:
        transaction = f"0x{name}-{sender}-{nonce}-{attempt}"
        return Intended(transaction, f"raw {transaction}".encode(), 2**40, sender, nonce, attempt, earlier)

    return sign


async def nonce_of(ledger: SqlLedger, name: str, chain_nonce: int = 0, sender: str = "0xsender") -> int:
    """Intend to settle a payment of that name; the nonce that its row holds."""
    entry, _ = await ledger.intend(subject(name), sender, chain_nonce, signing(name, sender=sender))
    assert isinstance(entry.stage, Intended)
    assert entry.stage.nonce is not None
    return entry.stage.nonce


def url(path: Path) -> str:
    """A ledger file in a test's directory."""
    return f"sqlite:///{path / 'ledger.sqlite'}"


async def logged(ledger: SqlLedger) -> list[tuple[str, str]]:
    """Every event with its payment, in order."""
    from sqlalchemy import select

    from x402.ports.schema import events

    query = select(events.c.event, events.c.pay_id).order_by(events.c.seq)
    return await ledger._do(lambda connection: [(row.event, row.pay_id) for row in connection.execute(query)])


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that can import our tests."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root,
    )


def count_statements(monkeypatch: pytest.MonkeyPatch, place: str) -> Counter[str]:
    """How many questions (`ask`) and kinds of writes (`_send`) go to the database at an address, from now
    on; ledgers of other tests may be at work in this process."""
    counted: Counter[str] = Counter()
    database = make_url(place).database
    for name in ("ask", "_send"):
        real = getattr(Prepared, name)

        def count(
            one: Prepared, connection: Connection, *args: Any, _real: Any = real, _name: str = name, **values: Any
        ) -> Any:
            counted[_name] += connection.engine.url.database == database
            return _real(one, connection, *args, **values)

        monkeypatch.setattr(Prepared, name, count)
    return counted
