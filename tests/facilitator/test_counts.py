"""What a payment costs in questions and transactions: counts, never times (design D7, D8)."""

from __future__ import annotations

import asyncio

from tests.facilitator.world import EvmShop, facilitator
from tests.payments import evm_requirement, with_payload
from x402.facilitator.settle import LocalFacilitator
from x402.networks import MULTICALL3
from x402.ports.ledger import SqlLedger
from x402.ports.rpc import JsonRpc


def rpc(evm: EvmShop) -> JsonRpc:
    """The line to the node, with its counters."""
    return evm.chain.rpc


async def proven(evm: EvmShop, ledger: SqlLedger) -> LocalFacilitator:
    """A facilitator that has asked its node once which chain it serves."""
    rail = evm.rail(ledger)
    await rail.start()
    return facilitator([rail], ledger)


async def test_a_verification_is_one_call_and_those_at_once_share_a_request(evm: EvmShop, ledger: SqlLedger) -> None:
    party = await proven(evm, ledger)
    requests, calls = rpc(evm).requests, rpc(evm).calls
    assert (await party.verify(evm.pay(), evm.offer)).is_valid
    assert (rpc(evm).requests - requests, rpc(evm).calls - calls) == (1, 1)
    requests, calls = rpc(evm).requests, rpc(evm).calls
    verified = await asyncio.gather(*(party.verify(evm.pay(), evm.offer) for _ in range(20)))
    assert all(one.is_valid for one in verified)
    assert (rpc(evm).requests - requests, rpc(evm).calls - calls) == (1, 20)


async def test_what_is_invalid_offline_costs_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    party = await proven(evm, ledger)
    requests, dear = rpc(evm).requests, evm_requirement(evm.offer.pay_to, 2000)
    signed = evm.pay()
    late = evm.pay(lifetime=1)
    wrong = [
        (signed, dear),
        (signed, evm_requirement()),
        (late, evm.offer),
        (with_payload(signed, signature="0x"), evm.offer),
        (with_payload(signed, authorization={}), evm.offer),
        (signed, evm.offer.model_copy(update={"asset": "0x" + "11" * 20})),
        (signed, evm.offer.model_copy(update={"extra": {"name": "Other", "version": "2"}})),
    ]
    verified = [await party.verify(payment, offer) for payment, offer in wrong]
    assert [one.is_valid for one in verified] == [False] * len(wrong)
    assert rpc(evm).requests == requests


async def test_verifications_at_once_never_answer_for_each_other(evm: EvmShop, ledger: SqlLedger) -> None:
    """One payer with money for one payment, one payment many times, and bad ones among them: each stands alone."""
    party = await proven(evm, ledger)
    await evm.world.fund(evm.payer.address, 0)
    whole = evm_requirement(evm.offer.pay_to, 1_000_000)
    beyond = evm_requirement(evm.offer.pay_to, 1_000_001)
    same = evm.payer.pay(whole)
    forged = with_payload(evm.payer.pay(whole), signature=same.payload["signature"])
    asked = [(same, whole)] * 5 + [(evm.payer.pay(whole), whole), (forged, whole), (evm.payer.pay(beyond), beyond)]
    verified = await asyncio.gather(*(party.verify(payment, offer) for payment, offer in asked))
    assert [one.is_valid for one in verified] == [True] * 6 + [False] * 2
    assert verified[6].invalid_reason == "invalid_exact_evm_signature"
    assert verified[7].invalid_reason == "invalid_exact_evm_insufficient_balance"
    assert {one.balance for one in verified[:6]} == {1_000_000}


async def test_a_network_without_the_bundler_is_asked_twice_in_one_request(evm: EvmShop, ledger: SqlLedger) -> None:
    code = await evm.world.request("eth_getCode", MULTICALL3, "latest")
    await evm.world.request("anvil_setCode", MULTICALL3, "0x")
    try:
        party = await proven(evm, ledger)
        assert (await party.verify(evm.pay(), evm.offer)).is_valid
        requests, calls = rpc(evm).requests, rpc(evm).calls
        verification = await party.verify(evm.pay(), evm.offer)
        assert (verification.is_valid, verification.balance) == (True, 1_000_000)
        assert (rpc(evm).requests - requests, rpc(evm).calls - calls) == (1, 2)
        assert (await party.settle(evm.pay(), evm.offer)).success
    finally:
        await evm.world.request("anvil_setCode", MULTICALL3, code)
