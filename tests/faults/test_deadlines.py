"""Work that takes longer than the payment for it lives: settled before it ends, or refused, never done unpaid (A17)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from tests.gateway.conftest import EVM, NOW, SVM, Bank, Payer, Shop
from x402.gateway import flow
from x402.ports.ledger import SqlLedger
from x402.wire.receipt import Receipt

BRIEF = 0.05


class SlowShop(Shop):
    """A shop whose report takes until `ready` is set; `told` is what happened, in order."""

    def prepare(self) -> None:
        self.told: list[str] = []
        self.ready = asyncio.Event()
        self.status = 200

        @self.app.get("/report")
        async def report() -> Response:
            self.told.append("begun")
            await self.ready.wait()
            self.told.append("done")
            return Response(b"secret", status_code=self.status)

        def settled(pay_id: str, truth: Receipt) -> Receipt:
            self.told.append("settled")
            self.ready.set()
            return self.bank.move(pay_id, truth)

        self.bank.script = [settled]
        self.open({"GET /report": "$0.01"})


@pytest.fixture
async def shop() -> AsyncIterator[SlowShop]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as memory:
        shop = SlowShop(FastAPI(), Bank(), memory, Payer())
        shop.prepare()
        yield shop
        await shop.paywall.till.drain(5)


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_A17_what_takes_too_long_is_settled_before_it_ends(
    shop: SlowShop, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = {EVM: 300, SVM: flow.BLOCKHASH_SECONDS}[network]
    monkeypatch.setattr(flow, "SETTLING_SECONDS", life - BRIEF)
    answer = await shop.client.get("/report", headers=shop.payer.pay(await shop.challenge(), network))
    assert (answer.status_code, answer.content) == (200, b"secret")
    assert shop.told == ["begun", "settled", "done"]
    assert len(shop.bank.moved) == 1


async def test_A17_a_payment_that_dies_at_once_is_settled_before_the_work_begins(shop: SlowShop) -> None:
    header = shop.payer.pay(await shop.challenge(), lifetime=flow.SETTLING_SECONDS)
    answer = await shop.client.get("/report", headers=header)
    assert (answer.status_code, answer.content) == (200, b"secret")
    assert shop.told == ["settled", "begun", "done"]


async def test_A17_work_whose_payment_fails_on_the_way_is_broken_off(
    shop: SlowShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "SETTLING_SECONDS", 300 - BRIEF)
    shop.bank.script = [
        lambda _, truth: Receipt.refused("insufficient_funds", "gone", truth.network, truth.payer, proven=True)
    ]
    answer = await shop.client.get("/report", headers=shop.payer.pay(await shop.challenge()))
    assert answer.status_code == 402
    shop.ready.set()
    await asyncio.sleep(0)
    assert shop.told == ["begun"]
    assert shop.bank.moved == {}


async def test_A17_work_that_fails_after_its_payment_is_owed_and_made_again(
    shop: SlowShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "SETTLING_SECONDS", 300 - BRIEF)
    shop.status = 500
    header = shop.payer.pay(await shop.challenge())
    assert (await shop.client.get("/report", headers=header)).status_code == 500
    assert (await shop.entry()).state == "owed"
    shop.status = 200
    again = await shop.client.get("/report", headers=header)
    assert (again.status_code, again.content, len(shop.bank.moved)) == (200, b"secret", 1)


async def test_control_quick_work_is_settled_after_it(shop: SlowShop) -> None:
    shop.ready.set()
    answer = await shop.client.get("/report", headers=shop.payer.pay(await shop.challenge()))
    assert (answer.status_code, answer.content) == (200, b"secret")
    assert shop.told == ["begun", "done", "settled"]
