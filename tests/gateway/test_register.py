"""Each arrow between what the ledger and the facilitator know of one payment: who wins, who waits, and what is told.

The whole way of a sale is tested elsewhere; here are the moments that two processes, a chain or a ledger must meet
exactly for something to happen (faults A04, A09, A16, A22, B16).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator.world import Meddled, unreachable
from tests.gateway.chain_view import View, nodes_of
from tests.gateway.desk import EVM, Desk
from tests.ports.ledgers import logged
from x402.errors import ConflictError, PendingError, RefusedError
from x402.gateway.policy import Policy
from x402.gateway.register import ME
from x402.gateway.sale import Refusal
from x402.lifecycle import Event, UnlawfulEvent
from x402.ports import Answer
from x402.ports.ledger import SqlLedger
from x402.stages import NOTHING_DUE, Delivered, Owed, Released, Served, State
from x402.wire.receipt import Receipt

ANSWER = Answer(200, (("content-type", "text/plain"),), b"secret")


@pytest.fixture
def desk(shop: Any, town: Any) -> Desk:
    return Desk(shop, town)


@pytest.fixture
async def elsewhere(desk: Desk, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """Another process's way to the same ledger."""
    path = f"sqlite:///{tmp_path / 'gateway.sqlite'}"
    async with SqlLedger(path, clock=lambda: desk.now) as ours, SqlLedger(path, clock=lambda: desk.now) as theirs:
        desk.shop.ledger = ours
        yield theirs


async def test_A04_of_two_replicas_that_claim_at_once_the_second_gets_nothing_to_do(
    desk: Desk, elsewhere: SqlLedger
) -> None:
    """Neither had seen the payment when it looked; the unique insert has one winner."""
    register, replica = await desk.open(), desk.other(elsewhere)
    payment, offer = desk.signed(), desk.offered()
    won = await register.claim(payment, "print", offer)
    assert (won.is_new, won.entry.state) == (True, State.CLAIMED)
    for print_, code in (("print", "payment_in_progress"), ("other", "payment_already_used")):
        with pytest.raises(ConflictError) as refused:
            await replica.claim(payment, print_, offer)
        assert refused.value.code == code
    with pytest.raises(ConflictError):
        await replica.known(won.pay_id, payment, "print")
    assert desk.told() == ["sale.claimed"]
    # Control: what the first lets go, the second takes up, and knows that it is not new.
    await register.leases.end(won.pay_id)
    taken = await replica.claim(payment, "print", offer)
    assert (taken.is_new, taken.pay_id, desk.told()) == (False, won.pay_id, [])
    replica.leases.stop()


async def test_A22_what_is_over_is_told_by_every_replica_whoever_holds_it(desk: Desk, elsewhere: SqlLedger) -> None:
    register, replica = await desk.open(), desk.other(elsewhere)
    payment = desk.signed()
    job = await register.claim(payment, "print", desk.offered())
    await register.served(job, ANSWER)
    await register.settle(job, deliver=True)
    assert await register.ledger.lease(ME, job.pay_id, 60)
    known = await replica.known(job.pay_id, payment, "print")
    assert known is not None
    assert (known.entry.state, replica.leases._held) == (State.DELIVERED, set())


@pytest.mark.parametrize("how", ["another request", "garbage", "more money"])
async def test_A24_B14_the_answer_is_for_the_very_same_payment_and_request(desk: Desk, how: str) -> None:
    """Its identity is public: whoever names it proves nothing."""
    register = await desk.open()
    payment = desk.signed()
    job = await register.claim(payment, "print", desk.offered())
    await register.leases.end(job.pay_id)
    other = payment
    if how == "garbage":
        other = payment.model_copy(update={"payload": {}})
    if how == "more money":
        dearer = {**payment.payload["authorization"], "value": "10001"}
        other = payment.model_copy(update={"payload": {**payment.payload, "authorization": dearer}})
    with pytest.raises(ConflictError) as refused:
        await register.known(job.pay_id, other, "other" if how == "another request" else "print")
    assert refused.value.code == "payment_already_used"
    # Control: the very same is taken up.
    known = await register.known(job.pay_id, payment, "print")
    assert known is not None
    assert known.entry == job.entry


async def test_A22_a_payment_is_taken_up_where_it_stands_when_it_is_ours(desk: Desk, ledger: SqlLedger) -> None:
    """Whoever held it before may have moved it on between our look and our lease."""
    register = await desk.open()
    payment = desk.signed()
    job = await register.claim(payment, "print", desk.offered())

    async def moved_on(*wanted: Any) -> bool:
        await ledger.follow(ME, job.pay_id, [(Event.SERVE, Served(7))])
        return await ledger.lease(*wanted)

    late = desk.other(Meddled(ledger, lease=moved_on))
    known = await late.known(job.pay_id, payment, "print")
    assert known is not None
    assert (known.entry.state, known.entry.due) == (State.SERVED, 7)
    late.leases.stop()


@pytest.mark.parametrize(("flow", "unsent"), [("authorization", False), ("upfront", True)])
async def test_a_claim_says_whether_it_is_to_be_handed_over_at_once(desk: Desk, flow: str, unsent: bool) -> None:
    job = await desk.claim(await desk.open(flow=flow))
    assert (job.is_new, job.is_unsent, job.entry.state is State.SETTLING) == (True, unsent, unsent)


@pytest.mark.parametrize(("kept", "credits"), [({"credits": True}, True), ({"credits": False}, False), ({}, False)])
async def test_only_where_accounts_are_kept_a_sale_has_one(
    desk: Desk, ledger: SqlLedger, kept: dict[str, bool], credits: bool
) -> None:
    await desk.open()
    job = await desk.claim(desk.other(ledger, **kept))
    payer = desk.shop.payer.address
    assert (job.sale.credits, job.sale.account) == (credits, f"{EVM}:{payer}" if credits else "")


async def test_A22_a_withheld_answer_is_served_once_and_handed_over_next(desk: Desk, ledger: SqlLedger) -> None:
    register = await desk.open()
    one, other = await desk.claim(register), await desk.claim(register)
    await ledger.advance(ME, other.pay_id, Event.SERVE, Served())
    other.entry = await ledger.find(ME, other.pay_id) or other.entry
    for job in (one, other):
        await register.served(job, ANSWER)
        assert (job.entry.state, job.is_unsent) == (State.SETTLING, True)
        told = [event for event, pay_id in await logged(ledger) if pay_id == job.pay_id]
        assert told[-2:] == ["serve", "submit"]
        assert await register.answers.find(job.pay_id) == ANSWER


async def test_B16_what_is_due_only_grows_and_is_written_when_it_does(desk: Desk, ledger: SqlLedger) -> None:
    register = await desk.open(schemes=("exact", "upto"))
    job = await desk.claim(register, "upto")
    for due, written in ((100, 100), (50, 100), (100, 100), (150, 150)):
        await register.meter(job, due)
        entry = await ledger.find(ME, job.pay_id)
        assert entry is not None
        assert entry.due == written
    assert [event for event, _ in await logged(ledger)][-2:] == ["serve", "meter"]


async def test_E10_what_was_metered_by_a_writing_told_as_failed_is_metered_on(desk: Desk, ledger: SqlLedger) -> None:
    register = await desk.open(schemes=("exact", "upto"))
    job = await desk.claim(register, "upto")
    await ledger.advance(ME, job.pay_id, Event.SERVE, Served(50))
    assert (job.entry.state, job.entry.due) == (State.CLAIMED, None)
    await register.meter(job, 100)
    assert (job.entry.state, job.entry.due) == (State.SERVED, 100)
    # Control: whoever has ended the payment meanwhile has the last word.
    await ledger.advance(ME, job.pay_id, Event.RELEASE, Released(NOTHING_DUE))
    with pytest.raises(UnlawfulEvent):
        await register.meter(job, 150)
    assert job.entry.state is State.RELEASED


@pytest.mark.parametrize(("retention", "answer"), [(60, ANSWER), (60, None), (0, ANSWER)])
async def test_what_costs_nothing_is_kept_like_any_other_answer(
    desk: Desk, retention: int, answer: Answer | None
) -> None:
    register = await desk.open(schemes=("exact", "upto"), policy=Policy(answer_retention_seconds=retention))
    job = await desk.claim(register, "upto")
    desk.told()
    await register.waive(job, answer)
    assert (job.entry.state, desk.told()) == (State.RELEASED, ["sale.waived"])
    assert await register.answers.find(job.pay_id) == (answer if retention else None)


async def test_A09_what_was_handed_over_is_looked_for_before_it_is_sent_again(desk: Desk) -> None:
    """A foreign facilitator's word is not enough: the chain is asked first, from the second time on."""
    view = View(desk.shop.bank, EVM)
    desk.shop.bank.in_process = False
    register = await desk.open(flow="upfront", nodes=nodes_of(view))
    job = await desk.claim(register)
    desk.told()

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        desk.shop.bank.move(pay_id, truth)
        view.away = True
        return Receipt.pending("", truth.network, truth.payer)

    desk.shop.bank.script = [lost]
    with pytest.raises(Refusal) as told:
        await register.settle(job)
    assert isinstance(told.value.error, PendingError)
    # Once for what it said; a payment that nobody was handed yet is not looked for.
    assert (view.asked, desk.told()) == (1, ["sale.witness_unavailable", "sale.pending"])
    view.away = False
    assert await register.settle(job) == desk.shop.bank.moved[job.pay_id]
    assert (view.asked, desk.shop.bank.asked.count("settle"), desk.told()) == (2, 1, ["sale.settled"])


async def test_A22_a_settlement_that_cannot_be_written_down_is_pending_and_names_its_transaction(
    desk: Desk, ledger: SqlLedger
) -> None:
    await desk.open(flow="upfront")
    blind = desk.other(Meddled(ledger, follow=unreachable))
    job = await blind.claim(desk.signed(), "print", desk.offered())
    with pytest.raises(Refusal) as told:
        await blind.settle(job)
    moved = desk.shop.bank.moved[job.pay_id]
    assert isinstance(told.value.error, PendingError)
    assert told.value.receipt is not None
    assert (told.value.error.transaction, told.value.receipt.transaction) == (moved, moved)
    assert (await ledger.find(ME, job.pay_id) or job.entry).state is State.SETTLING
    # Control: the same ledger, well again.
    job.entry = await ledger.find(ME, job.pay_id) or job.entry
    assert await desk.other(ledger).settle(job) == moved


async def test_A09_a_facilitator_that_breaks_in_the_midst_leaves_the_payment_open(desk: Desk) -> None:
    """Whatever it stumbled over, the transaction may be on its way."""
    register = await desk.open(flow="upfront")
    job = await desk.claim(register)
    desk.told()

    def stumble(*_: Any) -> Receipt:
        raise ZeroDivisionError

    desk.shop.bank.script = [stumble]
    with pytest.raises(Refusal) as told:
        await register.settle(job)
    assert isinstance(told.value.error, PendingError)
    assert (job.entry.state, desk.told()) == (State.SETTLING, ["sale.pending"])
    # Control: it is handed over again, and paid.
    await register.settle(job)
    assert (job.entry.state, desk.told()) == (State.SETTLED, ["sale.settled"])


@pytest.mark.parametrize("deliver", [True, False])
async def test_every_step_of_a_sale_is_told_as_a_fact_once(desk: Desk, deliver: bool) -> None:
    register = await desk.open(flow="upfront")
    job = await desk.claim(register)
    transaction = await register.settle(job, deliver=deliver)
    assert desk.told() == ["sale.claimed", "sale.settled", *["sale.delivered"] * deliver]
    if not deliver:
        await register.owe(job, transaction, "x" * 300)
        assert (desk.told(), job.entry.stage) == (["sale.owed_failed"], Owed(transaction, "x" * 200))
        await register.delivered(job, transaction, ANSWER)
        assert desk.told() == ["sale.delivered"]


async def test_a_sale_with_a_bill_tells_what_was_sold(desk: Desk, ledger: SqlLedger) -> None:
    await desk.open()
    register = desk.other(ledger, credits=True)
    for once in (True, False):
        job = await register.claim(desk.signed(), "print", desk.offered())
        await register.served(job, ANSWER)
        transaction = await register.settle(job, deliver=once)
        if not once:
            await register.delivered(job, transaction, None)
        register.note_credit(job)
        assert desk.told() == ["sale.claimed", "sale.settled", "sale.delivered", "answer.sold"]
        # All of it was used, so nothing is credited, and no receipt tells of any.
        assert job.sale.notes == {}


async def test_A22_the_ledger_says_whether_another_has_delivered(desk: Desk, ledger: SqlLedger) -> None:
    register = await desk.open(flow="upfront")
    job = await desk.claim(register)
    transaction = await register.settle(job)
    assert not await register.is_delivered(job)
    await ledger.advance(ME, job.pay_id, Event.DELIVER, Delivered(transaction))
    assert await register.is_delivered(job)


async def test_A22_a_delivery_that_cannot_be_written_down_is_told_and_stays_settled(
    desk: Desk, ledger: SqlLedger
) -> None:
    register = await desk.open(flow="upfront")
    job = await desk.claim(register)
    transaction = await register.settle(job)
    desk.told()
    await desk.other(Meddled(ledger, follow=unreachable)).delivered(job, transaction, ANSWER)
    assert (desk.told(), job.entry.state) == (["sale.delivery_failed"], State.SETTLED)


async def test_A16_a_refusal_is_written_told_and_carried_by_its_receipt(desk: Desk) -> None:
    register = await desk.open(flow="upfront")
    job = await desk.claim(register)
    desk.told()
    desk.shop.bank.script = [
        lambda _, truth: Receipt.refused("insufficient_funds", "no", truth.network, truth.payer, proven=True)
    ]
    with pytest.raises(Refusal) as told:
        await register.settle(job)
    assert isinstance(told.value.error, RefusedError)
    assert told.value.receipt is not None
    assert (told.value.receipt.error_reason, desk.told()) == ("insufficient_funds", ["sale.refused"])


async def test_row_084_a_credit_is_told(desk: Desk, ledger: SqlLedger) -> None:
    await desk.open(flow="upfront")
    register = desk.other(ledger, credits=True)
    job = await register.claim(desk.signed(), "print", desk.offered())
    transaction = await register.settle(job)
    await register.owe(job, transaction, "no answer")
    desk.told()
    await register.credit(job, transaction)
    assert (job.entry.state, desk.told()) == (State.CREDITED, ["sale.credited"])


async def test_E13_three_settlements_in_vain_are_noted_against_a_facilitator(desk: Desk) -> None:
    register = await desk.open(flow="upfront")
    seat = register.facilitators._seats[0]
    desk.shop.bank.script = [lambda _, truth: Receipt.pending("", truth.network, truth.payer)]
    with pytest.raises(Refusal):
        await register.settle(await desk.claim(register))
    assert seat.unsettled == 1
    await register.settle(await desk.claim(register))
    assert seat.unsettled == 0
