"""Whoever wants to know what becomes of payments is told: signed, in order, at least once. AiMo row 10."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook as Receiver

from tests.gateway.accounts.keychain import Hour
from tests.ports.ledgers import subject
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.operations.webhooks import BACKOFF_SECONDS, Webhooks
from x402.gateway.problem import ApiProblem
from x402.gateway.sealed import Seal
from x402.lifecycle import Event, Party, begin
from x402.ports.courier import Undelivered
from x402.ports.deliveries import DeliveryState, SqlDeliveries
from x402.ports.ledger import SqlLedger
from x402.ports.operator_schema import outbox
from x402.stages import Claimed, Delivered, Held, Settled, Settling

SHOP = Party.GATEWAY
URL = "https://hook.example/x402"
SEAL = Seal([b"k" * 16])


@dataclass
class Postman:
    """In place of the network: notes what it is given and answers as told, 200 when told nothing."""

    sent: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    answers: list[int | Exception] = field(default_factory=list)
    dies: bool = False

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, inside: bool = False) -> int:
        if self.dies:
            raise asyncio.CancelledError
        self.sent.append((url, dict(headers), body.decode()))
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def topics(self) -> list[str]:
        return [json.loads(body)["type"] for _, _, body in self.sent]


@pytest.fixture
def clock() -> Hour:
    return Hour()


@pytest.fixture
async def ledger(ledger_url: str, clock: Hour) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(ledger_url, clock=clock) as ledger:
        yield ledger


@pytest.fixture
def postman() -> Postman:
    return Postman()


@pytest.fixture
def hooks(ledger: SqlLedger, postman: Postman, clock: Hour) -> Webhooks:
    return Webhooks(SqlDeliveries(ledger), postman, clock=clock, seal=SEAL)


async def sell(ledger: SqlLedger, name: str = "pay") -> None:
    """A payment from its claim to its delivery."""
    await ledger.begin(begin(SHOP, subject(name), Claimed()))
    await ledger.advance(SHOP, name, Event.SUBMIT, Settling())
    await ledger.advance(SHOP, name, Event.SETTLE, Settled("0xtx"))
    await ledger.advance(SHOP, name, Event.DELIVER, Delivered("0xtx"))


STEPS = [f"payment.{state}" for state in ("claimed", "settling", "settled", "delivered")]


async def test_row_010_every_change_of_a_payment_is_told_and_signed(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman, clock: Hour
) -> None:
    await sell(ledger, "before")
    secret, _ = await hooks.register(URL, account="")
    clock.now = int(datetime.now(UTC).timestamp())  # the receiver checks how old a message is
    await sell(ledger)
    while await hooks.step():
        pass
    assert postman.topics == STEPS, "in order, and nothing from before anybody asked"
    for url, headers, body in postman.sent:
        assert url == URL
        heard: Any = Receiver(secret).verify(body, headers)
        assert heard["data"]["payment"] == "pay"
        assert heard["data"]["amount"] == "1000"
        assert headers["webhook-attempt"] == "1"
        assert "webhook-redelivery" not in headers
        with pytest.raises(Exception, match="No matching signature"):
            Receiver(secret).verify(body + " ", headers)
    assert json.loads(postman.sent[2][2])["data"]["transaction"] == "0xtx"
    assert await hooks.book.waiting() == 0


async def test_row_010_what_fails_is_sent_again_later_and_in_order(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman, clock: Hour
) -> None:
    await hooks.register(URL, account="")
    await sell(ledger)
    postman.answers = [500, Undelivered("ConnectError")]
    assert await hooks.step() == 1
    assert await hooks.step() == 0, "nothing overtakes, and nothing is sent before its time"
    clock.now += BACKOFF_SECONDS[0]
    assert await hooks.step() == 1
    assert await hooks.step() == 0
    clock.now += BACKOFF_SECONDS[1]
    while await hooks.step():
        pass
    assert postman.topics == [STEPS[0]] * 3 + STEPS[1:]
    ids = [headers["webhook-id"] for _, headers, _ in postman.sent]
    assert len(set(ids[:3])) == 1, "one message keeps its name however often it is sent"
    marks = [(headers["webhook-attempt"], headers.get("webhook-redelivery")) for _, headers, _ in postman.sent[:4]]
    assert marks == [("1", None), ("2", "true"), ("3", "true"), ("1", None)]


async def test_row_010_other_payments_do_not_wait_for_one(hooks: Webhooks, ledger: SqlLedger, postman: Postman) -> None:
    await hooks.register(URL, account="", topics=["payment.settled", "payment.delivered"])
    await sell(ledger, "one")
    await sell(ledger, "two")
    postman.answers = [500]
    while await hooks.step():
        pass
    told = [(json.loads(body)["data"]["payment"], json.loads(body)["type"]) for _, _, body in postman.sent]
    assert told[2:] == [("two", "payment.delivered")]
    assert sorted(told[:2]) == [("one", "payment.settled"), ("two", "payment.settled")]


async def test_row_010_a_delivery_is_given_up_and_can_be_sent_again(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman, clock: Hour
) -> None:
    await hooks.register(URL, account="", topics=["payment.settled"])
    await sell(ledger)
    postman.answers = [500] * 50
    for _ in range(50):
        await hooks.step()
        clock.now += 2 * BACKOFF_SECONDS[-1]
    assert len(postman.sent) == len(BACKOFF_SECONDS) + 1
    (delivery,) = await hooks.book.listed()
    assert (delivery.state, delivery.status) == (DeliveryState.GIVEN_UP, 500)
    postman.answers = []
    assert await hooks.book.again(delivery.delivery_id)
    await hooks.step()
    assert postman.sent[-1][1]["webhook-redelivery"] == "true"
    (delivery,) = await hooks.book.listed()
    assert delivery.state is DeliveryState.ARRIVED
    assert not await hooks.book.again("msg_unknown")


async def test_row_010_a_process_that_dies_while_sending_sends_again(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman, clock: Hour
) -> None:
    await hooks.register(URL, account="", topics=["payment.settled"])
    await sell(ledger)
    postman.dies = True
    with pytest.raises(asyncio.CancelledError):
        await hooks.step()
    postman.dies = False
    assert await hooks.step() == 0, "whoever died may still be sending"
    clock.now += 61
    assert await hooks.step() == 1
    assert postman.sent[-1][1]["webhook-attempt"] == "2"


async def test_row_010_an_account_hears_of_its_own_payments_alone(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman
) -> None:
    await hooks.register(URL, account="eip155:84532:0xPAYER", topics=["payment.delivered"])
    await hooks.register("https://other.example/", account="eip155:84532:0xother")
    await sell(ledger)
    while await hooks.step():
        pass
    assert [(url, json.loads(body)["type"]) for url, _, body in postman.sent] == [(URL, "payment.delivered")]


async def test_row_010_nothing_is_noted_when_nobody_asks_and_nothing_that_was_rolled_back(
    hooks: Webhooks, ledger: SqlLedger
) -> None:
    async def noted() -> int:
        count = select(func.count()).select_from(outbox)
        return await ledger.run(lambda connection: int(connection.execute(count).scalar() or 0))

    await sell(ledger, "unheard")
    assert await noted() == 0
    _, webhook = await hooks.register(URL, account="")
    await sell(ledger, "heard")
    assert await noted() == len(STEPS)
    with pytest.raises(Exception, match="does not lead"):
        await ledger.advance(SHOP, "heard", Event.SUBMIT, Settling())
    await ledger.begin(begin(Party.CLIENT, subject("mine"), Held()))
    assert await noted() == len(STEPS), "a buyer's memory in the same database is nobody's business"
    assert await hooks.book.remove(webhook.webhook_id)
    assert await noted() == 0


async def test_two_replicas_deliver_each_message_once(ledger_url: str, clock: Hour) -> None:
    postman = Postman()
    async with SqlLedger(ledger_url, clock=clock) as first, SqlLedger(ledger_url, clock=clock) as second:
        both = [Webhooks(SqlDeliveries(one), postman, clock=clock, seal=SEAL) for one in (first, second)]
        await both[0].register(URL, account="")
        for at in range(3):
            await sell((first, second)[at % 2], f"pay{at}")
        while sum(await asyncio.gather(*(hooks.step() for hooks in both))):
            pass
    assert sorted(postman.topics) == sorted(STEPS * 3)
    for at in range(3):
        mine = [json.loads(body)["type"] for _, _, body in postman.sent if f'"pay{at}"' in body]
        assert mine == STEPS


async def test_row_010_a_test_message_and_other_topics(hooks: Webhooks, postman: Postman) -> None:
    _, webhook = await hooks.register(URL, account="me", topics=["budget.*"])
    await hooks.register("https://other.example/", account="you")
    await hooks.test(webhook)
    await hooks.announce("budget.threshold", account="me", data={"percent": 80})
    while await hooks.step():
        pass
    assert [(url, topic) for (url, _, _), topic in zip(postman.sent, postman.topics, strict=True)] == [
        (URL, "webhook.test"),
        (URL, "budget.threshold"),
    ]


async def test_row_098_a_webhooks_secret_is_sealed(
    hooks: Webhooks, ledger: SqlLedger, postman: Postman, clock: Hour
) -> None:
    secret, webhook = await hooks.register(URL, account="")
    assert secret.removeprefix("whsec_").encode() not in webhook.secret
    stranger = Webhooks(SqlDeliveries(ledger), postman, clock=clock, seal=Seal([b"another key here"]))
    await stranger.test(webhook)
    await stranger.step()
    assert postman.sent == []
    (delivery,) = await hooks.book.listed()
    assert "can't be read" in delivery.error


async def test_what_no_webhook_can_be_is_said(hooks: Webhooks) -> None:
    with pytest.raises(MalformedError):
        await hooks.register("https://user@hook.example/", account="me")
    with pytest.raises(ApiProblem, match="topics are"):
        await hooks.register(URL, account="me", topics=["everything"])
    with pytest.raises(MisconfiguredError, match="whsec_"):
        await hooks.register(URL, account="", secret="short")
    for at in range(10):
        await hooks.register(f"{URL}/{at}", account="me")
    with pytest.raises(ApiProblem, match="at most 10"):
        await hooks.register(URL, account="me")


async def test_deliveries_that_ended_are_forgotten_in_time(hooks: Webhooks, ledger: SqlLedger, clock: Hour) -> None:
    await hooks.register(URL, account="")
    await sell(ledger)
    await hooks.step()
    clock.now += 100
    assert await hooks.book.forget(clock.now - 50) == 1
    assert len(await hooks.book.listed()) == len(STEPS) - 1, "what is due stays"
