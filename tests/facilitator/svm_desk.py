"""A Solana rail with two keys on a scripted node, and a payment that the first of them sponsors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from solders.keypair import Keypair

from tests.facilitator.script import ME
from tests.nodes import SvmNode, SvmSale
from x402.errors import UnavailableError
from x402.facilitator.signer import SvmSigner
from x402.facilitator.svm_rail import SvmChecked, SvmRail
from x402.lifecycle import Entry, begin
from x402.networks import SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.stages import Intended, Refused, Reversed, Settled

NOW = 1_800_000_000
HEIGHT, LIFETIME_BLOCKS, LIFETIME_SECONDS = 1_000, 150, 120
AWAY = UnavailableError("rpc_unavailable", "the node did not answer")


class Desk:
    """A rail with two keys on one node, and a payment that the first of them sponsors."""

    def __init__(self, ledger: SqlLedger, **how: Any) -> None:
        self.node, self.ledger, self.now = SvmNode(height=HEIGHT), ledger, NOW
        self.keys = [SvmSigner(Keypair()), SvmSigner(Keypair())]
        self.sale = SvmSale(self.node, self.keys[0])
        self.rail = SvmRail(SOLANA_DEVNET, self.node, self.keys, lambda: self.now, **how)

    async def check(self, **how: Any) -> SvmChecked:
        self.node.asked.clear()
        checked = await self.rail.check(self.sale.payment, self.sale.offer, **how)
        assert isinstance(checked, SvmChecked)
        return checked

    async def intended(self) -> tuple[Entry, Intended]:
        entry, won = await self.rail.intend(await self.check(settling=True), self.ledger)
        assert won
        assert isinstance(entry.stage, Intended)
        self.node.asked.clear()
        return entry, entry.stage

    async def decided(self, timeout: float = 0) -> Settled | Refused | None:
        entry, stage = await self.intended()
        return await self.rail.decide(entry, stage, self.ledger, timeout=timeout)

    def entry(self) -> Entry:
        return replace(begin(ME, self.sale.subject, Intended(self.sale.name, self.sale.raw, 0)), created_at=NOW)

    def reversed(self, *, raw: bool = True) -> Reversed:
        return Reversed(self.sale.name, self.sale.raw if raw else b"")
