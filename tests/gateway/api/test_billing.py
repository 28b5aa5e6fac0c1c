"""What an account has bought, told to nobody else: sums, receipts page by page, tables. Aimo rows 9, 77, 81, 82."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from tests.gateway.accounts.wallets import EVM, SVM, Signer
from x402.billing import Bill, Metered, PaidBy
from x402.ports.account_book import SqlAccounts

HOST = "gateway.example"
DAY = 86_400
START = 20_000 * DAY


def account(network: str = EVM) -> str:
    return f"{network}:{Signer().address(network)}"


def bill(number: int, **members: Any) -> Bill:
    used = Metered(
        model=f"m{number % 2}", provider="p", prompt_tokens=10 * number, completion_tokens=number, charged=100 * number,
        fee=number, complete=True,
    )  # fmt: skip
    given: dict[str, Any] = {
        "bill_id": f"b{number:03}", "at": START + number * (DAY // 4), "account": account(), "paid_by": PaidBy.EXACT,
        "metered": used, "quoted": 1000, "credited": 1000 - 100 * number, "network": EVM, "transaction": f"0x{number}",
        "request_id": f"req_{number}",
    }  # fmt: skip
    return Bill(**(given | members))


@pytest.fixture
async def client(shop: Any, make: Any) -> Any:
    book = SqlAccounts(shop.ledger)
    for number in range(10):
        await book.add(bill(number, key_id="k" if number == 9 else "", tags={"user": "=cmd"} if number == 9 else {}))
    await book.add(bill(1, bill_id="theirs", account=account(SVM)))
    return make()


async def get(client: Any, shop: Any, path: str, network: str = EVM, **headers: str) -> Any:
    signed = Signer().header(shop.now, network, domain=HOST, uri=f"https://{HOST}/api/v1")
    return await client.get(f"/api/v1/billing/{path}", headers=signed | headers)


async def test_row_009_row_077_usage_adds_up_in_all_and_by_group(client: Any, shop: Any) -> None:
    answer = await get(client, shop, "usage")
    (total,) = answer.json()["data"]
    assert (total["bills"], total["charged"], total["fee"], total["prompt_tokens"]) == (10, "4500", "45", 450)
    assert total["charged_usd"] == "0.0045"
    days = (await get(client, shop, "usage?group_by=day,model")).json()["data"]
    assert [(row["day"], row["model"], row["bills"]) for row in days] == [
        ("2024-10-04", "m0", 2), ("2024-10-04", "m1", 2), ("2024-10-05", "m0", 2), ("2024-10-05", "m1", 2),
        ("2024-10-06", "m0", 1), ("2024-10-06", "m1", 1),
    ]  # fmt: skip
    assert sum(int(row["charged"]) for row in days) == 4500
    one_day = (await get(client, shop, "usage?since=2024-10-05&until=2024-10-06")).json()["data"]
    assert [row["charged"] for row in one_day] == [str(100 * (4 + 5 + 6 + 7))]
    assert (await get(client, shop, "usage?model=m1&key_id=k")).json()["data"][0]["bills"] == 1
    assert (await get(client, shop, "usage?since=2030-01-01")).json()["data"] == []


async def test_row_081_receipts_come_newest_first_page_by_page(client: Any, shop: Any) -> None:
    seen, cursor = [], ""
    while True:
        page = (await get(client, shop, f"receipts?limit=4{cursor}")).json()
        seen += page["data"]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [one["id"] for one in seen] == [f"b{number:03}" for number in range(9, -1, -1)]
    newest = seen[0]
    assert {name: newest[name] for name in ("charged", "fee", "credited", "quoted", "network", "transaction")} == {
        "charged": "900", "fee": "9", "credited": "100", "quoted": "1000", "network": EVM, "transaction": "0x9",
    }  # fmt: skip
    assert (newest["account"], newest["paid_by"], newest["tags"]) == (account(), "exact", {"user": "=cmd"})
    assert newest["explorer"].endswith("0x9")


@pytest.mark.parametrize("how", ["format", "accept"])
async def test_row_009_receipts_and_usage_are_tables_for_whoever_wants_them(client: Any, shop: Any, how: str) -> None:
    query, headers = ("?format=csv", {}) if how == "format" else ("", {"Accept": "text/csv"})
    answer = await get(client, shop, f"receipts{query}", **headers)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == [f"b{number:03}" for number in range(9, -1, -1)]
    assert rows[0]["charged_usd"] == "0.0009"
    usage = await get(client, shop, f"usage{query}", **headers)
    (total,) = csv.DictReader(io.StringIO(usage.text))
    assert total["charged"] == "4500"
    balance = await get(client, shop, f"balance{query}", **headers)
    assert next(csv.DictReader(io.StringIO(balance.text)))["balance_micro_usdc"] == "0"


async def test_a_table_runs_nothing_in_a_spreadsheet(client: Any, shop: Any) -> None:
    await SqlAccounts(shop.ledger).add(bill(9, bill_id="=HYPERLINK(1)", request_id="@SUM(1)", at=START + 10**7))
    answer = await get(client, shop, "receipts?format=csv&limit=1")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["id"], row["request_id"]) == ("'=HYPERLINK(1)", "'@SUM(1)")
    assert answer.headers["x-next-cursor"].endswith(".=HYPERLINK(1)")


async def test_row_009_nobody_sees_the_bills_of_another(client: Any, shop: Any) -> None:
    theirs = (await get(client, shop, "receipts", SVM)).json()["data"]
    assert [one["id"] for one in theirs] == ["theirs"]
    for path in ("usage", "receipts", "balance"):
        assert (await client.get(f"/api/v1/billing/{path}")).status_code == 401
    # Naming another account changes nothing.
    mine = (await get(client, shop, f"receipts?account={account(SVM)}")).json()["data"]
    assert len(mine) == 10


@pytest.mark.parametrize(
    "query",
    ["usage?group_by=account", "usage?group_by=at", "usage?since=soon", "usage?until=2024-13-01", "receipts?limit=0",
     "receipts?limit=1001", "receipts?limit=x", "receipts?cursor=x", "receipts?cursor=1.", "receipts?format=xml",
     "usage?since=99999999999999999999"],
)  # fmt: skip
async def test_a_question_that_makes_no_sense_is_400(client: Any, shop: Any, query: str) -> None:
    answer = await get(client, shop, query)
    assert answer.status_code == 400, answer.text


async def test_row_081_row_082_a_real_sale_has_its_receipt(shop: Any, make: Any, town: Any) -> None:
    client = make()
    body = {"model": "demo/echo-1", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    asked = await client.post("/api/v1/chat/completions", json=body)
    header = shop.payer.pay(town.challenge_of(asked), EVM, now=shop.now)
    answer = await client.post("/api/v1/chat/completions", json=body, headers=header | {"X-Request-ID": "mine"})
    assert answer.status_code == 200, answer.text
    told = town.receipt_of(answer)
    (receipt,) = (await get(client, shop, "receipts")).json()["data"]
    assert receipt["transaction"] == told.transaction
    assert (receipt["charged"], receipt["credited"]) == (told.extra["charge"]["actual"], told.extra["credit"]["units"])
    assert int(receipt["charged"]) + int(receipt["credited"]) == int(receipt["quoted"])
    assert receipt["model"] == "demo/echo-1"
    assert receipt["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert (await get(client, shop, "balance")).json()["balance_micro_usdc"] == int(receipt["credited"])
