"""What an EVM rail promises until bytes leave: offer, check, price, write down, send (B16, D01, D05, D14, E08).

The node is scripted, so that each moment comes; the ledger, the payments and the keys are real.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.facilitator.evm_desk import FIRST, LANDED, RESERVE, SECOND, WHOLE, Desk
from tests.facilitator.script import ME
from tests.nodes import EvmNode, EvmSale
from x402.chain import CallResult, EvmFees, EvmReceipt
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator import evm_sender
from x402.facilitator.evm_rail import EvmChecked, EvmRail
from x402.facilitator.evm_sender import Gas
from x402.facilitator.rail import Checked
from x402.lifecycle import begin
from x402.networks import BASE_SEPOLIA
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes import upto_evm
from x402.schemes.eip712 import uint256
from x402.stages import NOTHING_DUE, Intended, Refused


class Relay:
    """Stands for the one that sends payers' approvals; the real one is tested in `test_approvals.py`."""

    def __init__(self, plan: Any = None) -> None:
        self.address, self.limits = "0xrelay", SimpleNamespace(wei=5 * RESERVE)
        self.answer, self.data_fee = plan, None
        self.held, self.asked, self.resumed = 0, list[bool](), 0

    async def balance(self) -> int:
        return self.held

    async def plan(self, payment: Any, signed: Any, *, settling: bool) -> Any:
        self.asked.append(settling)
        return self.answer

    async def resume(self) -> None:
        self.resumed += 1


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


# Being there.


async def test_D14_nothing_is_judged_before_the_node_has_proved_its_network(desk: Desk) -> None:
    desk.node.away.add("check_chain_id")
    with pytest.raises(UnavailableError):
        await desk.check()
    assert desk.node.asked == [("check_chain_id",)]
    desk.node.away.clear()
    await desk.check()
    assert desk.node.asked[0] == ("check_chain_id",)
    # Once is enough.
    await desk.check()
    assert desk.node.heard("check_chain_id") == []
    started = Desk(desk.ledger)
    await started.rail.start()
    assert started.node.asked == [("check_chain_id",)]
    await started.check()
    assert started.node.heard("check_chain_id") == []
    await started.rail.aclose()
    assert started.node.heard("aclose") == [()]


def test_a_rail_without_a_key_is_refused() -> None:
    with pytest.raises(MisconfiguredError, match="at least one key"):
        EvmRail(BASE_SEPOLIA, EvmNode(), [], lambda: 0)


async def test_E08_both_schemes_are_offered_while_a_key_has_its_reserve(desk: Desk) -> None:
    assert desk.rail.signers() == [FIRST.address, SECOND.address]
    assert desk.rail.extensions == ("eip2612GasSponsoring",)
    exact, upto = await desk.rail.kinds()
    assert (exact.scheme, exact.network, exact.extra) == ("exact", BASE_SEPOLIA, {})
    assert (upto.scheme, upto.extra) == ("upto", {"facilitatorAddress": SECOND.address})
    assert desk.rail.balances == desk.node.wei
    desk.node.wei = {FIRST.address: RESERVE, SECOND.address: 0}
    assert [kind.extra for kind in await desk.rail.kinds()] == [{}, {"facilitatorAddress": FIRST.address}]
    desk.node.wei[FIRST.address] -= 1
    assert await desk.rail.kinds() == ()
    assert desk.rail.balances == desk.node.wei
    desk.node.wei[FIRST.address] = WHOLE
    desk.node.away.add("balance")
    assert await desk.rail.kinds() == ()


async def test_approvals_are_offered_while_there_is_gas_to_give(ledger: SqlLedger) -> None:
    relay: Any = Relay()
    desk = Desk(ledger, relay=relay)
    assert relay.data_fee == desk.rail._sender.data_fee
    for wei, reserve, held, offered in ((5, 1, 5, True), (5, 1, 4, False), (1, 5, 5, True), (1, 5, 4, False)):
        relay.limits.wei, desk.rail.reserve, relay.held = wei, reserve, held
        assert len(await desk.rail.kinds()) == 2
        assert desk.rail.balances == desk.node.wei | {"0xrelay": held}
        both = ("eip2612GasSponsoring", "erc20ApprovalGasSponsoring")
        assert desk.rail.extensions == both[: 1 + offered]
    await desk.rail.heal(ledger)
    assert relay.resumed == 1


# Checking.


async def test_a_payment_is_checked_with_the_gas_that_it_will_have(ledger: SqlLedger) -> None:
    desk = Desk(ledger, gas=Gas(limit=123_456))
    desk.sale.pass_check()
    checked = await desk.check()
    assert (checked.subject, checked.balance, checked.plain) == (desk.sale.subject, 5000, False)
    assert (checked.signed, checked.nothing_due, checked.preparation) == (desk.sale.signed, False, None)
    ((_, _, sender, gas, _),) = desk.node.heard("call")
    assert (sender, gas) == (FIRST.address, 123_456)
    # Where settling follows, it is looked at closer.
    await desk.rail.check(desk.sale.payment, desk.sale.offer)
    assert desk.node.heard("code") == []
    assert (await desk.check(settling=True)).plain is True
    assert desk.node.heard("code") == [(desk.sale.payer.address,)]


async def test_what_breaks_a_rule_is_refused_without_a_question(desk: Desk) -> None:
    desk.now = desk.sale.signed.valid_before
    assert (await desk.refused()).code == "invalid_exact_evm_payload_authorization_valid_before"
    assert desk.node.asked == []
    # What was accepted once is read as it was, for ever.
    read = desk.rail.read(desk.sale.payment, desk.sale.offer)
    assert isinstance(read, EvmChecked)
    assert (read.subject, read.signed) == (desk.sale.subject, desk.sale.signed)


async def test_a_permit_for_another_facilitator_is_not_ours_to_settle(ledger: SqlLedger) -> None:
    desk = Desk(ledger, "upto")
    assert (await desk.check()).subject == desk.sale.subject
    other = EvmSale(desk.node, "upto")
    refusal = await desk.refused(sale=other)
    assert (refusal.code, refusal.details) == ("upto_facilitator_mismatch", {"payer": other.payer.address})
    assert desk.node.asked == []


async def test_B16_what_meters_and_used_nothing_is_closed_without_a_transaction(ledger: SqlLedger) -> None:
    desk = Desk(ledger, "upto")
    assert (await desk.check(settling=True, amount=0)).nothing_due is True
    assert (await desk.check(settling=True, amount=1)).nothing_due is False
    closed, _ = await ledger.begin(begin(ME, desk.sale.subject, Intended("", b"", 0)))
    assert isinstance(closed.stage, Intended)
    desk.node.asked.clear()
    refused = await desk.decide(closed, closed.stage)
    assert isinstance(refused, Refused)
    assert (refused.reason, desk.node.asked) == (NOTHING_DUE, [])


def lacks_allowance(desk: Desk) -> None:
    desk.node.says[desk.sale.calls()[1]] = CallResult(False, revert="TRANSFER_FROM_FAILED")


async def test_who_lacks_the_allowance_may_have_brought_an_approval(ledger: SqlLedger) -> None:
    plan: Any = SimpleNamespace(cost=77)
    relay: Any = Relay(plan)
    desk = Desk(ledger, "upto", relay=relay)
    lacks_allowance(desk)
    for settling in (False, True):
        checked = await desk.check(settling=settling)
        # Until the approval is there, what he can pay with is this payment's alone.
        assert (checked.balance, checked.preparation) == (1000, plan)
        assert (checked.signed, checked.nothing_due) == (desk.sale.signed, False)
    assert relay.asked == [False, True]
    # What it costs is part of the fee.
    fee = await desk.rail.fee(checked)
    assert fee == 77 + await desk.rail.fee(replace(checked, preparation=None))
    relay.answer = None
    assert (await desk.refused()).code == "permit2_allowance_required"
    # Another refusal is none that an approval would mend.
    relay.asked.clear()
    funds, settlement = desk.sale.calls()
    desk.node.says[funds] = CallResult(False)
    desk.node.says[desk.sale.offer.asset, upto_evm.allowance_call(desk.sale.payer.address)] = CallResult(False)
    for revert, code in (("InvalidNonce()", "permit2_invalid_nonce"), ("", "invalid_upto_evm_transaction_failed")):
        desk.node.says[settlement] = CallResult(False, revert=revert)
        assert (await desk.refused()).code == code
    assert relay.asked == []
    nobody = Desk(ledger, "upto")
    lacks_allowance(nobody)
    assert (await nobody.refused()).code == "permit2_allowance_required"


# What it costs.


async def test_the_fee_is_the_bid_for_its_gas_and_a_rollups_charge(desk: Desk) -> None:
    oracle = evm_sender._GAS_PRICE_ORACLE, evm_sender._UPPER_BOUND_CALL
    desk.node.says[oracle] = CallResult(True, uint256(333))
    desk.node.bid = EvmFees(7, 1)
    read = desk.rail.read(desk.sale.payment, desk.sale.offer)
    assert await desk.rail.fee(read) == 160_000 * 7 + 333
    # Who has not read it reads it then.
    bare = Checked(read.subject, read.payment, read.requirement)
    assert await desk.rail.fee(bare) == 160_000 * 7 + 333


@pytest.mark.parametrize(("fee", "shares", "cost"), [(700, 1, 700), (700, 3, 234), (699, 3, 233), (0, 1, None)])
async def test_the_cost_is_a_share_of_what_the_transaction_took(
    desk: Desk, fee: int, shares: int, cost: int | None
) -> None:
    assert await desk.rail.cost("0xours", shares) is None
    desk.node.receipts["0xours"] = EvmReceipt("0xours", True, LANDED, (), fee)
    assert await desk.rail.cost("0xours", shares) == cost
    assert desk.node.heard("receipt") == [("0xours", 0)] * 2
    if shares == 1:
        assert await desk.rail.cost("0xours") == cost


# Writing down and sending.


async def test_what_settles_is_written_down_before_anything_leaves(desk: Desk) -> None:
    entry, stage = await desk.intended()
    assert (entry.subject, stage.sender, stage.nonce) == (desk.sale.subject, FIRST.address, 0)
    assert stage.last_valid == desk.sale.signed.valid_before
    assert await desk.ledger.find(ME, entry.subject.pay_id) == entry
    assert desk.sent() == []
    await desk.rail.submit(stage)
    assert desk.sent() == [stage.transaction]


async def test_D01_only_what_is_plain_leaves_together(desk: Desk) -> None:
    entry, stage, other = await desk.together()
    assert stage.shares == 2
    assert entry.subject == desk.sale.subject
    alone = Desk(desk.ledger)
    # Of what was only read, nobody knows whose code it runs.
    read = [alone.rail.read(sale.payment, sale.offer) for sale in (EvmSale(alone.node) for _ in range(4))]
    read[2:] = [Checked(one.subject, one.payment, one.requirement) for one in read[2:]]
    signed = await asyncio.gather(*(alone.intended(one) for one in read))
    assert [one.shares for _, one in signed] == [1] * 4
    assert other.subject != desk.sale.subject


async def test_D01_what_a_node_has_refused_may_be_signed_by_another_key(desk: Desk) -> None:
    entry, stage = await desk.intended()
    desk.node.refusal = NotSent("insufficient funds", ours=True)
    with pytest.raises(NotSent):
        await desk.rail.submit(stage)
    after = await desk.rail.replace(entry, stage, desk.ledger)
    assert after is not None
    assert (await desk.stage(entry)).sender == SECOND.address


@pytest.mark.parametrize(("scheme", "is_open"), [("exact", True), ("upto", False)])
async def test_A11_only_what_names_no_facilitator_may_be_settled_by_anybody(
    ledger: SqlLedger, scheme: str, is_open: bool
) -> None:
    desk = Desk(ledger, scheme)
    assert desk.rail.is_open_to_all(desk.sale.subject) is is_open
