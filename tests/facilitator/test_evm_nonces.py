"""The signer's nonces leave no gap, whatever fails: nothing ever waits behind one. Faults D02, D05."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.facilitator.world import (
    BRIEF,
    EvmShop,
    Meddled,
    absent,
    cancel_call,
    facilitator,
    healthy,
    settle_on,
    settles_soon,
    submit,
    unreachable,
)
from x402.chain import CallResult
from x402.errors import UnavailableError
from x402.lifecycle import Outcome, Party
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger

SPENT = "invalid_exact_evm_nonce_already_used"


async def test_D02_a_refused_send_gives_its_nonce_back(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def refuse(*_: Any) -> None:
        raise NotSent("insufficient funds for gas * price + value")

    chain = Meddled(evm.chain, send=refuse)
    party = facilitator([evm.rail(ledger, chain)], ledger, BRIEF)
    refused = await party.settle(payment, evm.offer)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_transaction_failed")
    chain.instead.clear()
    assert await settles_soon(party, evm)
    assert (await evm.received(), await evm.sent()) == (1000, 1)
    assert (await party.settle(payment, evm.offer)).error_reason == refused.error_reason


async def test_D02_failures_among_many_leave_no_gap(evm: EvmShop, ledger: SqlLedger) -> None:
    count = 0

    async def sometimes(raw: bytes, transaction: str) -> None:
        nonlocal count
        count += 1
        if count % 4 == 0:
            raise NotSent("replacement transaction underpriced")
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=sometimes))], ledger, 3)
    receipts = await asyncio.gather(*(party.settle(evm.pay(), evm.offer) for _ in range(12)))
    assert Outcome.REFUSED in {receipt.outcome for receipt in receipts}
    # Fillers: each takes a nonce that came back, so what waited behind the gaps is mined.
    filler = await healthy(evm, ledger)
    for _ in range(2):
        assert (await filler.settle(evm.pay(), evm.offer)).success
    open_rows = await ledger.unresolved(Party.FACILITATOR)
    for entry in open_rows:
        answer = await filler.reconcile(entry.subject.pay_id, timeout=5)
        assert answer is not None
        assert answer.success
    succeeded = sum(receipt.outcome is not Outcome.REFUSED for receipt in receipts) + 3
    assert (await evm.received(), await evm.sent()) == (1000 * succeeded, succeeded)


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


async def test_D02_a_nonce_that_the_ledger_could_not_take_back_is_owed(evm: EvmShop, ledger: SqlLedger) -> None:
    broken: dict[str, Any] = {"begin": unreachable, "return_nonce": unreachable}
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

    async def call(to: str, data: bytes, *, sender: str = "", gas: int = 0) -> CallResult:
        simulated.append(gas)
        return await evm.chain.call(to, data, sender=sender, gas=gas)

    receipt = await settle_on(evm, ledger, evm.pay(), seconds=10, call=call)
    mined = await evm.world.request("eth_getTransactionByHash", receipt.transaction)
    assert simulated == [int(mined["gas"], 16)]


async def test_D02_a_nonce_comes_back_once_however_many_find_out(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, returned = evm.pay(), []

    async def lost(*_: Any) -> None:
        await submit(evm, cancel_call(evm.payer, payment))
        raise UnavailableError("rpc_unavailable", "timeout")

    async def note(network: str, signer: str, nonce: int) -> None:
        returned.append(nonce)
        await ledger.return_nonce(network, signer, nonce)

    silent = Meddled(evm.chain, send=lost, receipt=unreachable)
    noted = Meddled(ledger, return_nonce=note)
    rail = evm.rail(noted, silent)
    party = facilitator([rail], noted, BRIEF)
    assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    silent.instead["receipt"] = absent
    pay_id = rail.read(payment, evm.offer).subject.pay_id
    answers = await asyncio.gather(*(party.reconcile(pay_id, timeout=0.1) for _ in range(6)))
    assert {answer.error_reason for answer in answers if answer is not None} == {SPENT}
    assert returned == [0]
