"""Money that goes from an account back to its wallet: once, to nobody else, whatever fails. Fault G10, aimo row 84."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
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

BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"


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
        return Receipt.refused("insufficient_funds", "the wallet is empty", truth.network, truth.payer, proven=True)

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
