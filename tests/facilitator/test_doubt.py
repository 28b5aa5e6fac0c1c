"""What nobody can know yet: lost answers, strangers, lagging nodes. Faults A09-A11, A14, A15, D02, D11, D14, E01.

Each ends with the same question: does the next payment settle, and did the money move exactly once?
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.facilitator.world import (
    EvmShop,
    Meddled,
    SvmShop,
    cancel_call,
    facilitator,
    submit,
    transfer_call,
    unreachable,
)
from x402.chain import CallResult, EvmReceipt, SvmStatus, SvmTransaction
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Outcome, Party
from x402.networks import BASE_SEPOLIA
from x402.ports import NotSent
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.wire.receipt import Receipt

BRIEF = 0.3
EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"
SPENT = "invalid_exact_evm_nonce_already_used"


async def absent(*_: Any, **__: Any) -> None:
    """What a node says about something that it has not seen."""


async def settle_on(shop: EvmShop, ledger: SqlLedger, payment: Any, seconds: float = BRIEF, **instead: Any) -> Receipt:
    """Settle through a node that misbehaves in these methods."""
    rail = shop.rail(ledger, Meddled(shop.chain, **instead))
    return await facilitator([rail], ledger, seconds).settle(payment, shop.offer)


async def healthy(shop: EvmShop, ledger: SqlLedger) -> LocalFacilitator:
    """A facilitator whose node is well again; proves that nothing jams the signer."""
    party = facilitator([shop.rail(ledger)], ledger)
    assert (await party.settle(shop.pay(), shop.offer)).success
    return party


async def settles_soon(party: LocalFacilitator, shop: EvmShop) -> bool:
    """Whether a fresh payment settles, in a few tries of the same bytes."""
    payment = shop.pay()
    for _ in range(10):
        receipt = await party.settle(payment, shop.offer)
        if receipt.outcome is not Outcome.PENDING:
            break
    return receipt.success


# Lost answers.


async def test_A09_the_answer_to_the_send_is_lost(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    for shop, rail, payment in ((evm, evm.rail, evm.pay()), (svm, None, await svm.pay())):

        async def send(raw: bytes, transaction: str, real: Any = shop.chain.send) -> None:
            await real(raw, transaction)
            raise UnavailableError("rpc_unavailable", "reset")

        chain = Meddled(shop.chain, send=send)
        party = facilitator([rail(ledger, chain) if rail else svm.rail(chain)], ledger)
        assert (await party.settle(payment, shop.offer)).success
        assert await shop.received() == 1000


async def test_A09_the_send_never_arrived_and_is_repeated(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, tries = evm.pay(), []

    async def send(raw: bytes, transaction: str) -> None:
        tries.append(transaction)
        if len(tries) == 1:
            raise UnavailableError("rpc_unavailable", "timeout")
        await evm.chain.send(raw, transaction)

    first = await settle_on(evm, ledger, payment, send=send)
    assert (first.outcome, first.transaction) == (Outcome.PENDING, tries[0])
    again = await settle_on(evm, ledger, payment, send=send)
    assert (again.outcome, again.transaction) == (Outcome.SETTLED, tries[0])
    assert set(tries) == {tries[0]}
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A10_the_receipt_is_lost(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()
    for silence in (unreachable, absent):
        pending = await settle_on(evm, ledger, payment, receipt=silence)
        assert pending.outcome is Outcome.PENDING
        assert pending.transaction
    assert await evm.received() == 1000
    settled = await settle_on(evm, ledger, payment)
    assert (settled.outcome, settled.transaction) == (Outcome.SETTLED, pending.transaction)
    assert await evm.sent() == 1


async def test_C16_a_dropped_solana_transaction_is_sent_again(svm: SvmShop, ledger: SqlLedger) -> None:
    tries: list[bytes] = []

    async def send(raw: bytes, transaction: str) -> None:
        tries.append(raw)
        if len(tries) > 1:
            await svm.chain.send(raw, transaction)

    party = facilitator([svm.rail(Meddled(svm.chain, send=send))], ledger)
    assert (await party.settle(await svm.pay(), svm.offer)).success
    assert len(set(tries)) == 1
    assert await svm.received() == 1000


# Strangers.


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


# Chains that succeed without paying.


async def test_A14_confirmed_is_not_succeeded(svm: SvmShop, ledger: SqlLedger) -> None:
    async def failed(_: str, *, timeout: float) -> SvmStatus:
        return SvmStatus(5, "confirmed", '{"InstructionError":[2,{"Custom":1}]}')

    payment = await svm.pay()
    party = facilitator([svm.rail(Meddled(svm.chain, status=failed, send=absent))], ledger)
    refused = await party.settle(payment, svm.offer)
    assert refused.outcome is Outcome.REFUSED
    assert "insufficient" in str(refused.error_reason)
    assert await svm.received() == 0
    assert (await facilitator([svm.rail()], ledger).settle(await svm.pay(), svm.offer)).success


async def test_A15_success_without_a_transfer_is_no_success(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    async def empty(transaction: str, *, timeout: float) -> EvmReceipt:
        return EvmReceipt(transaction, True, 5, ())

    refused = await settle_on(evm, ledger, evm.pay(), send=absent, receipt=empty)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_transfer_event_mismatch")

    async def confirmed(_: str, *, timeout: float) -> SvmStatus:
        return SvmStatus(5, "confirmed", None)

    async def hollow(signature: str) -> SvmTransaction:
        return SvmTransaction(signature, 5, None, ())

    chain = Meddled(svm.chain, status=confirmed, transaction=hollow, send=absent)
    refused = await facilitator([svm.rail(chain)], ledger).settle(await svm.pay(), svm.offer)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "post_settlement_transfer_not_confirmed")
    # A status without its transaction is a node that lags, not a payment that failed.
    lagging = Meddled(svm.chain, status=confirmed, transaction=absent, send=absent)
    pending = await facilitator([svm.rail(lagging)], ledger).settle(await svm.pay(), svm.offer)
    assert pending.outcome is Outcome.PENDING


# Nodes that lag.


async def test_E01_absence_is_no_verdict_before_the_last_moment(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, shift = evm.pay(lifetime=60), [0]

    async def now() -> int:
        return await evm.chain.now() + shift[0]

    instead: dict[str, Any] = {"send": unreachable, "now": now}
    for shift[0] in (0, 50, 60, 85):
        assert (await settle_on(evm, ledger, payment, **instead)).outcome is Outcome.PENDING
    shift[0] = 100
    for doubt in (
        {"call": unreachable},
        {"now": unreachable},
        {"receipt": unreachable},
        {"call": _says(CallResult(True, b""))},
        {"call": _says(CallResult(False, revert="header not found"))},
        {"call": _says(CallResult(True, (1).to_bytes(32, "big")))},
    ):
        assert (await settle_on(evm, ledger, payment, **instead | doubt)).outcome is Outcome.PENDING, doubt
    refused = await settle_on(evm, ledger, payment, **instead)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, EXPIRED)
    await healthy(evm, ledger)
    assert (await evm.received(), await evm.sent()) == (1000, 1)


def _says(result: Any) -> Any:
    """A port method that always answers this; the authorization's state only, so that verifying still works."""

    async def method(to: str, data: bytes, **how: Any) -> CallResult:
        return result

    return method


async def test_E01_a_revert_is_judged_by_a_node_that_has_seen_it(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def reverted(transaction: str, *, timeout: float) -> EvmReceipt:
        return EvmReceipt(transaction, False, await evm.chain.block_number() + 1, ())

    pending = await settle_on(evm, ledger, payment, send=absent, receipt=reverted)
    assert pending.outcome is Outcome.PENDING

    async def reverted_long_ago(transaction: str, *, timeout: float) -> EvmReceipt:
        return EvmReceipt(transaction, False, await evm.chain.block_number(), ())

    refused = await settle_on(evm, ledger, payment, receipt=reverted_long_ago)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_transaction_failed")


async def test_E01_a_spent_authorization_without_its_event_stays_open(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()

    async def nothing(*_: Any) -> Sequence[Any]:
        return []

    async def stranger(*_: Any) -> None:
        await submit(evm, transfer_call(payment))

    pending = await settle_on(evm, ledger, payment, send=stranger, logs=nothing)
    assert pending.outcome is Outcome.PENDING
    # Nothing is sent a second time for what is spent: it could only burn gas.
    assert (await settle_on(evm, ledger, payment)).success
    assert await evm.sent() == 0
    await healthy(evm, ledger)


async def test_E01_solana_expires_only_by_height_and_a_node_that_answers(svm: SvmShop, ledger: SqlLedger) -> None:
    payment, past = await svm.pay(), 0

    async def height() -> int:
        return await svm.chain.block_height() + past

    async def settle(**instead: Any) -> Receipt:
        chain = Meddled(svm.chain, **{"send": absent, "block_height": height} | instead)
        return await facilitator([svm.rail(chain)], ledger, BRIEF).settle(payment, svm.offer)

    assert (await settle()).outcome is Outcome.PENDING
    past = 150 + 20
    assert (await settle()).outcome is Outcome.PENDING
    past = 150 + 60
    # The height is known and the statuses are not: the transaction may well have landed.
    assert (await settle(status=unreachable)).outcome is Outcome.PENDING
    refused = await settle()
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_svm_transaction_failed")
    assert await svm.received() == 0


async def test_D14_a_node_of_another_chain_judges_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    wrong = EvmRail(BASE_SEPOLIA, RpcEvmChain(evm.world.url, 8453), [evm.signer], ledger, unix_now)
    with pytest.raises(MisconfiguredError):
        await wrong.start()
    party = facilitator([wrong], ledger)
    for work in (party.verify, party.settle):
        with pytest.raises(UnavailableError) as refused:
            await work(evm.pay(), evm.offer)
        assert refused.value.code == "wrong_chain"


# Nonces.


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
