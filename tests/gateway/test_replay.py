"""The same payment again: replays, open settlements and crashes (faults A04-A09, A19, A22, G02)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import Response

from x402.gateway.flow import Till
from x402.gateway.offers import Offers
from x402.gateway.recording import BrokenOff
from x402.gateway.register import Register
from x402.gateway.sale import Sale, Sink
from x402.gateway.terms import Flow, Seller, Terms
from x402.lifecycle import Party
from x402.ports.ledger import SqlLedger
from x402.stages import State
from x402.telemetry import Fact, Telemetry
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


PRICED = {"GET /report": "$0.01"}


def refusing(pay_id: str, truth: Receipt) -> Receipt:
    """A settlement that provably failed after a good verification."""
    return Receipt.refused("insufficient_funds", "the balance moved away", truth.network, truth.payer, proven=True)


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A04_A07_two_hundred_at_once_are_one_sale(shop: Any, flow: str) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())
    replies = await asyncio.gather(*(client.get("/report", headers=header) for _ in range(200)))
    served = {reply.content for reply in replies if reply.status_code == 200}
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert served == {b'{"report":"secret 1"}'}
    assert all(reply.headers["retry-after"] for reply in replies if reply.status_code == 409)
    assert shop.runs == ["report "]
    assert len(shop.bank.moved) == 1


async def test_A07_replays_one_after_another_are_one_sale(shop: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge())
    replies = [await client.get("/report", headers=header) for _ in range(100)]
    assert {(reply.status_code, reply.content) for reply in replies} == {(200, b'{"report":"secret 1"}')}
    assert shop.bank.asked.count("settle") == 1


async def test_A05_another_signature_over_a_known_payment_gets_nothing(shop: Any) -> None:
    """Whoever reads a payment's identity on chain does not get its answer (fault B14)."""
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    payment = shop.payer.payment(challenge.accepts[0], challenge)
    assert (await client.get("/report", headers=shop.payer.header(payment))).status_code == 200
    forged = payment.model_copy(update={"payload": {**payment.payload, "signature": "0x" + "11" * 65}})
    response = await client.get("/report", headers=shop.payer.header(forged))
    assert (response.status_code, response.json()["error"]["code"]) == (409, "payment_already_used")


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A09_an_open_settlement_is_503_and_the_same_payment_finds_it(shop: Any, town: Any, flow: str) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.pending(truth.transaction, truth.network, truth.payer)

    shop.bank.script = [lost, lost]
    for _ in range(2):
        response = await client.get("/report", headers=header)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        assert "payment-required" not in response.headers
        error = response.json()["error"]
        assert error["code"] == "settlement_pending"
        assert [error["details"]["transaction"]] == list(shop.bank.moved.values())
        assert town.receipt_of(response).transaction == error["details"]["transaction"]
        assert b"secret" not in response.content
    served = await client.get("/report", headers=header)
    assert served.json() == {"report": "secret 1"}
    assert shop.runs == ["report "]
    assert len(shop.bank.moved) == 1


async def test_A19_an_observer_that_fails_changes_nothing(shop: Any) -> None:
    def observe(fact: Fact) -> None:
        raise RuntimeError(fact.name)

    telemetry = Telemetry([observe])
    client = shop.open(PRICED, telemetry=telemetry)
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200
    assert telemetry.failures >= 3


async def test_expired_claims_are_released_and_not_served(shop: Any) -> None:
    @shop.app.get("/shaky")
    async def shaky() -> Response:
        shop.runs.append("shaky")
        return Response(status_code=503)

    client = shop.open({"GET /shaky": "$0.01"})
    header = shop.payer.pay(await shop.challenge("/shaky"))
    assert (await client.get("/shaky", headers=header)).status_code == 503
    shop.now += 301
    response = await client.get("/shaky", headers=header)
    assert (response.status_code, response.json()["error"]) == (402, "payment_expired")
    assert shop.runs == ["shaky"]


class Crashing:
    """Passes calls on to a part, and dies before or after the n-th: what follows is never done."""

    def __init__(self, part: Any, fuse: list[int], *, after: bool) -> None:
        self._part, self._fuse, self._after = part, fuse, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._fuse[0] -= 1
            if self._fuse[0] == 0 and not self._after:
                raise asyncio.CancelledError
            result = await method(*args, **kwargs)
            if self._fuse[0] == 0:
                raise asyncio.CancelledError
            return result

        return call


async def sell(
    bank: Any, ledger: Any, payment: Payment, requirement: Requirement, runs: list[int], now: int
) -> tuple[int, bytes]:
    """One request in a process of its own."""
    till = Till(Register(bank, ledger, clock=lambda: now, answer_keys=[b"a key for answers"]))

    async def offer() -> Requirement:
        return requirement

    async def handler(sale: Sale, sink: Sink) -> None:
        runs.append(1)
        await sink.start(200, (("X-Run", str(len(runs))),))
        await sink.write(b"the answer")

    reply = await till.take(payment, "f" * 64, offer, handler)
    body = b"".join([chunk async for chunk in reply.chunks])
    await till.drain(1)
    return reply.status, body


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("flow", [Flow.AUTHORIZATION, Flow.UPFRONT])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_A22_a_crash_at_every_step_costs_nobody_anything(
    shop: Any, town: Any, network: str, flow: Flow, after: bool
) -> None:
    shop.open(PRICED)
    seller = Seller(pay_to=town.PAY_TO)
    offers = Offers(shop.bank, seller, clock=lambda: town.NOW)
    requirements = await offers.requirements(Terms(price="$0.01", flow=flow), request_digest="f" * 64)
    requirement = next(one for one in requirements if one.network == network)
    challenge = Challenge(accepts=(requirement,), resource=Resource(url="http://shop.test/report"))
    crashes = 0
    for step in range(1, 20):
        payment = shop.payer.payment(requirement, challenge)
        moved_before, runs, fuse = len(shop.bank.moved), list[int](), [step]
        bank = Crashing(shop.bank, fuse, after=after)
        ledger = Crashing(shop.ledger, fuse, after=after)
        try:
            await sell(bank, ledger, payment, requirement, runs, town.NOW)
        except (asyncio.CancelledError, BrokenOff):
            crashes += 1
        # The process starts again on the same disk; first it may reconcile, then the client sends the same payment.
        till = Till(Register(shop.bank, shop.ledger, clock=lambda: town.NOW, answer_keys=[b"a key for answers"]))
        if step % 2:
            await till.reconcile()
        again = await sell(shop.bank, shop.ledger, payment, requirement, runs, town.NOW)
        assert again == (200, b"the answer"), f"step {step}"
        assert len(shop.bank.moved) == moved_before + 1
        assert len(runs) <= 2
        if fuse[0] > 0:
            break
    else:
        pytest.fail("the sale never went through")
    assert crashes >= 6
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_A22_reconcile_finishes_what_was_paid_and_releases_what_never_will_be(shop: Any, town: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge())

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.pending(truth.transaction, truth.network, truth.payer)

    shop.bank.script = [lost, lost]
    assert (await client.get("/report", headers=header)).status_code == 503
    assert (await shop.entry()).state is State.SETTLING
    assert await shop.paywall.till.reconcile() == 1
    assert await shop.paywall.till.reconcile() == 0
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}

    @shop.app.get("/never")
    async def never() -> Response:
        return Response(status_code=503)

    client = shop.open({"GET /never": "$0.01"})
    await client.get("/never", headers=shop.payer.pay(await shop.challenge("/never")))
    await shop.paywall.till.reconcile()
    assert (await shop.entry()).state is State.CLAIMED
    shop.now += 400
    await shop.paywall.till.reconcile()
    assert await shop.ledger.unresolved(Party.GATEWAY) == []
    assert sum((await shop.ledger.totals(Party.GATEWAY, State.REFUSED)).values()) == 10_000


async def test_A22_who_comes_back_while_the_payment_is_looked_at_is_served_after_that(shop: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge())
    asked, told = asyncio.Event(), asyncio.Event()

    def unknown(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.pending("0x" + "57" * 32, truth.network, truth.payer)

    async def slow(pay_id: str, truth: Receipt) -> Receipt:
        asked.set()
        await told.wait()
        return shop.bank.move(pay_id, truth)  # type: ignore[no-any-return]

    shop.bank.script = [unknown, slow]
    assert (await client.get("/report", headers=header)).status_code == 503
    looking = asyncio.create_task(shop.paywall.till.reconcile())
    await asked.wait()
    again = [asyncio.create_task(client.get("/report", headers=header)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in again)
    told.set()
    assert [(await task).json() for task in again] == [{"report": "secret 1"}] * 3
    assert (await looking, shop.bank.asked.count("settle"), len(shop.bank.moved)) == (0, 2, 1)


async def test_A11_a_claim_that_a_stranger_settled_is_served_however_late(shop: Any) -> None:
    """The payer has paid: that our own time to take the money is over changes nothing."""
    answers = [503, 200, 200]

    @shop.app.get("/shaky")
    async def shaky() -> Response:
        return Response("paid for", status_code=answers.pop(0))

    client = shop.open({"GET /shaky": "$0.01"})
    header = shop.payer.pay(await shop.challenge("/shaky"))
    assert (await client.get("/shaky", headers=header)).status_code == 503
    entry = await shop.entry()
    shop.bank.moved[entry.subject.pay_id] = "0x" + "57" * 32
    shop.now += 400
    await shop.paywall.till.reconcile()
    assert (await shop.entry()).state is State.OWED
    response = await client.get("/shaky", headers=header)
    assert (response.status_code, response.text) == (200, "paid for")


async def test_a_ledger_that_is_away_takes_no_payment(shop: Any) -> None:
    closed = SqlLedger("sqlite://")
    client = shop.open(PRICED, ledger=closed)
    response = await client.get("/report", headers=shop.payer.pay(await shop.challenge()))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert shop.runs == []
    assert shop.bank.moved == {}


async def test_G02_challenges_keep_no_memory(shop: Any) -> None:
    client = shop.open(PRICED)
    for index in range(300):
        assert (await client.get(f"/report?q={index}")).status_code == 402
    till = shop.paywall.till
    assert (till._running, till._tasks) == ({}, set())
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_request_state_is_per_request(shop: Any) -> None:
    @shop.app.get("/state")
    async def state(request: Request) -> dict[str, str]:
        return {"payment": str(hasattr(request.state, "payment"))}

    client = shop.open(PRICED)
    await client.get("/report", headers=shop.payer.pay(await shop.challenge()))
    assert (await client.get("/state")).json() == {"payment": "False"}
