"""Gas for approvals that could not be given in time: none is lost, nobody is shut out for it, no nonce is left behind.

Faults D01, D04, D05, D15.
"""

from __future__ import annotations

import pytest

from tests.facilitator.approval_desk import GAS_COST, LOST, OPEN, Desk
from tests.payments import EvmPayer
from x402.errors import RefusedError
from x402.facilitator.approval_relay import ApprovalLimits
from x402.networks import BASE_SEPOLIA
from x402.ports.grants import Grant, GrantState
from x402.ports.ledger import SqlLedger

VOID = GrantState.VOID


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


async def newest(desk: Desk) -> Grant:
    *_, newest = await desk.book.of_payer(BASE_SEPOLIA, desk.payer.address)
    return newest


async def test_D05_gas_is_not_sent_for_what_is_given_up(desk: Desk) -> None:
    """Its process died between the book and the first send, and comes back when nobody waits any more."""
    await desk.grant(seconds=600)
    await desk.relay.resume()
    assert (desk.node.sent, (await newest(desk)).state) == ([], VOID)


async def test_D05_control_in_time_it_is_sent(desk: Desk) -> None:
    grant = await desk.grant(seconds=599)
    await desk.relay.resume()
    assert (desk.node.sent, (await newest(desk)).state) == ([grant.funding], OPEN)


async def test_D05_gas_that_is_on_its_way_is_not_given_up(desk: Desk) -> None:
    """When it lands, its approval follows."""
    grant = await desk.grant(seconds=600)
    desk.node.known.add(grant.funding)
    await desk.relay.resume()
    assert (await newest(desk)).state is OPEN


@pytest.mark.parametrize("charge", [0, 1, 10 * GAS_COST])
async def test_D05_a_rollups_charge_counts_in_the_limit_of_one_gift(ledger: SqlLedger, charge: int) -> None:
    desk = Desk(ledger, ApprovalLimits(wei=GAS_COST))

    async def told() -> int:
        return charge

    desk.relay.data_fee = told
    if charge:
        with pytest.raises(RefusedError) as refused:
            await desk.plan()
        assert refused.value.code == "erc20_approval_tx_wrong_fees"
    else:
        assert (await desk.plan()).wei == GAS_COST


async def test_D01_the_nonce_of_a_gift_that_never_left_is_handed_out_again(desk: Desk) -> None:
    """Above a gap nothing lands, so those who came after it would wait for ever."""
    nonces = []
    for wait in (0, 599, 1, 1):
        desk.now += wait
        desk.payer = EvmPayer()
        await desk.relay.resume()
        await desk.carry_out(await desk.plan())
        nonces.append((await newest(desk)).nonce)
    assert nonces == [0, 1, 0, 2]


async def test_D15_who_was_never_given_gas_may_be_given_some(desk: Desk) -> None:
    await desk.grant(seconds=600)
    await desk.relay.resume()
    assert (await newest(desk)).state is VOID
    # The same approval was told that it will not come; another may.
    with pytest.raises(RefusedError):
        await desk.plan()
    assert (await desk.plan(priority_fee=9)).wei > 0


async def test_D15_control_who_lost_it_is_given_no_more(desk: Desk) -> None:
    grant = await desk.grant(seconds=600)
    await desk.book.finish(grant, LOST)
    with pytest.raises(RefusedError, match="was given gas before"):
        await desk.plan(priority_fee=9)


@pytest.mark.parametrize(("limit", "code"), [(GAS_COST - 1, "erc20_approval_tx_wrong_fees"), (GAS_COST, "")])
async def test_D05_a_dear_approval_is_not_sent_whoever_pays_for_it(ledger: SqlLedger, limit: int, code: str) -> None:
    desk = Desk(ledger, ApprovalLimits(wei=limit))
    desk.node.wei[desk.payer.address] = 10**18
    if code:
        assert (await desk.refused()).code == code
    else:
        assert (await desk.plan()).wei == 0
