"""What counts against a day's cap of withdrawals: what leaves, or may leave, and nothing else (G10)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.accounts.test_payouts_elsewhere import asked
from tests.gateway.accounts.test_withdrawal_bounds import DAY, Between, capped, told
from tests.gateway.accounts.test_withdrawals import Payer
from tests.gateway.accounts.wallets import EVM, SVM
from x402.errors import LimitedError, Mender, UnavailableError
from x402.gateway.problem import ApiProblem
from x402.gateway.replies import error_reply
from x402.ports.accounts import Payout, Withdrawal
from x402.telemetry import Fact, Telemetry
from x402.wire.receipt import Receipt


def refuse(pay_id: str, truth: Receipt) -> Receipt:
    return Receipt.refused("insufficient_funds", "the wallet is empty", truth.network, truth.payer, proven=True)


def lost(pay_id: str, truth: Receipt) -> Receipt:
    return Receipt.pending("", truth.network, truth.payer)


@pytest.fixture
def payer(shop: Any) -> Payer:
    """A seller who pays out a dollar a day."""
    return Payer(shop, withdraw_per_day=Decimal(1))


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_what_came_back_closes_withdrawals_for_nobody(payer: Payer, network: str) -> None:
    await payer.fill(1_000_000, network)
    payer.shop.bank.script = [refuse] * 3
    for _ in range(3):
        assert (await payer.withdrawals.ask(payer.account(network), None)).state is Payout.RETURNED
        assert await capped(payer, network) == 0
    assert (await payer.withdrawals.ask(payer.account(network), None)).state is Payout.PAID
    assert await capped(payer, network) == 1_000_000


async def test_G10_what_comes_back_later_counts_no_more_on_the_day_on_which_it_was_asked_for(payer: Payer) -> None:
    await payer.fill(2_000_000)
    payer.shop.bank.script = [lost]
    assert (await payer.withdrawals.ask(payer.account(EVM), 600_000)).state is Payout.SENT
    assert await capped(payer) == 600_000
    payer.shop.now += DAY
    await payer.withdrawals.ask(payer.account(EVM), 700_000)
    payer.shop.bank.script = [refuse]
    assert await payer.withdrawals.reconcile() == 0
    assert await capped(payer) == 700_000
    payer.shop.now -= DAY
    assert await capped(payer) == 0


async def test_G10_what_two_processes_see_come_back_is_given_back_to_the_cap_and_told_once(payer: Payer) -> None:
    facts: list[Fact] = []
    payer.open(telemetry=Telemetry([facts.append]))
    await payer.fill(1_000_000)
    await payer.withdrawals.ask(payer.account(EVM), 300_000)
    others = payer.withdrawals

    async def faster() -> None:
        payer.shop.now += 10
        assert await others.reconcile() == 0

    payer.open(Between(payer.book, "move", faster, 2), telemetry=Telemetry([facts.append]))
    facts.clear()
    payer.shop.bank.script = [refuse, refuse]
    assert (await payer.withdrawals.ask(payer.account(EVM), 200_000)).state is Payout.RETURNED
    assert told(facts) == [("balance.withdrawing", 200_000), ("balance.withdrawal_returned", 200_000)]
    assert await capped(payer) == 300_000


async def test_G10_a_payout_that_comes_back_gives_withdrawals_no_more_room(payer: Payer) -> None:
    await payer.fill(1_000_000)
    await payer.withdrawals.ask(payer.account(EVM), 1_000_000)
    await asked(payer, EVM, "payout-1", 400_000)
    payer.shop.bank.script = [refuse]
    assert await payer.withdrawals.reconcile() == 0
    stands = await payer.book.withdrawal("payout-1")
    assert stands is not None
    assert stands.state is Payout.RETURNED
    assert await capped(payer) == 1_000_000


async def test_G10_what_came_back_is_so_even_where_the_cap_cannot_be_written(payer: Payer) -> None:
    await payer.fill(1_000_000)
    ledger = payer.shop.ledger

    async def gone(*_: Any) -> None:
        raise UnavailableError("ledger_unavailable", "gone")

    def refuse_and_go(pay_id: str, truth: Receipt) -> Receipt:
        ledger.spend = gone
        return refuse(pay_id, truth)

    payer.shop.bank.script = [refuse_and_go]
    returned = await payer.withdrawals.ask(payer.account(EVM), 400_000)
    del ledger.spend
    assert returned.state is Payout.RETURNED
    assert (await payer.book.balance(payer.account(EVM))).units == 1_000_000
    assert await capped(payer) == 400_000


async def test_G10_more_than_a_whole_days_cap_is_too_much_on_any_day(payer: Payer) -> None:
    await payer.fill(1_000_001)
    for units in (None, 1_000_001):
        with pytest.raises(ApiProblem) as refused:
            await payer.withdrawals.ask(payer.account(EVM), units)
        problem = refused.value
        assert (problem.status_code, problem.code, problem.mender) == (400, "withdrawal_too_large", Mender.CALLER)
        assert problem.message == "at most 1 US dollars are paid out in a day; ask for less"
        assert await capped(payer) == 0
    assert (await payer.withdrawals.ask(payer.account(EVM), 1_000_000)).state is Payout.PAID


async def test_G10_who_is_told_to_ask_tomorrow_is_told_when_that_is(payer: Payer) -> None:
    await payer.fill(2_000_000)
    await payer.withdrawals.ask(payer.account(EVM), 1_000_000)
    with pytest.raises(LimitedError) as refused:
        await payer.withdrawals.ask(payer.account(EVM), 500_000)
    status, headers, _ = error_reply(refused.value)
    assert (status, dict(headers)["Retry-After"]) == (429, str(DAY - payer.shop.now % DAY))


class Failing:
    """A book whose `withdraw` fails, with its row `written` or not; `blind` shows nobody what became of it."""

    def __init__(self, book: Any, error: Exception, *, written: bool, blind: bool) -> None:
        self._book, self._error, self._written, self._blind, self._failed = book, error, written, blind, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    async def withdraw(self, wanted: Withdrawal, *, lease_seconds: int) -> None:
        if self._written:
            await self._book.withdraw(wanted, lease_seconds=lease_seconds)
        self._failed = True
        raise self._error

    async def withdrawal(self, id: str) -> Any:
        if self._failed and self._blind:
            raise UnavailableError("ledger_unavailable", "away")
        return await self._book.withdrawal(id)


@pytest.mark.parametrize("error", [UnavailableError("ledger_unavailable", "gone"), ValueError("gone")])
@pytest.mark.parametrize(
    ("written", "blind", "counts"),
    [(False, False, 0), (True, False, 1_000_000), (False, True, 1_000_000), (True, True, 1_000_000)],
)
async def test_G10_what_the_book_has_not_written_counts_only_while_nobody_knows_that(
    payer: Payer, error: Exception, written: bool, blind: bool, counts: int
) -> None:
    await payer.fill(1_000_000)
    payer.open(Failing(payer.book, error, written=written, blind=blind))
    with pytest.raises(type(error), match="gone"):
        await payer.withdrawals.ask(payer.account(EVM), None, "w")
    assert await capped(payer) == counts
    payer.open()
    payer.shop.now += 11
    await payer.withdrawals.reconcile()
    if counts == 0 or written:
        assert (await payer.withdrawals.ask(payer.account(EVM), None, "w")).state is Payout.PAID
        assert await capped(payer) == 1_000_000
        assert len(payer.paid_out) == 1
