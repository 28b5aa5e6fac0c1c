"""Runs one cell of the interop matrix and judges it: the answer, the receipt, the wire, and the money on the chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import openai

from tests.interop.buyers import PAYMENT_HEADERS, Purchase, buy
from tests.interop.cells import CELLS, CONTROL, Cell, Facilitator, matching
from tests.interop.goods import Goods, order
from tests.interop.install import InstallError
from tests.interop.launch import PeerError
from tests.interop.town import Party, Town
from x402 import networks
from x402.errors import X402Error

__all__ = ["CELLS", "CONTROL", "Cell", "Outcome", "matching", "run"]

_FAILURES = (PeerError, InstallError, X402Error, httpx.HTTPError, httpx2.HTTPError, openai.OpenAIError, ValueError)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. `reason` says in words what is wrong; `paid` is atomic USDC that left the buyer."""

    cell: Cell
    reason: str
    paid: int = 0
    transaction: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything was as it should be."""
        return not self.reason

    def as_json(self) -> dict[str, Any]:
        """The cell and its outcome; `paid` is a string of atomic USDC."""
        cell = self.cell
        return {
            "client": str(cell.client),
            "server": str(cell.server),
            "facilitator": str(cell.facilitator),
            "network": cell.network,
            "version": cell.version,
            "ok": self.ok,
            "reason": self.reason,
            "paid": str(self.paid),
            "transaction": self.transaction,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class _Money:
    """Atomic USDC of everybody who could have any, on one network."""

    buyer: int
    seller: int
    facilitators: int


def run(cell: Cell, town: Town, buyer: Party | None = None) -> Outcome:
    """Makes one purchase, by the town's buyer unless somebody else is named. Never raises for what a peer does."""
    started = time.monotonic()
    buyer = buyer or town.buyer
    try:
        goods = order(cell, town)
        before = _money(cell, town, buyer)
        if cell.facilitator is Facilitator.OURS_STALLED:
            with town.stalled():
                purchase = buy(cell, goods, town, buyer)
        else:
            purchase = buy(cell, goods, town, buyer)
        after = _money(cell, town, buyer)
        faults = [*_faults(cell, goods, purchase, buyer, town), *_false_money(goods, before, after)]
    except _FAILURES as error:
        return Outcome(cell, f"{type(error).__name__}: {error}", seconds=time.monotonic() - started)
    transaction = str((purchase.receipt or {}).get("transaction") or "")
    paid = before.buyer - after.buyer
    return Outcome(cell, "; ".join(faults), paid, transaction, time.monotonic() - started)


def _money(cell: Cell, town: Town, buyer: Party) -> _Money:
    third_parties = sum(town.usdc(party, cell.network) for party in town.third_parties.values())
    return _Money(town.usdc(buyer, cell.network), town.usdc(town.seller, cell.network), third_parties)


def _faults(cell: Cell, goods: Goods, purchase: Purchase, buyer: Party, town: Town) -> Iterator[str]:
    """What is wrong with the answer, the receipt and the way there; the first is the most telling."""
    if purchase.reason:
        yield purchase.reason
        return
    if purchase.answer != goods.answer:
        yield f"the answer is {purchase.answer[:200]!r} instead of {goods.answer!r}"
    expected = (402, 503, 200) if cell.facilitator is Facilitator.OURS_STALLED else (402, 200)
    if purchase.statuses != expected:
        yield f"the replies were {purchase.statuses} instead of {expected}"
    if purchase.paid_with != {PAYMENT_HEADERS[cell.version]}:
        yield f"paid with {sorted(purchase.paid_with)} instead of {PAYMENT_HEADERS[cell.version]}"
    if purchase.signatures not in (1, None):
        yield f"{purchase.signatures} payments were signed"
    yield from _false_receipt(cell, purchase, buyer, town)


def _false_receipt(cell: Cell, purchase: Purchase, buyer: Party, town: Town) -> Iterator[str]:
    receipt = purchase.receipt
    if receipt is None:
        yield "the answer came without a receipt"
        return
    if receipt.get("success") is not True or not receipt.get("transaction"):
        yield f"the receipt names no settlement: {receipt}"
        return
    if not town.landed(str(receipt["transaction"]), cell.network):
        yield f"the chain knows no transaction {receipt['transaction']}"
    if networks.to_caip2(str(receipt.get("network"))) != cell.network:
        yield f"the receipt names the network {receipt.get('network')}"
    if receipt.get("payer") != buyer.address(cell.network):
        yield f"the receipt names the payer {receipt.get('payer')}"


def _false_money(goods: Goods, before: _Money, after: _Money) -> Iterator[str]:
    paid, received = before.buyer - after.buyer, after.seller - before.seller
    if paid != goods.price or received != goods.price:
        yield f"the price was {goods.price} atomic USDC, {paid} left the buyer and {received} reached the seller"
    if after.facilitators != before.facilitators:
        yield f"the facilitators' USDC moved by {after.facilitators - before.facilitators}"
