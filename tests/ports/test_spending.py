"""Fees per day and account: booked under every cap, or under none. Faults D04, D05."""

from __future__ import annotations

import asyncio

from x402.ports.ledger import SqlLedger
from x402.ports.spending import DAYS_KEPT


async def test_D04_fees_are_booked_under_every_cap_or_none(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        caps = {"all": 100, "payer": 60}
        assert await ledger.spend(1, caps, 60) is None
        assert await ledger.spend(1, caps, 1) == "payer"
        assert await ledger.spend(1, {"all": 100, "other": 60}, 41) == "all"
        assert [await ledger.spent(1, name) for name in ("all", "payer", "other")] == [60, 60, 0]
        assert await ledger.spend(1, {"all": 100, "other": 60}, 40) is None
        assert await ledger.spend(2, caps, 60) is None
        assert [await ledger.spent(1, name) for name in ("all", "payer", "other")] == [100, 60, 40]


async def test_D04_what_was_booked_too_much_comes_back(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        huge = 10**40
        assert await ledger.spend(1, {"all": huge}, huge) is None
        # A cap that was lowered meanwhile keeps nobody from giving back.
        assert await ledger.spend(1, {"all": 5}, -huge + 3) is None
        assert await ledger.spent(1, "all") == 3
        assert await ledger.spend(1, {"all": 5}, -huge) is None
        assert await ledger.spent(1, "all") == 0


async def test_D04_fifty_at_once_stay_under_the_cap(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        told = await asyncio.gather(*(ledger.spend(1, {f"{n}": 10, "all": 75}, 10) for n in range(50)))
        assert told.count(None) == 7
        assert told.count("all") == 43
        assert await ledger.spent(1, "all") == 70


async def test_days_long_past_are_forgotten(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.spend(1, {"all": 5}, 5)
        await ledger.spend(1 + DAYS_KEPT, {"all": 5}, 1)
        assert await ledger.spent(1, "all") == 5
        await ledger.spend(2 + DAYS_KEPT, {"all": 5}, 1)
        assert await ledger.spent(1, "all") == 0
