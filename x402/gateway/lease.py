"""The right to work on a payment, when several replicas share one ledger: renewed while there is work, ended with it.

A replica that dies renews nothing, so what it worked on is free for others a few seconds later. A lease spares double
work; what keeps money safe when one is lost all the same is the law, checked in the ledger with every arrow.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from x402.errors import UnavailableError
from x402.lifecycle import Party
from x402.ports import Ledger

_BEATS = 3
"""How often a lease is renewed before it would end."""


class Leases:
    """The rows that this process holds. Each is renewed until it is ended; `stop` ends the renewing."""

    def __init__(self, ledger: Ledger, *, seconds: int) -> None:
        self.ledger = ledger
        self.seconds = seconds
        self._held: set[str] = set()
        self._beating: asyncio.Task[None] | None = None

    async def take(self, pay_id: str) -> bool:
        """Take a row; False while another process holds it."""
        taken = await self.ledger.lease(Party.GATEWAY, pay_id, self.seconds)
        if taken:
            self.keep(pay_id)
        return taken

    def keep(self, pay_id: str) -> None:
        """Renew a lease that was taken on another way."""
        self._held.add(pay_id)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def end(self, pay_id: str, *, over: bool = False) -> None:
        """Give a row back, if it is held; a ledger that is away lets the lease end by itself.

        Nobody asks who works on a payment that is `over`, so its row is left as it is.
        """
        if pay_id not in self._held:
            return
        self._held.discard(pay_id)
        if not self._held:
            self._rest()
        if over:
            return
        with suppress(UnavailableError):
            await self.ledger.end_lease(Party.GATEWAY, pay_id)

    def stop(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        self._rest()

    def _rest(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.seconds / _BEATS)
            for pay_id in list(self._held):
                # A ledger that is away keeps everybody else from working as well.
                with suppress(UnavailableError):
                    await self.ledger.lease(Party.GATEWAY, pay_id, self.seconds)
