"""Every arrow of a settlement, with a chain, a node and a ledger that say what a test wants (faults A06-A16, D01, E02).

Real chains are asked in `test_settle.py` and beside it; here are the answers that they give once in a year.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from tests.facilitator.script import ME, OURS, Budget, ScriptedRail, Settler
from tests.facilitator.test_bundles import written
from tests.facilitator.world import Meddled, unreachable
from x402.errors import LimitedError, RefusedError, UnavailableError
from x402.facilitator.preparing import Unprepared
from x402.facilitator.rail import cost_of
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Event, Outcome, Party
from x402.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.stages import Final, Intended, Reversed, Settled, State
from x402.wire.facilitation import Kind

AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
OURS_AT_FAULT, THEIRS_AT_FAULT = NotSent("nonce too low", ours=True), NotSent("execution reverted")
USED = "invalid_exact_evm_nonce_already_used"
POOR = "invalid_exact_evm_insufficient_balance"


async def test_a_settlement_is_checked_written_sent_and_decided_once(scripted: Any) -> None:
    party, rail = scripted()
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction, receipt.payer) == (
        Outcome.SETTLED, "0xours", party.payment.payload["authorization"]["from"],
    )  # fmt: skip
    assert rail.asked == ["check settling", "intend", "submit", "decide"]
    assert [(fact.name, fact.attributes) for fact in party.facts] == [
        (
            "settle.settled",
            {"network": BASE_SEPOLIA, "pay_id": party.pay_id, "transaction": "0xours", "amount": 1000},
        )
    ]
    # The same answer for ever, and nothing is asked for it.
    assert await party.settle() == receipt
    assert len(rail.asked) == 4
    assert party.local._flights == {}


async def test_a_verification_tells_what_the_payer_has_and_what_was_wrong(scripted: Any) -> None:
    budget = Budget()
    party, _ = scripted(budget, check=[None, RefusedError(POOR, "too little", details={"payer": "0xpayer"}), None])
    valid = await party.local.verify(party.payment, party.offer)
    assert (valid.is_valid, valid.balance, budget.booked) == (True, 5000, [("ask", 7)])
    assert party.told() == ["verify.valid"]
    invalid = await party.local.verify(party.payment, party.offer)
    assert (invalid.is_valid, invalid.invalid_reason, invalid.payer) == (False, POOR, "0xpayer")
    assert party.told() == ["verify.refused"]
    budget.refusals = [LimitedError("fee_budget_spent", "no more today")]
    limited = await party.local.verify(party.payment, party.offer)
    assert (limited.is_valid, limited.invalid_reason, limited.payer) == (False, "fee_budget_spent", None)
    assert await party.state() is None


async def test_networks_that_are_not_served_are_named(ledger: SqlLedger) -> None:
    for rails, told in (
        ([], "supported: none"),
        ([ScriptedRail(BASE), ScriptedRail(SOLANA_DEVNET)], f"{BASE}, solana"),
    ):
        party = Settler(ledger, rails)
        receipt = await party.settle()
        assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "invalid_network")
        assert told in str(receipt.error_message)
        assert party.told() == ["settle.refused"]


async def test_what_is_supported_is_told_in_both_versions_and_once(ledger: SqlLedger) -> None:
    def kinds(*schemes: str) -> tuple[Kind, ...]:
        return tuple(Kind(scheme=scheme, network=BASE_SEPOLIA) for scheme in schemes)

    one = ScriptedRail(kinds=kinds("exact", "upto"), signers=["0xa", "0xb"])
    poor = ScriptedRail(BASE, signers=["0xpoor"])
    svm = ScriptedRail(SOLANA_DEVNET, kinds=(Kind(scheme="exact", network=SOLANA_DEVNET),), signers=["S"])
    two = ScriptedRail("eip155:1", kinds=kinds("exact"), signers=["0xb", "0xc"])
    two.extensions = ("approval", "gas")
    local = LocalFacilitator([one, poor, svm, two], ledger)
    supported = await local.supported()
    told = [(kind.version, kind.scheme, kind.network) for kind in supported.kinds]
    assert told == [
        (2, "exact", BASE_SEPOLIA), (2, "upto", BASE_SEPOLIA), (1, "exact", "base-sepolia"),
        (2, "exact", SOLANA_DEVNET), (1, "exact", "solana-devnet"),
        (2, "exact", BASE_SEPOLIA), (1, "exact", "base-sepolia"),
    ]  # fmt: skip
    assert supported.signers == {"eip155:*": ["0xa", "0xb", "0xc"], "solana:*": ["S"]}
    assert supported.extensions == ("gas", "approval")


@pytest.mark.parametrize("changed", [{"amount": 999}, {"amount": 1001}, {"pay_to": "0x" + "11" * 20}])
async def test_A24_other_terms_under_a_known_identity_get_no_answer(scripted: Any, changed: dict[str, Any]) -> None:
    party, rail = scripted()
    assert (await party.settle()).success
    party.told()
    if "pay_to" in changed:
        entry = await party.ledger.find(ME, party.pay_id)
        other = replace(entry.subject, payee=changed["pay_to"])
        rail.read = lambda payment, requirement: replace(ScriptedRail.read(rail, payment, party.offer), subject=other)
    receipt = await party.settle(**changed)
    assert (receipt.outcome, receipt.error_reason, receipt.proven) == (Outcome.REFUSED, "duplicate_settlement", False)
    assert party.told() == ["settle.refused"]


@pytest.mark.parametrize("member", ["payer", "asset"])
async def test_A24_nor_does_another_payer_or_token(scripted: Any, member: str) -> None:
    party, rail = scripted()
    assert (await party.settle()).success
    entry = await party.ledger.find(ME, party.pay_id)
    other = replace(entry.subject, **{member: "0x" + "11" * 20})
    read = rail.read
    rail.read = lambda payment, requirement: replace(read(payment, requirement), subject=other)
    assert (await party.settle()).error_reason == "duplicate_settlement"


async def test_A13_callers_with_the_same_terms_share_a_flight_and_others_do_not(scripted: Any) -> None:
    party, rail = scripted(decide=[OURS, OURS])
    go_on = asyncio.Event()
    check = rail.check

    async def slowly(*asked: Any, **how: Any) -> Any:
        await go_on.wait()
        return await check(*asked, **how)

    rail.check = slowly
    same = [asyncio.create_task(party.settle()) for _ in range(3)]
    other = asyncio.create_task(party.settle(amount=999))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [len(flights) for flights in party.local._flights.values()] == [2]
    go_on.set()
    receipts = [await one for one in same]
    assert {receipt.transaction for receipt in receipts} | {(await other).transaction} >= {"0xours"}
    assert rail.asked.count("submit") == 1
    assert sorted(one.success for one in (*receipts, await other)) in ([False, True, True, True], [False] * 3 + [True])
    await asyncio.sleep(0)
    assert party.local._flights == {}


async def test_a_failure_whose_callers_have_gone_is_no_surprise(scripted: Any) -> None:
    party, _ = scripted(intend=AWAY)
    loop, surprises = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: surprises.append(context))
    call = asyncio.create_task(party.settle())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    for _ in range(50):
        await asyncio.sleep(0.001)
        if not party.local._flights:
            break
    gc.collect()
    assert surprises == []
    with pytest.raises(UnavailableError):
        await party.settle()


@pytest.mark.parametrize("at", ["find", "check"])
async def test_E02_a_ledger_that_cannot_be_read_refuses_nobody(scripted: Any, ledger: SqlLedger, at: str) -> None:
    party, _ = (
        scripted(on=Meddled(ledger, find=unreachable)) if at == "find" else scripted(check=Unprepared("x", "begun"))
    )
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction) == (Outcome.PENDING, "")
    assert receipt.error_message in ("the node did not answer", "begun")
    assert party.told() == ["settle.pending"]


async def test_a_budget_that_is_spent_refuses_and_proves_nothing(scripted: Any) -> None:
    limited = LimitedError("fee_budget_spent", "no more today")
    party, rail = scripted(check=limited)
    receipt = await party.settle()
    assert (receipt.error_reason, receipt.proven, rail.asked) == ("fee_budget_spent", False, ["check settling"])
    party, rail = scripted(Budget(limited))
    receipt = await party.settle()
    assert (receipt.error_reason, receipt.proven, rail.asked) == ("fee_budget_spent", False, ["check settling", "fee"])
    assert (party.told(), await party.state()) == (["settle.refused"], None)


async def test_B16_what_costs_nothing_is_closed_without_a_transaction(scripted: Any) -> None:
    budget = Budget()
    party, rail = scripted(budget, check={"nothing_due": True})
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction, receipt.amount) == (Outcome.SETTLED, "", "0")
    assert (rail.asked, budget.booked) == (["check settling"], [])
    assert await party.state() is State.REFUSED
    assert await party.settle() == receipt


@pytest.mark.parametrize("verdict", [None, AWAY])
async def test_A09_what_the_chain_does_not_show_is_pending_until_it_does(scripted: Any, verdict: Any) -> None:
    party, rail = scripted(decide=[verdict, OURS])
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction, party.told()) == (Outcome.PENDING, "0xours", ["settle.pending"])
    assert (await party.settle()).success
    assert rail.asked.count("submit") == 1


async def test_D11_a_failure_is_noted_while_it_is_seen(scripted: Any) -> None:
    budget = Budget()
    party, rail = scripted(budget, decide=[None, None, AWAY, None, OURS], failure=["0xours", None, "0xours", AWAY])
    for failing in (True, False, False, True):
        await party.settle()
        assert budget.failing is failing
    assert (await party.settle()).success
    assert budget.failing is False
    assert rail.asked.count("failure 0xours") == 3


async def test_D11_a_failure_is_looked_for_by_the_newest_bytes(ledger: SqlLedger) -> None:
    """Those that were made while the chain was asked, because the payment had failed in company."""

    class Alone(ScriptedRail):
        async def decide(self, entry: Entry, intended: Intended, ledger: Any, *, timeout: float) -> None:
            await self.replace(entry, intended, ledger)

    rail = Alone(replace=True)
    await Settler(ledger, [rail], Budget()).settle()
    assert rail.asked[-1] == "failure 0xours2"


async def test_D11_a_strangers_transaction_is_nobodys_failure(scripted: Any) -> None:
    """There are no bytes of ours that could have cost anything."""
    theirs = Settled("0xtheirs")
    budget = Budget()
    party, rail = scripted(budget, check=RefusedError(USED, "used"), spent_by=theirs, is_deep=False, decide=None)
    for _ in range(2):
        assert (await party.settle()).outcome is Outcome.PENDING
    assert (budget.failing, [one for one in rail.asked if one.startswith("failure")]) == (None, [])


@pytest.mark.parametrize(
    ("costs", "corrected"), [([5], 5), ([None, 6], 6), ([5, None], 5), ([5, 6], None), ([None, None], None)]
)
async def test_what_was_paid_twice_stays_booked(costs: list[int | None], corrected: int | None) -> None:
    """For one transaction the chain's figure is the truth; for two, their bids were booked together."""
    rail = ScriptedRail(cost=list(costs))
    intended = Intended("0xnew", b"raw", 9, earlier=("0xold",) * (len(costs) - 1), shares=3)
    assert await cost_of(rail, intended) == corrected
    assert rail.asked == [f"cost {name} 3" for name in intended.transactions]


async def test_A16_what_a_fork_undid_is_pending_in_words_of_its_own(scripted: Any, ledger: SqlLedger) -> None:
    party, _ = scripted()
    assert (await party.settle()).success
    await ledger.advance(ME, party.pay_id, Event.REORGANISE, Reversed("0xours"))
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction) == (Outcome.PENDING, "0xours")
    assert "reorganisation" in str(receipt.error_message)
    await ledger.advance(ME, party.pay_id, Event.FINALISE, Final("0xagain", 9))
    assert (await party.settle()).transaction == "0xagain"


async def test_A22_reconciling_joins_what_is_under_way_and_asks_about_what_is_open(scripted: Any) -> None:
    party, rail = scripted(decide=[None, OURS])
    assert await party.local.reconcile("unknown", timeout=0) is None
    go_on = asyncio.Event()
    submit = rail.submit

    async def slowly(intended: Intended) -> None:
        await go_on.wait()
        await submit(intended)

    rail.submit = slowly
    settling = asyncio.create_task(party.settle())
    await written(party.ledger, 1)
    asking = asyncio.create_task(party.local.reconcile(party.pay_id, timeout=0))
    await asyncio.sleep(0.01)
    assert not asking.done()
    go_on.set()
    assert (await settling).outcome is Outcome.PENDING
    receipt = await asking
    assert receipt is not None
    assert (receipt.success, rail.asked.count("submit")) == (True, 1)
    # Of a network that is served no more only the ledger speaks.
    party.local.rails = {}
    again = await party.local.reconcile(party.pay_id, timeout=0)
    assert again == receipt


async def test_A16_a_settled_payment_is_read_again_by_its_rail(scripted: Any) -> None:
    party, rail = scripted()
    assert (await party.settle()).success
    entry = await party.ledger.find(ME, party.pay_id)
    await party.local.reread(entry)
    assert rail.asked[-1] == "standing"
    party.local.rails = {}
    await party.local.reread(entry)
    assert rail.asked.count("standing") == 1


def test_a_facilitator_here_says_that_it_is_here(ledger: SqlLedger) -> None:
    assert LocalFacilitator([], ledger).in_process is True
    assert LocalFacilitator([], ledger)._timeout == 30.0
    assert ME is Party.FACILITATOR
