"""An EVM rail with two keys on a scripted node, and one payment."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

import pytest

from tests.facilitator.script import ME
from tests.nodes import EvmNode, EvmSale
from x402.errors import RefusedError, UnavailableError
from x402.facilitator.evm_rail import EvmChecked, EvmRail
from x402.facilitator.evm_sender import Gas
from x402.facilitator.rail import Checked
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, begin
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.stages import Intended, Refused, Settled

AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
RESERVE = Gas().reserve
WHOLE = 10**18
LANDED = 4_900
FIRST, SECOND = (EvmSigner(secrets.token_hex(32)) for _ in range(2))


class Desk:
    """A rail with two keys on one node, and one payment."""

    def __init__(self, ledger: SqlLedger, scheme: str = "exact", **how: Any) -> None:
        self.node, self.ledger = EvmNode(), ledger
        self.node.wei = {FIRST.address: WHOLE, SECOND.address: 2 * WHOLE}
        self.sale = EvmSale(self.node, scheme, facilitator=FIRST.address)
        self.now = self.node.second
        self.rail = EvmRail(BASE_SEPOLIA, self.node, [FIRST, SECOND], lambda: self.now, **how)

    async def check(self, sale: EvmSale | None = None, *, settling: bool = False, **changed: Any) -> EvmChecked:
        self.node.asked.clear()
        sale = sale or self.sale
        offer = sale.offer.model_copy(update=changed)
        checked = await self.rail.check(sale.payment, offer, settling=settling)
        assert isinstance(checked, EvmChecked)
        return checked

    async def refused(self, **how: Any) -> RefusedError:
        with pytest.raises(RefusedError) as refusal:
            await self.check(**how)
        return refusal.value

    async def intended(self, checked: Checked | None = None) -> tuple[Entry, Intended]:
        entry, won = await self.rail.intend(checked or await self.check(settling=True), self.ledger)
        assert won
        assert isinstance(entry.stage, Intended)
        self.node.asked.clear()
        return entry, entry.stage

    async def together(self) -> tuple[Entry, Intended, EvmSale]:
        """The payment and another one, which leave in one transaction."""
        other = EvmSale(self.node)
        for sale in (self.sale, other):
            sale.pass_check()
        checked = [await self.check(sale, settling=True) for sale in (self.sale, other)]
        (entry, stage), _ = await asyncio.gather(*(self.intended(one) for one in checked))
        return entry, stage, other

    async def decide(self, entry: Entry, stage: Intended, timeout: float = 0) -> Settled | Refused | None:
        return await self.rail.decide(entry, stage, self.ledger, timeout=timeout)

    async def stage(self, entry: Entry) -> Intended:
        found = await self.ledger.find(ME, entry.subject.pay_id)
        assert found is not None
        assert isinstance(found.stage, Intended)
        return found.stage

    def entry(self) -> Entry:
        return replace(begin(ME, self.sale.subject, Intended("0xours", b"raw", 0)), created_at=self.now)

    def sent(self) -> list[str]:
        return [name for _, name in self.node.heard("send")]
