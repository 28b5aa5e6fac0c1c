"""Transaction nonces: handed out once, given back, mended. Faults D01, D02."""

from __future__ import annotations

import asyncio

from tests.ports.ledgers import ME, NETWORK, intended
from x402.lifecycle import Event
from x402.ports.ledger import SqlLedger
from x402.stages import Refused


async def test_D01_nonces_are_handed_out_once_and_never_below_the_chain() -> None:
    async with SqlLedger() as ledger:
        nonces = await asyncio.gather(*(ledger.reserve_nonce("n", "s", 7) for _ in range(50)))
        assert sorted(nonces) == list(range(7, 57))
        assert await ledger.reserve_nonce("n", "other", 7) == 7
        assert await ledger.reserve_nonce("m", "s", 0) == 0
        assert await ledger.reserve_nonce("n", "s", 100) == 100
        assert await ledger.reserve_nonce("n", "s", 3) == 101


async def test_D02_returned_nonces_come_back_first_and_once() -> None:
    async with SqlLedger() as ledger:
        for _ in range(5):
            await ledger.reserve_nonce("n", "s", 0)
        for nonce in (3, 1, 1):
            await ledger.return_nonce("n", "s", nonce)
        assert [await ledger.reserve_nonce("n", "s", 0) for _ in range(3)] == [1, 3, 5]
        await ledger.return_nonce("n", "s", 2)
        # The chain has passed it: somebody else used it.
        assert await ledger.reserve_nonce("n", "s", 4) == 6


async def test_D02_what_a_crash_lost_is_mended() -> None:
    async with SqlLedger() as ledger:
        for _ in range(6):
            await ledger.reserve_nonce(NETWORK, "0xsender", 0)
        # 0 and 1 are on chain; 3 is held by an open payment, 5 by a refused one; 2 and 4 were lost before `begin`.
        await ledger.begin(intended("open", nonce=3))
        await ledger.begin(intended("refused", nonce=5))
        await ledger.advance(ME, "refused", Event.REFUSE, Refused("a", "b"))
        await ledger.mend_nonces(NETWORK, "0xother", 2)
        await ledger.mend_nonces("eip155:1", "0xsender", 2)
        await ledger.mend_nonces(NETWORK, "0xsender", 2)
        handed = [await ledger.reserve_nonce(NETWORK, "0xsender", 2) for _ in range(4)]
        assert handed == [2, 4, 5, 6]
