"""The signer's nonces leave no gap, whatever fails: nothing ever waits behind one. Faults D02, D05."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from tests.facilitator.world import (
    BRIEF,
    EvmShop,
    Meddled,
    cancel_call,
    facilitator,
    healthy,
    settle_on,
    settles_at_last,
    settles_soon,
    submit,
    unreachable,
)
from x402.chain import CallResult
from x402.errors import UnavailableError
from x402.facilitator import reconcile
from x402.facilitator.evm_sender import Gas
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome, Party
from x402.networks import BASE_SEPOLIA
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.stages import State

SPENT = "invalid_exact_evm_nonce_already_used"


async def test_D02_a_refused_send_gives_its_nonce_back(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def refuse(*_: Any) -> None:
        raise NotSent("execution reverted")

    chain = Meddled(evm.chain, send=refuse)
    party = facilitator([evm.rail(ledger, chain)], ledger, BRIEF)
    refused = await party.settle(payment, evm.offer)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_transaction_failed")
    chain.instead.clear()
    assert await settles_soon(party, evm)
    assert (await evm.received(), await evm.sent()) == (1000, 1)
    assert (await party.settle(payment, evm.offer)).error_reason == refused.error_reason


async def test_D01_what_a_node_refuses_for_our_fault_is_paid_by_other_bytes(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, refusals = evm.pay(), ["insufficient funds for gas * price + value", "nonce too low"]
    rich = await evm.spare_key()

    async def send(raw: bytes, transaction: str) -> None:
        if refusals:
            raise NotSent(refusals.pop(), ours=True)
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=send), [evm.signer, rich])], ledger)
    receipt = await party.settle(payment, evm.offer)
    assert receipt.success
    assert (await evm.received(), await evm.sent(rich)) == (1000, 1)
    # Nothing waits behind the nonces that were not used.
    assert all([(await party.settle(evm.pay(), evm.offer)).success for _ in range(4)])
    assert await evm.sent(rich) == 5


async def test_D01_a_poor_signer_makes_a_payment_wait_and_not_fail(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, poor = evm.pay(), EvmSigner(secrets.token_hex(32))
    party = facilitator([evm.rail(ledger, signers=[poor])], ledger, 1)
    assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    assert await evm.received() == 0
    await evm.world.fund(poor.address, 0, 10**18)
    assert await settles_at_last(party, payment, evm)
    assert await evm.received() == 1000


async def test_D02_failures_among_many_leave_no_gap(evm: EvmShop, ledger: SqlLedger) -> None:
    count = 0

    async def sometimes(raw: bytes, transaction: str) -> None:
        nonlocal count
        count += 1
        if count % 4 == 0:
            raise NotSent("replacement transaction underpriced", ours=True)
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=sometimes))], ledger, 3)
    receipts = await asyncio.gather(*(party.settle(evm.pay(), evm.offer) for _ in range(12)))
    # Our own fault is no refusal: others bytes pay, and whatever waited behind a gap is mined once it is filled.
    assert Outcome.REFUSED not in {receipt.outcome for receipt in receipts}
    well = facilitator([evm.rail(ledger)], ledger)
    for _ in range(3):
        await reconcile.run(well, timeout_seconds=3)
    await healthy(evm, ledger)
    assert [entry.state for entry in await ledger.unresolved(Party.FACILITATOR) if entry.state is State.INTENDED] == []
    assert await evm.received() == 13_000
    book = await ledger.nonces(BASE_SEPOLIA, evm.signer.address)
    assert await evm.sent() == book.next


async def test_D02_a_resend_that_is_refused_proves_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, tries = evm.pay(), 0

    async def send(raw: bytes, transaction: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UnavailableError("rpc_unavailable", "timeout")
        raise NotSent("insufficient funds")

    for _ in range(3):
        assert (await settle_on(evm, ledger, payment, send=send)).outcome is Outcome.PENDING
    assert tries >= 3
    assert (await settle_on(evm, ledger, payment)).outcome is Outcome.PENDING
    assert (await settle_on(evm, ledger, payment, seconds=10)).success


async def test_D02_a_ledger_that_comes_back_has_no_gap(evm: EvmShop, ledger: SqlLedger) -> None:
    broken: dict[str, Any] = {"intend": unreachable, "return_nonce": unreachable}
    meddled = Meddled(ledger, **broken)
    party = facilitator([evm.rail(meddled)], meddled)
    with pytest.raises(UnavailableError):
        await party.settle(evm.pay(), evm.offer)
    meddled.instead.clear()
    for _ in range(2):
        assert (await party.settle(evm.pay(), evm.offer)).success
    assert (await evm.received(), await evm.sent()) == (2000, 2)


async def test_D05_settling_has_the_gas_that_was_simulated(evm: EvmShop, ledger: SqlLedger) -> None:
    simulated: list[int] = []

    async def call(to: str, data: bytes, *, sender: str = "", gas: int = 0, block: int | None = None) -> CallResult:
        simulated.append(gas)
        return await evm.chain.call(to, data, sender=sender, gas=gas, block=block)

    receipt = await settle_on(evm, ledger, evm.pay(), seconds=10, call=call)
    mined = await evm.world.request("eth_getTransactionByHash", receipt.transaction)
    assert [gas for gas in simulated if gas] == [int(mined["gas"], 16)]


async def test_D02_a_nonce_is_handed_out_once_however_many_give_it_back(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def lost(*_: Any) -> None:
        await submit(evm, cancel_call(evm.payer, payment))
        raise UnavailableError("rpc_unavailable", "timeout")

    silent = Meddled(evm.chain, send=lost, receipt=unreachable)
    rail = evm.rail(ledger, silent)
    party = facilitator([rail], ledger, BRIEF)
    assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    silent.instead.clear()
    pay_id = rail.read(payment, evm.offer).subject.pay_id
    answers = await asyncio.gather(*(party.reconcile(pay_id, timeout=0.1) for _ in range(6)))
    assert {answer.error_reason for answer in answers if answer is not None} == {SPENT}
    receipts = await asyncio.gather(*(party.settle(evm.pay(), evm.offer) for _ in range(4)))
    assert all(receipt.success for receipt in receipts)
    book = await ledger.nonces(BASE_SEPOLIA, evm.signer.address)
    assert (await evm.received(), await evm.sent()) == (4000, book.next)


async def test_D03_a_transaction_that_no_block_takes_is_outbid(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, sent = evm.pay(), []

    async def stuck(raw: bytes, transaction: str) -> None:
        sent.append(transaction)
        if len(sent) > 1:
            await evm.chain.send(raw, transaction)

    rail = evm.rail(ledger, Meddled(evm.chain, send=stuck), gas=Gas(patience=0))
    party = facilitator([rail], ledger, 1)
    receipt = await party.settle(payment, evm.offer)
    while receipt.outcome is Outcome.PENDING:
        receipt = await party.settle(payment, evm.offer)
    entry = await ledger.find(Party.FACILITATOR, rail.read(payment, evm.offer).subject.pay_id)
    assert receipt.success
    assert entry is not None
    mined = await evm.world.request("eth_getTransactionByHash", receipt.transaction)
    # Another transaction with the same nonce, for the same payment, at a higher price: only one of them could land.
    assert receipt.transaction != sent[0]
    assert (int(mined["nonce"], 16), await evm.received(), await evm.sent()) == (0, 1000, 1)


async def test_D03_patience_and_the_cap_bound_what_is_bid(evm: EvmShop, ledger: SqlLedger) -> None:
    for gas in (Gas(patience=3600), Gas(patience=0, max_fee=(await evm.chain.fees()).max_fee)):
        sent: list[str] = []

        async def stuck(raw: bytes, transaction: str, sent: list[str] = sent) -> None:
            sent.append(transaction)

        payment = evm.pay()
        party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=stuck), gas=gas)], ledger, 0.2)
        for _ in range(3):
            assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
        assert len(sent) >= 3
        assert len(set(sent)) == 1
