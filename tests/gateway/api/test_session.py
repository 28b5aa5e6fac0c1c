"""A wallet's balance over HTTP: filled by a payment, spent, looked at, and paid out to nobody but the wallet.

Faults A22, F10, G07, G10; aimo rows 16, 38, 77, 78, 79, 84.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.accounts.wallets import EVM, SVM, Signer
from x402.billing import EntryKind
from x402.devnet.model import demo_catalogue
from x402.gateway.inference.catalogue import Catalogue
from x402.ports.account_book import SqlAccounts

HOST = "gateway.example"
CHAT = {"model": "demo/echo-1", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"


class Bank:
    """A customer of the whole gateway, and the gateway's own wallet for payouts."""

    def __init__(self, shop: Any, client: Any) -> None:
        self.shop, self.client = shop, client
        self.book = SqlAccounts(shop.ledger)
        shop.ledger._clock = lambda: shop.now

    def signed(self, network: str = EVM) -> dict[str, str]:
        return Signer().header(self.shop.now, network, domain=HOST, uri=f"https://{HOST}/api/v1")

    async def deposit(self, body: Any, network: str = EVM) -> Any:
        asked = await self.client.post("/api/v1/session/deposit", json=body)
        assert asked.status_code == 402, asked.text
        header = self.shop.payer.pay(self.challenge_of(asked), network, now=self.shop.now)
        return await self.client.post("/api/v1/session/deposit", json=body, headers=header)

    async def balance(self, network: str = EVM) -> Any:
        answer = await self.client.get("/api/v1/session/balance", headers=self.signed(network))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def account(self, network: str = EVM) -> str:
        return f"{network}:{Signer().address(network)}"

    challenge_of: Callable[[Any], Any]


@pytest.fixture
def bank(shop: Any, make: Any, town: Any) -> Bank:
    bank = Bank(shop, make())
    bank.challenge_of = town.challenge_of
    return bank


@pytest.mark.parametrize("network", [EVM, SVM])
@pytest.mark.parametrize(
    ("body", "units"),
    [({"amount": "5.00"}, 5_000_000), ({"amount_usd": "$0.25"}, 250_000), ({"amount_micro_usdc": 7}, 7),
     ({"amount": 2}, 2_000_000)],
)  # fmt: skip
async def test_row_078_a_deposit_is_an_ordinary_payment_and_all_of_it_is_credited(
    bank: Bank, network: str, body: dict[str, Any], units: int
) -> None:
    answer = await bank.deposit(body, network)
    assert answer.status_code == 200, answer.text
    assert answer.json()["caip_account_id"] == bank.account(network)
    told = await bank.balance(network)
    assert (told["caip_account_id"], told["balance_micro_usdc"]) == (bank.account(network), units)
    assert Decimal(told["balance_usd"]) == Decimal(units).scaleb(-6)
    assert isinstance(told["balance_usd"], str)
    (entry,) = await bank.book.statement(bank.account(network))
    assert (entry.kind, entry.reference) == (EntryKind.DEPOSIT, answer.json()["payment_id"])
    other = SVM if network == EVM else EVM
    assert (await bank.balance(other))["balance_micro_usdc"] == 0


@pytest.mark.parametrize(
    "body",
    [{}, {"amount": "0"}, {"amount": 0}, {"amount": "-1"}, {"amount": "1e3"}, {"amount": 0.5}, {"amount": "0.0000001"},
     {"amount": "100.000001"}, {"amount": "5 EUR"}, {"amount": None}, {"amount": ["5"]}, {"amount": True},
     {"amount": "1", "amount_micro_usdc": 5}, {"amount_micro_usdc": "five"}, {"amount_micro_usdc": 1.5}, [], 5],
)  # fmt: skip
async def test_F10_a_deposit_of_no_amount_is_refused_before_a_price_is_asked(bank: Bank, body: Any) -> None:
    answer = await bank.client.post("/api/v1/session/deposit", json=body)
    assert answer.status_code == 400
    assert "payment-required" not in answer.headers


async def test_a_deposit_is_paid_on_chain_and_never_out_of_a_balance(bank: Bank) -> None:
    await bank.deposit({"amount": "5"})
    answer = await bank.client.post("/api/v1/session/deposit", json={"amount": "1"}, headers=bank.signed())
    assert answer.status_code == 402
    assert bank.challenge_of(answer).accepts
    assert (await bank.balance())["balance_micro_usdc"] == 5_000_000


async def test_row_016_row_038_row_077_chat_is_debited_for_real_usage_and_falls_back_to_a_payment(bank: Bank) -> None:
    """S3's way: sign in, be debited; AiMo's SDK pays by X402 when the balance is empty, and calls again."""
    empty = await bank.client.post("/api/v1/chat/completions", json=CHAT, headers=bank.signed())
    assert empty.status_code == 402
    assert "insufficient_credits" in empty.text
    header = bank.shop.payer.pay(bank.challenge_of(empty), EVM, now=bank.shop.now)
    paid = await bank.client.post("/api/v1/chat/completions", json=CHAT, headers=header | bank.signed())
    assert paid.status_code == 200
    left = (await bank.balance())["balance_micro_usdc"]
    assert left > 0, "what was paid and not used is there to be spent"
    await bank.deposit({"amount": "1"})
    before = (await bank.balance())["balance_micro_usdc"]
    answer = await bank.client.post("/api/v1/chat/completions", json=CHAT, headers=bank.signed())
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    after = (await bank.balance())["balance_micro_usdc"]
    (bill,) = [one for one in await bank.book.bills(_all(), limit=10) if one.paid_by == "balance"]
    assert before - after == bill.metered.charged > 0
    assert (bill.metered.prompt_tokens, bill.metered.completion_tokens) == (
        usage["prompt_tokens"], usage["completion_tokens"],
    )  # fmt: skip


def _all() -> Any:
    from x402.ports.accounts import BillFilter

    return BillFilter()


@pytest.mark.parametrize("path", ["balance", "statement", "withdrawals/wd_1"])
async def test_row_016_whoever_does_not_say_who_he_is_sees_nothing(bank: Bank, path: str) -> None:
    answer = await bank.client.get(f"/api/v1/session/{path}")
    assert answer.status_code == 401
    refused = await bank.client.post("/api/v1/session/withdraw", json={})
    assert refused.status_code == 401
    forged = await bank.client.get(f"/api/v1/session/{path}", headers={"Sign-In-With-X": "bm8="})
    assert forged.status_code == 401


async def test_the_statement_is_read_page_by_page(bank: Bank) -> None:
    for units in (1, 2, 3):
        await bank.deposit({"amount_micro_usdc": units})
    first = await bank.client.get("/api/v1/session/statement?limit=2", headers=bank.signed())
    page = first.json()["data"]
    assert [entry["micro_usdc"] for entry in page] == [3, 2]
    rest = await bank.client.get(f"/api/v1/session/statement?before={page[-1]['seq']}", headers=bank.signed())
    assert [entry["micro_usdc"] for entry in rest.json()["data"]] == [1]
    assert (await bank.client.get("/api/v1/session/statement?limit=x", headers=bank.signed())).status_code == 400


async def test_row_081_an_answer_carries_its_bill_in_header_body_and_stream(bank: Bank) -> None:
    await bank.deposit({"amount": "1"})
    whole = await bank.client.post("/api/v1/chat/completions", json=CHAT, headers=bank.signed())
    told = whole.json()["x402"]
    header = json.loads(base64.b64decode(whole.headers["x-402-bill"]))
    assert told["id"] == header["id"]
    assert told["charge"]["actual"] == header["charged"]
    assert told["charge"]["account"] == header["account"] == bank.account()
    assert int(header["charged"]) <= int(header["quoted"])
    answer = await bank.client.post("/api/v1/chat/completions", json=CHAT | {"stream": True}, headers=bank.signed())
    (comment,) = [line for line in answer.text.splitlines() if line.startswith(": x402-bill ")]
    charge = json.loads(base64.b64decode(comment.removeprefix(": x402-bill ")))
    assert "x402-receipt" not in answer.text
    streamed = await bank.book.bill(charge["id"])
    assert streamed is not None
    assert charge["actual"] == str(streamed.metered.charged)
    assert json.loads(base64.b64decode(answer.headers["x-402-bill"]))["id"] == charge["id"]


async def test_row_077_the_receipt_of_a_paid_stream_tells_what_is_credited(bank: Bank) -> None:
    body = CHAT | {"stream": True}
    asked = await bank.client.post("/api/v1/chat/completions", json=body)
    header = bank.shop.payer.pay(bank.challenge_of(asked), EVM, now=bank.shop.now)
    answer = await bank.client.post("/api/v1/chat/completions", json=body, headers=header)
    (comment,) = [line for line in answer.text.splitlines() if line.startswith(": x402-receipt ")]
    charge = json.loads(base64.b64decode(comment.removeprefix(": x402-receipt ")))["extra"]["charge"]
    assert (charge["credited"], charge["account"]) == (charge["unused"], bank.account())
    assert (await bank.balance())["balance_micro_usdc"] == int(charge["credited"]) > 0


async def test_row_015_no_key_and_no_sign_in_is_a_402_with_offers_and_a_sign_in(bank: Bank) -> None:
    answer = await bank.client.post("/api/v1/chat/completions", json=CHAT)
    assert answer.status_code == 402
    challenge = bank.challenge_of(answer)
    assert {offer.network for offer in challenge.accepts} == {EVM, SVM}
    assert challenge.extensions["sign-in-with-x"]["info"]["domain"] == HOST
    assert answer.json().get("code") is None, "nothing was refused"


async def test_row_085_the_platforms_fee_is_a_line_of_the_quote_and_of_the_bill(
    shop: Any, make: Any, town: Any
) -> None:
    models = demo_catalogue("http://model.test/v1").models
    bank = Bank(shop, make(catalogue=Catalogue(models, version="with-a-fee", fee_percent=Decimal(3))))
    bank.challenge_of = town.challenge_of
    await bank.deposit({"amount": "1"})
    answer = await bank.client.post("/api/v1/chat/completions", json=CHAT, headers=bank.signed())
    assert answer.status_code == 200, answer.text
    (bill,) = await bank.book.bills(_all())
    without = bill.metered.charged - bill.metered.fee
    assert bill.metered.fee >= 1
    assert bill.earned == without
    kinds = {entry.kind: -entry.held for entry in await bank.book.statement(bank.account())}
    assert (kinds[EntryKind.DEBIT], kinds[EntryKind.FEE]) == (without, bill.metered.fee)
