"""What the books forget: the parts of old rows that say something of a person, and that no sum needs (aimo row 99)."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import or_, select, update

from x402.ports.ledger import SqlLedger
from x402.ports.schema import bills

_NONE = "{}"


class Forgetful(Protocol):
    """Blanks what is old enough. Raises `UnavailableError`."""

    async def blank_tags(self, before: int, limit: int = 1000) -> int:
        """Blank `metadata`, `user` and request id of bills made before a unix second; how many were blanked."""
        ...


class SqlForgetful:
    """`Forgetful` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def blank_tags(self, before: int, limit: int = 1000) -> int:
        told = or_(bills.c.tags != _NONE, bills.c.request_id != "")
        old = select(bills.c.bill_id).where(bills.c.at < before, told).order_by(bills.c.at).limit(limit)
        blank = update(bills).where(bills.c.bill_id.in_(old)).values(tags=_NONE, request_id="")
        return await self._ledger.run(lambda connection: connection.execute(blank).rowcount)
