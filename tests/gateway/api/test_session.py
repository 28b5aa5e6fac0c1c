"""A wallet's balance over HTTP: filled by a payment, spent, looked at, and paid out to nobody but the wallet.

Faults A22, F10, G07, G10; aimo rows 16, 38, 77, 78, 79, 84.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.gateway.accounts.wallets import EVM, SVM, Signer
from tests.gateway.chain_view import View, nodes_of
from tests.gateway.test_every_step import Meddled
from x402.billing import EntryKind, Posting
from x402.errors import UnavailableError
from x402.gateway.accounts.withdrawals import Withdrawals
from x402.gateway.disbursement import Disbursements
from x402.gateway.policy import Policy
from x402.gateway.problem import ApiProblem
from x402.gateway.purse import Purse
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Payout
from x402.wire.receipt import Receipt

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


class Payer:
    """The gateway's paywall with a wallet that pays out, over the bank that stands for the chain."""

    def __init__(self, shop: Any, **policy: Any) -> None:
        self.shop = shop
        shop.ledger._clock = lambda: shop.now
        self.book = SqlAccounts(shop.ledger)
        self.purse = Purse(evm="0x" + "77" * 32, svm=str(Keypair.from_seed(bytes([8] * 32))))
        self.views = [View(shop.bank, EVM), View(shop.bank, SVM)]
        self.policy = policy
        self.open()

    def open(self, book: Any = None, **options: Any) -> None:
        given = {
            "accounts": book or self.book,
            "purse": self.purse,
            "nodes": nodes_of(*self.views, blockhash=BLOCKHASH),
            "policy": Policy(**self.policy),
        }
        from fastapi import FastAPI

        self.shop.open({"GET /x": "$1"}, FastAPI(), **(given | options))
        self.withdrawals: Withdrawals = self.shop.paywall.members.withdrawals

    def account(self, network: str) -> str:
        return f"{network}:{Signer().address(network)}"

    async def fill(self, units: int, network: str = EVM, kind: EntryKind = EntryKind.DEPOSIT) -> None:
        posting = Posting(account=self.account(network), kind=kind, reference=f"{kind} {network} {units}", units=units)
        assert await self.book.post(posting)

    @property
    def paid_out(self) -> list[tuple[str, int]]:
        """Who got how much of what left the wallet."""
        bank = self.shop.bank
        return [
            bank.payees[pay_id]
            for pay_id, payer in bank.payers.items()
            if payer in self.purse.addresses.values() and pay_id in bank.moved
        ]


@pytest.fixture
def payer(shop: Any) -> Payer:
    return Payer(shop)


@pytest.mark.parametrize("network", [EVM, SVM])
@pytest.mark.parametrize("units", [None, 400_000])
async def test_row_084_a_balance_goes_back_to_its_wallet_and_to_nobody_else(
    payer: Payer, network: str, units: int | None
) -> None:
    await payer.fill(1_000_000, network)
    done = await payer.withdrawals.ask(payer.account(network), units)
    assert (done.state, done.units) == (Payout.PAID, units or 1_000_000)
    assert payer.paid_out == [(Signer().address(network), units or 1_000_000)]
    assert done.transaction in payer.shop.bank.moved.values()
    assert (await payer.book.balance(payer.account(network))).units == 1_000_000 - (units or 1_000_000)
    payer.shop.now += 10_000
    assert await payer.withdrawals.reconcile() == 0
    assert len(payer.paid_out) == 1


async def test_G10_the_same_name_is_one_withdrawal(payer: Payer) -> None:
    await payer.fill(1_000_000)
    account = payer.account(EVM)
    first = await payer.withdrawals.ask(account, 300_000, "mine")
    again = await payer.withdrawals.ask(account, 300_000, "mine")
    assert first == again
    with pytest.raises(Exception, match="another amount"):
        await payer.withdrawals.ask(account, 300_001, "mine")
    await payer.withdrawals.ask(account, 300_000, "other")
    assert len(payer.paid_out) == 2


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_G07_however_often_it_fails_on_its_way_it_is_paid_once(payer: Payer, network: str) -> None:
    """The book goes away at its n-th call, and the settlement's answer is lost: reconciliation pays what is unpaid."""
    await payer.fill(9_000_000, network)
    state = {"left": 10**9}

    def gone() -> None:
        state["left"] -= 1
        if state["left"] < 0:
            raise UnavailableError("ledger_unavailable", "gone")

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        payer.shop.bank.move(pay_id, truth)
        return Receipt.pending("", truth.network, truth.payer)

    for step in range(12):
        payer.open(Meddled(payer.book, gone), facilitator=payer.shop.bank)
        state["left"] = step
        payer.shop.bank.script = [lost]
        with suppress(UnavailableError):
            await payer.withdrawals.ask(payer.account(network), 100_000, f"w{step}")
        payer.shop.bank.script = []
        finished = state["left"] > 0
        state["left"] = 10**9
        payer.shop.now += 11
        payer.open()
        await payer.withdrawals.reconcile()
        done = await payer.withdrawals.ask(payer.account(network), 100_000, f"w{step}")
        assert done.state is Payout.PAID
        assert len(payer.paid_out) == step + 1
        if finished:
            break
    assert step > 2
    assert (await payer.book.balance(payer.account(network))).units == 9_000_000 - 100_000 * (step + 1)


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_what_provably_never_left_is_back_in_the_account(payer: Payer, network: str) -> None:
    await payer.fill(500_000, network)

    def refuse(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.refused("insufficient_funds", "the wallet is empty", truth.network, truth.payer)

    payer.shop.bank.script = [refuse]
    returned = await payer.withdrawals.ask(payer.account(network), None, "w")
    assert returned.state is Payout.RETURNED
    assert payer.paid_out == []
    assert (await payer.book.balance(payer.account(network))).units == 500_000
    # Another try is another withdrawal.
    assert (await payer.withdrawals.ask(payer.account(network), None, "w2")).state is Payout.PAID


async def test_G10_a_foreign_facilitators_refusal_proves_nothing(payer: Payer) -> None:
    await payer.fill(500_000)
    payer.shop.bank.in_process = False

    def refuse(pay_id: str, truth: Receipt) -> Receipt:
        payer.shop.bank.move(pay_id, truth)
        return Receipt.refused("insufficient_funds", "a lie", truth.network, truth.payer)

    payer.views[0].away = True
    payer.shop.bank.script = [refuse]
    asked = await payer.withdrawals.ask(payer.account(EVM), None, "w")
    assert asked.state is Payout.SENT
    assert (await payer.book.balance(payer.account(EVM))).units == 0
    payer.views[0].away = False
    payer.shop.now += 11
    assert await payer.withdrawals.reconcile() == 0
    assert (await payer.withdrawals.ask(payer.account(EVM), None, "w")).state is Payout.PAID
    assert len(payer.paid_out) == 1


async def test_a_gift_is_spent_and_never_paid_out(payer: Payer) -> None:
    await payer.fill(300_000)
    await payer.fill(200_000, kind=EntryKind.GRANT)
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), 300_001)
    assert (refused.value.status_code, refused.value.details["available"]) == (409, "300000")
    assert (await payer.withdrawals.ask(payer.account(EVM), None)).units == 300_000


async def test_G10_a_days_payouts_end_at_their_cap(shop: Any) -> None:
    payer = Payer(shop, withdraw_per_day=Decimal("1"))
    await payer.fill(3_000_000)
    await payer.withdrawals.ask(payer.account(EVM), 900_000)
    with pytest.raises(Exception, match="tomorrow"):
        await payer.withdrawals.ask(payer.account(EVM), 100_001)
    assert (await payer.book.balance(payer.account(EVM))).units == 2_100_000
    # What was refused has used up nothing of it.
    await payer.withdrawals.ask(payer.account(EVM), 100_000)
    shop.now += 86_400
    await payer.withdrawals.ask(payer.account(EVM), 900_000)


@pytest.mark.parametrize(
    ("account", "code"),
    [("key:abc", "not_withdrawable"), ("eip155:1:0xabc", "not_withdrawable"), ("eip155:84532:", "not_withdrawable")],
)
async def test_an_account_without_a_wallet_here_is_not_paid_out(payer: Payer, account: str, code: str) -> None:
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(account, 1_000_000)
    assert refused.value.code == code


async def test_without_a_wallet_nothing_is_paid_out_and_nothing_is_taken(payer: Payer) -> None:
    await payer.fill(1_000_000)
    payer.open(purse=None)
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), None)
    assert (refused.value.status_code, refused.value.code) == (503, "withdrawals_closed")
    assert (await payer.book.balance(payer.account(EVM))).units == 1_000_000


async def test_an_empty_account_has_nothing_to_pay_out(payer: Payer) -> None:
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), None)
    assert refused.value.code == "withdrawal_too_small"
    assert isinstance(payer.withdrawals.payments, Disbursements)
