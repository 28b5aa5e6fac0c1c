"""What a settlement may cost, and what it did cost: in wei with a rollup's charge for data, and in lamports."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.facilitator.world import EvmShop, Meddled, SvmShop, facilitator
from x402.chain import CallResult, EvmFees
from x402.errors import UnavailableError
from x402.facilitator.evm_rail import EvmRail
from x402.networks import BASE_SEPOLIA
from x402.ports.evm import _fee
from x402.ports.ledger import SqlLedger
from x402.telemetry import Telemetry
from x402.telemetry.metrics import count_facts, exposition

ORACLE = "0x420000000000000000000000000000000000000F"


async def test_the_cost_is_what_the_balance_lost_and_the_fee_is_no_less(
    evm: EvmShop, svm: SvmShop, ledger: SqlLedger
) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    for shop, payment in ((evm, evm.pay()), (svm, await svm.pay())):
        rail = party.rails[shop.offer.network]
        most = await rail.fee(await rail.check(payment, shop.offer))
        await rail.kinds()
        before = rail.balances[shop.signer.address]
        receipt = await party.settle(payment, shop.offer)
        await rail.kinds()
        lost = before - rail.balances[shop.signer.address]
        assert 0 < lost <= most
        assert await rail.cost(receipt.transaction) == lost
    # Who has not seen it land asks the chain.
    assert await svm.rail().cost(receipt.transaction) == lost
    assert await party.rails[evm.offer.network].cost("0x" + "12" * 32) is None
    # The most expensive Solana payment that is sponsored: 50,000 lamports of priority, and two signatures.
    assert most == 10_000 + 1


def test_a_rollup_s_charge_is_part_of_the_fee() -> None:
    receipt = {"gasUsed": "0x10", "effectiveGasPrice": "0x100"}
    assert _fee(receipt) == 4096
    assert _fee(receipt | {"l1Fee": "0x5"}) == 4101
    assert _fee({"l1Fee": None}) == 0
    for junk in ({"gasUsed": "16"}, {"effectiveGasPrice": 1}, {"l1Fee": "x"}):
        with pytest.raises(UnavailableError):
            _fee(receipt | junk)


async def test_a_rollup_is_asked_for_its_charge_now_and_then(evm: EvmShop) -> None:
    asked, now, answers = 0, [1_800_000_000], list[CallResult]()

    async def call(to: str, data: bytes, **how: Any) -> CallResult:
        nonlocal asked
        if to != ORACLE:
            return await evm.chain.call(to, data, **how)
        asked += 1
        return answers[0]

    async def fees() -> EvmFees:
        return EvmFees(10, 1)

    rail = EvmRail(BASE_SEPOLIA, Meddled(evm.chain, call=call, fees=fees), [evm.signer], lambda: now[0])
    checked = rail.read(evm.pay(), evm.offer)
    for told, charge in (
        (CallResult(True, (7).to_bytes(32, "big")), 7),
        (CallResult(True, b""), 0),
        (CallResult(False, revert="no such function"), 0),
    ):
        answers[:] = [told]
        now[0] += 30
        for _ in range(3):
            assert await rail.fee(checked) == 160_000 * 10 + charge
            now[0] += 9
        now[0] += 3
    assert asked == 3


def test_fees_are_summed_up_in_the_metrics() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry([count_facts(registry)])
    for fee in (5, 7):
        telemetry.emit("fees.spent", network=BASE_SEPOLIA, fee=fee)
    assert f'x402_fees_total{{network="{BASE_SEPOLIA}"}} 12.0' in exposition(registry)[0].decode()
    assert telemetry.failures == 0
