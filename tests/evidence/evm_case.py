"""One payment on a scripted EVM node, and who judges it."""

from __future__ import annotations

from typing import Any

from tests.nodes import EvmNode, EvmSale
from x402.evidence import Standing, Verdict
from x402.evidence.evm import EvmWitness
from x402.networks import BASE_SEPOLIA
from x402.stages import Settled

OLD, NEW, HERS = "0x0a", "0x0b", "0x0c"
LANDED = 4_900
FINAL_SECONDS = 30
"""So much later than the payment's end a block is that no reorganisation replaces by one before it."""


class Case(EvmSale):
    """A payment, and who judges it."""

    def __init__(self, scheme: str = "exact", **how: Any) -> None:
        super().__init__(EvmNode(), scheme, **how)
        self.witness = EvmWitness(BASE_SEPOLIA, self.node)

    def after_its_end(self, seconds: int) -> None:
        """The newest block is so much younger than the payment may be."""
        self.node.second = self.signed.valid_before + seconds

    async def judge(self, *transactions: str, **how: Any) -> Verdict:
        self.node.asked.clear()
        return await self.witness.judge(self.subject, transactions, **how)

    async def spent_by(self, **how: Any) -> Verdict:
        self.node.asked.clear()
        return await self.witness.spent_by(self.subject, **how)

    async def standing(self, transaction: str = OLD, block: int = LANDED) -> Standing | None:
        self.node.asked.clear()
        return await self.witness.standing(self.subject, Settled(transaction, block))

    def searched(self) -> list[tuple[int, int]]:
        """The windows of blocks in which its events were looked for, each once."""
        return list(dict.fromkeys((first, last) for _, _, first, last in self.node.heard("logs")))
