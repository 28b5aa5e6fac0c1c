"""After a crash: what was intended is finished, what was settled is answered. Faults A06, A22, D02."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.facilitator.world import EvmShop, Meddled, SvmShop, facilitator, ledger_at, unreachable
from x402.errors import UnavailableError
from x402.facilitator import reconcile
from x402.facilitator.rail import Rail
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.lifecycle import Entry, Outcome, Party, Subject, begin
from x402.networks import BASE_SEPOLIA
from x402.ports import Sign
from x402.ports.ledger import SqlLedger
from x402.stages import Intended, State

ME = Party.FACILITATOR


class PowerCut(Exception):
    """The process ends here, as far as the payment is concerned."""


async def die(*_: Any, **__: Any) -> Any:
    """What a method does in a process that is killed while it runs."""
    raise PowerCut


async def test_A06_killed_between_the_intent_and_the_send(evm: EvmShop, svm: SvmShop, tmp_path: Path) -> None:
    payments = [(evm.pay(), evm.offer), (await svm.pay(), svm.offer)]
    async with ledger_at(tmp_path) as ledger:
        rails: list[Rail] = [evm.rail(ledger, Meddled(evm.chain, send=die)), svm.rail(Meddled(svm.chain, send=die))]
        for payment, offer in payments:
            with pytest.raises(PowerCut):
                await facilitator(rails, ledger).settle(payment, offer)
    async with ledger_at(tmp_path) as ledger:
        intended = {entry.subject.network: entry.stage for entry in await ledger.unresolved(ME)}
        party = facilitator([evm.rail(ledger), svm.rail()], ledger)
        # Whatever the first round sends again, the second finds.
        await reconcile.run(party, timeout_seconds=0.5)
        assert await reconcile.run(party, timeout_seconds=5) == 0
        for payment, offer in payments:
            answer = await party.settle(payment, offer)
            stage = intended[offer.network]
            assert isinstance(stage, Intended)
            assert (answer.outcome, answer.transaction) == (Outcome.SETTLED, stage.transaction)
        assert (await party.settle(evm.pay(), evm.offer)).success
    assert (await evm.received(), await svm.received(), await evm.sent()) == (2000, 1000, 2)


async def test_A06_killed_after_the_send(evm: EvmShop, svm: SvmShop, tmp_path: Path) -> None:
    payments = [(evm.pay(), evm.offer), (await svm.pay(), svm.offer)]
    async with ledger_at(tmp_path) as ledger:
        rails: list[Rail] = [
            evm.rail(ledger, Meddled(evm.chain, receipt=die)),
            svm.rail(Meddled(svm.chain, status=die)),
        ]
        for payment, offer in payments:
            with pytest.raises(PowerCut):
                await facilitator(rails, ledger).settle(payment, offer)
    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger), svm.rail()], ledger)
        assert await reconcile.run(party, timeout_seconds=5) == 0
        assert all([(await party.settle(payment, offer)).success for payment, offer in payments])
        assert (await party.settle(evm.pay(), evm.offer)).success
    assert (await evm.received(), await svm.received(), await evm.sent()) == (2000, 1000, 2)


async def test_D02_killed_between_the_nonce_and_the_intent(evm: EvmShop, tmp_path: Path) -> None:
    async with ledger_at(tmp_path) as ledger:
        signer, reserve = evm.signer, ledger.intend

        async def intend(subject: Subject, address: str, count: int, sign: Sign) -> tuple[Entry, bool]:
            def cut(nonce: int) -> Intended:
                raise PowerCut(f"after nonce {nonce} was reserved")

            return await reserve(subject, address, count, cut)

        dying = Meddled(ledger, intend=intend)
        with pytest.raises(PowerCut):
            await facilitator([evm.rail(dying)], dying).settle(evm.pay(), evm.offer)
        assert await ledger.unresolved(ME) == []
        assert (await ledger.nonces(BASE_SEPOLIA, signer.address)).next == 0
    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger)], ledger)
        receipts = await asyncio.gather(*(party.settle(evm.pay(), evm.offer) for _ in range(3)))
        assert all(receipt.success for receipt in receipts)
    assert (await evm.received(), await evm.sent()) == (3000, 1)


async def test_A22_the_same_answer_after_a_restart_without_any_chain(
    evm: EvmShop, svm: SvmShop, tmp_path: Path
) -> None:
    payments = [(evm.pay(), evm.offer), (await svm.pay(), svm.offer)]
    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger), svm.rail()], ledger)
        answers = [await party.settle(payment, offer) for payment, offer in payments]
    nowhere = Meddled(object(), **dict.fromkeys(("code", "call", "simulate", "receipt", "status"), unreachable))
    async with ledger_at(tmp_path) as ledger:
        # The keys were changed as well: what was settled stays settled.
        rails: list[Rail] = [
            evm.rail(ledger, nowhere, [EvmSigner("33" * 32)]),
            svm.rail(nowhere, [SvmSigner(Keypair())]),
        ]
        party = facilitator(rails, ledger)
        assert [await party.settle(payment, offer) for payment, offer in payments] == answers


async def test_A22_an_open_payment_outlives_its_fee_payers_key(svm: SvmShop, ledger: SqlLedger) -> None:
    payment = await svm.pay()
    pending = await facilitator([svm.rail(Meddled(svm.chain, status=unreachable))], ledger).settle(payment, svm.offer)
    assert pending.outcome is Outcome.PENDING
    party = facilitator([svm.rail(signers=[SvmSigner(Keypair())])], ledger)
    assert await reconcile.run(party, timeout_seconds=5) == 0
    settled = await party.settle(payment, svm.offer)
    assert (settled.outcome, settled.transaction) == (Outcome.SETTLED, pending.transaction)


async def test_a_row_that_cannot_be_read_does_not_stop_the_others(evm: EvmShop, ledger: SqlLedger) -> None:
    for name, record in (("a", {"facilitation": {}}), ("b", {"facilitation": {"paymentPayload": {"x402Version": 9}}})):
        subject = Subject(name, BASE_SEPOLIA, "asset", "payer", "payee", 1, record=record)
        await ledger.begin(begin(ME, subject, Intended("0x1", b"", 1)))
    lost = facilitator([evm.rail(ledger, Meddled(evm.chain, receipt=unreachable))], ledger, 0.2)
    assert (await lost.settle(evm.pay(), evm.offer)).outcome is Outcome.PENDING
    party = facilitator([evm.rail(ledger)], ledger)
    assert await reconcile.run(party, timeout_seconds=5) == 2
    assert len(await ledger.totals(ME, State.SETTLED)) == 1


async def test_a_ledger_that_cannot_be_read_leaves_nobody_ready(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], Meddled(ledger, take_open=unreachable))
    with pytest.raises(UnavailableError):
        await reconcile.run(party)


async def test_watching_survives_everything_that_passes(evm: EvmShop, ledger: SqlLedger) -> None:
    meddled = Meddled(ledger, take_open=unreachable)
    party = facilitator([evm.rail(ledger)], meddled, 0.2)
    rounds = asyncio.Semaphore(0)

    async def pause() -> None:
        rounds.release()
        await asyncio.sleep(0.02)

    lost = facilitator([evm.rail(ledger, Meddled(evm.chain, receipt=unreachable))], ledger, 0.2)
    payment = evm.pay()
    assert (await lost.settle(payment, evm.offer)).outcome is Outcome.PENDING
    watching = asyncio.create_task(reconcile.watch(party, pause, timeout_seconds=2))
    for _ in range(3):
        await asyncio.wait_for(rounds.acquire(), 5)
    meddled.instead.clear()
    for _ in range(3):
        await asyncio.wait_for(rounds.acquire(), 5)
    assert {entry.state for entry in await ledger.unresolved(ME)} <= {State.SETTLED}
    assert not watching.done()
    watching.cancel()


async def test_a_settlement_under_way_is_joined(evm: EvmShop, ledger: SqlLedger) -> None:
    gate, sending = asyncio.Event(), asyncio.Event()

    async def slow(raw: bytes, transaction: str) -> None:
        sending.set()
        await gate.wait()
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=slow))], ledger)
    payment = evm.pay()
    settling = asyncio.create_task(party.settle(payment, evm.offer))
    await sending.wait()
    pay_id = party.rails[BASE_SEPOLIA].read(payment, evm.offer).subject.pay_id
    joined = asyncio.create_task(party.reconcile(pay_id, timeout=0.01))
    await asyncio.sleep(0.1)
    assert not joined.done()
    gate.set()
    assert await joined == await settling
    assert await evm.sent() == 1
