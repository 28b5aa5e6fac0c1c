"""What is kept, and for how long; and what was asked is in no table at all. AiMo row 99; faults E03, G06."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from tests.gateway.accounts.keychain import Hour
from tests.gateway.operations.board import fill
from tests.gateway.operations.test_gateway_operations import CHAT, Open, filled, gateway, sign_in
from x402.devnet.model import ECHO
from x402.gateway.operations.retention import Purge, Retention
from x402.ports.deliveries import Message, SqlDeliveries, Webhook
from x402.ports.ledger import SqlLedger
from x402.ports.retention import SqlForgetful
from x402.ports.schema import bills
from x402.telemetry import Fact, Telemetry

__all__ = ["gateway"]

DAY = 86_400
CANARY = "canary-7f3a-what-a-person-asks-in-confidence"


async def everything(ledger: SqlLedger) -> str:
    """Every table of a ledger, as text."""

    def read(connection: Any) -> str:
        names = inspect(connection).get_table_names()
        return "".join(str(connection.execute(text(f'SELECT * FROM "{name}"')).all()) for name in names)

    return await ledger.run(read)


@pytest.mark.parametrize("stream", [False, True])
async def test_row_099_what_was_asked_is_in_no_table(shop: Any, town: Any, gateway: Open, stream: bool) -> None:
    client = gateway()
    await filled(shop, 1_000_000)
    await client.post("/api/v1/webhooks", json={"url": "https://hook.example/"}, headers=sign_in(shop))
    body = {"model": ECHO, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 60, "stream": stream}
    challenge = town.challenge_of(await client.post(CHAT, json=body))
    paid = await client.post(CHAT, json=body, headers=shop.payer.pay(challenge))
    owned = await client.post(CHAT, json=body, headers=sign_in(shop))
    failed = await client.post(CHAT, json=body | {"temperature": 9}, headers=sign_in(shop))
    assert [answer.status_code for answer in (paid, owned, failed)] == [200, 200, 400]
    assert "canary" in paid.text.replace('"}}', "") or stream, "the control: the model was asked"
    written = await everything(shop.ledger)
    assert "payment.settled" in written or "claimed" in written, "the control: tables were read"
    assert CANARY not in written
    assert CANARY.encode().hex() not in written
    assert CANARY[:20] not in written


async def test_row_099_old_tags_are_blanked_and_sums_stay(ledger_url: str) -> None:
    clock, told = Hour(), list[Fact]()
    async with SqlLedger(ledger_url, clock=clock) as ledger:
        await fill(ledger, clock.now, answers=30)
        before = await sums(ledger)
        purge = Purge(
            Retention(tag_days=1), SqlForgetful(ledger), SqlDeliveries(ledger), clock, Telemetry([told.append])
        )
        assert await purge.step() == 0
        clock.now += DAY // 2
        half = await purge.step()
        assert 0 < half < 30
        assert "customer" in await everything(ledger)
        clock.now += DAY
        assert await purge.step() == 30 - half
        left = await everything(ledger)
        assert "customer" not in left
        assert "req_" not in left
        assert await sums(ledger) == before
    assert sum(int(fact.attributes["rows"]) for fact in told) == 30


async def test_row_099_zero_retention_keeps_nothing_that_need_not_be_kept(ledger_url: str) -> None:
    clock = Hour()
    async with SqlLedger(ledger_url, clock=clock) as ledger:
        book = SqlDeliveries(ledger)
        await fill(ledger, clock.now, answers=10)
        await book.add(Webhook(webhook_id="w", url="https://hook.example/", secret=b"s"))
        for name in ("one", "two"):
            await book.announce(Message(topic="webhook.test", subject=name, account="", body="{}"))
        ((first, _), _) = await book.take(60, 10)
        await book.arrived(first.delivery_id, 200)
        purge = Purge(Retention.zero(), SqlForgetful(ledger), book, clock, Telemetry())
        assert await purge.step() == 11
        assert await book.waiting() == 1, "what has not arrived is still to be told"
        assert "customer" not in await everything(ledger)


async def test_row_099_the_gateway_purges_by_itself(shop: Any, town: Any, gateway: Open) -> None:
    client = gateway(zero_retention=True)
    await filled(shop, 1_000_000)
    body = {"model": ECHO, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "user": "somebody"}
    assert (await client.post(CHAT, json=body, headers=sign_in(shop))).status_code == 200
    assert "somebody" in await everything(shop.ledger)
    running = asyncio.create_task(shop.gateway.state.paywall._companion.run())
    for _ in range(100):
        await asyncio.sleep(0.01)
        if "somebody" not in await everything(shop.ledger):
            break
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "somebody" not in await everything(shop.ledger)
    assert shop.gateway.state.paywall.till.register.policy.answer_retention_seconds == 0


async def sums(ledger: SqlLedger) -> Any:
    from sqlalchemy import func, select

    query = select(func.count(), func.sum(bills.c.charged), func.sum(bills.c.completion_tokens))
    return tuple(await ledger.run(lambda connection: connection.execute(query).one()))


def test_the_page_says_how_long_what_is_kept() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    for name in ("X402_ZERO_RETENTION", "X402_TAG_RETENTION_DAYS", "X402_DELIVERY_RETENTION_DAYS"):
        assert name in page
