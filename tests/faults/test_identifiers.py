"""Who knows the name of a payment has not paid: identifiers of the extension, and identities read on chain (B14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from coincurve import PrivateKey
from fastapi import FastAPI

from tests.gateway.conftest import NOW, Bank, Payer, Shop
from x402.client.draft import PAYMENT_IDENTIFIER
from x402.ports.ledger import SqlLedger
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

IDENTIFIER = "pay_0123456789abcdef0123456789abcdef"
ROUTES = {"GET /report": "$0.01", "GET /other": "$0.01"}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as memory:
        shop = Shop(FastAPI(), Bank(), memory, Payer())

        @shop.app.get("/report")
        async def report() -> dict[str, str]:
            shop.runs.append("report")
            return {"report": f"secret {len(shop.runs)}"}

        @shop.app.get("/other")
        async def other() -> dict[str, str]:
            shop.runs.append("other")
            return {"other": "secret"}

        shop.open(ROUTES)
        yield shop
        await shop.paywall.till.drain(5)


async def named(shop: Shop, payer: Payer, path: str = "/report") -> Payment:
    """A payment that carries the one identifier which everybody uses here."""
    challenge = await shop.challenge(path)
    payment = payer.payment(challenge.accepts[0], challenge)
    info: dict[str, Any] = {PAYMENT_IDENTIFIER: {"info": {"required": False, "id": IDENTIFIER}}}
    return payment.model_copy(update={"extensions": info})


async def test_B14_an_identifier_buys_nothing_without_a_payment_of_ones_own(shop: Shop) -> None:
    mine, thief = shop.payer, Payer(key=PrivateKey(bytes([5] * 32)))
    paid = await named(shop, mine)
    first = await shop.client.get("/report", headers=shop.payer.header(paid))
    assert (first.status_code, first.json()) == (200, {"report": "secret 1"})
    # Without a payment, and with one that was forged over the known name, there is nothing.
    for headers in ({"Payment-Identifier": IDENTIFIER, "Idempotency-Key": IDENTIFIER}, {}):
        assert (await shop.client.get("/report", headers=headers)).status_code == 402
    forged = (await named(shop, thief)).model_copy(update={"payload": paid.payload | {"signature": "0x" + "11" * 65}})
    assert (await shop.client.get("/report", headers=shop.payer.header(forged))).status_code in (402, 409)
    # Another payer under the same name buys an answer of his own, and never reads the first one's.
    second = await shop.client.get("/report", headers=shop.payer.header(await named(shop, thief)))
    assert (second.status_code, second.json()) == (200, {"report": "secret 2"})
    assert len(shop.bank.moved) == 2


async def test_B14_the_same_payment_on_another_route_is_409(shop: Shop) -> None:
    header = shop.payer.header(await named(shop, shop.payer))
    assert (await shop.client.get("/report", headers=header)).status_code == 200
    for path in ("/other", "/report?x=1"):
        answer = await shop.client.get(path, headers=header)
        assert answer.status_code in (402, 409), answer.text
        assert b"secret" not in answer.content
    assert shop.runs == ["report"]


async def test_B14_one_name_is_one_payment_of_its_payer(shop: Shop) -> None:
    """A payer who signs a second time for what he calls one payment is told so, and is not charged."""
    first, second = await named(shop, shop.payer), await named(shop, shop.payer)
    assert (await shop.client.get("/report", headers=shop.payer.header(first))).status_code == 200
    refused = await shop.client.get("/report", headers=shop.payer.header(second))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "payment_identifier_conflict")
    assert (len(shop.bank.moved), shop.runs) == (1, ["report"])
    again = await shop.client.get("/report", headers=shop.payer.header(first))
    assert (again.status_code, again.json()) == (200, {"report": "secret 1"})


async def test_B14_a_name_whose_payment_came_to_nothing_is_free_again(shop: Shop) -> None:
    shop.bank.balances[shop.payer.address] = 10_000
    poor = await named(shop, shop.payer)
    shop.bank.script = [
        lambda pay_id, truth: Receipt.refused("insufficient_funds", "no", truth.network, truth.payer, proven=True)
    ]
    assert (await shop.client.get("/report", headers=shop.payer.header(poor))).status_code == 402
    answer = await shop.client.get("/report", headers=shop.payer.header(await named(shop, shop.payer)))
    assert answer.status_code == 200
    assert len(shop.bank.moved) == 1


async def test_B14_fifty_at_once_under_one_name_each_get_their_own(shop: Shop) -> None:
    payers = [Payer(key=PrivateKey(bytes([9, at]) + bytes([1] * 30))) for at in range(25)]
    payments = [await named(shop, payer) for payer in payers]

    async def buy(payment: Payment) -> httpx.Response:
        return await shop.client.get("/report", headers=shop.payer.header(payment))

    replies = await asyncio.gather(*(buy(payment) for payment in payments for _ in range(2)))
    served = [reply.json()["report"] for reply in replies if reply.status_code == 200]
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert len(set(served)) == len(shop.bank.moved) == len(shop.runs) == 25


async def test_control_a_payment_without_a_name_is_served(shop: Shop) -> None:
    header = shop.payer.pay(await shop.challenge())
    assert (await shop.client.get("/report", headers=header)).json() == {"report": "secret 1"}
