"""Prepared statements beside SQLAlchemy's own, in one transaction, on either engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update

from tests.ports.ledgers import subject
from tests.postgres import Postgres
from x402.errors import UnavailableError
from x402.lifecycle import Entry, Party, begin
from x402.ports.known import forget
from x402.ports.ledger import SqlLedger
from x402.ports.prepared import Prepared, value
from x402.ports.schema import payments, versions
from x402.stages import Claimed

AMOUNT = Prepared(select(payments.c.amount, payments.c.payer).where(payments.c.pay_id == value("pay_id")))
RENAME = Prepared(update(payments).where(payments.c.pay_id == value("pay_id")), ("payer",))


def claim(name: str, payer: str = "0xpayer") -> Entry:
    return begin(Party.GATEWAY, replace(subject(name, 7), payer=payer), Claimed())


async def test_values_come_back_by_name_whoever_asks_between(ledger_url: str) -> None:
    def work(connection: Connection) -> list[object]:
        asked = AMOUNT.ask(connection, pay_id="pay")
        RENAME.do(connection, pay_id="pay", payer="0xother")
        # No program renames a payer, so nobody else tells what is known of him.
        forget(connection)
        plain = connection.execute(select(payments.c.payer).where(payments.c.pay_id == "pay")).scalar_one()
        before = asked.first()
        assert before is not None
        after = AMOUNT.rows(connection, pay_id="pay")
        counted = [RENAME.count(connection, pay_id=name, payer="0xlast") for name in ("pay", "nobody")]
        return [before.amount, before.payer, plain, after[0].payer, counted, AMOUNT.scalar(connection, pay_id="nobody")]

    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("pay"))
        assert await ledger._do(work) == ["7", "0xpayer", "0xother", "0xother", [1, 0], None]
        entry = await ledger.find(Party.GATEWAY, "pay")
        assert entry is not None
        assert entry.subject.payer == "0xlast"


async def test_E02_one_that_the_database_refuses_fails_alone(postgres: Postgres) -> None:
    """Statements are sent together, so a failure is heard of later, perhaps by another's; each still gets its own."""
    async with SqlLedger(postgres.database()) as ledger:
        too_long = "0x" + "a" * 100
        told = await asyncio.gather(
            *(ledger.begin(claim(f"pay{n}", too_long if n % 5 == 2 else "0xpayer")) for n in range(20)),
            ledger._do(lambda connection: connection.execute(select(versions.c.version)).scalar_one()),
            return_exceptions=True,
        )
        failed = [n for n, one in enumerate(told) if isinstance(one, UnavailableError)]
        assert failed == [2, 7, 12, 17]
        assert len(await ledger.unresolved(Party.GATEWAY)) == 16
        with pytest.raises(UnavailableError):
            await ledger.begin(claim("again", too_long))
        assert (await ledger.begin(claim("again")))[1]
