"""Budgets: what is spent, what it will come to, and who is told. AiMo row 82, the server's side."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.gateway.accounts.keychain import Hour
from tests.gateway.operations.test_gateway_operations import CHAT, Open, filled, gateway, sign_in
from tests.gateway.operations.test_webhooks import SEAL, URL, Postman
from x402.billing import Bill, Metered, PaidBy
from x402.devnet.model import ECHO
from x402.gateway.operations.budgets import Budgets, bounds, wanted_budget
from x402.gateway.operations.webhooks import Webhooks
from x402.gateway.problem import ApiProblem
from x402.ports.account_book import SqlAccounts
from x402.ports.budgets import SqlBudgets
from x402.ports.deliveries import SqlDeliveries
from x402.ports.ledger import SqlLedger
from x402.telemetry import Telemetry

__all__ = ["gateway"]
ME = "eip155:84532:0xme"
DAY = 86_400


@pytest.fixture
def clock() -> Hour:
    return Hour(int(datetime(2026, 2, 10, 12, tzinfo=UTC).timestamp()))


@pytest.fixture
async def ledger(ledger_url: str, clock: Hour) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(ledger_url, clock=clock) as ledger:
        yield ledger


async def spend(ledger: SqlLedger, clock: Hour, units: int, account: str = ME) -> None:
    bill = Bill(
        bill_id=f"{account} {clock.now} {units}", at=clock.now, account=account, paid_by=PaidBy.BALANCE,
        metered=Metered(model="m", charged=units),
    )  # fmt: skip
    await SqlAccounts(ledger).add(bill)


async def test_row_082_thresholds_are_told_once_a_period(ledger: SqlLedger, clock: Hour) -> None:
    postman = Postman()
    hooks = Webhooks(SqlDeliveries(ledger), postman, clock=clock, seal=SEAL)
    await hooks.register(URL, account=ME, topics=["budget.*"])
    budgets = Budgets(SqlBudgets(ledger), SqlAccounts(ledger), clock, hooks, Telemetry())
    await budgets.book.put(wanted_budget(ME, "day", 1000, [50, 80, 100]))
    await budgets.book.put(wanted_budget("eip155:84532:0xyou", "month", 1000, [100]))

    async def told() -> list[tuple[int, int]]:
        await budgets.step()
        while await hooks.step():
            pass
        data = [json.loads(body)["data"] for _, _, body in postman.sent]
        postman.sent.clear()
        return [(one["threshold"], one["percent"]) for one in data]

    assert await told() == []
    await spend(ledger, clock, 499)
    await spend(ledger, clock, 9999, "eip155:84532:0xother")
    assert await told() == []
    await spend(ledger, clock, 1)
    assert await told() == [(50, 50)]
    assert await told() == [], "once is enough"
    await spend(ledger, clock, 700)
    assert await told() == [(100, 120)], "the highest that was passed"
    clock.now += DAY
    assert await told() == [], "a new day has nothing spent"
    await spend(ledger, clock, 801)
    assert await told() == [(80, 80)]


async def test_row_082_what_it_will_come_to_is_projected(ledger: SqlLedger, clock: Hour) -> None:
    hooks = Webhooks(SqlDeliveries(ledger), Postman(), clock=clock, seal=SEAL)
    budgets = Budgets(SqlBudgets(ledger), SqlAccounts(ledger), clock, hooks, Telemetry())
    budget = wanted_budget(ME, "day", 1000, [100])
    await spend(ledger, clock, 300)
    half = await budgets.spending(budget)
    assert (half.spent, half.projected, half.percent) == (300, 600, 30), "at noon half of the day is over"
    clock.now += DAY // 2 + 60
    await spend(ledger, clock, 10)
    early = await budgets.spending(budget)
    assert (early.spent, early.projected) == (10, 240), "a minute after midnight is counted as an hour"


@pytest.mark.parametrize(
    ("period", "at", "since", "until"),
    [
        ("day", "2026-02-28T23:59:59", "2026-02-28", "2026-03-01"),
        ("month", "2026-02-28T23:59:59", "2026-02-01", "2026-03-01"),
        ("month", "2026-12-31T00:00:00", "2026-12-01", "2027-01-01"),
        ("month", "2028-01-31T12:00:00", "2028-01-01", "2028-02-01"),
    ],
)
def test_row_082_periods_follow_the_calendar(period: str, at: str, since: str, until: str) -> None:
    def second(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert bounds(period, second(at)) == (second(since), second(until))


@pytest.mark.parametrize(
    ("period", "units", "percents"),
    [("week", 5, [50]), ("day", 0, [50]), ("day", "5", [50]), ("day", 5, []), ("day", 5, [0]), ("day", 5, ["50"]),
     ("day", True, [50]), ("day", 5, list(range(1, 12))), ("day", None, [50])],
)  # fmt: skip
def test_a_budget_that_means_nothing_is_400(period: Any, units: Any, percents: Any) -> None:
    with pytest.raises(ApiProblem) as caught:
        wanted_budget(ME, period, units, percents)
    assert caught.value.status_code == 400


async def test_row_082_an_account_sets_its_budget_and_looks(shop: Any, gateway: Open) -> None:
    client = gateway()
    await filled(shop, 1_000_000)
    place = "/api/v1/billing/budget"
    assert (await client.get(place)).status_code == 401
    assert (await client.get(place, headers=sign_in(shop))).status_code == 404
    wish = {"period": "month", "limit": "40", "thresholds": [10, 90]}
    assert (await client.put(place, json=wish, headers=sign_in(shop))).status_code == 200
    body = {"model": ECHO, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    assert (await client.post(CHAT, json=body, headers=sign_in(shop))).status_code == 200
    seen = (await client.get(place, headers=sign_in(shop))).json()
    assert int(seen["spent"]) > 0
    assert int(seen["projected"]) >= int(seen["spent"])
    assert await shop.gateway.state.paywall._companion.budgets().step() == 1
    made = (await client.post("/api/v1/keys", json={"scopes": ["billing"]}, headers=sign_in(shop))).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.get(place, headers=bearer)).json() == seen
    assert (await client.put(place, json=wish, headers=bearer)).status_code == 403
    assert (await client.put(place, json={"limit": "0.5"}, headers=sign_in(shop))).status_code == 400
    assert (await client.delete(place, headers=sign_in(shop))).json() == {"removed": True}
