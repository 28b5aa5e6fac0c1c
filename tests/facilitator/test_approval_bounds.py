"""Which approvals of Permit2 are sent for a payer, and what is given for one at most (protocol page §2.6, faults D04,
D05, D15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.facilitator.approval_desk import GAS_COST, GIFT_COST, LOST, USED, Desk
from tests.payments import EvmPayer, evm_asset
from x402.chain import CallResult, EvmFees
from x402.errors import Mender, UnavailableError
from x402.facilitator.approval_relay import ApprovalLimits
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.schemes import eip712


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


# What is planned.


async def test_a_payment_without_an_approval_plans_nothing(desk: Desk) -> None:
    payment = desk.payer.pay_up_to(desk.offer)
    assert await desk.relay.plan(payment, desk.read(payment), settling=True) is None
    assert desk.node.asked == []


async def test_what_is_planned_is_named_and_asks_the_chain_for_everything_at_once(desk: Desk) -> None:
    plan = await desk.plan()
    assert plan.name == f"{BASE_SEPOLIA}:approval:{plan.approval.name}"
    assert (plan.relay, plan.wei, plan.cost, plan.grant) == (desk.relay, GAS_COST, GAS_COST + GIFT_COST, None)
    payer, token = desk.payer.address, desk.asset.address
    move = eip712.keccak(b"transfer(address,uint256)")[:4]
    move += eip712.address_word(desk.offer.pay_to) + eip712.uint256(desk.offer.amount)
    assert desk.node.heard("call") == [
        (token, plan.approval.transaction.data, payer, 70_000, None), (token, move, payer, 0, None),
    ]  # fmt: skip
    assert (desk.node.heard("code"), desk.node.heard("transaction_count")) == ([(payer,)], [(payer,)])
    assert (desk.node.sent, await desk.relay.balance(), desk.relay.address) == ([], 10**18, desk.purse.address)


@pytest.mark.parametrize(
    ("held", "wei"), [(0, GAS_COST + 5), (GAS_COST + 4, 1), (GAS_COST + 5, 0), (GAS_COST + 6, 0), (10**18, 0)]
)
async def test_what_the_payer_lacks_is_given_with_what_a_rollup_charges(desk: Desk, held: int, wei: int) -> None:
    async def five() -> int:
        return 5

    desk.relay.data_fee = five
    desk.node.wei[desk.payer.address] = held
    plan = await desk.plan()
    assert (plan.wei, plan.cost) == (wei, wei + GIFT_COST + 5 if wei else 0)


async def test_who_lacks_nothing_needs_no_purse(desk: Desk) -> None:
    desk.node.wei = {desk.payer.address: GAS_COST}
    await desk.grant(LOST, nonce=3)
    assert (await desk.plan()).wei == 0


async def test_D15_a_purse_gives_down_to_its_last_wei_and_no_further(desk: Desk) -> None:
    desk.node.wei[desk.purse.address] = GAS_COST + GIFT_COST
    assert (await desk.plan()).wei == GAS_COST
    desk.node.wei[desk.purse.address] -= 1
    error = await desk.refused()
    assert (error.code, error.message, error.mender) == (
        "erc20_approval_insufficient_eth_for_gas", "there is no gas left to give", Mender.FACILITATOR,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_fee": 1000}, None),
        ({"max_fee": 1001}, "gas 70000 at 1001 wei is more than is given for an approval"),
        ({"gas": 120_000}, None),
        ({"gas": 120_001}, "gas 120001 at 100 wei is more than is given for an approval"),
        ({"max_fee": 45}, None),
        ({"max_fee": 44}, "44 wei for gas is less than 45 now"),
        ({"max_fee": 100, "priority_fee": 100}, None),
        ({"max_fee": 100, "priority_fee": 101}, "100 wei for gas is less than 45 now"),
    ],
)
async def test_D15_what_an_approval_offers_for_its_gas_is_bounded_both_ways(
    desk: Desk, changed: dict[str, Any], words: str | None
) -> None:
    desk.node.bid = EvmFees(100, 9)
    if words is None:
        assert (await desk.plan(**changed)).wei > 0
        return
    error = await desk.refused(**changed)
    assert (error.code, error.message) == ("erc20_approval_tx_wrong_fees", words)


@pytest.mark.parametrize(("wei", "given"), [(GAS_COST, True), (GAS_COST - 1, False)])
async def test_D15_what_is_given_for_one_approval_has_a_limit(ledger: SqlLedger, wei: int, given: bool) -> None:
    desk = Desk(ledger, ApprovalLimits(wei=wei))
    if given:
        assert (await desk.plan()).wei == GAS_COST
    else:
        assert (await desk.refused()).code == "erc20_approval_tx_wrong_fees"


def test_D15_the_limits_are_those_that_are_documented(desk: Desk) -> None:
    assert desk.relay.limits == ApprovalLimits(wei=10**14, times=2, patience=600)


@pytest.mark.parametrize("count", [1, 3])
async def test_D15_only_the_accounts_next_transaction_is_sent(desk: Desk, count: int) -> None:
    desk.node.counts[desk.payer.address] = count
    assert (await desk.plan(nonce=count)).wei == GAS_COST
    for nonce in (count - 1, count + 1):
        error = await desk.refused(nonce=nonce)
        assert (error.code, error.message) == (
            "erc20_approval_tx_wrong_nonce", f"the transaction has nonce {nonce}, the account's next is {count}",
        )  # fmt: skip


async def test_D15_who_has_code_or_no_money_or_a_token_that_refuses_is_given_nothing(desk: Desk) -> None:
    plan = await desk.plan()
    calls = [(to, data) for to, data, *_ in desk.node.heard("call")]
    desk.node.says[calls[1]] = CallResult(False)
    error = await desk.refused()
    words = "the payer can't transfer so much of this token"
    assert (error.code, error.message, error.mender) == ("permit2_insufficient_balance", words, Mender.PAYER)
    desk.node.says[calls[0]] = CallResult(False)
    error = await desk.refused()
    assert (error.code, error.message) == ("erc20_approval_tx_failed", "the token refuses the approval")
    desk.node.codes[plan.approval.payer] = b"\xef"
    error = await desk.refused()
    assert (error.code, error.mender) == ("erc20_approval_not_sponsored", Mender.PAYER)
    assert error.message == (
        f"{desk.payer.address} is an account with code: approve Permit2 yourself, with x402 approve"
    )


# What was begun before.


async def test_an_approval_on_its_way_is_gone_on_with_whichever_comes_along(desk: Desk) -> None:
    grant = await desk.grant(nonce=3)
    for settling in (False, True):
        plan = await desk.plan(settling=settling)
        assert (plan.grant, plan.wei, plan.cost) == (grant, 0, 0)
    assert desk.node.asked == []


async def test_D15_an_approval_that_was_lost_is_not_tried_again(desk: Desk) -> None:
    await desk.grant(LOST)
    error = await desk.refused(settling=True)
    assert (error.code, error.mender) == ("erc20_approval_tx_failed", Mender.PAYER)
    assert error.message == "the approval that came with the payment did not come into a block"


@pytest.mark.parametrize("before", [True, False])
async def test_D15_whose_gas_was_lost_is_given_none_for_another_approval(desk: Desk, before: bool) -> None:
    lost = await desk.grant(LOST)
    other = next(tip for tip in range(11, 99) if (desk.name_of(priority_fee=tip) < lost.approval) is before)
    error = await desk.refused(priority_fee=other)
    assert (error.code, error.message) == (
        "erc20_approval_not_sponsored",
        f"{desk.payer.address} was given gas before: approve Permit2 yourself, with x402 approve",
    )


async def test_an_approval_of_another_token_is_not_this_ones(desk: Desk) -> None:
    for digit in ("0", "f"):
        desk.payer = EvmPayer()
        desk.asset = replace(evm_asset(), address=eip712.checksum("0x" + digit * 40))
        await desk.grant()
        desk.asset = evm_asset()
        assert (await desk.refused()).code == "erc20_approval_tx_failed"


async def test_an_approval_that_is_used_up_is_refused_and_one_not_seen_yet_is_waited_for(desk: Desk) -> None:
    await desk.grant(USED)
    error = await desk.refused()
    assert (error.code, error.mender) == ("permit2_allowance_required", Mender.PAYER)
    assert error.message == "the approval that came along is used up"
    with pytest.raises(UnavailableError, match="does not show the payer's approval yet") as unknown:
        await desk.plan(settling=True)
    assert unknown.value.code == "rpc_unavailable"


@pytest.mark.parametrize(("times", "before", "given"), [(2, 1, True), (2, 2, False), (3, 2, True)])
async def test_D15_gas_is_given_so_often_in_a_life(ledger: SqlLedger, times: int, before: int, given: bool) -> None:
    desk = Desk(ledger, ApprovalLimits(times=times))
    for nonce in range(before):
        await desk.grant(USED, nonce=nonce + 10)
    if given:
        assert (await desk.plan()).wei == GAS_COST
    else:
        assert (await desk.refused()).code == "erc20_approval_not_sponsored"
