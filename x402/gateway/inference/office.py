"""What goes on behind the desks while a gateway runs: prices are read again, providers come and go, and how each did is
written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from x402.errors import UnavailableError, X402Error
from x402.gateway.inference.catalogue import Catalogue, Model
from x402.gateway.inference.registrar import House, Registrar
from x402.gateway.inference.router import Router
from x402.gateway.inference.shelf import LOOK_SECONDS, Shelf
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.problem import ApiProblem
from x402.ports import Clock, Ledger
from x402.ports.ledger import SqlLedger
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import Seen
from x402.telemetry import Telemetry

_ROUNDS = 8
"""How many looks at the price file pass between two at the book of providers."""
_DAY_SECONDS = 86_400


class Office:
    """The providers of one gateway: its own, in the price list, and those that have registered.

    `ledger` tells where the book of providers is, once that is open. Without a `house` nobody registers.
    """

    def __init__(
        self,
        router: Router,
        client: UpstreamClient,
        read: Callable[[int], Catalogue],
        *,
        house: House | None,
        clock: Clock,
        ledger: Callable[[], Ledger | None],
        path: Path | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.router = router
        self._client = client
        self._house = house
        self._clock = clock
        self._ledger = ledger
        self._telemetry = telemetry or Telemetry()
        self._registrar: Registrar | None = None
        self._book: SqlProviders | None = None
        self.shelf = Shelf(
            router.catalogue, read, clock=clock, path=path, offers=self._offers, telemetry=self._telemetry
        )

    async def registrar(self) -> Registrar:
        """Who takes registrations. Raises `ApiProblem` 403 where nobody does, 503 while the ledger is not open."""
        if self._house is None:
            raise ApiProblem(403, "registration_closed", "this gateway takes no registrations")
        if self._registrar is None:
            registrar = Registrar(self.book(), self._client, self._house, clock=self._clock, telemetry=self._telemetry)
            registrar.on_change = self.shelf.refill
            self._registrar = registrar
            await registrar.resume()
        return self._registrar

    def book(self) -> SqlProviders:
        """The book of providers. Raises `UnavailableError` while there is none."""
        if self._book is None:
            ledger = self._ledger()
            if not isinstance(ledger, SqlLedger):
                raise UnavailableError("ledger_unavailable", "the ledger is not open yet, or keeps no providers")
            self._book = SqlProviders(ledger)
        return self._book

    async def run(self) -> None:
        """Do all of it for ever; what fails is tried again at the next turn."""
        rounds = 0
        while True:
            again = await self.shelf.wait(LOOK_SECONDS)
            await self.shelf.look(again=again)
            rounds += 1
            if again or rounds % _ROUNDS == 1:
                await self.round()

    async def round(self) -> None:
        """Read who is active, and write down how all did."""
        try:
            if self._house is not None:
                await (await self.registrar()).refresh()
            await self.write_down()
        except X402Error as error:
            self._telemetry.emit("providers.unavailable", reason=error.code)

    async def write_down(self) -> None:
        """Add what was seen of each provider since the last time to the day's figures."""
        book = self.book()
        seen = [Seen(provider=id, answered=good, failed=bad) for id, (good, bad) in self.router.health.fresh().items()]
        if not seen:
            return
        try:
            await book.count(self._clock() // _DAY_SECONDS, seen)
        except UnavailableError:
            self.router.health.keep({one.provider: (one.answered, one.failed) for one in seen})
            raise

    async def close(self) -> None:
        """Stop examining."""
        if self._registrar is not None:
            await self._registrar.close()

    def _offers(self) -> Sequence[Model]:
        return () if self._registrar is None else tuple(self._registrar.offers())
