"""What a fork took back is not given away, and what lands again is neither lost nor paid twice (fault A16)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response

from tests.gateway.chain_view import View, nodes_of
from x402.gateway.purse import Purse
from x402.lifecycle import Party
from x402.stages import Final, Lost, Refunded, Restored, State
from x402.telemetry import Fact, Telemetry

EVM = "eip155:84532"
PRICED = {"GET /work": "$0.01"}


class Fork:
    """A shop, one payment of it, and a chain that takes that payment back and brings it again."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.broken = False
        self.made = 0
        self.facts: list[Fact] = []
        self.view = View(shop.bank, EVM)

        @shop.app.get("/work")
        async def work() -> Response:
            self.made += 1
            return JSONResponse({"no": "luck"}, 502) if self.broken else JSONResponse({"work": self.made})

    async def pay(self, **options: Any) -> Any:
        """One request, with the payment that everything is about."""
        given = {"nodes": nodes_of(self.view), "telemetry": Telemetry([self.facts.append])}
        self.client = self.shop.open(PRICED, **(given | options))
        self.header = self.shop.payer.pay(await self.shop.challenge("/work"), now=self.shop.now)
        return await self.again()

    async def again(self) -> Any:
        return await self.client.get("/work", headers=self.header)

    async def look(self) -> Any:
        """One round of reconciliation, and the stage after it."""
        await self.shop.paywall.till.reconcile()
        return await self.stage()

    async def stage(self) -> Any:
        """What the gateway remembers."""
        entry = await self.shop.ledger.find(Party.GATEWAY, self.pay_id)
        return entry.stage

    async def undo(self) -> None:
        """A fork without the transfer."""
        (self.pay_id,) = self.shop.bank.moved
        await self.look()
        del self.shop.bank.moved[self.pay_id]
        self.shop.bank.script = [self.says_pending] * 99

    def land(self, *, final: bool) -> None:
        """A block with the transfer, which no fork reaches when it is `final`."""
        self.shop.bank.moved[self.pay_id] = "0x" + "cd" * 32
        self.view.final = final

    @staticmethod
    def says_pending(_: str, truth: Any) -> Any:
        return truth.model_copy(update={"success": False, "transaction": "", "error_reason": "settlement_pending"})


@pytest.fixture
def fork(shop: Any) -> Fork:
    return Fork(shop)


async def test_A16_what_was_paid_and_not_answered_is_answered_when_it_lands_again(fork: Fork) -> None:
    fork.broken = True
    assert (await fork.pay(flow="upfront")).status_code == 502
    await fork.undo()
    assert (await fork.look()).state is State.REVERSED
    fork.broken = False
    # Nothing is made for what is not there, and nobody is told to sign another payment while this one may land.
    waiting = await fork.again()
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "settlement_pending")
    fork.land(final=False)
    assert (await fork.again()).status_code == 503
    assert fork.made == 1
    fork.land(final=True)
    assert (await fork.again()).json() == {"work": 2}
    assert (await fork.stage()) == Final("0x" + "cd" * 32, 7)
    assert (await fork.again()).json() == {"work": 2}
    assert fork.made == 2
    assert [fact.name for fact in fork.facts].count("sale.restored") == 1


async def test_A16_control_what_never_lands_again_is_refused(fork: Fork) -> None:
    fork.broken = True
    await fork.pay(flow="upfront")
    await fork.undo()
    await fork.look()
    fork.view.dead.add(fork.pay_id)
    assert await fork.shop.paywall.till.reconcile() == 0
    refused = await fork.again()
    assert (refused.status_code, refused.json()["error"]) == (402, "expired")
    assert (await fork.stage()).state is State.REFUSED
    assert fork.made == 1


async def test_A16_G10_what_landed_again_and_nobody_fetches_goes_back(fork: Fork) -> None:
    fork.broken = True
    await fork.pay(flow="upfront", purse=Purse(evm="0x" + "77" * 32))
    await fork.undo()
    await fork.look()
    fork.land(final=True)
    assert isinstance(await fork.look(), Restored)
    fork.shop.bank.script = []
    fork.shop.now += 600
    assert isinstance(await fork.look(), Refunded)


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A16_what_was_answered_and_lands_again_is_no_loss(fork: Fork, flow: str) -> None:
    assert (await fork.pay(flow=flow)).json() == {"work": 1}
    await fork.undo()
    assert isinstance(await fork.look(), Lost)
    # Its answer waits for the money, too.
    assert (await fork.again()).status_code == 503
    fork.land(final=False)
    assert isinstance(await fork.look(), Lost)
    fork.land(final=True)
    assert await fork.look() == Final("0x" + "cd" * 32, 7)
    assert (await fork.again()).json() == {"work": 1}
    assert fork.made == 1


async def test_A16_a_loss_is_looked_at_again_when_its_payment_is_presented_after_a_restart(fork: Fork) -> None:
    assert (await fork.pay()).status_code == 200
    await fork.undo()
    await fork.look()
    fork.land(final=True)
    fork.shop.paywall.till.register.watch._lost.clear()
    assert isinstance(await fork.look(), Lost)
    assert (await fork.again()).json() == {"work": 1}
    assert (await fork.stage()).state is State.FINAL


async def test_E01_a_node_that_is_away_tells_nothing_of_what_was_undone(fork: Fork) -> None:
    fork.broken = True
    await fork.pay(flow="upfront")
    await fork.undo()
    await fork.look()
    fork.land(final=True)
    fork.view.away = True
    assert (await fork.again()).status_code == 503
    assert (await fork.look()).state is State.REVERSED
    assert await fork.shop.paywall.till.reconcile() == 1
