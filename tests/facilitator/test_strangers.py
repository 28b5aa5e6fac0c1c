"""Others had their hands on the payment: strangers who submit it, payers who take it back. Faults A06, A11, D11."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.facilitator.world import (
    BRIEF,
    EvmShop,
    Meddled,
    SvmShop,
    cancel_call,
    facilitator,
    healthy,
    settle_on,
    settles_soon,
    submit,
    transfer_call,
)
from tests.payments import EvmPayer
from x402.errors import UnavailableError
from x402.facilitator.service import unix_now
from x402.lifecycle import Outcome
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger

SPENT = "invalid_exact_evm_nonce_already_used"
EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"


async def test_A11_a_stranger_was_first(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()
    foreign = await submit(evm, transfer_call(payment))
    party = facilitator([evm.rail(ledger)], ledger)
    receipts = await asyncio.gather(*(party.settle(payment, evm.offer) for _ in range(5)))
    receipts.append(await party.settle(payment, evm.offer))
    assert {(receipt.outcome, receipt.transaction) for receipt in receipts} == {(Outcome.SETTLED, foreign)}
    assert (await evm.received(), await evm.sent()) == (1000, 0)
    dearer = evm.offer.model_copy(update={"amount": 2000})
    nonce = bytes.fromhex(payment.payload["authorization"]["nonce"][2:])
    other = await party.settle(evm.payer.pay(dearer, nonce=nonce), dearer)
    assert (other.outcome, other.error_reason) == (Outcome.REFUSED, "duplicate_settlement")


async def test_A11_what_a_stranger_settled_is_found_behind_every_refusal(evm: EvmShop, ledger: SqlLedger) -> None:
    """The payment itself emptied the account, or its time has run out: it has paid all the same."""
    poor, late = EvmPayer(), evm.pay(lifetime=30)
    await evm.world.fund(poor.address, 1000)
    everything = poor.pay(evm.offer)
    foreign = [await submit(evm, transfer_call(payment)) for payment in (everything, late)]
    rail = evm.rail(ledger)
    rail._clock = lambda: unix_now() + 60
    party = facilitator([rail], ledger)
    receipts = [await party.settle(payment, evm.offer) for payment in (everything, late)]
    assert [(receipt.outcome, receipt.transaction) for receipt in receipts] == [
        (Outcome.SETTLED, transaction) for transaction in foreign
    ]
    # Whoever reads a chain can present what stands there: that it was paid gives nobody a new claim to it.
    fresh = evm.pay()
    await submit(evm, transfer_call(fresh))
    assert (await party.verify(fresh, evm.offer)).invalid_reason == SPENT
    unpaid = await party.settle(evm.pay(lifetime=30), evm.offer)
    assert (unpaid.outcome, unpaid.error_reason) == (Outcome.REFUSED, EXPIRED)


async def test_A11_a_stranger_spent_the_nonce_on_other_terms(evm: EvmShop, ledger: SqlLedger) -> None:
    nonce, cheaper = b"\x11" * 32, evm.offer.model_copy(update={"amount": 1})
    await submit(evm, transfer_call(evm.payer.pay(cheaper, nonce=nonce)))
    refused = await settle_on(evm, ledger, evm.pay(nonce=nonce))
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, SPENT)
    assert await evm.received() == 1


async def test_A11_a_stranger_came_between_check_and_send(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, foreign = evm.pay(), []

    async def send(raw: bytes, transaction: str) -> None:
        foreign.append(await submit(evm, transfer_call(payment)))
        await evm.chain.send(raw, transaction)

    receipt = await settle_on(evm, ledger, payment, seconds=10, send=send)
    assert (receipt.outcome, receipt.transaction) == (Outcome.SETTLED, foreign[0])
    # One revert is the price, and no more.
    assert (await evm.received(), await evm.sent()) == (1000, 1)
    await healthy(evm, ledger)


async def test_A11_a_stranger_came_and_the_node_refuses_our_bytes(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, foreign = evm.pay(), []

    async def send(*_: Any) -> None:
        foreign.append(await submit(evm, transfer_call(payment)))
        raise NotSent("execution reverted: authorization is used or canceled")

    receipt = await settle_on(evm, ledger, payment, send=send)
    assert (receipt.outcome, receipt.transaction) == (Outcome.SETTLED, foreign[0])
    await healthy(evm, ledger)
    assert (await evm.received(), await evm.sent()) == (2000, 1)


async def test_A11_a_stranger_came_and_our_bytes_were_lost(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, foreign = evm.pay(), []

    async def send(*_: Any) -> None:
        foreign.append(await submit(evm, transfer_call(payment)))
        raise UnavailableError("rpc_unavailable", "timeout")

    chain = Meddled(evm.chain, send=send)
    party = facilitator([evm.rail(ledger, chain)], ledger, BRIEF)
    receipt = await party.settle(payment, evm.offer)
    assert (receipt.outcome, receipt.transaction) == (Outcome.SETTLED, foreign[0])
    # Nobody will ever mine our transaction: its nonce must be free again, in this very process.
    chain.instead.clear()
    assert await settles_soon(party, evm)
    assert (await evm.received(), await evm.sent()) == (2000, 1)


async def test_D11_the_payer_took_it_back(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def lost(*_: Any) -> None:
        await submit(evm, cancel_call(evm.payer, payment))
        raise UnavailableError("rpc_unavailable", "timeout")

    refused = await settle_on(evm, ledger, payment, send=lost)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, SPENT)
    second = evm.pay()

    async def late(raw: bytes, transaction: str) -> None:
        await submit(evm, cancel_call(evm.payer, second))
        await evm.chain.send(raw, transaction)

    refused = await settle_on(evm, ledger, second, seconds=10, send=late)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, SPENT)
    await healthy(evm, ledger)
    assert await evm.received() == 1000


async def test_A06_a_lost_ledger_finds_what_it_settled(evm: EvmShop, svm: SvmShop) -> None:
    evm_payment, svm_payment = evm.pay(), await svm.pay()
    answers = []
    for _ in range(2):
        async with SqlLedger() as fresh:
            party = facilitator([evm.rail(fresh), svm.rail()], fresh)
            answers.append([await party.settle(evm_payment, evm.offer), await party.settle(svm_payment, svm.offer)])
    assert answers[0] == answers[1]
    assert all(answer.success for answer in answers[0])
    assert (await evm.received(), await svm.received(), await evm.sent()) == (1000, 1000, 1)
