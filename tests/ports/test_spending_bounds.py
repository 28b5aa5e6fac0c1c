"""What costs nothing is within every cap. Fault D04."""

from __future__ import annotations

from x402.ports.ledger import SqlLedger


async def test_D04_what_costs_nothing_is_booked_though_a_cap_was_lowered_below_what_is_spent(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        assert await ledger.spend(1, {"all": 60}, 60) is None
        assert await ledger.spend(1, {"all": 5, "payer": 0}, 0) is None
        assert await ledger.spend(1, {"all": 5, "payer": 1}, 1) == "all"
        assert [await ledger.spent(1, name) for name in ("all", "payer")] == [60, 0]
