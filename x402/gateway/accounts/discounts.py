"""What a payer gets off for what it has spent lately, whichever way it pays (`x402.discount`, aimo row 78)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from x402.discount import WINDOW_SECONDS, Discount, Step, percent_at
from x402.ports import Clock
from x402.ports.accounts import BillBook, BillFilter
from x402.signed_quote import peek
from x402.wire.challenge import Requirement


@dataclass(frozen=True, slots=True)
class Discounts:
    """Reads from the bills how much an account was charged. `steps` are the operator's; those in a quote come first,
    because a price never changes under a payer."""

    book: BillBook
    steps: Sequence[Step]
    clock: Clock

    async def of(self, account: str, requirement: Requirement | None = None) -> Discount | None:
        """What an account gets off an answer that it pays for now, by the quote of `requirement` if it has one; None
        for nothing. Raises `UnavailableError`."""
        # The quote was checked when the payment was taken.
        token = None if requirement is None else requirement.extra.get("quote")
        steps = (peek(token).quote.discounts if isinstance(token, str) else ()) or self.steps
        if not steps:
            return None
        lately = await self.book.sums(BillFilter(account=account, since=self.clock() - WINDOW_SECONDS))
        spent = sum(one.charged for one in lately)
        percent = percent_at(steps, spent)
        return Discount(spent, percent) if percent else None
