"""What nobody can know yet: lost answers, strangers, lagging nodes. Faults A09-A11, A14, A15, D02, D11, D14, E01.

Each ends with the same question: does the next payment settle, and did the money move exactly once?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.facilitator.world import (
    BRIEF,
    EvmShop,
    Meddled,
    SvmShop,
    absent,
    facilitator,
    healthy,
    hours_later,
    settle_on,
    submit,
    transfer_call,
    unreachable,
)
from x402.chain import CallResult, EvmReceipt, SvmStatus, SvmTransaction
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator import evm_rail
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import unix_now
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.wire.receipt import Receipt

EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"


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


async def test_A09_a_send_that_never_arrived_is_repeated_while_the_first_caller_waits(
    evm: EvmShop, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evm_rail, "_SEND_AGAIN_SECONDS", 0.05)
    tries: list[str] = []

    async def send(raw: bytes, transaction: str) -> None:
        tries.append(transaction)
        if len(tries) == 1:
            raise UnavailableError("rpc_unavailable", "timeout")
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=send))], ledger)
    receipt = await party.settle(evm.pay(), evm.offer)
    assert (receipt.outcome, tries) == (Outcome.SETTLED, [receipt.transaction] * 2)
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

    refused = await settle_on(evm, ledger, evm.pay(), send=absent, receipt=empty, time_of=hours_later(evm))
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

    async def time_of(block: int) -> int:
        return await evm.chain.time_of(block) + shift[0]

    instead: dict[str, Any] = {"send": unreachable, "time_of": time_of}
    for shift[0] in (0, 50, 60, 85):
        assert (await settle_on(evm, ledger, payment, **instead)).outcome is Outcome.PENDING
    shift[0] = 100
    for doubt in (
        {"call": unreachable},
        {"time_of": unreachable},
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

    async def method(to: str, data: bytes, **how: Any) -> Any:
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

    pending = await settle_on(evm, ledger, payment, receipt=reverted_long_ago)
    assert pending.outcome is Outcome.PENDING, "anybody may submit it while it lives"
    refused = await settle_on(evm, ledger, payment, receipt=reverted_long_ago, time_of=hours_later(evm))
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
    wrong = EvmRail(BASE_SEPOLIA, RpcEvmChain(evm.world.url, 8453), [evm.signer], unix_now)
    with pytest.raises(MisconfiguredError):
        await wrong.start()
    party = facilitator([wrong], ledger)
    for work in (party.verify, party.settle):
        with pytest.raises(UnavailableError) as refused:
            await work(evm.pay(), evm.offer)
        assert refused.value.code == "wrong_chain"
    await wrong.aclose()
