"""How often a paid request goes to the ledger: counted, because each trip is a wait for a disk (issue 5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.waiting import slow_route, until
from x402.lifecycle import Party
from x402.stages import State
from x402.wire.facilitation import Verification

STEPS = {
    "authorization": ["find", "begin", "follow", "follow"],
    "upfront": ["find", "begin", "follow", "follow"],
}


class Counted:
    """A ledger whose calls are written down."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return getattr(self._ledger, name)(*args, **kwargs)

        return call


@pytest.mark.parametrize("retention", [0, 600])
@pytest.mark.parametrize("flow", list(STEPS))
async def test_a_sale_is_four_transactions_and_a_challenge_none(shop: Any, flow: str, retention: int) -> None:
    ledger = Counted(shop.ledger)
    client = shop.open({"GET /report": "$0.01"}, flow=flow, ledger=ledger, answer_retention_seconds=retention)
    for _ in range(2):
        header = shop.payer.pay(await shop.challenge())
        assert ledger.calls == []
        commits = shop.ledger.commits
        assert (await client.get("/report", headers=header)).status_code == 200
        assert ledger.calls == STEPS[flow]
        # A look writes nothing, and waits for no disk.
        assert shop.ledger.commits == commits + len(STEPS[flow]) - 1
        ledger.calls.clear()
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
    assert sum((await shop.ledger.totals(Party.GATEWAY, State.DELIVERED)).values()) == 20_000


async def test_A08_who_has_no_room_and_no_known_balance_goes_there_no_oftener(shop: Any) -> None:
    """One sale is open, and nobody knows what its payer has: the next one is settled first, by the same four steps."""
    started, go_on = slow_route(shop.app)
    ledger = Counted(shop.ledger)
    client = shop.open({"GET /slow": "$0.01", "GET /report": "$0.01"}, ledger=ledger)
    shop.bank.verdicts = [Verification.valid(shop.payer.address)] * 2
    first = asyncio.create_task(client.get("/slow", headers=shop.payer.pay(await shop.challenge("/slow"))))
    await until(started.is_set)
    ledger.calls.clear()
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200
    assert ledger.calls == STEPS["upfront"]
    assert shop.bank.asked[-1] == "settle"
    assert shop.runs == ["report "]
    go_on.set()
    assert (await first).status_code == 200
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
