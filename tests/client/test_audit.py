"""Invariant I6 over random lives of a client: calls, thieves, crashes, clocks that jump; and the audit itself."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from x402.client.audit import audit
from x402.client.budget import Limits
from x402.client.effects import Send, Wanted
from x402.client.record import Record
from x402.errors import X402Error
from x402.lifecycle import Event
from x402.stages import Settled, State

from .driver import WHIMS, Crash, Lost, drive, terms
from .seller import NOW, PAYEE, TRANSACTION, Answer, Clock, asks, delivers, offer

LIMITS = Limits(per_call="0.04", per_hour="0.10", per_day="0.16", per_host="0.12", per_payee="0.08")
HOSTS = ("a.test", "b.test")
PAYEES = (PAYEE, PAYEE.lower(), "0x" + "99" * 20)


class Life(RuleBasedStateMachine):
    """A client with a clock that jumps, among sellers that take what they are shown whenever it suits them.

    The chain's time only grows, and nothing is taken after its last second.
    """

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.time = NOW
        self.taken: set[str] = set()
        self.given_up: set[str] = set()
        self.terms = terms(self.clock, LIMITS, prove=self.prove)
        self.journal = self.terms.journal

    def prove(self, record: Record) -> Record:
        """What a chain proves, as `resolve` writes it down."""
        if record.pay_id in self.taken:
            self.journal.conclude(record.pay_id, event=Event.SETTLE, stage=Settled(TRANSACTION))
        elif record.state in (State.EXPOSED, State.REFUSED) and self.time > record.entry.subject.expires_at:
            self.journal.release(record.pay_id, "expired unused")
        return self.journal.find(record.pay_id) or record

    def take(self, record: Record | None) -> None:
        if record is not None and record.header and self.time < record.entry.subject.expires_at:
            self.taken.add(record.pay_id)

    @rule(
        host=st.sampled_from(HOSTS),
        later=st.sampled_from([0, 0, 90, 700, 3600]),
        cents=st.integers(1, 5),
        payee=st.sampled_from(PAYEES),
        whim=st.sampled_from([*WHIMS, "lost", "crash", "honest", "asks", "asks"]),
        takes=st.booleans(),
        again=st.integers(0, 2),
    )
    def call(self, host: str, later: int, cents: int, payee: str, whim: str, takes: bool, again: int) -> None:
        """A call after a while, repeated as SDKs do while it fails."""
        self.pass_time(later)

        def seller(request: Send) -> Answer:
            if not request.payment:
                return asks(offer(amount=cents * 10_000, pay_to=payee))
            if takes:
                self.take(self.shown(request.payment[0][1]))
            if whim in ("lost", "crash"):
                raise Lost if whim == "lost" else Crash
            return delivers() if whim == "honest" else WHIMS[whim]

        for _ in range(again + 1):
            try:
                drive(Wanted("GET", f"https://{host}/", b""), self.terms, seller)
            except (X402Error, Lost, Crash):
                continue
            return

    def shown(self, header: str) -> Record | None:
        return next((record for record in self.journal.records() if record.header == header), None)

    @rule(seconds=st.sampled_from([1, 30, 90_000]))
    def pass_time(self, seconds: int) -> None:
        self.time += seconds
        self.clock.now += seconds

    @rule(seconds=st.integers(-3600, 3600))
    def jump(self, seconds: int) -> None:
        """Our clock goes wrong; the chain's does not (fault E09)."""
        self.clock.now = self.time + seconds

    @rule(which=st.integers(0, 9))
    def take_late(self, which: int) -> None:
        """A seller submits what it was shown earlier."""
        rows = self.journal.records()
        if rows:
            self.take(rows[which % len(rows)])

    @rule()
    def resolve(self) -> None:
        self.journal.bury()
        for record in self.journal.unresolved():
            self.prove(record)

    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        unanswered = [record for record in self.journal.records() if record.open and record.header]
        if unanswered:
            self.given_up.add(self.journal.give_up(unanswered[which % len(unanswered)].pay_id).pay_id)

    @invariant()
    def I6_what_is_signed_and_not_dead_fits_the_limits(self) -> None:
        assert audit(self.journal.records(), LIMITS) == []

    @invariant()
    def nothing_that_was_taken_is_given_back(self) -> None:
        rows = {record.pay_id: record for record in self.journal.records()}
        assert all(rows[pay_id].state is not State.RELEASED for pay_id in self.taken)

    @invariant()
    def A23_one_call_is_debited_once(self) -> None:
        """Of the payments for one request, all but one were answered, or proven dead, or given up by a person."""
        unanswered = Counter(
            record.entry.subject.fingerprint
            for record in self.journal.records()
            if record.header and not record.answered_at and record.state is not State.RELEASED
            if record.pay_id not in self.given_up and record.entry.created_at > self.clock.now - 80_000
        )
        assert not unanswered or max(unanswered.values()) <= 1


class TestLife(Life.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def rows() -> list[Record]:
    """Four cents, two hosts, answered by honest sellers."""
    with_terms = terms(Clock())
    for number in range(4):
        honest = iter([asks(), delivers()])
        wanted = Wanted("GET", f"https://{HOSTS[number % 2]}/{number}", b"")
        drive(wanted, with_terms, lambda _, honest=honest: next(honest))  # type: ignore[misc]
    return list(with_terms.journal.records())


@pytest.mark.parametrize(
    ("bound", "fits", "breaks"),
    [("per_call", "0.01", "0.009"), ("per_hour", "0.04", "0.039"), ("per_day", "0.04", "0.03"),
     ("per_host", "0.02", "0.01"), ("per_payee", "0.04", "0.03")],
)  # fmt: skip
def test_I6_the_audit_sees_each_limit(bound: str, fits: str, breaks: str) -> None:
    assert audit(rows(), Limits(**{bound: fits})) == []
    assert audit(rows(), Limits(**{bound: breaks})) != []


def test_I6_what_was_released_is_no_money() -> None:
    kept = rows()
    released = [replace(one, entry=replace(one.entry, stage=_released())) for one in kept[:3]]
    assert audit([*released, kept[3]], Limits(per_day="0.01")) == []


def _released() -> Any:
    from x402.stages import Released

    return Released("expired unused")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"usd": Decimal("0.02")}, "not what it pays"), ({"header": ""}, "without the payment"),
     ({"header": base64.b64encode(json.dumps({"a": 1}).encode()).decode()}, "without the payment")],
)  # fmt: skip
def test_I6_the_audit_sees_a_row_that_lies(change: dict[str, Any], words: str) -> None:
    [first, *_] = rows()
    [found] = audit([replace(first, **change)], Limits())
    assert words in found
