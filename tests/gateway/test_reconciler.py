"""A round of reconciliation: what it asks, what it counts as undecided, and whom it lets go on meanwhile (A22, E11)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response

from tests.gateway.waiting import until
from x402.lifecycle import Party
from x402.ports.ledger import SqlLedger
from x402.stages import State
from x402.wire.receipt import Receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
NOW = 1_800_000_000
PRICED = {"GET /report": "$0.01"}
UPFRONT = {"flow": "upfront"}


def pending(_: str, truth: Receipt) -> Receipt:
    return Receipt.pending("", truth.network, truth.payer)


async def pay(shop: Any, count: int = 1) -> list[dict[str, str]]:
    """Payments whose settlement nobody knows the end of."""
    challenge = await shop.challenge()
    headers = [shop.payer.pay(challenge) for _ in range(count)]
    shop.bank.script = [pending] * count
    for header in headers:
        assert (await shop.client.get("/report", headers=header)).status_code == 503
    return headers


async def test_A22_one_round_looks_at_everything_that_is_open_once(shop: Any) -> None:
    """Also at more than are taken at a time, and at each of them once although all of them stay open."""
    shop.open(PRICED, **UPFRONT)
    reconciler = shop.paywall.till.reconciler
    assert reconciler.held_elsewhere == 0
    await pay(shop, 35)
    asked = shop.bank.asked.count("settle")
    shop.bank.script = [pending] * 35
    assert await reconciler.run() == 35
    assert shop.bank.asked.count("settle") == asked + 35
    # Control: what is decided is counted no more.
    assert await reconciler.run() == 0
    assert len(shop.bank.moved) == 35


async def test_E11_a_payment_that_was_looked_at_is_free_while_others_are_still_asked_about(
    shop: Any, tmp_path: Path
) -> None:
    """Another replica may take it at once; the one whose facilitator hangs stays with who asks it."""
    path = f"sqlite:///{tmp_path / 'gateway.sqlite'}"
    async with SqlLedger(path, clock=lambda: NOW) as ours, SqlLedger(path, clock=lambda: NOW) as other:
        shop.ledger = ours
        client = shop.open(PRICED, **UPFRONT)
        headers = await pay(shop, 2)
        go_on, looked = asyncio.Event(), list[str]()

        async def slowly(pay_id: str, truth: Receipt) -> Receipt:
            looked.append(pay_id)
            if len(looked) == 1:
                return pending(pay_id, truth)
            await go_on.wait()
            shop.bank.move(pay_id, truth)
            return truth

        shop.bank.script = [slowly, slowly]
        round_ = asyncio.create_task(shop.paywall.till.reconcile())
        await until(lambda: len(looked) == 2 and len(shop.paywall.till.reconciler._looks) == 1)
        assert await other.lease(Party.GATEWAY, looked[0], 60)
        assert not await other.lease(Party.GATEWAY, looked[1], 60)
        # Whoever sends the one that is asked about waits for the answer, and is served with it.
        waiting = [asyncio.create_task(client.get("/report", headers=header)) for header in headers]
        await asyncio.sleep(0.02)
        go_on.set()
        assert sorted([(await reply).status_code for reply in waiting]) == [200, 409]
        assert await round_ == 1
        assert list(shop.bank.moved) == [looked[1]]


@pytest.mark.parametrize(("network", "landed"), [(EVM, True), (EVM, False), (SVM, True)])
async def test_A11_a_claim_is_left_alone_until_its_signature_is_dead_and_then_asked_about(
    shop: Any, network: str, landed: bool
) -> None:
    """Its answer failed, and the same payment may ask again; afterwards only a stranger can have settled it. A Solana
    payment does not say when it dies: its offer does."""

    @shop.app.get("/broken")
    async def broken() -> Response:
        return Response(status_code=500)

    client = shop.open({"GET /broken": "$0.01"})
    challenge = await shop.challenge("/broken")
    offer = next(offer for offer in challenge.accepts if offer.network == network)
    header = shop.payer.pay(challenge, network, lifetime=100)
    assert (await client.get("/broken", headers=header)).status_code == 500
    # A minute more, because clocks differ.
    shop.now += (100 if network == EVM else offer.max_timeout_seconds) + 59
    assert await shop.paywall.till.reconcile() == 0
    entry = await shop.entry()
    assert (entry.state, shop.bank.asked.count("settle")) == (State.CLAIMED, 0)
    if landed:
        shop.bank.moved[entry.subject.pay_id] = "0x" + "ab" * 32
    shop.now += 1
    assert await shop.paywall.till.reconcile() == 0
    after = await shop.ledger.find(Party.GATEWAY, entry.subject.pay_id)
    assert after.state is (State.OWED if landed else State.REFUSED)
    assert shop.bank.asked.count("settle") == 1


async def test_E11_what_this_process_works_on_otherwise_is_left_to_that(shop: Any) -> None:
    shop.open(PRICED, **UPFRONT)
    await pay(shop)
    reconciler, asked = shop.paywall.till.reconciler, len(shop.bank.asked)
    pay_id = (await shop.entry()).subject.pay_id
    reconciler.left_alone = {pay_id}
    assert (await reconciler.run(), len(shop.bank.asked)) == (0, asked)
    # Control: once that is over, it is anybody's.
    reconciler.left_alone = ()
    await shop.paywall.till.register.leases.end(pay_id)
    assert (await reconciler.run(), len(shop.bank.moved)) == (0, 1)


async def test_A22_an_answer_that_waited_for_its_money_is_delivered_and_kept_for_as_long_as_any(shop: Any) -> None:
    """It is the next asker's at once, and in the ledger no longer than is said."""
    shop.open(PRICED)
    (header,) = await pay(shop)
    pay_id = (await shop.entry()).subject.pay_id
    assert await shop.paywall.till.reconcile() == 0
    after = await shop.ledger.find(Party.GATEWAY, pay_id)
    assert after.state is State.DELIVERED
    for seconds, kept in ((599, True), (1, False)):
        shop.now += seconds
        await shop.paywall.till.reconcile()
        assert (await shop.ledger.answer(pay_id) is not None) is kept
        assert (await shop.client.get("/report", headers=header)).status_code == (200 if kept else 410)


async def test_A22_a_round_that_fails_for_an_unforeseen_reason_is_logged_and_the_next_one_goes_on(
    shop: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the error says may be a key, and is not logged."""
    shop.open(PRICED, **UPFRONT, reconcile_seconds=0.001)
    await pay(shop)
    real, failures = shop.paywall.till.reconcile, [KeyError("0xkey"), ValueError("0xkey")]

    async def reconcile() -> int:
        if failures:
            raise failures.pop()
        return int(await real())

    monkeypatch.setattr(shop.paywall.till, "reconcile", reconcile)
    with caplog.at_level(logging.ERROR):
        loop = asyncio.create_task(shop.paywall._reconcile())
        await until(lambda: shop.paywall.reconciled.is_set() or loop.done())
        assert not loop.done()
        loop.cancel()
    assert len(shop.bank.moved) == 1
    told = [record.getMessage() for record in caplog.records]
    assert [words.partition(" in ")[0] for words in told] == [
        "reconciling failed: ValueError",
        "reconciling failed: KeyError",
    ]
    assert all("test_reconciler.py:" in words for words in told)
    assert "0xkey" not in caplog.text
