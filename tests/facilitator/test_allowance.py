"""Budgets of fees, booked before a settlement and corrected after it. Faults C09, D05, D11, D13, invariant I7."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.facilitator.world import Meddled, ledger_at, unreachable
from tests.ports.ledgers import signing
from x402.errors import LimitedError, Mender, RefusedError, UnavailableError
from x402.facilitator.allowance import LIMITED, Allowance, Caps, Failures, FeeShare
from x402.facilitator.callers import Caller
from x402.lifecycle import Event, Party, Subject
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, get
from x402.ports import Ledger
from x402.ports.ledger import SqlLedger
from x402.stages import Refused
from x402.telemetry import Fact, Telemetry

DAY = 86_400
NOON = 20_000 * DAY + DAY // 2
CAPS = Caps(total=100, caller=60, payer=30)
BAKERY, SMITHY = Caller("bakery"), Caller("smithy", fees_per_day={BASE_SEPOLIA: 10})


def payment(name: str, payer: str = "0xpayer", amount: int = 1000, network: str = BASE_SEPOLIA) -> Subject:
    return Subject(name, network, get(network).usd.address, payer, "0xpayee", amount)


class Clock:
    """A clock that stands still until it is set."""

    now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(clock: Clock) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(clock=clock) as memory:
        yield memory


def allowance(ledger: Ledger, clock: Clock, caps: Caps = CAPS, **how: int) -> Allowance:
    return Allowance(ledger, {BASE_SEPOLIA: caps}, clock, failures=Failures(**how))


async def refusal(budget: Allowance, subject: Subject, fee: int, caller: Caller = BAKERY) -> str:
    """The code with which a settlement is refused, the same when it is only asked about; `""` when it is admitted."""
    said = []
    for question in (budget.ask, budget.admit):
        try:
            await question(subject, fee, caller)
        except RefusedError as error:
            said.append(error.code)
    assert len(set(said)) <= 1
    assert len(said) in (0, 2)
    return said[0] if said else ""


async def test_D13_each_budget_ends_at_its_cap(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    assert await refusal(budget, payment("a"), 31) == "payer_fee_budget_spent"
    assert await refusal(budget, payment("b"), 30) == ""
    assert await refusal(budget, payment("c"), 1) == "payer_fee_budget_spent"
    assert await refusal(budget, payment("d", "0xsecond"), 30) == ""
    assert await refusal(budget, payment("e", "0xthird"), 1) == "caller_fee_budget_spent"
    assert await refusal(budget, payment("f", "0xthird"), 11, SMITHY) == "caller_fee_budget_spent"
    assert await refusal(budget, payment("g", "0xthird"), 10, SMITHY) == ""
    others = Caller("others")
    assert await refusal(budget, payment("h", "0xfourth"), 30, others) == ""
    assert await refusal(budget, payment("i", "0xfifth"), 1, others) == "fee_budget_spent"
    elsewhere = payment("j", network=SOLANA_DEVNET)
    assert await refusal(budget, elsewhere, 10**9) == "", "a network without caps is not limited"


async def test_what_was_booked_too_much_comes_back(ledger: SqlLedger, clock: Clock) -> None:
    facts: list[Fact] = []
    budget = Allowance(ledger, {BASE_SEPOLIA: CAPS}, clock, telemetry=Telemetry([facts.append]))
    for number in range(10):
        subject = payment(f"pay-{number}")
        assert await refusal(budget, subject, 30 - 3 * number) == "", "three each were really spent"
        await budget.correct(subject, 3)
        await budget.correct(subject, 0)
    assert await refusal(budget, payment("last"), 1) == "payer_fee_budget_spent"
    assert [fact.attributes["fee"] for fact in facts] == [3] * 10
    dearer = payment("dearer", "0xother")
    assert await refusal(budget, dearer, 10) == ""
    await budget.correct(dearer, 25)
    assert await ledger.spent(NOON // DAY, f"{BASE_SEPOLIA} payer 0xother") == 25, "no cap hides what was spent"


async def test_a_raised_bid_is_booked_or_not_made(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    subject = payment("a")
    assert await refusal(budget, subject, 20) == ""
    assert await budget.afford(subject, 30)
    assert not await budget.afford(subject, 31)
    assert await ledger.spent(NOON // DAY, f"{BASE_SEPOLIA} total") == 30
    restarted = allowance(ledger, clock)
    assert not await restarted.afford(subject, 22), "what another process booked is unknown, so all of it is booked"
    assert await allowance(ledger, clock, Caps()).afford(subject, 10**18)


async def test_a_bid_is_raised_by_what_it_costs_more(ledger: SqlLedger, clock: Clock) -> None:
    await allowance(ledger, clock).admit(payment("a"), 20, BAKERY)
    restarted = allowance(ledger, clock)
    assert await restarted.afford(payment("a"), 5)
    assert await ledger.spent(NOON // DAY, f"{BASE_SEPOLIA} total") == 25
    # What costs no more is not written again, nor is what no budget bounds.
    away = Meddled(ledger, spend=unreachable)
    restarted._ledger = away
    assert await restarted.afford(payment("a"), 5)
    assert await allowance(away, clock, Caps()).afford(payment("b"), 5)
    with pytest.raises(UnavailableError):
        await restarted.afford(payment("a"), 6)


async def test_who_bounds_nothing_is_not_asked_for_its_books(ledger: SqlLedger, clock: Clock) -> None:
    away = Meddled(ledger, burden=unreachable)
    await allowance(away, clock, Caps(), most=0).ask(payment("a"), 10**18)
    for bounded in (allowance(away, clock, Caps(), most=1), allowance(away, clock, CAPS, most=0)):
        with pytest.raises(UnavailableError):
            await bounded.ask(payment("a"), 1)


async def test_D13_what_was_booked_before_yesterday_stays_as_it_was_estimated(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    names = ("old", "late", "new")
    for name in names:
        assert await refusal(budget, payment(name), 30) == ""
        clock.now += DAY
    for name in names:
        await budget.correct(payment(name), 1)
    days = range(NOON // DAY, NOON // DAY + 3)
    assert [await ledger.spent(day, f"{BASE_SEPOLIA} total") for day in days] == [30, 1, 1]


async def test_what_the_chain_took_is_corrected_while_nobody_waits(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    asked: list[str] = []

    def costs(name: str, fee: int | None) -> Callable[[], Awaitable[int | None]]:
        async def cost() -> int | None:
            asked.append(name)
            await asyncio.sleep(0)
            if fee is None:
                raise UnavailableError("rpc_unavailable", "the node did not answer")
            return fee or None

        return cost

    # None: the chain can't be asked; 0: it does not know yet.
    told = {"known": 7, "unknown": 0, "away": None}
    for name in told:
        assert await refusal(budget, payment(name, f"0x{name}"), 20) == ""
    for name, fee in told.items():
        budget.correct_soon(payment(name, f"0x{name}"), costs(name, fee))
    budget.correct_soon(payment("never booked"), costs("never booked", 7))
    assert asked == []
    await budget.drain()
    assert asked == list(told)
    spent = [await ledger.spent(NOON // DAY, f"{BASE_SEPOLIA} payer 0x{name}") for name in asked]
    assert (spent, budget._corrections) == ([7, 20, 20], set())


async def test_a_correction_that_fails_keeps_nobody_from_closing(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    assert await refusal(budget, payment("a"), 20) == ""

    async def broken() -> int:
        raise ZeroDivisionError

    budget.correct_soon(payment("a"), broken)
    await budget.drain()
    assert await ledger.spent(NOON // DAY, f"{BASE_SEPOLIA} total") == 20


async def test_D13_a_new_day_is_a_new_budget_and_a_late_correction_keeps_its_own(
    ledger: SqlLedger, clock: Clock
) -> None:
    budget = allowance(ledger, clock)
    late = payment("late")
    assert await refusal(budget, late, 30) == ""
    clock.now = (NOON // DAY + 1) * DAY
    assert await refusal(budget, payment("next"), 30) == ""
    await budget.correct(late, 1)
    assert [await ledger.spent(day, f"{BASE_SEPOLIA} total") for day in (NOON // DAY, NOON // DAY + 1)] == [1, 30]


async def test_D13_replicas_and_restarts_share_one_budget(tmp_path: Path, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        async with ledger_at(tmp_path) as one, ledger_at(tmp_path) as other:
            first, second = (allowance(each, clock, Caps(total=60)) for each in (one, other))
            for budget, suffix in ((first, "1"), (second, "2")):
                said = await refusal(budget, payment(name + suffix), 20)
                assert said == ("" if name + suffix in ("a1", "a2", "b1") else "fee_budget_spent")


async def test_the_refusal_says_when_and_who(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock, replace(CAPS, total=10**15))
    with pytest.raises(LimitedError, match=r"of this payer.*0\.00000000000000003 ETH") as refused:
        await budget.admit(payment("a"), 31)
    error = refused.value
    assert (error.status, error.mender, error.retry_after_seconds) == (429, Mender.FACILITATOR, DAY // 2)
    assert {code: budget.retry_after(code) for code in (*LIMITED, "invalid_network")} == {
        "fee_budget_spent": DAY // 2,
        "caller_fee_budget_spent": DAY // 2,
        "payer_fee_budget_spent": DAY // 2,
        "payer_failed_too_often": 3600,
        "invalid_network": None,
    }


async def fail(ledger: SqlLedger, name: str, transaction: str = "0xtx") -> None:
    await ledger.intend(payment(name), "0xsender", 0, signing(name))
    await ledger.advance(Party.FACILITATOR, name, Event.REFUSE, Refused("reverted", "reverted", transaction))


async def test_D11_a_payer_that_failed_waits(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    await fail(ledger, "never-sent", transaction="")
    assert await refusal(budget, payment("a"), 1) == ""
    await fail(ledger, "reverted")
    assert await refusal(budget, payment("b"), 1) == "payer_failed_too_often"
    assert await refusal(budget, payment("c", "0xhonest"), 1) == ""
    assert await refusal(allowance(ledger, clock, most=2), payment("d"), 1) == ""
    assert await refusal(allowance(ledger, clock, most=0), payment("e"), 1) == ""
    clock.now += 3600
    assert await refusal(budget, payment("f"), 1) == "payer_failed_too_often"
    clock.now += 1
    assert await refusal(budget, payment("g"), 1) == ""


async def test_D11_what_the_chain_shows_counts_before_the_ledger_knows(ledger: SqlLedger, clock: Clock) -> None:
    """Of this payer alone, each payment once, and for as long as this process sees it."""
    budget, strict = allowance(ledger, clock, most=2), allowance(ledger, clock)
    for each in (budget, strict):
        for _ in range(2):
            each.note(payment("a"), failing=True)
    assert await refusal(strict, payment("b"), 1) == "payer_failed_too_often"
    assert await refusal(strict, payment("c", "0xhonest"), 1) == ""
    assert await refusal(budget, payment("d"), 1) == ""
    budget.note(payment("e"), failing=True)
    assert await refusal(budget, payment("f"), 1) == "payer_failed_too_often"
    budget.note(payment("e"), failing=False)
    assert await refusal(budget, payment("g"), 1) == ""
    budget.note(payment("nothing was held against it"), failing=False)
    # What is written down counts together with it.
    await fail(ledger, "reverted")
    assert await refusal(budget, payment("h"), 1) == "payer_failed_too_often"
    clock.now += 300
    assert await refusal(budget, payment("i"), 1) == "payer_failed_too_often"
    clock.now += 1
    assert await refusal(budget, payment("j"), 1) == ""


async def test_D11_what_counts_no_more_is_forgotten_when_others_are_noted(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock)
    budget.note(payment("a"), failing=True)
    clock.now += 300
    budget.note(payment("b", "0xother"), failing=True)
    assert await refusal(budget, payment("c"), 1) == "payer_failed_too_often"
    clock.now += 1
    for _ in range(2):
        budget.note(payment("b", "0xother"), failing=True)
        assert list(budget._failing) == ["0xother"]


async def test_C09_the_smallest_payment(ledger: SqlLedger, clock: Clock) -> None:
    budget = allowance(ledger, clock, Caps(min_amount=Decimal("0.002")))
    assert await refusal(budget, payment("a", amount=1999), 1) == "amount_below_minimum"
    assert await refusal(budget, payment("b", amount=2000), 1) == ""


async def test_C06_the_fee_is_a_part_of_the_value(ledger: SqlLedger, clock: Clock) -> None:
    share = FeeShare(Decimal("0.5"), Decimal(4000))
    budget = allowance(ledger, clock, Caps(fee_share=share))
    cent = payment("a", amount=10_000)
    most = 10**18 * 5 // 1000 // 4000
    assert await refusal(budget, cent, most + 1) == "fee_above_share"
    assert await refusal(budget, cent, most) == ""
    lamports = Allowance(ledger, {SOLANA_DEVNET: Caps(fee_share=FeeShare(Decimal(1), Decimal(200)))}, clock)
    assert await refusal(lamports, payment("b", amount=10_000, network=SOLANA_DEVNET), 50_001) == "fee_above_share"
    assert await refusal(lamports, payment("c", amount=10_000, network=SOLANA_DEVNET), 50_000) == ""


@pytest.mark.parametrize("broken", ["spend", "failures_of"])
async def test_E02_nobody_is_let_in_unseen(ledger: SqlLedger, clock: Clock, broken: str) -> None:
    meddled = Meddled(ledger, **{broken: unreachable})
    budget = Allowance(meddled, {BASE_SEPOLIA: CAPS}, clock)
    with pytest.raises(UnavailableError):
        await budget.admit(payment("a"), 1)
    meddled.instead.clear()
    assert await refusal(budget, payment("a"), 30) == ""
    meddled.instead["spend"] = unreachable
    await budget.correct(payment("a"), 0)
    meddled.instead.clear()
    assert await refusal(budget, payment("b"), 1) == "payer_fee_budget_spent", "what can't be corrected stays booked"
