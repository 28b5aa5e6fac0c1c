"""What is sent for an approval of Permit2, step by step, and when one is given up (protocol page §2.6, faults D04, D05,
D15)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.facilitator.approval_desk import GAS_COST, LOST, OPEN, SECOND, USED, Desk
from tests.facilitator.world import CHAIN_ID
from tests.payments import EvmPayer
from x402.chain import EvmFees
from x402.errors import Mender, RefusedError, UnavailableError
from x402.networks import BASE_SEPOLIA
from x402.ports.grants import Grant, GrantState
from x402.ports.ledger import SqlLedger
from x402.schemes.eip1559 import read_transaction


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


async def the_grant(desk: Desk) -> Grant:
    (grant,) = await desk.book.of_payer(BASE_SEPOLIA, desk.payer.address)
    return grant


# What is promised.


async def test_D04_the_gift_is_signed_and_written_down_before_it_is_sent(desk: Desk) -> None:
    desk.node.counts[desk.purse.address] = 5
    plan = await desk.plan()
    desk.now += 7
    assert await desk.carry_out(plan) == ("approval_pending", [OPEN])
    grant = await the_grant(desk)
    call = plan.approval.transaction
    assert (grant.network, grant.payer, grant.asset) == (BASE_SEPOLIA, desk.payer.address, desk.asset.address)
    assert (grant.approval, grant.approval_raw, grant.approval_nonce) == (
        plan.approval.name, plan.approval.signed.raw, call.nonce,
    )  # fmt: skip
    assert (grant.wei, grant.sender, grant.nonce, grant.created_at) == (GAS_COST, desk.purse.address, 5, SECOND + 7)
    gift = read_transaction(grant.funding_raw)
    assert (gift.name, gift.transaction.nonce, gift.transaction.chain_id) == (grant.funding, 5, CHAIN_ID)
    assert (gift.transaction.to, gift.transaction.value, gift.transaction.gas) == (
        desk.payer.address, GAS_COST, 21_000,
    )  # fmt: skip
    assert (gift.transaction.max_fee, gift.transaction.priority_fee, gift.transaction.data) == (400, 20, b"")
    assert desk.node.sent == [grant.funding]


async def test_a_gift_never_offers_more_than_its_highest_fee_as_a_tip(desk: Desk) -> None:
    desk.node.bid = EvmFees(10, 30)
    await desk.carry_out(await desk.plan(max_fee=10))
    gift = read_transaction((await the_grant(desk)).funding_raw).transaction
    assert (gift.max_fee, gift.priority_fee) == (40, 40)


async def test_who_has_gas_is_only_written_down(desk: Desk) -> None:
    desk.node.wei[desk.payer.address] = GAS_COST
    plan = await desk.plan()
    desk.node.asked.clear()
    assert await desk.carry_out(plan) == ("approval_pending", [OPEN])
    grant = await the_grant(desk)
    assert (grant.wei, grant.nonce, grant.funding, grant.funding_raw) == (0, None, "", b"")
    assert desk.node.sent == [grant.approval]
    assert (desk.purse.address,) not in desk.node.heard("transaction_count")


async def test_D15_who_has_lost_gas_meanwhile_is_given_none(desk: Desk) -> None:
    plan = await desk.plan()
    await desk.grant(LOST, nonce=3)
    with pytest.raises(RefusedError, match="was given gas before: approve Permit2 yourself") as refused:
        await plan.carry_out(timeout=1)
    assert (refused.value.code, refused.value.mender) == ("erc20_approval_not_sponsored", Mender.PAYER)
    assert desk.node.sent == []


async def test_D15_what_is_begun_counts_once_and_says_whose_it_was(desk: Desk) -> None:
    first, second = await desk.plan(), await desk.plan()
    desk.node.takes[first.approval.name] = True
    assert await desk.carry_out(first) == ("approval_pending", [OPEN])
    desk.node.takes[(await the_grant(desk)).funding] = True
    assert await desk.carry_out(second) == (False, [USED])

    desk.node.wei[(other := EvmPayer()).address] = GAS_COST
    desk.payer = other
    plan = await desk.plan()
    desk.node.takes[plan.approval.name] = True
    assert await desk.carry_out(plan) == (True, [USED])


async def test_two_transactions_share_the_time_there_is(desk: Desk) -> None:
    grant = await desk.grant()
    desk.node.takes = {grant.funding: True, grant.approval: True}
    plan = await desk.plan(settling=True)
    desk.node.asked.clear()
    assert await desk.carry_out(plan, timeout=8) == (False, [USED])
    assert [(about[0], about[1]) for name, *about in desk.node.asked if name == "receipt"] == [
        (grant.approval, 0), (grant.funding, 0), (grant.funding, 4), (grant.approval, 4),
    ]  # fmt: skip
    assert desk.node.heard("send") == [
        (grant.funding_raw, grant.funding), (grant.approval_raw, grant.approval),
    ]  # fmt: skip


# What has become of it.


@pytest.mark.parametrize("succeeded", [True, False])
async def test_D05_what_is_in_a_block_is_sent_no_more(desk: Desk, succeeded: bool) -> None:
    grant = await desk.grant()
    desk.node.land(grant.approval, succeeded=succeeded)
    ended = (False, [USED]) if succeeded else ("erc20_approval_tx_failed", [LOST])
    assert await desk.drive(grant) == ended
    assert desk.node.sent == []


@pytest.mark.parametrize("succeeded", [True, False])
async def test_D05_gas_that_has_arrived_is_not_given_again(desk: Desk, succeeded: bool) -> None:
    grant = await desk.grant()
    desk.node.land(grant.funding, succeeded=succeeded)
    if succeeded:
        assert await desk.drive(grant) == ("approval_pending", [OPEN])
        assert desk.node.sent == [grant.approval]
    else:
        assert await desk.drive(grant) == ("erc20_approval_tx_failed", [LOST])
        assert desk.node.sent == []


async def test_D05_gas_that_does_not_arrive_is_followed_by_no_approval(desk: Desk) -> None:
    grant = await desk.grant()
    desk.node.takes[grant.funding] = False
    assert await desk.drive(grant) == ("erc20_approval_tx_failed", [LOST])
    assert desk.node.sent == [grant.funding]


REPLACED = [(0, False, OPEN), (0, True, OPEN), (1, False, LOST), (1, True, OPEN), (2, False, LOST)]
"""By how many transactions an account is further, and whether a node knows this one."""


@pytest.mark.parametrize(("further", "known", "state"), REPLACED)
async def test_D15_a_gift_that_no_node_takes_is_void_once_another_has_its_nonce(
    desk: Desk, further: int, known: bool, state: Any
) -> None:
    grant, state = await desk.grant(), state if state is OPEN else GrantState.VOID
    desk.node.takes[grant.funding] = None
    desk.node.counts[desk.purse.address] = 5 + further
    desk.node.known = {grant.funding} if known else set()
    told = "approval_pending" if state is OPEN else "erc20_approval_tx_failed"
    assert await desk.drive(grant) == (told, [state])
    assert desk.node.sent == [grant.funding]


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize(("further", "known", "state"), REPLACED)
async def test_D15_an_approval_is_lost_once_another_has_its_nonce(
    desk: Desk, further: int, known: bool, state: Any, taken: bool
) -> None:
    grant = await desk.grant(gas=False, nonce=3)
    if not taken:
        desk.node.takes[grant.approval] = None
    desk.node.wei[desk.payer.address] = GAS_COST
    desk.node.counts[desk.payer.address] = 3 + further
    desk.node.known = {grant.approval} if known else set()
    told = "approval_pending" if state is OPEN else "erc20_approval_tx_failed"
    assert await desk.drive(grant) == (told, [state])


@pytest.mark.parametrize(("held", "state"), [(GAS_COST - 1, LOST), (GAS_COST, OPEN), (GAS_COST + 1, OPEN)])
async def test_D15_an_approval_is_lost_once_its_gas_is_spent(desk: Desk, held: int, state: Any) -> None:
    grant = await desk.grant()
    desk.node.land(grant.funding)
    desk.node.takes[grant.approval] = None
    desk.node.wei[desk.payer.address] = held
    told = "approval_pending" if state is OPEN else "erc20_approval_tx_failed"
    assert await desk.drive(grant) == (told, [state])


@pytest.mark.parametrize("succeeded", [True, False])
async def test_D15_an_approval_that_others_sent_meanwhile_is_found(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, succeeded: bool
) -> None:
    grant = await desk.grant(gas=False)
    desk.node.takes[grant.approval] = None
    balance = desk.node.balance

    async def meanwhile(address: str) -> int:
        desk.node.land(grant.approval, succeeded=succeeded)
        return await balance(address)

    monkeypatch.setattr(desk.node, "balance", meanwhile)
    told = (False, [USED]) if succeeded else ("erc20_approval_tx_failed", [LOST])
    assert await desk.drive(grant) == told


@pytest.mark.parametrize("succeeded", [True, False])
async def test_an_approval_is_what_its_receipt_says(desk: Desk, succeeded: bool) -> None:
    grant = await desk.grant(gas=False)
    desk.node.takes[grant.approval] = succeeded
    desk.node.counts[desk.payer.address] = 1
    told = (False, [USED]) if succeeded else ("erc20_approval_tx_failed", [LOST])
    assert await desk.drive(grant) == told


@pytest.mark.parametrize(("age", "state"), [(599, OPEN), (600, LOST), (601, LOST)])
async def test_D15_what_no_block_takes_is_given_up_after_so_many_seconds(desk: Desk, age: int, state: Any) -> None:
    grant = await desk.grant(seconds=age)
    desk.node.land(grant.funding)
    plan = await desk.plan(settling=True)
    error = UnavailableError if state is OPEN else RefusedError
    words = "on its way" if state is OPEN else "did not come into a block"
    with pytest.raises(error, match=words) as raised:
        await plan.carry_out(timeout=1)
    assert raised.value.code == ("approval_pending" if state is OPEN else "erc20_approval_tx_failed")
    assert (await the_grant(desk)).state is state


async def test_what_came_into_a_block_at_last_is_used_however_late(desk: Desk) -> None:
    grant = await desk.grant(seconds=10_000)
    desk.node.known.add(grant.funding)
    desk.node.takes = {grant.funding: True, grant.approval: True}
    assert await desk.drive(grant) == (False, [USED])


# What was left open.


async def test_D04_everything_that_is_open_is_gone_on_with_and_nothing_is_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not answer for one approval keeps nobody else's waiting."""
    grants = []
    for age in (30, 20, 10):
        desk.payer = EvmPayer()
        grants.append(await desk.grant(gas=False, seconds=age))
    silent, ready, slow = grants
    desk.node.takes[ready.approval] = True
    send = desk.node.send

    async def sends(raw: bytes, transaction: str) -> None:
        if transaction == silent.approval:
            raise UnavailableError("rpc_unavailable", "the node did not answer")
        await send(raw, transaction)

    monkeypatch.setattr(desk.node, "send", sends)
    await desk.relay.resume()
    assert desk.node.sent == [ready.approval, slow.approval]
    assert {timeout for _, timeout in desk.node.heard("receipt")} == {0}
    assert [grant.approval for grant in await desk.book.open_ones(BASE_SEPOLIA)] == [silent.approval, slow.approval]
