"""Answers do not live for ever: replayed while they are kept, then 410 with the receipt, and never a second sale."""

from __future__ import annotations

from typing import Any

import pytest

from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Event, Party
from x402.ports import Answer
from x402.settings import GatewaySettings
from x402.stages import Delivered, Settled, Settling, State
from x402.wire.receipt import Receipt

PRICED = {"GET /report": "$0.01"}


def lost(shop: Any) -> Any:
    """A settlement whose money moves and whose outcome nobody hears."""

    def script(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.pending(truth.transaction, truth.network, truth.payer)

    return script


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_an_answer_is_replayed_within_retention_and_gone_after_it(shop: Any, town: Any, flow: str) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())
    first = await client.get("/report", headers=header)
    shop.now += 599
    await shop.paywall.till.reconcile()
    again = await client.get("/report", headers=header)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["payment-response"] == first.headers["payment-response"]

    shop.now += 1
    await shop.paywall.till.reconcile()
    for _ in range(2):
        gone = await client.get("/report", headers=header)
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_gone")
        assert town.receipt_of(gone).transaction == town.receipt_of(first).transaction
        assert "payment-required" not in gone.headers
        assert b"secret" not in gone.content
    other = await client.get("/report?q=other", headers=header)
    assert other.status_code == 409
    assert shop.runs == ["report "]
    assert shop.bank.asked.count("settle") == 1


async def test_retention_is_counted_from_the_delivery_and_can_be_set(shop: Any) -> None:
    client = shop.open(PRICED, answer_retention_seconds=5)
    header = shop.payer.pay(await shop.challenge())
    await client.get("/report", headers=header)
    shop.now += 4
    await shop.paywall.till.reconcile()
    assert (await client.get("/report", headers=header)).status_code == 200
    shop.now += 1
    await shop.paywall.till.reconcile()
    assert (await client.get("/report", headers=header)).status_code == 410


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_a_retention_of_nothing_keeps_nothing_beyond_delivery(shop: Any, flow: str) -> None:
    client = shop.open(PRICED, flow=flow, answer_retention_seconds=0)
    header = shop.payer.pay(await shop.challenge())
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}
    assert (await client.get("/report", headers=header)).status_code == 410
    assert (shop.runs, shop.bank.asked.count("settle")) == (["report "], 1)


async def test_an_answer_that_is_paid_and_not_delivered_is_kept_however_long_it_takes(shop: Any) -> None:
    client = shop.open(PRICED, answer_retention_seconds=0)
    header = shop.payer.pay(await shop.challenge())
    shop.bank.script = [lost(shop), lost(shop)]
    assert (await client.get("/report", headers=header)).status_code == 503
    shop.now += 100_000
    assert await shop.paywall.till.reconcile() == 1
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}
    assert shop.runs == ["report "]


async def test_a_sale_forgets_its_own_answer_and_no_others(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(before: int) -> int:
        raise UnavailableError("ledger_unavailable", "away")

    client = shop.open(PRICED, answer_retention_seconds=0)
    header = shop.payer.pay(await shop.challenge())
    with monkeypatch.context() as broken:
        broken.setattr(shop.ledger, "forget_answers", away)
        assert (await client.get("/report", headers=header)).status_code == 200
        assert (await client.get("/report", headers=header)).status_code == 410


class Outrun:
    """A ledger on which another process delivers and forgets, between our look at the row and at the answer."""

    def __init__(self, ledger: Any, transaction: str) -> None:
        self._ledger, self._transaction = ledger, transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def answer(self, pay_id: str) -> Answer | None:
        entry = await self._ledger.find(Party.GATEWAY, pay_id)
        if entry.state is State.SETTLED:
            await self._ledger.advance(Party.GATEWAY, pay_id, Event.DELIVER, Delivered(self._transaction))
            await self._ledger.forget_answers(2**40)
        answer: Answer | None = await self._ledger.answer(pay_id)
        return answer


async def test_what_another_process_delivered_and_forgot_is_not_made_again(shop: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge())
    shop.bank.script = [lost(shop)]
    assert (await client.get("/report", headers=header)).status_code == 503
    entry = await shop.entry()
    (transaction,) = shop.bank.moved.values()
    assert entry.stage == Settling()
    await shop.ledger.advance(Party.GATEWAY, entry.subject.pay_id, Event.SETTLE, Settled(transaction))
    shop.paywall.till.register.answers.ledger = Outrun(shop.ledger, transaction)
    assert (await client.get("/report", headers=header)).status_code == 410
    assert shop.runs == ["report "]


async def test_a_negative_retention_is_refused(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MisconfiguredError, match="answer_retention_seconds"):
        shop.open(PRICED, answer_retention_seconds=-1)
    shop.open(PRICED)
    monkeypatch.setenv("X402_ANSWER_RETENTION_SECONDS", "-1")
    with pytest.raises(MisconfiguredError, match="X402_ANSWER_RETENTION_SECONDS"):
        GatewaySettings.read()
    monkeypatch.setenv("X402_ANSWER_RETENTION_SECONDS", "0")
    assert GatewaySettings.read().answer_retention_seconds == 0
