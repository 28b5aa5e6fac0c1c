"""Gas that is given for approvals is written down once, in either engine (fault D15)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from x402.ports.grant_book import SqlGrants
from x402.ports.grants import Draw, Grant, GrantState, NoMoreGas
from x402.ports.ledger import SqlLedger

NETWORK, PURSE = "eip155:84532", "0x" + "9e" * 20


def drawing(payer: str, approval: str, wei: int = 7) -> Draw:
    def draw(nonce: int) -> Grant:
        return Grant(
            network=NETWORK, approval=approval, payer=payer, asset="0xa55e7", approval_raw=b"raw", approval_nonce=3,
            wei=wei, sender=PURSE, nonce=nonce if wei else None, funding=f"0xf{nonce}" if wei else "",
            funding_raw=b"gift", created_at=nonce,
        )  # fmt: skip

    return draw


async def begin(book: SqlGrants, payer: str, approval: str, *, chain: int = 5, most: int = 2, **how: Any) -> Any:
    return await book.begin(NETWORK, payer, approval, PURSE, chain, most, drawing(payer, approval, **how))


async def test_D15_a_payer_has_one_open_grant_and_each_its_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as one, SqlLedger(ledger_url) as two:
        books = [SqlGrants(one), SqlGrants(two)]
        begun = await asyncio.gather(*(begin(books[i % 2], f"0x{i % 4}", f"0xa{i}") for i in range(20)))
        won = [grant for grant, new in begun if new]
        assert sorted(grant.nonce for grant in won) == [5, 6, 7, 8]
        assert len({grant.payer for grant in won}) == 4
        assert {grant.approval for grant, _ in begun} == {grant.approval for grant in won}
        assert sorted(await books[0].open_ones(NETWORK), key=lambda one: one.nonce or 0) == sorted(
            won, key=lambda one: one.nonce or 0
        )


async def test_D15_gas_is_given_so_often_and_never_after_it_was_lost(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        book = SqlGrants(ledger)
        for number in range(2):
            grant, _ = await begin(book, "0x1", f"0xa{number}")
            await book.finish(grant, GrantState.USED)
            # What has ended stays as it is.
            await book.finish(grant, GrantState.LOST)
        assert [one.state for one in await book.of_payer(NETWORK, "0x1")] == [GrantState.USED] * 2
        with pytest.raises(NoMoreGas):
            await begin(book, "0x1", "0xa2")
        # The same approval is the same grant, and one that needs no gas is no gift.
        assert (await begin(book, "0x1", "0xa1"))[1] is False
        assert (await begin(book, "0x1", "0xa3", wei=0))[1] is True
        lost, _ = await begin(book, "0x2", "0xb0")
        await book.finish(lost, GrantState.LOST)
        with pytest.raises(NoMoreGas):
            await begin(book, "0x2", "0xb1")
        assert (await begin(book, "0x3", "0xc0", chain=9))[0].nonce == 9


async def test_D15_a_grant_outlives_its_process(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        grant, _ = await begin(SqlGrants(ledger), "0x1", "0xa1")
    async with SqlLedger(ledger_url) as ledger:
        assert await SqlGrants(ledger).open_ones(NETWORK) == [grant]
        assert await SqlGrants(ledger).open_ones("eip155:1") == []
