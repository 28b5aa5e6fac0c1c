"""Ratings on both databases: one for each bill, the last word counts, weighed by what was paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from x402.ports.ledger import SqlLedger
from x402.ports.ratings import Rating, RatingSum, SqlRatings

ONE = Rating(bill_id="b1", account="payer", model="m", provider="p", stars=5, paid=300, at=1)


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(ledger_url, clock=lambda: 1) as ledger:
        yield ledger


async def test_row_072_each_bill_has_one_rating_and_the_last_word_counts(ledger: SqlLedger) -> None:
    book = SqlRatings(ledger)
    assert await book.sums() == {}
    for rating in (ONE, replace(ONE, bill_id="b2", stars=1, paid=100), replace(ONE, bill_id="b3", model="n", stars=2)):
        await book.rate(rating)
    assert await book.sums() == {"m": RatingSum(2, 6, 400, 1600), "n": RatingSum(1, 2, 300, 600)}
    await book.rate(replace(ONE, stars=3, at=2))
    assert (await book.sums())["m"] == RatingSum(2, 4, 400, 1000)
