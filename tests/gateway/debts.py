"""A seller that owes: its handler fails after the payment, and its wallet pays back."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response
from solders.keypair import Keypair

from tests.gateway.chain_view import View, nodes_of
from x402.gateway.purse import Purse
from x402.lifecycle import Party
from x402.stages import State
from x402.wire.receipt import Receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICED = {"GET /work": "$0.01"}
PRICE = 10_000
BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
AFTER = 600


class Work:
    """A shop whose handler fails until it is mended, with a refund wallet."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.broken = True
        self.purse = Purse(evm="0x" + "77" * 32, svm=str(Keypair.from_seed(bytes([8] * 32))))
        self.views = [View(shop.bank, EVM), View(shop.bank, SVM)]

        @shop.app.get("/work")
        async def work() -> Response:
            return JSONResponse({"no": "luck"}, 502) if self.broken else JSONResponse({"work": "done"})

    def open(self, **options: Any) -> Any:
        given = {"flow": "upfront", "purse": self.purse, "nodes": nodes_of(*self.views, blockhash=BLOCKHASH)}
        return self.shop.open(PRICED, **(given | options))

    async def owe(self, client: Any, network: str = EVM) -> dict[str, str]:
        header: dict[str, str] = self.shop.payer.pay(await self.shop.challenge("/work"), network, now=self.shop.now)
        assert (await client.get("/work", headers=header)).status_code == 502
        assert (await self.shop.entry()).state is State.OWED
        return header

    @property
    def refunds(self) -> list[str]:
        """What left the refund wallet."""
        return [
            pay_id
            for pay_id, payer in self.shop.bank.payers.items()
            if payer in self.purse.addresses.values() and pay_id in self.shop.bank.moved
        ]

    async def reconcile(self) -> int:
        undecided: int = await self.shop.paywall.till.reconcile()
        return undecided

    async def stage(self, pay_id: str) -> Any:
        entry = await self.shop.ledger.find(Party.GATEWAY, pay_id)
        return entry.stage


def pending(pay_id: str, truth: Receipt) -> Receipt:
    return Receipt.pending("", truth.network, truth.payer)


def refusing(pay_id: str, truth: Receipt) -> Receipt:
    return Receipt.refused("insufficient_funds", "the refund wallet is empty", truth.network, truth.payer, proven=True)
