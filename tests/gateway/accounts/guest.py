"""An account holder whose sales are made by hand: a tab, a handler that does as it is told, and what it comes to."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from tests.gateway.waiting import until
from x402.billing import Bill, Metered
from x402.gateway.accounts import Holder
from x402.gateway.accounts.tab import Tab
from x402.gateway.recording import BrokenOff
from x402.gateway.sale import Handler, PaidRequest, Reply, Sale, Sink
from x402.gateway.terms import Flow, Terms
from x402.ports.accounts import BillFilter, Reservation
from x402.telemetry import Fact, Telemetry

PRICE, FILLED, EACH, LEASE, SOON = 10_000, 50_000, 700, 10, 5
UPFRONT, WITHHELD = Flow.UPFRONT, Flow.AUTHORIZATION
TEXT = (("content-type", "text/plain"),)


class Model:
    """A handler that says its first piece, goes on when it may, and fails in the end where it is told to.

    Each piece costs `each` (None: nothing is metered), and being stopped costs `stop`. With status 0 it says nothing.
    """

    def __init__(self, *pieces: bytes, waits: bool = False, **options: Any) -> None:
        self.pieces, self.options = pieces, {"status": 200, "each": EACH, "stop": None, "fails": None} | options
        self.made, self.go_on = asyncio.Event(), asyncio.Event()
        if not waits:
            self.go_on.set()
        self.sale: Any = None

    async def __call__(self, sale: Sale, sink: Sink) -> None:
        self.sale = sale
        if self.options["status"]:
            await sink.start(self.options["status"], TEXT)
        for index, piece in enumerate(self.pieces or (b"",)):
            self.meter(self.options["each"], index + 1)
            await sink.write(piece)
            self.made.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.meter(self.options["stop"])
                raise
        if self.options["fails"]:
            raise self.options["fails"]

    def meter(self, units: int | None, pieces: int = 1) -> None:
        if units is not None:
            self.sale.metered = Metered(model="m", charged=units * pieces, fee=units * pieces // 10)


class Guest:
    """An account holder, and the tab that serves what he asks for."""

    def __init__(self, metered: Any) -> None:
        self.shop, self.book, self.account = metered.shop, metered.book, metered.account()
        self.facts: list[Fact] = []
        self.shop.open({"GET /report": "$0.01"}, telemetry=Telemetry([self.facts.append]))
        self.register = self.shop.paywall.till.register
        self.open()

    def open(self, limit: int = 1000, timeout: float = 60) -> None:
        self.tab = Tab(self.register, self.book, answer_limit=limit, timeout_seconds=timeout)

    def taking(self, handler: Handler, flow: Flow = UPFRONT, name: str = "") -> asyncio.Task[Reply]:
        headers = (("Idempotency-Key", name),) if name else ()
        request, terms = PaidRequest("POST", "/text", headers, b""), Terms(price="$0.01", flow=flow)
        return asyncio.create_task(self.tab.take(Holder(account=self.account), request, terms, handler))

    async def take(self, handler: Handler, flow: Flow = UPFRONT, name: str = "") -> Reply:
        return await asyncio.wait_for(self.taking(handler, flow, name), SOON)

    async def reserve(self) -> Any:
        wanted = Reservation(id="res_1", account=self.account, units=PRICE)
        return (await self.book.reserve(wanted, lease_seconds=LEASE))[0]

    async def bills(self) -> list[Bill]:
        """What has been billed once nothing is at work; then nothing is left over in the tab either."""
        await until(lambda: not self.tab._tasks)
        assert (self.tab._orders, self.tab._beating) == (set(), None)
        bills = list(await self.book.bills(BillFilter(account=self.account)))
        balance = await self.book.balance(self.account)
        assert (balance.units, balance.reserved) == (FILLED - sum(bill.metered.charged for bill in bills), 0)
        return bills

    async def bill(self) -> tuple[str, int]:
        """How the only sale ended, and what it cost."""
        (bill,) = await self.bills()
        return bill.outcome, bill.metered.charged


async def read(reply: Reply) -> tuple[bytes, bool]:
    """What a reply brings, and whether that is all."""
    content, whole = b"", False
    with suppress(BrokenOff):
        async with asyncio.timeout(SOON):
            async for piece in reply.chunks:
                content += piece
        whole = True
    return content, whole
