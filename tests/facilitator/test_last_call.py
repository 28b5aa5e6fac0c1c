"""Who gathers to share a transaction does not miss a block for it (design D8, ADR 13)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.facilitator.test_bundles import waiting, written
from tests.facilitator.world import EvmShop, Meddled, facilitator
from x402.lifecycle import Outcome
from x402.ports.ledger import SqlLedger


@pytest.mark.parametrize(("due", "left"), [(None, 1), (10.0, 1), (0.3, 3)])
async def test_nobody_misses_a_block_for_the_sake_of_company(
    evm: EvmShop, ledger: SqlLedger, due: float | None, left: int
) -> None:
    """One is in the air, and too few wait to leave before it lands: they leave when the next block is near. The test
    says when that is, because blocks of the devnet come with their transactions."""
    gate = asyncio.Event()

    async def receipt(transaction: str, *, timeout: float) -> Any:
        await gate.wait()
        return await evm.chain.receipt(transaction, timeout=timeout)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, receipt=receipt, next_block=lambda: due))], ledger)
    first = asyncio.create_task(party.settle(evm.pay(), evm.offer))
    await written(ledger, 1)
    others = [asyncio.create_task(party.settle(evm.pay(), evm.offer)) for _ in range(2)]
    await written(ledger, left)
    await asyncio.sleep(0.1)
    assert len(await waiting(ledger)) == left
    gate.set()
    assert {(await one).outcome for one in (first, *others)} == {Outcome.SETTLED}
    assert await evm.sent() == 2
