"""What an EVM rail promises once bytes have left: when they leave again, and what becomes of the payment.

Faults A09-A11, A15, A16, C16, D01-D03, D05, E01. The node is scripted, so that each moment comes; the ledger, the
payments and the keys are real.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.facilitator.evm_desk import AWAY, FIRST, LANDED, SECOND, Desk
from tests.nodes import EvmSale
from x402.confirmation import parse_confirmations
from x402.errors import UnavailableError
from x402.evidence import Standing
from x402.facilitator.evm_sender import Gas
from x402.lifecycle import Subject
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.stages import Refused, Reversed, Settled


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


# Deciding.


async def test_A15_what_moved_is_settled(desk: Desk) -> None:
    entry, stage = await desk.intended()
    desk.sale.land(stage.transaction, LANDED)
    assert await desk.decide(entry, stage, 5) == Settled(stage.transaction, LANDED)
    assert desk.node.heard("receipt") == [(stage.transaction, 5)]
    assert desk.sent() == []


async def test_D01_what_has_landed_lets_the_next_ones_go(desk: Desk) -> None:
    """Whatever became of it."""
    for _ in range(3):
        sale = EvmSale(desk.node)
        sale.pass_check()
        async with asyncio.timeout(1):
            entry, stage = await desk.intended(await desk.check(sale, settling=True))
        desk.node.away.add("receipt")
        with pytest.raises(UnavailableError):
            await desk.decide(entry, stage)
        desk.node.away.clear()


async def test_C16_what_no_block_has_taken_is_sent_again(desk: Desk) -> None:
    entry, stage = await desk.intended()
    await desk.rail.submit(stage)
    desk.node.asked.clear()
    assert await desk.decide(entry, stage, 5) is None
    assert desk.node.heard("receipt")[0] == (stage.transaction, 5)
    assert desk.sent() == [stage.transaction]


@pytest.mark.parametrize(
    ("timeout", "waits", "sends"), [(5, [2.0, 3.0, 0], 2), (2, [2, 0], 1), (1.5, [1.5, 0], 1), (2.5, [2, 0.5, 0], 2)]
)
async def test_A09_what_no_node_has_confirmed_is_sent_again_sooner(
    desk: Desk, timeout: float, waits: list[float], sends: int
) -> None:
    entry, stage = await desk.intended()
    desk.node.refusal = AWAY
    await desk.rail.submit(stage)
    desk.node.asked.clear()
    # A node that refuses the bytes now may have them from an earlier copy.
    desk.node.refusal = NotSent("already known by another name")
    assert await desk.decide(entry, stage, timeout) is None
    assert [seconds for _, seconds in desk.node.heard("receipt")] == waits
    assert desk.sent() == [stage.transaction] * sends


async def test_A09_what_lands_meanwhile_is_settled(desk: Desk) -> None:
    entry, stage = await desk.intended()
    desk.node.refusal = AWAY
    await desk.rail.submit(stage)
    desk.node.refusal, real = None, desk.node.send

    async def send(raw: bytes, transaction: str) -> None:
        await real(raw, transaction)
        desk.sale.land(transaction, LANDED)

    desk.node.send = send  # type: ignore[method-assign]
    assert await desk.decide(entry, stage, 5) == Settled(stage.transaction, LANDED)
    # It was sent when nobody answered, and once more.
    assert desk.sent() == [stage.transaction] * 2


async def test_A16_a_large_payment_waits_until_it_is_deep(ledger: SqlLedger) -> None:
    desk = Desk(ledger, confirmations=parse_confirmations("0=3"))
    entry, stage = await desk.intended()
    desk.sale.land(stage.transaction, LANDED)
    desk.sale.spend()
    settled = Settled(stage.transaction, LANDED)
    for height, final, deep in ((LANDED + 1, 0, False), (LANDED + 2, 0, True), (LANDED, LANDED, True)):
        desk.node.height, desk.node.final = height, final
        assert await desk.rail.is_deep(desk.sale.subject, settled) is deep
        assert await desk.decide(entry, stage) == (settled if deep else None)
    # It has landed, so nothing is sent again.
    assert desk.sent() == []
    desk.node.receipts.clear()
    desk.node.height = LANDED - 1
    assert await desk.rail.is_deep(desk.sale.subject, settled) is False
    two = Desk(ledger, confirmations=parse_confirmations("0=2"))
    assert await two.rail.is_deep(two.sale.subject, Settled("0xours", two.node.height + 1)) is False


async def test_A16_a_small_payment_waits_for_nothing(desk: Desk) -> None:
    assert await desk.rail.is_deep(desk.sale.subject, Settled("0xours", LANDED)) is True
    assert desk.node.asked == []


async def test_A11_what_a_stranger_has_used_up_is_not_sent_again(desk: Desk) -> None:
    entry, stage = await desk.intended()
    desk.sale.spend()
    # No event shows yet what used it.
    assert await desk.decide(entry, stage) is None
    assert desk.sent() == []
    desk.sale.land("0xhers", LANDED)
    assert await desk.decide(entry, stage) == Settled("0xhers", LANDED)


async def test_A16_what_failed_alone_is_refused_once_it_is_dead_and_not_tried_again(desk: Desk) -> None:
    entry, stage = await desk.intended()
    assert await desk.rail.failure(entry, stage) is None
    desk.sale.land(stage.transaction, LANDED, succeeded=False)
    desk.node.final = LANDED
    assert await desk.decide(entry, stage) is None
    assert await desk.rail.failure(entry, stage) == stage.transaction
    desk.node.second = desk.sale.signed.valid_before + 100
    refused = await desk.decide(entry, stage)
    assert isinstance(refused, Refused)
    assert refused.transaction == stage.transaction
    assert (desk.sent(), (await desk.stage(entry)).attempt) == ([], 1)


async def test_D05_what_failed_among_others_is_tried_once_more_alone(desk: Desk) -> None:
    entry, stage, _ = await desk.together()
    desk.sale.land(stage.transaction, LANDED, succeeded=False)
    desk.node.final = LANDED
    # That the transaction of all has failed is no end of this payment while its own may land.
    assert await desk.decide(entry, stage) is None
    after = await desk.stage(entry)
    assert (after.shares, after.attempt, after.earlier) == (1, 2, (stage.transaction,))
    assert desk.sent() == [after.transaction]
    desk.sale.land(after.transaction, LANDED)
    assert await desk.decide(replace(entry, stage=after), after) == Settled(after.transaction, LANDED)


async def test_D05_what_settled_among_others_is_not_tried_again(desk: Desk) -> None:
    entry, stage, other = await desk.together()
    # None of the two has landed: the transaction itself is sent again.
    assert await desk.decide(entry, stage) is None
    assert desk.sent() == [stage.transaction]
    desk.sale.land(stage.transaction, LANDED)
    assert await desk.decide(entry, stage) == Settled(stage.transaction, LANDED)
    assert (await desk.stage(entry)).attempt == 1
    assert other.subject.pay_id != entry.subject.pay_id


@pytest.mark.parametrize(("afford", "attempt"), [(None, 2), (True, 2), (False, 1)])
async def test_D03_who_has_waited_long_enough_bids_more_if_it_is_affordable(
    ledger: SqlLedger, afford: bool | None, attempt: int
) -> None:
    """Who has no budgets affords everything."""

    async def may(subject: Subject, fee: int) -> bool:
        return bool(afford)

    desk = Desk(ledger, gas=Gas(patience=20), afford=None if afford is None else may)
    entry, stage = await desk.intended()
    desk.now += 20
    assert await desk.decide(entry, stage) is None
    assert (await desk.stage(entry)).attempt == attempt


# What became of it.


async def test_A10_what_has_used_it_up_is_found(desk: Desk) -> None:
    assert await desk.rail.spent_by(desk.sale.subject) is None
    desk.sale.spend()
    desk.sale.land("0xhers", LANDED)
    assert await desk.rail.spent_by(desk.sale.subject) == Settled("0xhers", LANDED)


def test_it_may_land_until_its_end(desk: Desk) -> None:
    for seconds, may in ((-1, True), (0, False), (1, False)):
        desk.now = desk.sale.signed.valid_before + seconds
        assert desk.rail.may_land(desk.entry()) is may


async def test_E01_a_settled_transfer_is_asked_about_with_its_block(desk: Desk) -> None:
    settled, undone = Settled("0xours", desk.node.height + 1), Reversed("0xours", b"raw")
    # This node has not seen its block; of one that was undone no block is known.
    assert await desk.rail.standing(desk.entry(), settled) is None
    assert await desk.rail.standing(desk.entry(), undone) == Standing(0)
    desk.node.height = 0
    assert await desk.rail.standing(desk.entry(), undone) == Standing(0)
    desk.node.height = 5_000
    desk.sale.land("0xours", 5_000)
    assert await desk.rail.standing(desk.entry(), settled) == await desk.rail.standing(desk.entry(), undone)


async def test_A16_what_a_fork_took_back_is_sent_again_until_it_is_dead(desk: Desk) -> None:
    for refusal in (None, AWAY, NotSent("refused")):
        desk.node.refusal = refusal
        assert await desk.rail.restore(desk.entry(), Reversed("0xours", b"raw")) is None
    assert desk.node.heard("send") == [(b"raw", "0xours")] * 3
    # Of a stranger's transfer there are no bytes.
    assert await desk.rail.restore(desk.entry(), Reversed("0xhers")) is None
    # What has landed again needs no second copy.
    desk.sale.land("0xours", LANDED)
    assert await desk.rail.restore(desk.entry(), Reversed("0xours", b"raw")) is None
    assert len(desk.sent()) == 3
    desk.node.receipts.clear()
    desk.sale.node.second = desk.sale.signed.valid_before + 31
    refused = await desk.rail.restore(desk.entry(), Reversed("0xours", b"raw"))
    assert refused == desk.sale.signed.ends.expired


async def test_D02_every_key_is_mended(desk: Desk) -> None:
    await desk.rail.heal(desk.ledger)
    assert desk.node.heard("transaction_count") == [(FIRST.address,), (SECOND.address,)]
