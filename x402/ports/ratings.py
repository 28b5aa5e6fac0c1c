"""What buyers think of the answers that they paid for: one rating for one bill, weighed by what the answer cost.

Whoever has not paid cannot rate, and whoever pays more says more, so that a thousand cheap words do not outweigh one
dear one (aimo row 72).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from sqlalchemy import Connection, func, select

from x402.ports.ledger import SqlLedger
from x402.ports.rating_table import ratings
from x402.ports.schema import upsert

STARS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One to `STARS_MAX` stars for the answer of a bill; `paid` is atomic USDC, `at` a unix second."""

    bill_id: str
    account: str
    model: str
    provider: str
    stars: int
    paid: int
    at: int


@dataclass(frozen=True, slots=True)
class RatingSum:
    """All ratings of a model: how many, the sum of their stars, what was paid, and the sum of stars times paid."""

    count: int
    stars: int
    paid: int
    weighed: int


class RatingBook(Protocol):
    """Keeps ratings. Raises `UnavailableError`."""

    async def rate(self, rating: Rating) -> None:
        """Write a rating down; a later one of the same bill takes its place."""
        ...

    async def sums(self) -> Mapping[str, RatingSum]:
        """What all ratings come to, by model."""
        ...


class SqlRatings:
    """`RatingBook` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def rate(self, rating: Rating) -> None:
        members = asdict(rating)

        def write(connection: Connection) -> None:
            wish = upsert(connection, ratings).values(members)
            changes = {name: value for name, value in members.items() if name != "bill_id"}
            connection.execute(wish.on_conflict_do_update(index_elements=["bill_id"], set_=changes))

        await self._ledger.run(write)

    async def sums(self) -> Mapping[str, RatingSum]:
        kept = ratings.c
        query = select(
            kept.model,
            func.count(),
            func.sum(kept.stars),
            func.sum(kept.paid),
            func.sum(kept.stars * kept.paid),
        ).group_by(kept.model)
        rows = await self._ledger.run(lambda connection: connection.execute(query).all())
        return {model: RatingSum(*(int(value) for value in sums)) for model, *sums in rows}
