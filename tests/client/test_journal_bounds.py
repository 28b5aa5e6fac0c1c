"""The journal at the edges: what a second signature may cost, what is booked, recalled and counted, to the unit."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from x402 import networks
from x402.client.breaker import Breaker, Standing
from x402.client.budget import HOUR_SECONDS, Limits
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.record import Check, Finding
from x402.errors import DeclinedError, UnavailableError
from x402.lifecycle import Event, Subject, UnlawfulEvent
from x402.stages import Exposed, Refused, Released, Settled, State

from .seller import NOW, PAYEE, TRANSACTION, Clock

SUBJECT = Subject(
    pay_id="p1", network=networks.BASE_SEPOLIA, asset="0xa", payer="0xb", payee=PAYEE, amount=10_000,
    expires_at=NOW + 60, fingerprint="f1", record={},
)  # fmt: skip
CENT = Decimal("0.01")
CHECK = Check(Finding.CONFIRMED, "it made our transfer", NOW)


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path / "journal.sqlite", clock=clock)


def hold(journal: Journal, pay_id: str = "p1", usd: Decimal = CENT, *, call: Call | None = None, **more: Any) -> Call:
    limits, host, breaker = more.pop("limits", Limits()), more.pop("host", "seller.test"), more.pop("breaker", None)
    call = call or Call()
    subject = replace(SUBJECT, pay_id=pay_id, **more)
    journal.hold(subject, host=host, usd=usd, limits=limits, call=call, breaker=breaker)
    return call


def expose(journal: Journal, pay_id: str = "p1", usd: Decimal = CENT, **more: Any) -> Call:
    call = hold(journal, pay_id, usd, **more)
    journal.expose(pay_id, "PAYMENT-SIGNATURE", f"header of {pay_id}")
    return call


def usd_of(journal: Journal, pay_id: str = "p1") -> Decimal:
    record = journal.find(pay_id)
    assert record is not None
    return record.usd


@pytest.mark.parametrize("limits", [{"per_day": "0.03"}, {"per_host": "0.03"}, {"per_payee": "0.03"}])
def test_B11_a_second_signature_costs_its_difference_within_every_limit(
    journal: Journal, limits: dict[str, str]
) -> None:
    expose(journal, "other")
    expose(journal, "p1")
    given: dict[str, Any] = {"host": "seller.test", "limits": Limits(**limits)}
    with pytest.raises(DeclinedError, match="budget_exceeded"):
        journal.hold_more("p1", usd=Decimal("0.020001"), **given)
    assert usd_of(journal) == CENT
    journal.hold_more("p1", usd=Decimal("0.02"), **given)
    assert usd_of(journal) == Decimal("0.02")
    # Less, or as much, is reserved already; the dearer signature may still be the one that is taken.
    for usd in (Decimal("0.02"), CENT, Decimal("0.000001")):
        journal.hold_more("p1", usd=usd, **given)
        assert usd_of(journal) == Decimal("0.02")
    journal.hold_more("p1", host="seller.test", usd=Decimal("0.02"), limits=Limits(per_day="0.001"))
    with pytest.raises(KeyError):
        journal.hold_more("nobody", usd=CENT, **given)


def test_B12_limits_of_one_payee_leave_others_alone(journal: Journal) -> None:
    expose(journal, "p1", limits=Limits(per_payee="0.01"))
    with pytest.raises(DeclinedError, match="budget_exceeded"):
        hold(journal, "p2", limits=Limits(per_payee="0.01"), payee=PAYEE.lower(), host="elsewhere.test")
    hold(journal, "p3", limits=Limits(per_payee="0.01"), payee="0xother")
    assert (journal.spent(60), journal.spent(60, payee="0xother")) == (2 * CENT, CENT)
    assert journal.spent(60, host="elsewhere.test") == 0


def test_A23_a_header_that_takes_anothers_place_forgets_none(journal: Journal) -> None:
    expose(journal)
    for number in (1, 2):
        subject = replace(SUBJECT, amount=20_000 + number, payee=f"0x{number}", expires_at=NOW + 100 - number)
        record = journal.replace(subject, "X-PAYMENT", f"header {number}")
        assert (record.header_name, record.header, record.entry.subject.amount) == (
            "X-PAYMENT", f"header {number}", 20_000 + number,
        )  # fmt: skip
        assert record.entry.subject.payee == f"0x{number}"
        # Whichever signature lives longest may still be presented.
        assert record.entry.subject.expires_at == NOW + 99
    stage = record.entry.stage
    assert isinstance(stage, Exposed)
    assert (stage.header, stage.earlier) == ("header 2", ("header of p1", "header 1"))
    assert journal.find("p1") == record
    journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION))
    with pytest.raises(UnlawfulEvent):
        journal.replace(SUBJECT, "X-PAYMENT", "too late")
    assert journal.find("p1") == replace(record, entry=replace(record.entry, stage=Settled(TRANSACTION)))


@pytest.mark.parametrize(
    ("amount", "usd"),
    [(0, "0"), (1, "0.000001"), (3_333, "0.003333"), (9_999, "0.009999"), (10_000, "0.01")],
)
def test_B16_what_was_taken_of_a_maximum_counts_and_nothing_else_does(journal: Journal, amount: int, usd: str) -> None:
    expose(journal)
    journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION))
    for nonsense in (-1, 10_001):
        assert Decimal(CENT) == _note(journal, nonsense, finding=None)
    assert _note(journal, amount) == Decimal(usd)
    # Once: no part is taken of a part.
    assert _note(journal, amount // 2) == Decimal(usd)
    record = journal.find("p1")
    assert record is not None
    assert (record.entry.stage, record.check) == (Settled(TRANSACTION, amount=amount), CHECK)


def _note(journal: Journal, amount: int, *, finding: Finding | None = Finding.CONFIRMED) -> Decimal:
    """What counts after a look at the chain; without a finding, the look is taken back."""
    journal.note("p1", CHECK, amount)
    if finding is None:
        with sqlite3.connect(journal.path) as db:
            db.execute("UPDATE payments SET finding = ''")
        db.close()
    return usd_of(journal)


def test_B16_a_part_of_a_millionth_counts_whole(journal: Journal) -> None:
    expose(journal, usd=Decimal("0.000005"))
    journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION))
    assert _note(journal, 2_001) == Decimal("0.000002")


def test_B16_control_what_is_not_settled_is_booked_as_signed(journal: Journal) -> None:
    expose(journal)
    assert _note(journal, 5_000) == CENT
    assert journal.find("p1").state is State.EXPOSED  # type: ignore[union-attr]


def test_a_row_names_an_amount_only_where_one_is_known(journal: Journal) -> None:
    def told() -> Any:
        db = sqlite3.connect(journal.path)
        try:
            return json.loads(db.execute("SELECT stage FROM payments").fetchone()[0])
        finally:
            db.close()

    expose(journal)
    journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION))
    before = told()
    assert (before["transaction"], "amount" in before) == (TRANSACTION, False)
    _note(journal, 7)
    assert told() == before | {"amount": 7}


def test_A23_an_unanswered_payment_is_taken_up_for_twenty_five_hours(journal: Journal, clock: Clock) -> None:
    journal.leave(expose(journal))
    clock.now = NOW + 25 * HOUR_SECONDS
    assert journal.recall("f1", Call()) is None
    clock.now -= 1
    record = journal.recall("f1", Call())
    assert record is not None
    assert record.pay_id == "p1"


def test_what_was_only_held_is_closed_when_its_call_ends(journal: Journal) -> None:
    journal.leave(hold(journal))
    record = journal.find("p1")
    assert record is not None
    assert (record.entry.stage, record.open) == (Released("never exposed"), False)


@pytest.mark.parametrize("now", [0, 1])
def test_an_answer_at_the_beginning_of_time_is_an_answer(journal: Journal, clock: Clock, now: int) -> None:
    """A machine whose clock was never set: 0 would mean that nothing came."""
    clock.now = now
    concluded, left = expose(journal, "p1"), expose(journal, "p2")
    assert journal.conclude("p1", answered=True).answered_at == 1
    journal.walk_away("p2", left)
    assert journal.find("p2").answered_at == 1  # type: ignore[union-attr]
    assert concluded.owner != left.owner


def test_a_hundred_payments_are_shown_unless_more_are_asked_for(journal: Journal) -> None:
    call = Call()
    for number in range(101):
        hold(journal, f"p{number}", call=call)
    assert [len(journal.history()), len(journal.history(101)), len(journal.records())] == [100, 101, 101]
    assert journal.history()[0].pay_id == "p100"


def test_B11_a_breaker_counts_as_far_as_it_needs_to(journal: Journal) -> None:
    for number in range(4):
        journal.leave(expose(journal, f"p{number}"))
    assert journal.standing("seller.test") == Standing(4, NOW)
    with pytest.raises(DeclinedError, match="the last 3 payments"):
        hold(journal, "more", breaker=Breaker(failures=3))


def test_E10_a_state_that_nobody_here_wrote_is_told(journal: Journal) -> None:
    expose(journal)
    journal.conclude("p1", event=Event.REFUSE, stage=Refused("no", "no"))
    assert journal.totals() == {State.REFUSED: CENT}
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE payments SET state = 'eaten'")
    db.close()
    with pytest.raises(UnavailableError, match="a payment's state"):
        journal.totals()


def test_a_closed_journal_lets_go_of_its_file(tmp_path: Path, clock: Clock) -> None:
    memory = Journal(":memory:", clock=clock)
    expose(memory)
    memory.close()
    assert memory.history() == []
