"""What a process that died, or another one, has left on the till: paid once, made once, told as it is (A22, E11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_till import NOW, PLAIN, Counter, body
from tests.gateway.waiting import until
from x402.errors import ConflictError, PendingError, RefusedError
from x402.gateway.offers import identity_of
from x402.gateway.problem import ApiProblem, status_of
from x402.gateway.recording import BrokenOff
from x402.gateway.sale import Refusal
from x402.lifecycle import Event, Party
from x402.ports import Answer
from x402.ports.ledger import SqlLedger
from x402.stages import Credited, Owed, Refunded, Refunding, Released, Served, Settled, Settling, State
from x402.telemetry import Fact, Telemetry


@pytest.fixture
def counter(shop: Any) -> Counter:
    return Counter(shop)


async def left(counter: Counter, scheme: str, *arrows: Any, answer: Answer | None = None) -> Any:
    """A payment that a process which died had claimed, and moved on by `arrows`."""
    offer = next(one for one in counter.challenge.accepts if one.scheme == scheme)
    payment = counter.shop.payer.payment(offer, counter.challenge)
    register = counter.till.register
    job = await register.claim(payment, "print", offer)
    sealed = None if answer is None else register.answers.sealed(job.pay_id, answer)
    await counter.shop.ledger.follow(Party.GATEWAY, job.pay_id, list(arrows), answer=sealed)
    await register.leases.end(job.pay_id)
    return payment


async def test_A22_an_answer_that_was_made_and_not_paid_is_paid_and_not_made_again(counter: Counter) -> None:
    await counter.open()
    made = Answer(200, PLAIN, b"made before")
    payment = await left(counter, "exact", (Event.SERVE, Served()), answer=made)
    reply = await counter.take(payment)
    assert (await body(reply), counter.runs, len(counter.shop.bank.moved)) == (b"made before", 0, 1)
    assert reply.receipt is not None
    assert reply.receipt.success


@pytest.mark.parametrize("due", [0, 70])
async def test_A22_B16_a_metered_answer_of_a_process_that_died_costs_what_it_wrote_down(
    counter: Counter, due: int
) -> None:
    """It was played and nobody kept it, so it is not made again for that."""
    await counter.open(schemes=("exact", "upto"))
    payment = await left(counter, "upto", (Event.SERVE, Served(due)))
    with pytest.raises(Refusal) as told:
        await counter.take(payment)
    assert told.value.error.code == "answer_gone"
    assert told.value.receipt is not None
    assert told.value.receipt.amount == str(due)
    assert [units for _, units in counter.shop.bank.payees.values()] == [due] * bool(due)
    entry = await counter.shop.ledger.find(Party.GATEWAY, identity_of(payment))
    assert (entry.state, counter.runs) == (State.DELIVERED if due else State.RELEASED, 0)


@pytest.mark.parametrize("reason", ["a", "z"])
async def test_A23_what_was_given_up_is_refused_and_may_be_signed_again(counter: Counter, reason: str) -> None:
    await counter.open()
    payment = await left(counter, "exact", (Event.RELEASE, Released(reason)))
    with pytest.raises(Refusal) as told:
        await counter.take(payment)
    assert isinstance(told.value.error, RefusedError)
    assert (told.value.error.code, counter.runs) == ("payment_expired", 0)


async def test_E11_a_sale_that_another_process_moved_on_takes_and_gives_nothing(counter: Counter) -> None:
    await counter.open()
    selling = counter.take(counter.signed(), counter.slow)
    await until(lambda: counter.runs)
    entry = await counter.shop.entry()
    await counter.shop.ledger.follow(Party.GATEWAY, entry.subject.pay_id, [(Event.RELEASE, Released("given up"))])
    counter.go_on.set()
    with pytest.raises(Refusal) as told:
        await selling
    assert isinstance(told.value.error, ConflictError)
    assert (told.value.error.code, counter.shop.bank.moved) == ("payment_in_progress", {})


async def test_A22_an_answer_that_was_paid_and_kept_is_handed_out_and_that_is_noted(counter: Counter) -> None:
    await counter.open()
    made, paid = Answer(200, PLAIN, b"made before"), "0x" + "ab" * 32
    arrows = ((Event.SERVE, Served()), (Event.SUBMIT, Settling()), (Event.SETTLE, Settled(paid, 7)))
    payment = await left(counter, "exact", *arrows, answer=made)
    assert await body(await counter.take(payment)) == b"made before"
    entry = await counter.shop.ledger.find(Party.GATEWAY, identity_of(payment))
    assert (entry.state, counter.runs, counter.shop.bank.asked.count("settle")) == (State.DELIVERED, 0, 0)


async def test_A22_an_upfront_answer_that_breaks_off_is_played_that_far_and_owed(
    counter: Counter, tmp_path: Path
) -> None:
    """Who reads its early end may ask again at once, wherever."""
    path = f"sqlite:///{tmp_path / 'gateway.sqlite'}"
    async with SqlLedger(path, clock=lambda: NOW) as ours, SqlLedger(path, clock=lambda: NOW) as elsewhere:
        counter.shop.ledger = ours
        await counter.open("upfront")
        payment = counter.signed()

        async def breaks(_: Any, sink: Any) -> None:
            await sink.start(200, PLAIN)
            await sink.write(b"half")
            raise ConnectionError("upstream")

        reply = await counter.take(payment, breaks)
        pieces = aiter(reply.chunks)
        assert await anext(pieces) == b"half"
        with pytest.raises(BrokenOff):
            await anext(pieces)
        assert await elsewhere.lease(Party.GATEWAY, identity_of(payment), 60)
        await elsewhere.end_lease(Party.GATEWAY, identity_of(payment))
        await until(lambda: not counter.till._tasks)
        assert await counter.state() is State.OWED
        assert await body(await counter.take(payment)) == b"secret"


PAID = "0x" + "ab" * 32
_OWED = (
    (Event.SUBMIT, Settling()), (Event.SETTLE, Settled(PAID, 7)), (Event.FAIL, Owed(PAID, "no answer")),
)  # fmt: skip
_BACK = (Event.REFUND, Refunding(PAID, "header", "refund"))


@pytest.mark.parametrize(
    ("arrows", "error", "code", "status"),
    [
        ((*_OWED, _BACK), PendingError, "settlement_pending", 503),
        ((*_OWED, _BACK, (Event.SETTLE, Refunded(PAID, "0xback"))), RefusedError, "payment_refunded", 402),
        ((*_OWED, (Event.CREDIT, Credited(PAID, "account"))), ApiProblem, "payment_credited", 410),
    ],
)
async def test_G10_what_goes_back_brings_no_answer_any_more(
    counter: Counter, arrows: Any, error: type[Exception], code: str, status: int
) -> None:
    await counter.open()
    payment = await left(counter, "exact", *arrows)
    with pytest.raises(Refusal) as told:
        await counter.take(payment)
    assert isinstance(told.value.error, error)
    assert (told.value.error.code, status_of(told.value.error), counter.runs) == (code, status, 0)
    # Whose money moved and has not come back yet is shown where it went.
    receipt = told.value.receipt
    assert (receipt.transaction if receipt else None) == (None if error is RefusedError else PAID)


async def test_an_answer_that_is_told_again_is_told_as_a_fact(counter: Counter) -> None:
    facts: list[Fact] = []
    await counter.open(telemetry=Telemetry([facts.append]))
    payment = counter.signed()
    assert await body(await counter.take(payment)) == b"secret"
    assert "sale.replayed" not in [fact.name for fact in facts]
    assert await body(await counter.take(payment)) == b"secret"
    assert [fact.name for fact in facts].count("sale.replayed") == 1
