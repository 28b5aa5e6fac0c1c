"""What the Solana rail promises once bytes have left: when they leave again, and what becomes of the payment.

Faults A10, A11, A14, A16, A23, C16, E01. The node is scripted, so that each moment comes; the ledger, the payments and
the keys are real.
"""

from __future__ import annotations

import pytest

from tests.facilitator.svm_desk import AWAY, LIFETIME_SECONDS, NOW, Desk
from tests.nodes import SvmSale
from x402.confirmation import parse_confirmations
from x402.evidence import Standing
from x402.evidence import svm as evidence_svm
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes import exact_svm_reasons
from x402.stages import Refused, Settled


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


# Deciding.


@pytest.mark.parametrize(("timeout", "waits"), [(0, [0]), (1.5, [1.5]), (2, [2]), (4, [2, 2]), (5, [2, 2, 1])])
async def test_C16_the_same_bytes_are_sent_again_and_again(desk: Desk, timeout: float, waits: list[float]) -> None:
    assert await desk.decided(timeout) is None
    assert [asked for _, asked in desk.node.heard("status")] == waits
    assert desk.node.heard("send") == [(desk.sale.raw, desk.sale.name)] * len(waits)


@pytest.mark.parametrize("refusal", [AWAY, NotSent("already expired")])
async def test_C16_a_refusal_of_the_same_bytes_proves_nothing(desk: Desk, refusal: Exception) -> None:
    desk.node.refusal = refusal
    assert await desk.decided(3) is None
    assert len(desk.node.heard("send")) == 2


async def test_what_moved_is_settled_and_sent_no_more(desk: Desk) -> None:
    desk.sale.land()
    desk.sale.status()
    entry, stage = await desk.intended()
    for _ in range(2):
        assert await desk.rail.decide(entry, stage, desk.ledger, timeout=5) == Settled(desk.sale.name, 70)
    assert desk.node.heard("send") == []


async def test_what_was_signed_just_now_is_judged_without_its_record(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, stage = await desk.intended()
    desk.sale.land()
    desk.sale.status()
    # Nobody can read it any more.
    monkeypatch.setattr(evidence_svm, "transfer_of", None)
    assert await desk.rail.decide(entry, stage, desk.ledger, timeout=0) == Settled(desk.sale.name, 70)


async def test_A14_what_failed_is_refused_and_sent_no_more(desk: Desk) -> None:
    desk.sale.status(error='"AccountInUse"')
    refused = await desk.decided(5)
    assert isinstance(refused, Refused)
    assert refused.transaction == desk.sale.name
    assert desk.node.heard("send") == []


async def test_A23_dead_is_what_the_height_says(desk: Desk) -> None:
    entry, stage = await desk.intended()
    desk.node.height = stage.last_valid + 32
    assert await desk.rail.decide(entry, stage, desk.ledger, timeout=0) is None
    desk.node.height += 1
    assert isinstance(await desk.rail.decide(entry, stage, desk.ledger, timeout=0), Refused)


async def test_A16_a_large_payment_waits_until_it_is_final(ledger: SqlLedger) -> None:
    desk = Desk(ledger, confirmations=parse_confirmations("0=2"))
    settled, (entry, stage) = Settled(desk.sale.name, 70), await desk.intended()
    desk.sale.land()
    desk.sale.status()
    assert await desk.rail.decide(entry, stage, ledger, timeout=5) is None
    # It has landed, so nothing is sent again.
    assert desk.node.heard("send") == []
    assert await desk.rail.is_deep(desk.sale.subject, settled) is False
    desk.sale.status(confirmation="finalized")
    assert await desk.rail.decide(entry, stage, ledger, timeout=5) == settled
    assert await desk.rail.is_deep(desk.sale.subject, settled) is True
    desk.node.statuses.clear()
    assert await desk.rail.is_deep(desk.sale.subject, settled) is False


async def test_A16_a_small_payment_waits_for_nothing(desk: Desk) -> None:
    assert await desk.rail.is_deep(desk.sale.subject, Settled(desk.sale.name, 70)) is True
    assert desk.node.asked == []


# What became of it.


async def test_A10_who_has_the_key_finds_its_own_transaction(desk: Desk) -> None:
    assert await desk.rail.spent_by(desk.sale.subject) is None
    assert desk.node.asked == [("transaction", desk.sale.name)]
    desk.sale.land()
    assert await desk.rail.spent_by(desk.sale.subject) == Settled(desk.sale.name, 70)
    desk.sale.land(error='"AccountInUse"')
    assert isinstance(await desk.rail.spent_by(desk.sale.subject), Refused)


async def test_A11_of_another_sponsor_the_payers_account_tells(desk: Desk) -> None:
    other = SvmSale(desk.node)
    assert await desk.rail.spent_by(other.subject) is None
    other.land()
    other.list()
    assert await desk.rail.spent_by(other.subject) == Settled(other.name, 70)


def test_a_blockhash_may_be_taken_for_two_minutes(desk: Desk) -> None:
    entry = desk.entry()
    for age, may in ((0, True), (LIFETIME_SECONDS - 1, True), (LIFETIME_SECONDS, False)):
        desk.now = NOW + age
        assert desk.rail.may_land(entry) is may


async def test_E01_a_settled_transfer_is_asked_about_with_its_slot(desk: Desk) -> None:
    entry, slot = desk.entry(), 500
    settled = Settled(desk.sale.name, slot)
    desk.node.final = slot + 32
    assert await desk.rail.standing(entry, settled) is None
    # Of one that was undone no slot is known.
    assert await desk.rail.standing(entry, desk.reversed()) == Standing(0)
    desk.node.final = 33
    assert await desk.rail.standing(entry, desk.reversed()) == Standing(0)
    desk.node.final = 32
    assert await desk.rail.standing(entry, desk.reversed()) is None
    desk.sale.status(confirmation="finalized")
    assert await desk.rail.standing(entry, settled) == Standing(32, final=True)


async def test_A16_what_a_fork_took_back_is_sent_again_while_a_block_may_take_it(desk: Desk) -> None:
    for refusal in (None, AWAY, NotSent("refused")):
        desk.node.refusal = refusal
        assert await desk.rail.restore(desk.entry(), desk.reversed()) is None
    assert desk.node.heard("send") == [(desk.sale.raw, desk.sale.name)] * 3
    assert desk.node.heard("is_blockhash_valid") == [(desk.sale.signed.transfer.blockhash,)] * 3
    # Of a stranger's transfer there are no bytes.
    assert await desk.rail.restore(desk.entry(), desk.reversed(raw=False)) is None
    assert len(desk.node.heard("send")) == 3


async def test_A16_what_a_fork_took_back_is_dead_with_its_blockhash(desk: Desk) -> None:
    desk.node.valid = False
    # Nobody knows yet whether it has landed again.
    assert await desk.rail.restore(desk.entry(), desk.reversed()) is None
    desk.sale.status()
    assert await desk.rail.restore(desk.entry(), desk.reversed()) is None
    # What has failed in the fork that won is as dead.
    desk.sale.status(error='"AccountInUse"', confirmation="finalized")
    assert isinstance(await desk.rail.restore(desk.entry(), desk.reversed()), Refused)
    desk.node.statuses.clear()
    desk.node.final = 33
    refused = await desk.rail.restore(desk.entry(), desk.reversed())
    assert isinstance(refused, Refused)
    assert refused.reason == exact_svm_reasons.FAILED
    assert desk.node.heard("send") == []
