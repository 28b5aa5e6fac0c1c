"""One funded Solana devnet per test, whose clock stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.devnet.svm.chain import SOL, Chain
from x402.devnet.svm import SvmDevnet


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with SvmDevnet(slot_ms=0) as devnet, httpx.AsyncClient() as http:
        chain = Chain(devnet, http)
        await devnet.fund(str(chain.buyer.pubkey()), usdc_atomic=1_000_000, lamports=0)
        await devnet.create_usdc_account(str(chain.merchant.pubkey()))
        await devnet.fund(str(chain.fee_payer.pubkey()), usdc_atomic=0, lamports=SOL)
        yield chain
