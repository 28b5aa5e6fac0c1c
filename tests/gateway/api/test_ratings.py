"""Who paid may say how it was; nobody else, and nobody twice (row 72)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.gateway.accounts.wallets import Signer
from x402.billing import EntryKind, Posting
from x402.devnet.model import ECHO, FREE, STORY
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter

Make = Callable[..., httpx.AsyncClient]
EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
HELLO = [{"role": "user", "content": "Hello, world!"}]


def signed_in(shop: Any, network: str = EVM) -> dict[str, str]:
    where: Any = {"domain": "gateway.example", "uri": "https://gateway.example/api/v1"}
    return Signer().header(shop.now, network, **where)


async def answered(shop: Any, client: httpx.AsyncClient, model: str, tokens: int) -> str:
    """The bill of an answer that the wallet's balance paid for."""
    account = f"{EVM}:{Signer().address(EVM)}"
    book = SqlAccounts(shop.ledger)
    await book.post(Posting(account=account, kind=EntryKind.DEPOSIT, reference=f"{model} {tokens}", units=50_000))
    known = {bill.bill_id for bill in await book.bills(BillFilter(account=account))}
    members = {"model": model, "messages": HELLO, "max_tokens": tokens}
    answer = await client.post("/api/v1/chat/completions", json=members, headers=signed_in(shop))
    assert answer.status_code == 200, answer.text
    await shop.gateway.state.paywall.members.tab.drain(5)
    (fresh,) = {bill.bill_id for bill in await book.bills(BillFilter(account=account))} - known
    return fresh


async def test_row_072_a_rating_counts_by_what_was_paid(shop: Any, make: Make) -> None:
    client = make()
    path = "/api/v1/ratings"
    dear = await answered(shop, client, STORY, 200)
    cheap = await answered(shop, client, f"demo:{STORY}", 1)
    for bill, stars in ((dear, 5), (cheap, 2), (cheap, 1)):
        rated = await client.post(path, json={"bill_id": bill, "rating": stars}, headers=signed_in(shop))
        assert rated.status_code == 201, rated.text
        assert (rated.json()["model"], rated.json()["provider"]) == (STORY, "demo")
    shown = (await client.get(f"/api/v1/models/{STORY}")).json()["rating"]
    assert (shown["count"], shown["average"]) == (2, "3.00")
    assert float(shown["average_by_spend"]) > 4.5
    assert (await client.get(f"/api/v1/models/{ECHO}")).json()["rating"] is None


@pytest.mark.parametrize("wish", [{"rating": 0}, {"rating": 6}, {"rating": "5"}, {"rating": True}, {}])
async def test_row_072_a_rating_is_one_to_five_stars(shop: Any, make: Make, wish: dict[str, Any]) -> None:
    client = make()
    bill = await answered(shop, client, ECHO, 5)
    refused = await client.post("/api/v1/ratings", json={"bill_id": bill, **wish}, headers=signed_in(shop))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")


async def test_row_072_only_who_paid_may_rate(shop: Any, make: Make) -> None:
    client = make()
    bill = await answered(shop, client, ECHO, 5)
    wish = {"bill_id": bill, "rating": 1}
    assert (await client.post("/api/v1/ratings", json=wish)).status_code == 401
    for headers, other in ((signed_in(shop, SVM), wish), (signed_in(shop), {"bill_id": "nobody's", "rating": 1})):
        refused = await client.post("/api/v1/ratings", json=other, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "bill_not_found")
    assert (await client.get(f"/api/v1/models/{ECHO}")).json()["rating"] is None


async def test_row_072_what_was_free_is_not_rated(shop: Any, make: Make) -> None:
    client = make()
    assert (
        await client.post("/api/v1/chat/completions", json={"model": FREE, "messages": HELLO}, headers=signed_in(shop))
    ).status_code == 200
    book = SqlAccounts(shop.ledger)
    for bill in await book.bills(BillFilter()):
        wish = {"bill_id": bill.bill_id, "rating": 5}
        assert (await client.post("/api/v1/ratings", json=wish, headers=signed_in(shop))).status_code in (400, 404)
