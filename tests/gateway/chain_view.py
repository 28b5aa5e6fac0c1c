"""What a seller's own node shows of the bank that stands for facilitator and chain in these tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.gateway.nodes import Nodes
from x402.lifecycle import Subject
from x402.stages import Refused, Settled


class View:
    """Implements `Witness` over the bank's own books. `dead` are payments that the chain proves dead; `away` is a node
    that does not answer."""

    def __init__(self, bank: Any, network: str) -> None:
        self.network = network
        self.bank = bank
        self.dead: set[str] = set()
        self.away = False
        self.final = False
        self.asked = 0
        self.depth = 1

    async def judge(
        self,
        subject: Subject,
        transactions: Sequence[str] = (),
        *,
        last_valid: int = 0,
        since: int = 0,
        timeout: float = 0.0,
    ) -> Verdict:
        self.asked += 1
        if self.away:
            raise UnavailableError("rpc_unavailable", "the node did not answer")
        if subject.pay_id in self.bank.moved:
            return Settled(self.bank.moved[subject.pay_id], 7)
        return Refused("expired", "the chain proves it") if subject.pay_id in self.dead else None

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        return await self.judge(subject)

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        if self.away:
            return None
        return Standing(self.depth, final=self.final) if subject.pay_id in self.bank.moved else Standing(0)

    async def balance(self, owner: str, asset: str) -> int:
        if self.away:
            raise UnavailableError("rpc_unavailable", "the node did not answer")
        return int(self.bank.balances.get(owner, 10**9))


def nodes_of(*views: View, blockhash: str = "") -> Nodes:
    """The seller's nodes."""

    async def recent() -> str:
        return blockhash

    blockhashes = {view.network: recent for view in views if blockhash and view.network.startswith("solana:")}
    return Nodes({view.network: view for view in views}, blockhashes)
