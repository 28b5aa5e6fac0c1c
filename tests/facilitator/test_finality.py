"""Settled is not final: transfers are read again until they are, and a reorganisation is never silent. Fault A16."""

from __future__ import annotations

from typing import Any

import pytest

from tests.facilitator.world import (
    EvmShop,
    Meddled,
    SvmShop,
    cancel_call,
    facilitator,
    hours_later,
    settles_at_last,
    submit,
    transfer_call,
    unreachable,
)
from tests.payments import evm_requirement
from x402.chain import EvmReceipt, SvmStatus
from x402.confirmation import parse_confirmations
from x402.evidence import Standing
from x402.evidence.svm import SvmWitness
from x402.facilitator import reconcile
from x402.facilitator.evm_sender import Gas
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Outcome, Party
from x402.networks import SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.schemes.memory import recall
from x402.stages import Final, Refused, Reversed, Settled, State
from x402.telemetry import Fact
from x402.wire.payment import Payment

ME = Party.FACILITATOR


async def only(ledger: SqlLedger) -> Entry:
    """The one payment that the ledger still has to ask about."""
    (entry,) = await ledger.unresolved(ME)
    return entry


def heard(party: LocalFacilitator) -> list[Fact]:
    """What the facilitator tells from now on."""
    facts: list[Fact] = []
    party.telemetry.observe(facts.append)
    return facts


async def reread(party: LocalFacilitator, ledger: SqlLedger) -> Entry:
    """Read the one open payment again, whatever its lease says."""
    entry = await only(ledger)
    await party.reread(entry)
    after = await ledger.find(ME, entry.subject.pay_id)
    assert after is not None
    return after


async def undone(evm: EvmShop, party: LocalFacilitator) -> Payment:
    """A payment that was settled, in a block that is no more."""
    payment, before = evm.pay(), await evm.world.request("evm_snapshot")
    assert (await party.settle(payment, evm.offer)).success
    assert await evm.world.request("evm_revert", before)
    assert await evm.received() == 0
    return payment


async def test_A16_a_transfer_becomes_final(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    receipts = [await party.settle(evm.pay(), evm.offer), await party.settle(await svm.pay(), svm.offer)]
    assert {entry.state for entry in await ledger.unresolved(ME)} == {State.SETTLED}
    assert await reconcile.run(party) == 0
    assert await ledger.unresolved(ME) == []
    sums = await ledger.totals(ME, State.FINAL)
    assert sum(sums.values()) == 2000
    assert all(receipt.success for receipt in receipts)


async def test_A16_a_reorganisation_is_never_silent(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    facts = heard(party)
    payment = await undone(evm, party)
    await evm.world.request("evm_mine")
    entry = await reread(party, ledger)
    assert isinstance(entry.stage, Reversed)
    assert [fact.name for fact in facts if fact.name == "settle.reversed"] == ["settle.reversed"]
    pending = await party.settle(payment, evm.offer)
    assert (pending.outcome, pending.transaction) == (Outcome.PENDING, entry.stage.transaction)
    # The very same bytes go out again, and pay.
    after = await reread(party, ledger)
    assert isinstance(after.stage, Final)
    assert (await party.settle(payment, evm.offer)).transaction == entry.stage.transaction
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A16_a_transfer_that_never_lands_again_is_lost(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=unreachable))], ledger)
    await undone(evm, facilitator([evm.rail(ledger)], ledger))
    facts, payment = heard(party), recall((await only(ledger)).subject).payment
    await submit(evm, cancel_call(evm.payer, payment))
    assert (await reread(party, ledger)).state is State.REVERSED
    assert (await reread(party, ledger)).state is State.REFUSED
    assert [fact.name for fact in facts] == ["settle.reversed", "settle.lost"]
    assert (await party.settle(payment, evm.offer)).outcome is Outcome.REFUSED


async def test_E01_a_node_that_lags_behind_undoes_nothing(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    async def none(*_: Any, **__: Any) -> None:
        return None

    async def old() -> int:
        return 1

    chains = (
        Meddled(evm.chain, receipt=none, block_number=old),
        Meddled(svm.chain, status=none, transaction=none, finalized=old),
    )
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    assert (await party.settle(evm.pay(), evm.offer)).success
    assert (await party.settle(await svm.pay(), svm.offer)).success
    behind = facilitator([evm.rail(ledger, chains[0]), svm.rail(chains[1])], ledger)
    for entry in await ledger.unresolved(ME):
        await behind.reread(entry)
    assert {entry.state for entry in await ledger.unresolved(ME)} == {State.SETTLED}


async def test_A16_a_fork_takes_a_solana_transfer_back(svm: SvmShop, ledger: SqlLedger) -> None:
    absent: dict[str, Any] = {}
    party = facilitator([svm.rail(Meddled(svm.chain))], ledger)
    payment = await svm.pay()
    settled = await party.settle(payment, svm.offer)
    assert settled.success

    async def none(*_: Any, **__: Any) -> None:
        return None

    async def far() -> int:
        return 10**9

    absent |= {"status": none, "transaction": none, "finalized": far}
    forked = facilitator([svm.rail(Meddled(svm.chain, **absent))], ledger)
    assert isinstance((await reread(forked, ledger)).stage, Reversed)

    async def dead(blockhash: str) -> bool:
        return False

    expired = facilitator([svm.rail(Meddled(svm.chain, is_blockhash_valid=dead, **absent))], ledger)
    lost = await reread(expired, ledger)
    assert isinstance(lost.stage, Refused)
    assert (await party.settle(payment, svm.offer)).outcome is Outcome.REFUSED


@pytest.mark.parametrize("text", ["0=1,0.0005=3", "0=3"])
async def test_A16_a_large_payment_waits_for_its_blocks(evm: EvmShop, ledger: SqlLedger, text: str) -> None:
    chain = Meddled(evm.chain, finalized=_genesis)
    rail = evm.rail(ledger, chain, confirmations=parse_confirmations(text))
    party, payment = facilitator([rail], ledger, 0.3), evm.pay()
    pending = await party.settle(payment, evm.offer)
    assert pending.outcome is Outcome.PENDING
    assert await evm.received() == 1000
    for _ in range(2):
        assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
        await evm.world.request("evm_mine")
    assert (await party.settle(payment, evm.offer)).success
    assert await evm.sent() == 1


async def test_A16_what_a_stranger_settled_waits_for_its_blocks_as_well(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()
    foreign = await submit(evm, transfer_call(payment))
    rail = evm.rail(ledger, Meddled(evm.chain, finalized=_genesis), confirmations=parse_confirmations("0=3"))
    party = facilitator([rail], ledger, 0.3)
    for _ in range(2):
        pending = await party.settle(payment, evm.offer)
        assert (pending.outcome, pending.transaction) == (Outcome.PENDING, foreign)
        await evm.world.request("evm_mine")
    settled = await party.settle(payment, evm.offer)
    assert (settled.outcome, settled.transaction) == (Outcome.SETTLED, foreign)
    assert (await evm.received(), await evm.sent()) == (1000, 0)


async def test_A16_a_strangers_transfer_that_a_fork_takes_back_is_made_by_us(evm: EvmShop, ledger: SqlLedger) -> None:
    payment, before = evm.pay(), await evm.world.request("evm_snapshot")
    await submit(evm, transfer_call(payment))
    deep = parse_confirmations("0=50")
    rail = evm.rail(ledger, Meddled(evm.chain, finalized=_genesis), confirmations=deep)
    assert (await facilitator([rail], ledger, 0.3).settle(payment, evm.offer)).outcome is Outcome.PENDING
    assert await evm.world.request("evm_revert", before)
    party = facilitator([evm.rail(ledger)], ledger, 2)
    assert await settles_at_last(party, payment, evm)
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A16_a_revert_that_a_fork_may_take_back_is_no_refusal(evm: EvmShop, ledger: SqlLedger) -> None:
    """The block in which our transaction failed is not final: in another one the very same bytes may pay."""
    payment, sent = evm.pay(), []

    async def held(raw: bytes, transaction: str) -> None:
        sent.append((raw, transaction))

    async def failed(transaction: str, *, timeout: float) -> EvmReceipt:
        return EvmReceipt(transaction, False, await evm.chain.block_number(), ())

    chain = Meddled(evm.chain, send=held, receipt=failed, finalized=_genesis)
    party = facilitator([evm.rail(ledger, chain, gas=Gas(patience=0))], ledger, 0.2)
    for _ in range(3):
        assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    # What a block has taken is neither sent again nor outbid: that could only burn gas.
    assert len(sent) == 1
    await evm.chain.send(*sent[0])
    settled = await facilitator([evm.rail(ledger)], ledger).settle(payment, evm.offer)
    assert (settled.outcome, settled.transaction) == (Outcome.SETTLED, sent[0][1])
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A16_control_a_revert_of_a_dead_payment_is_a_refusal(evm: EvmShop, ledger: SqlLedger) -> None:
    async def failed(transaction: str, *, timeout: float) -> EvmReceipt:
        return EvmReceipt(transaction, False, await evm.chain.block_number(), ())

    async def held(raw: bytes, transaction: str) -> None:
        return None

    chain = Meddled(evm.chain, send=held, receipt=failed, time_of=hours_later(evm))
    party = facilitator([evm.rail(ledger, chain)], ledger, 0.2)
    assert (await party.settle(evm.pay(), evm.offer)).outcome is Outcome.REFUSED


async def test_A16_a_small_payment_does_not_wait(evm: EvmShop, ledger: SqlLedger) -> None:
    rail = evm.rail(ledger, confirmations=parse_confirmations("0=1,10=12,1000=finalized"))
    small = evm_requirement(amount=999_999)
    assert (await facilitator([rail], ledger, 5).settle(evm.payer.pay(small), small)).success


async def test_a_fork_that_is_only_confirmed_is_not_final(svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([svm.rail()], ledger)
    await party.settle(await svm.pay(), svm.offer)
    entry = await only(ledger)
    assert isinstance(entry.stage, Settled)

    async def confirmed(*_: Any, **__: Any) -> SvmStatus:
        return SvmStatus(1, "confirmed", None)

    witness = SvmWitness(SOLANA_DEVNET, Meddled(svm.chain, status=confirmed))
    assert await witness.standing(entry.subject, entry.stage) == Standing(1)
    assert (await SvmWitness(SOLANA_DEVNET, svm.chain).standing(entry.subject, entry.stage)) == Standing(32, True)


async def _genesis() -> int:
    return 0
