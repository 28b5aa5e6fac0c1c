"""Shops on the session's chains, and a ledger in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.script import ScriptedRail, Settler
from tests.facilitator.world import EvmShop, SvmShop
from x402.ports.ledger import SqlLedger


@pytest.fixture
async def ledger() -> AsyncIterator[SqlLedger]:
    async with SqlLedger() as memory:
        yield memory


@pytest.fixture
async def evm(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
async def svm(svm_devnet: SvmWorld) -> AsyncIterator[SvmShop]:
    shop = await SvmShop.open(svm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
def scripted(ledger: SqlLedger) -> Any:
    """Makes a facilitator whose one rail answers so."""

    def make(budget: Any = None, on: Any = None, **answers: Any) -> tuple[Settler, ScriptedRail]:
        rail = ScriptedRail(**answers)
        return Settler(on or ledger, [rail], budget), rail

    return make
