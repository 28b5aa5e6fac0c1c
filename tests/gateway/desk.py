"""A gateway's register at work by hand: each arrow of one payment is asked for on its own."""

from __future__ import annotations

from typing import Any

from x402.gateway.job import Job
from x402.gateway.register import Register
from x402.telemetry import Fact, Telemetry

EVM = "eip155:84532"
PRICED = {"GET /report": "$0.01"}


class Desk:
    """A shop whose payments are claimed by hand."""

    def __init__(self, shop: Any, town: Any) -> None:
        self.shop = shop
        self.now = town.NOW
        self.facts: list[Fact] = []

    async def open(self, **options: Any) -> Register:
        self.shop.open(PRICED, telemetry=Telemetry([self.facts.append]), **options)
        self.challenge = await self.shop.challenge()
        register: Register = self.shop.paywall.till.register
        return register

    def offered(self, scheme: str = "exact") -> Any:
        return next(one for one in self.challenge.accepts if (one.network, one.scheme) == (EVM, scheme))

    def signed(self, scheme: str = "exact") -> Any:
        return self.shop.payer.payment(self.offered(scheme), self.challenge)

    async def claim(self, register: Register, scheme: str = "exact") -> Job:
        return await register.claim(self.signed(scheme), "print", self.offered(scheme))

    def told(self) -> list[str]:
        """The facts about sales since they were asked for last."""
        names = [fact.name for fact in self.facts if fact.name.startswith(("sale.", "answer."))]
        self.facts.clear()
        return names

    def other(self, ledger: Any, **options: Any) -> Register:
        """Another replica, or this one with a ledger that misbehaves."""
        telemetry = Telemetry([self.facts.append])
        return Register(self.shop.bank, ledger, clock=lambda: self.now, telemetry=telemetry, **options)
