"""What a payment costs in questions and transactions: counts, never times (design D7, D8)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from tests.facilitator.world import EvmShop, SvmShop, facilitator
from tests.payments import evm_requirement, with_payload
from x402.facilitator.allowance import Allowance, Caps
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.networks import MULTICALL3, SOLANA_DEVNET
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


def heard(shop: SvmShop) -> tuple[list[int], Counter[str]]:
    """How many calls each request to the node carries from now on, and how often each method is called."""
    requests, methods, carry = list[int](), Counter[str](), shop.chain.rpc._carry

    async def listen(content: bytes) -> tuple[int, bytes]:
        calls = json.loads(content)
        calls = calls if isinstance(calls, list) else [calls]
        requests.append(len(calls))
        methods.update(call["method"] for call in calls)
        return await carry(content)

    shop.chain.rpc._carry = listen
    return requests, methods


def budgeted(shop: SvmShop, ledger: SqlLedger) -> LocalFacilitator:
    """A facilitator with a budget of fees, which it corrects after each settlement."""
    caps = {SOLANA_DEVNET: Caps(total=10**9)}
    return LocalFacilitator([shop.rail()], ledger, allowance=Allowance(ledger, caps, unix_now))


async def test_a_solana_verification_is_one_request(svm: SvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([svm.rail()], ledger), await svm.pay()
    await party.rails[SOLANA_DEVNET].start()
    requests, methods = heard(svm)
    assert (await party.verify(payment, svm.offer)).is_valid
    assert requests == [2]
    dear = svm.offer.model_copy(update={"amount": 2000})
    assert not (await party.verify(payment, dear)).is_valid
    assert (requests, set(methods)) == ([2], {"simulateTransaction", "getMultipleAccounts"})


async def test_a_solana_settlement_is_four_requests_and_its_fee_costs_none(svm: SvmShop, ledger: SqlLedger) -> None:
    party, payment = budgeted(svm, ledger), await svm.pay()
    await party.rails[SOLANA_DEVNET].start()
    requests, methods = heard(svm)
    assert (await party.settle(payment, svm.offer)).success
    assert party.allowance is not None
    await party.allowance.drain()
    # The check with the block height, the bytes, what became of them, and what it moved.
    assert requests == [3, 1, 1, 1]
    assert methods["getTransaction"] == 1
    day = unix_now() // 86_400
    assert await ledger.spent(day, f"{SOLANA_DEVNET} total") == 10_001
    assert (await party.settle(payment, svm.offer)).success
    assert len(requests) == 4


async def test_solana_settlements_at_once_share_their_questions(svm: SvmShop, ledger: SqlLedger) -> None:
    party = budgeted(svm, ledger)
    payments = [await svm.pay() for _ in range(20)]
    await party.rails[SOLANA_DEVNET].start()
    requests, methods = heard(svm)
    receipts = await asyncio.gather(*(party.settle(payment, svm.offer) for payment in payments))
    assert all(receipt.success for receipt in receipts)
    assert await svm.received() == 20_000
    assert methods["sendTransaction"] == methods["getTransaction"] == 20
    assert methods["getBlockHeight"] < 10
    assert methods["getSignatureStatuses"] < 20
    assert len(requests) < 50
