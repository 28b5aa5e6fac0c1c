"""Withdrawals at their bounds: the least, the day's cap to its second, names, other tokens, later attempts (G10)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.accounts.test_withdrawals import Payer
from tests.gateway.accounts.wallets import EVM, SVM, Signer
from x402 import networks
from x402.billing import EntryKind
from x402.errors import ConflictError, LimitedError, Mender, UnavailableError
from x402.gateway.accounts.withdrawals import Withdrawals
from x402.gateway.problem import ApiProblem
from x402.gateway.terms import asset_on
from x402.money import Asset
from x402.networks import Network
from x402.ports.accounts import Payout, Withdrawal
from x402.telemetry import Fact, Telemetry
from x402.wire.receipt import Receipt

DAY = 86_400
ODD = "eip155:424242"


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
def payer(shop: Any, facts: list[Fact]) -> Payer:
    payer = Payer(shop)
    payer.open(telemetry=Telemetry([facts.append]))
    return payer


def told(facts: list[Fact]) -> list[tuple[str, Any]]:
    return [(fact.name, fact.attributes["units"]) for fact in facts if fact.name.startswith("balance.")]


async def capped(payer: Payer, network: str = EVM) -> int:
    """What counts against the cap of this day."""
    name = f"withdrawals {network} {asset_on(network).address}"
    return int(await payer.shop.ledger.spent(payer.shop.now // DAY, name))


class Between:
    """The book, with something that happens once, just before the n-th call of a name."""

    def __init__(self, book: Any, name: str, happens: Callable[[], Awaitable[object]], nth: int = 1) -> None:
        self._book, self._name, self._happens, self._left = book, name, happens, nth

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._book, name)

        async def called(*args: Any, **named: Any) -> Any:
            if name == self._name:
                self._left -= 1
                if self._left == 0:
                    await self._happens()
            return await real(*args, **named)

        return called


@pytest.mark.parametrize(
    ("least", "units", "pays"),
    [("0.01", 9_999, False), ("0.01", 10_000, True), ("0", 1, True), ("0.000001", 1, True), ("0.000002", 1, False)],
)
async def test_G10_what_is_paid_out_is_at_least_the_least(shop: Any, least: str, units: int, pays: bool) -> None:
    payer = Payer(shop, withdraw_min=Decimal(least))
    await payer.fill(20_000)
    if pays:
        assert (await payer.withdrawals.ask(payer.account(EVM), units)).state is Payout.PAID
        assert payer.paid_out == [(Signer().address(EVM), units)]
        return
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), units)
    problem = refused.value
    assert (problem.status_code, problem.code, problem.mender) == (400, "withdrawal_too_small", Mender.CALLER)
    assert problem.message == f"at least {least} US dollars are paid out"
    assert (await payer.book.balance(payer.account(EVM))).units == 20_000
    assert await capped(payer) == 0


async def test_G10_nothing_is_never_paid_out_even_where_there_is_no_least(shop: Any) -> None:
    payer = Payer(shop, withdraw_min=Decimal(0))
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), None, "w")
    assert (refused.value.status_code, refused.value.code) == (400, "withdrawal_too_small")
    assert await payer.book.statement(payer.account(EVM)) == []
    assert shop.bank.asked == []


async def test_an_account_without_a_wallet_here_is_told_so_and_nobody_is_asked(payer: Payer) -> None:
    for account in ("key:abc", "eip155:1:0xabc", "eip155:84532:", ""):
        with pytest.raises(ApiProblem) as refused:
            await payer.withdrawals.ask(account, 1_000_000)
        assert (refused.value.status_code, refused.value.code) == (400, "not_withdrawable")
    assert payer.shop.bank.asked == []


async def test_what_there_is_too_little_for_uses_up_nothing_of_the_days_cap(shop: Any) -> None:
    payer = Payer(shop, withdraw_per_day=Decimal(1))
    await payer.fill(500_000)
    await payer.withdrawals.ask(payer.account(EVM), 100_000)
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), 400_001)
    assert (refused.value.status_code, refused.value.code) == (409, "insufficient_credits")
    assert refused.value.mender is Mender.PAYER
    assert refused.value.details == {"available": "400000", "required": "400001"}
    assert await capped(payer) == 100_000


async def test_G10_a_day_of_payouts_ends_with_its_last_second(shop: Any) -> None:
    payer = Payer(shop, withdraw_per_day=Decimal(1))
    await payer.fill(9_000_000)
    midnight = (shop.now // DAY + 1) * DAY
    await payer.withdrawals.ask(payer.account(EVM), 1_000_000)
    for moment, wait in ((shop.now, midnight - shop.now), (midnight - 1, 1)):
        shop.now = moment
        with pytest.raises(LimitedError) as refused:
            await payer.withdrawals.ask(payer.account(EVM), 10_000)
        assert (refused.value.code, refused.value.retry_after_seconds) == ("withdrawals_capped", wait)
    shop.now = midnight
    await payer.withdrawals.ask(payer.account(EVM), 1_000_000)
    with pytest.raises(LimitedError) as refused:
        await payer.withdrawals.ask(payer.account(EVM), 10_000)
    assert refused.value.retry_after_seconds == DAY
    assert await capped(payer) == 1_000_000


async def test_G10_each_network_has_a_cap_of_its_own(shop: Any) -> None:
    payer = Payer(shop, withdraw_per_day=Decimal(1))
    for network in (EVM, SVM):
        await payer.fill(2_000_000, network)
        await payer.withdrawals.ask(payer.account(network), 1_000_000)
        assert await capped(payer, network) == 1_000_000
        with pytest.raises(LimitedError):
            await payer.withdrawals.ask(payer.account(network), 10_000)


@pytest.mark.parametrize("units", [299_999, 300_001])
async def test_G10_a_name_stands_for_one_amount_and_for_nothing_less_or_more(payer: Payer, units: int) -> None:
    await payer.fill(1_000_000)
    first = await payer.withdrawals.ask(payer.account(EVM), 300_000, "mine")
    with pytest.raises(ConflictError) as refused:
        await payer.withdrawals.ask(payer.account(EVM), units, "mine")
    assert refused.value.code == "idempotency_conflict"
    # Who names no amount asks what became of it.
    assert await payer.withdrawals.ask(payer.account(EVM), None, "mine") == first
    assert await capped(payer) == 300_000


@pytest.mark.parametrize("units", [300_000, 300_001])
async def test_G10_of_two_that_ask_by_one_name_at_once_one_is_paid_and_counted(payer: Payer, units: int) -> None:
    await payer.fill(1_000_000)
    account, others = payer.account(EVM), payer.withdrawals
    first: list[Withdrawal] = []

    async def faster() -> None:
        first.append(await others.ask(account, 300_000, "mine"))

    payer.open(Between(payer.book, "withdraw", faster))
    if units == 300_000:
        assert await payer.withdrawals.ask(account, units, "mine") == first[0]
    else:
        with pytest.raises(ConflictError):
            await payer.withdrawals.ask(account, units, "mine")
    assert len(payer.paid_out) == 1
    assert (await payer.book.balance(account)).units == 700_000
    assert await capped(payer) == 300_000


async def test_a_withdrawals_id_is_its_accounts_and_its_names_forever_and_else_a_new_one(payer: Payer) -> None:
    """What a caller asked for by name before an upgrade is found by the same name after it."""
    await payer.fill(1_000_000)
    account = payer.account(EVM)
    named = await payer.withdrawals.ask(account, 100_000, "mine")
    assert named.id == "wd_" + hashlib.sha256(f"{account}\nmine".encode()).hexdigest()[:40]
    ids = {(await payer.withdrawals.ask(account, 100_000)).id for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch("wd_[0-9a-f]{40}", id) for id in ids)


async def test_without_a_wallet_nothing_is_under_way(payer: Payer) -> None:
    payer.open(purse=None)
    assert payer.withdrawals.payments is None
    assert await payer.withdrawals.reconcile() == 0


async def test_every_end_of_a_withdrawal_is_told_once(payer: Payer, facts: list[Fact]) -> None:
    await payer.fill(1_000_000)

    def refuse(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.refused("insufficient_funds", "the wallet is empty", truth.network, truth.payer, proven=True)

    await payer.withdrawals.ask(payer.account(EVM), 300_000)
    assert told(facts) == [("balance.withdrawing", 300_000), ("balance.withdrawn", 300_000)]
    facts.clear()
    payer.shop.bank.script = [refuse]
    await payer.withdrawals.ask(payer.account(EVM), 200_000)
    assert told(facts) == [("balance.withdrawing", 200_000), ("balance.withdrawal_returned", 200_000)]


@pytest.mark.parametrize(("nth", "stands"), [(1, Payout.ASKED), (2, Payout.SENT)])
async def test_G10_what_fails_on_its_way_is_told_as_it_stands_and_goes_on_later(
    payer: Payer, facts: list[Fact], nth: int, stands: Payout
) -> None:
    await payer.fill(1_000_000)

    async def gone() -> None:
        raise UnavailableError("ledger_unavailable", "gone")

    payer.open(Between(payer.book, "move", gone, nth), telemetry=Telemetry([facts.append]))
    asked = await payer.withdrawals.ask(payer.account(EVM), 300_000, "w")
    assert (asked.state, asked.units) == (stands, 300_000)
    # What is not written has not happened yet.
    assert told(facts) == [("balance.withdrawing", 300_000), ("balance.withdrawal_delayed", 300_000)]
    assert (await payer.book.balance(payer.account(EVM))).units == 700_000
    payer.shop.now += 10
    assert await payer.withdrawals.reconcile() == 0
    assert len(payer.paid_out) == 1
    assert (await payer.book.balance(payer.account(EVM))).units == 700_000


async def test_a_row_that_is_gone_after_it_was_moved_is_no_answer(payer: Payer, facts: list[Fact]) -> None:
    """Where the ledger loses what it was told, a withdrawal is delayed, and nothing is presented."""
    await payer.fill(1_000_000)
    real = payer.book

    class Forgetful(Between):
        async def withdrawal(self, id: str) -> None:
            return None

    async def nothing() -> None: ...

    payer.open(Forgetful(real, "", nothing), telemetry=Telemetry([facts.append]))
    asked = await payer.withdrawals.ask(payer.account(EVM), 300_000, "w")
    assert asked.state is Payout.ASKED
    assert told(facts) == [("balance.withdrawing", 300_000), ("balance.withdrawal_delayed", 300_000)]
    assert "settle" not in payer.shop.bank.asked


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_every_other_attempt_is_counted_and_only_one_is_paid(payer: Payer, network: str) -> None:
    """Nobody learns what became of the first two; each later one is signed when those before it can't land."""
    await payer.fill(1_000_000, network)

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.pending("", truth.network, truth.payer)

    payer.shop.bank.script = [lost]
    payer.shop.bank.in_process = False
    asked = await payer.withdrawals.ask(payer.account(network), 300_000, "w")
    assert (asked.state, asked.attempt) == (Payout.SENT, 1)
    headers = {asked.header}
    for attempt in (2, 3):
        payer.shop.now += 500
        payer.shop.bank.script = [lost]
        assert await payer.withdrawals.reconcile() == 1
        stands = await payer.book.withdrawal(asked.id)
        assert stands is not None
        if network == SVM:
            # No other bytes are signed on Solana before the first are proven dead.
            assert (stands.state, stands.attempt, stands.header) == (Payout.SENT, 1, asked.header)
            continue
        assert (stands.state, stands.attempt, stands.pay_id) == (Payout.SENT, attempt, asked.pay_id)
        assert stands.header not in headers
        headers.add(stands.header)
    payer.shop.now += 11
    payer.shop.bank.script = []
    assert await payer.withdrawals.reconcile() == 0
    assert payer.paid_out == [(Signer().address(network), 300_000)]
    assert (await payer.book.balance(payer.account(network))).units == 700_000


@pytest.mark.parametrize(
    ("decimals", "units", "paid"),
    [(4, 123_456, 1_234), (5, 123_456, 12_345), (6, 123_456, 123_456), (7, 123_456, 1_234_560),
     (8, 123_456, 12_345_600), (18, 123_456, 123_456 * 10**12)],
)  # fmt: skip
async def test_B07_a_token_of_other_decimals_is_paid_what_it_is_worth_and_never_more(
    payer: Payer, monkeypatch: pytest.MonkeyPatch, decimals: int, units: int, paid: int
) -> None:
    asset = Asset(ODD, "0x" + "0d" * 20, "USDO", decimals, "eip3009", "Odd USD", "1")
    monkeypatch.setitem(networks._BY_ID, ODD, Network(ODD, "", "Odd", assets=(asset,)))
    withdrawals = Withdrawals(payer.book, payer.withdrawals.payments, {ODD})
    payer.shop.bank.balances[payer.purse.address(ODD)] = paid
    await payer.fill(1_000_000, ODD)
    done = await withdrawals.ask(payer.account(ODD), units)
    assert (done.state, done.units) == (Payout.PAID, units)
    assert payer.paid_out == [(Signer().address(ODD), paid)]
    assert (await payer.book.balance(payer.account(ODD))).units == 1_000_000 - units
    assert await capped(payer, ODD) == paid


async def test_a_gift_of_less_than_the_least_is_not_what_is_refused(payer: Payer) -> None:
    await payer.fill(10_000)
    await payer.fill(500_000, kind=EntryKind.GRANT)
    assert (await payer.withdrawals.ask(payer.account(EVM), None)).units == 10_000
    with pytest.raises(ApiProblem) as refused:
        await payer.withdrawals.ask(payer.account(EVM), None)
    assert refused.value.code == "withdrawal_too_small"
