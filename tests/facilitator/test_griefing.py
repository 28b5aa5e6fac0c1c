"""The bar, point 6: a scripted griefer costs no more than what was configured, and no token of ours moves.

Faults C01, C03, C06-C09, D04, D05, D11, D13, invariant I7. `griefer.py` says what is done, and does it 10,000 times
when it is run by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.griefer import CAPS, Victim, attack, open_victim
from tests.facilitator.serving import body, serving
from tests.facilitator.world import EvmShop, Meddled, facilitator, submit, transfer_call
from tests.payments import EvmPayer
from x402.chain import EvmFees
from x402.facilitator import reconcile
from x402.facilitator.allowance import Allowance, Caps
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.wire.facilitation import parse_verification
from x402.wire.receipt import parse_receipt

ATTEMPTS = 320
REFUSED_FOR_GOOD = {
    "200 amount_below_minimum",
    "403 pay_to_not_registered",
    "200 eip6492_factory_not_allowed",
    "200 invalid_exact_svm_payload_transaction_priority_fee_too_high",
    "200 invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction_too_high",
    "200 invalid_exact_svm_payload_durable_nonce",
    "200 invalid_exact_svm_payload_unknown_fifth_instruction",
    "200 invalid_exact_svm_payload_transaction_fee_payer_transferring_funds",
}
REFUSED_FOR_NOW = {"429 payer_failed_too_often", "429 payer_fee_budget_spent", "429 fee_budget_spent"}
LANDED = {
    "200 settled",
    "200 settlement_pending",
    "200 insufficient_funds",
}


@pytest.fixture
async def victim(
    evm_devnet: EvmWorld, svm_devnet: SvmWorld, ledger: SqlLedger, tmp_path: Path
) -> AsyncIterator[Victim]:
    victim = await open_victim(evm_devnet, svm_devnet, ledger, tmp_path / "callers.toml")
    yield victim
    await victim.evm.chain.aclose()
    await victim.svm.chain.aclose()


async def test_C09_D13_a_griefer_costs_no_more_than_the_cap(victim: Victim) -> None:
    before, party = await victim.wealth(), victim.party()
    async with serving(party, callers=victim.callers, supported_seconds=300) as client:
        await attack(victim, client, ATTEMPTS)
    after = await victim.wealth()
    # A day later everything that failed is dead, and what was booked for it is corrected.
    victim.day += 1
    await reconcile.run(party)
    assert party.allowance is not None
    await party.allowance.drain()
    for network, caps in CAPS.items():
        assert caps.total is not None
        lost = before[network] - after[network]
        assert 0 < lost <= caps.total
        booked = await victim.ledger.spent(unix_now() // 86_400, f"{network} total") - lost
        # What was tried once more alone, with money that came later, stays booked as it was estimated.
        assert 0 <= booked < (100 if network == SOLANA_DEVNET else caps.total // 2)
    assert after["tokens"] == before["tokens"]
    told = set(victim.answers)
    assert told >= REFUSED_FOR_GOOD | REFUSED_FOR_NOW | LANDED
    assert told <= REFUSED_FOR_GOOD | REFUSED_FOR_NOW | LANDED | {"200 invalid_exact_evm_insufficient_balance"}
    assert victim.answers["429 fee_budget_spent"] > 0, "attacked until the budget was spent"

    # The control: the next day's budget serves who is honest, on both chains.
    async with serving(victim.party(), callers=victim.callers, supported_seconds=300) as client:
        honest = [
            await victim.settle(client, victim.evm.pay(), victim.evm.offer),
            await victim.settle(client, await victim.svm.pay(), victim.svm.offer),
        ]
    assert honest == ["settled", "settled"]


def limited(shop: EvmShop, ledger: SqlLedger, *keys: EvmSigner, chain: Any = None, **caps: Any) -> LocalFacilitator:
    budget = Allowance(ledger, {BASE_SEPOLIA: Caps(**caps)}, unix_now)
    return LocalFacilitator([shop.rail(ledger, chain, keys)], ledger, settle_timeout_seconds=10, allowance=budget)


async def test_D13_over_the_budget_is_429_and_nothing_is_sent(evm: EvmShop, ledger: SqlLedger) -> None:
    first, second = evm.pay(), evm.pay()
    async with serving(limited(evm, ledger, total=1), supported_seconds=300) as client:
        for route in ("/verify", "/settle"):
            answer = await client.post(route, json=body(first, evm.offer))
            said = answer.json()
            assert (answer.status_code, said["code"], said["mender"]) == (429, "fee_budget_spent", "facilitator")
            assert (said["moneyMoved"], said["error"]) == ("no", said["message"])
            assert 0 < int(answer.headers["retry-after"]) <= 86_400
        assert parse_receipt(said).error_reason == "fee_budget_spent", "official clients read it as a receipt"
        assert not parse_verification((await client.post("/verify", json=body(first, evm.offer))).json()).is_valid
    assert (await evm.sent(), await ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total")) == (0, 0)
    async with serving(limited(evm, ledger, total=10**18), supported_seconds=300) as client:
        settled = (await client.post("/settle", json=body(second, evm.offer))).json()
        assert settled["success"] is True
    async with serving(limited(evm, ledger, total=1), supported_seconds=300) as client:
        assert (await client.post("/settle", json=body(second, evm.offer))).json() == settled, "known is known"


async def test_D11_one_revert_per_payer_and_the_second_try_is_refused(evm: EvmShop, ledger: SqlLedger) -> None:
    party = limited(evm, ledger, payer=10**18)
    payer, control = EvmPayer(), EvmPayer()
    for each in (payer, control):
        await evm.world.fund(each.address, 1000)
    receipts = await asyncio.gather(*(party.settle(payer.pay(evm.offer), evm.offer) for _ in range(2)))
    assert sorted(receipt.success for receipt in receipts) == [False, True]
    sent = await evm.sent()
    await evm.world.fund(payer.address, 10_000)
    again = await party.settle(payer.pay(evm.offer), evm.offer)
    assert (again.error_reason, await evm.sent()) == ("payer_failed_too_often", sent)
    assert not (await party.verify(payer.pay(evm.offer), evm.offer)).is_valid
    assert (await party.settle(control.pay(evm.offer), evm.offer)).success


async def test_A11_D11_what_failed_may_be_paid_later(evm: EvmShop, ledger: SqlLedger) -> None:
    """Its payer has money again, a stranger submits it, and nothing is held against the payer any more."""
    party, payer = limited(evm, ledger, payer=10**18), EvmPayer()
    await evm.world.fund(payer.address, 1000)
    payments = [payer.pay(evm.offer) for _ in range(2)]
    receipts = await asyncio.gather(*(party.settle(payment, evm.offer) for payment in payments))
    assert sorted(receipt.outcome for receipt in receipts) == [Outcome.PENDING, Outcome.SETTLED]
    failed = payments[[receipt.success for receipt in receipts].index(False)]
    await evm.world.fund(payer.address, 2000)
    foreign = await submit(evm, transfer_call(failed))
    assert (await party.settle(payer.pay(evm.offer), evm.offer)).error_reason == "payer_failed_too_often"
    assert (await party.settle(failed, evm.offer)).transaction == foreign
    assert (await party.settle(payer.pay(evm.offer), evm.offer)).success


async def test_what_was_never_sent_costs_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    """Two replicas book the same payment, and one of them loses it to the other."""
    payment, spare = evm.pay(), await evm.spare_key()
    one, other = limited(evm, ledger, total=10**18), limited(evm, ledger, spare, total=10**18)
    replicas = [one, other] * 5
    twins = await asyncio.gather(*(party.settle(payment, evm.offer) for party in replicas))
    assert {twin.transaction for twin in twins} == {twins[0].transaction}
    for party in (one, other):
        assert party.allowance is not None
        await party.allowance.drain()
    held = [await evm.world.wei(key.address) for key in (evm.signer, spare)]
    assert await ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total") == 2 * 10**18 - sum(held) > 0


async def test_bytes_that_no_node_takes_are_not_paid_for(evm: EvmShop, ledger: SqlLedger) -> None:
    async def refuse(*_: Any) -> None:
        raise NotSent("execution reverted")

    party = limited(evm, ledger, chain=Meddled(evm.chain, send=refuse), total=10**18)
    assert (await party.settle(evm.pay(), evm.offer)).outcome is Outcome.REFUSED
    assert await ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total") == 0


async def test_a_bid_that_the_budget_does_not_have_is_not_raised(evm: EvmShop, ledger: SqlLedger) -> None:
    """The mined control is `tests/facilitator/test_evm_nonces.py`'s; here nothing is ever mined (fault D03)."""
    fee = 160_000 * FEES.max_fee
    bids: dict[int, int] = {}
    for total in (fee, 2 * fee):
        sent: list[str] = []

        async def keep(_: bytes, transaction: str, sent: list[str] = sent) -> None:
            sent.append(transaction)

        chain = Meddled(evm.chain, send=keep, fees=_fees)
        ticks = iter(range(unix_now(), 2**40, 30))
        budget = Allowance(ledger, {BASE_SEPOLIA: Caps(total=total)}, unix_now)
        rail = EvmRail(BASE_SEPOLIA, chain, [evm.signer], ticks.__next__, afford=budget.afford)
        party = LocalFacilitator([rail], ledger, settle_timeout_seconds=0.2, allowance=budget)
        payment = evm.pay(lifetime=100_000)
        for _ in range(4):
            assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
        bids[total] = len(set(sent))
        booked = await ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total")
        assert fee <= booked <= total
        await ledger.spend(unix_now() // 86_400, {f"{BASE_SEPOLIA} total": total}, -booked)
    assert bids[fee] == 1
    assert bids[2 * fee] > 1


FEES = EvmFees(10**9, 10**9)


async def _fees() -> EvmFees:
    return FEES


async def test_control_without_an_allowance_nothing_is_booked(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    assert (await party.settle(evm.pay(), evm.offer)).success
    assert await ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total") == 0
    assert SOLANA_DEVNET not in party.rails
