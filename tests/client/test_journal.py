"""The journal and the budget: durable, lawful, and shared by threads and processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from x402 import networks
from x402.client.budget import DAY_SECONDS, HOUR_SECONDS, Limits
from x402.client.journal import Journal
from x402.client.owner import Call, is_live
from x402.client.record import Record
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, UnavailableError
from x402.lifecycle import Event, Subject, UnlawfulEvent
from x402.stages import Refused, Settled, State
from x402.wire.receipt import Receipt

from .seller import NOW, PAYEE, TRANSACTION, Clock

SUBJECT = Subject(
    pay_id="p1", network=networks.BASE_SEPOLIA, asset="0xa", payer="0xb", payee=PAYEE, amount=10_000,
    expires_at=NOW + 60, fingerprint="f1", record={"url": "https://seller.test/"},
)  # fmt: skip
CENT = Decimal("0.01")
RECEIPT = Receipt.settled(TRANSACTION, networks.BASE_SEPOLIA, None)


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path / "deep" / "journal.sqlite" if request.param == "file" else ":memory:", clock=clock)


def hold(journal: Journal, call: Call, pay_id: str = "p1", usd: Decimal = CENT, **more: Any) -> None:
    limits, host = more.pop("limits", Limits()), more.pop("host", "seller.test")
    journal.hold(replace(SUBJECT, pay_id=pay_id, **more), host=host, usd=usd, limits=limits, call=call)


def expose(journal: Journal, call: Call, pay_id: str = "p1", **more: Any) -> Record:
    hold(journal, call, pay_id, **more)
    return journal.expose(pay_id, "PAYMENT-SIGNATURE", f"header of {pay_id}")


class TestRows:
    def test_a_payment_from_hold_to_settled(self, journal: Journal, clock: Clock) -> None:
        call = Call()
        hold(journal, call)
        [held] = journal.history()
        assert (held.state, held.usd, held.host, held.entry.subject) == (State.HELD, CENT, "seller.test", SUBJECT)
        exposed = journal.expose("p1", "X-PAYMENT", "abc")
        assert (exposed.state, exposed.header_name, exposed.header) == (State.EXPOSED, "X-PAYMENT", "abc")
        clock.now += 5
        settled = journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION), receipt=RECEIPT, answered=True)
        assert (settled.state, settled.open, settled.receipt) == (State.SETTLED, False, RECEIPT)
        assert settled.header == "abc"
        assert (settled.entry.created_at, settled.entry.updated_at) == (NOW, NOW + 5)
        assert journal.find("p1") == settled
        assert journal.find("p2") is None
        assert journal.unresolved() == []
        assert journal.totals() == {State.SETTLED: CENT}

    def test_no_arrow_leads_back(self, journal: Journal) -> None:
        call = Call()
        expose(journal, call)
        with pytest.raises(UnlawfulEvent):
            journal.expose("p1", "X", "other")
        assert journal.find("p1") is not None
        journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION))
        after = journal.conclude("p1", event=Event.REFUSE, stage=Refused("late", "late"))
        assert after.state is State.SETTLED
        with pytest.raises(UnlawfulEvent):
            journal.release("p1", "no")
        assert after.header == "header of p1"

    def test_a_refusal_may_turn_out_settled(self, journal: Journal) -> None:
        expose(journal, Call())
        assert journal.conclude("p1", event=Event.REFUSE, stage=Refused("r", "m")).state is State.REFUSED
        assert [record.pay_id for record in journal.unresolved()] == ["p1"]
        assert journal.conclude("p1", event=Event.SETTLE, stage=Settled(TRANSACTION)).state is State.SETTLED

    def test_a_reopened_journal_knows_everything(self, tmp_path: Path, clock: Clock) -> None:
        path = tmp_path / "journal.sqlite"
        first = Journal(path, clock=clock)
        record = expose(first, Call())
        first.close()
        second = Journal(path, clock=clock)
        assert second.find("p1") == record
        second.close()

    def test_only_the_owner_may_read_it(self, tmp_path: Path, clock: Clock) -> None:
        journal = Journal(tmp_path / "deep" / "journal.sqlite", clock=clock)
        expose(journal, Call())
        for file in (tmp_path / "deep").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700

    def test_history_is_newest_first(self, journal: Journal, clock: Clock) -> None:
        for number in range(3):
            clock.now += 1
            hold(journal, Call(), f"p{number}")
        assert [record.pay_id for record in journal.history(2)] == ["p2", "p1"]

    def test_history_of_one_host_and_of_what_is_open(self, journal: Journal) -> None:
        call = Call()
        for number in range(4):
            expose(journal, call, f"p{number}", host="b.test" if number == 1 else "a.test")
        journal.conclude("p3", event=Event.SETTLE, stage=Settled(TRANSACTION))
        journal.release("p2", "proven dead")
        assert [record.pay_id for record in journal.history(1, host="b.test")] == ["p1"]
        assert [record.pay_id for record in journal.history(unresolved=True)] == ["p1", "p0"]
        assert [record.pay_id for record in journal.history(host="a.test", unresolved=True)] == ["p0"]
        assert journal.history(host="%.test") == []


class TestOwnership:
    def test_what_a_living_call_owns_is_not_recalled(self, journal: Journal) -> None:
        call, other = Call(), Call()
        record = expose(journal, call)
        assert journal.recall("f1", other) is None
        journal.leave(call)
        assert journal.recall("f1", other) == record
        assert journal.recall("f1", Call()) is None

    def test_a_call_that_was_dropped_owns_nothing(self, journal: Journal) -> None:
        call = Call()
        expose(journal, call)
        assert journal.recall("f1", Call()) is None
        del call
        assert journal.recall("f1", Call()) is not None

    def test_what_dead_calls_held_is_buried_and_nothing_else(self, journal: Journal) -> None:
        living, dead = Call(), Call()
        hold(journal, living, "living")
        hold(journal, dead, "dead")
        expose(journal, dead, "exposed")
        assert journal.bury() == []
        del dead
        assert [(record.pay_id, record.state) for record in journal.bury()] == [("dead", State.RELEASED)]
        assert [record.pay_id for record in journal.unresolved()] == ["living", "exposed"]

    def test_leaving_releases_what_was_only_held(self, journal: Journal) -> None:
        call = Call()
        hold(journal, call)
        journal.leave(call)
        assert [record.state for record in journal.history()] == [State.RELEASED]
        assert journal.spent(DAY_SECONDS) == 0

    def test_answered_payments_and_other_requests_are_not_recalled(self, journal: Journal) -> None:
        call = Call()
        expose(journal, call)
        journal.conclude("p1", answered=True)
        expose(journal, call, "p2", fingerprint="f2")
        journal.leave(call)
        assert journal.recall("f1", Call()) is None
        assert journal.recall("f2", Call()) is not None

    def test_a_very_old_payment_is_not_presented_any_more(self, journal: Journal, clock: Clock) -> None:
        call = Call()
        expose(journal, call)
        journal.leave(call)
        clock.now += 26 * HOUR_SECONDS
        assert journal.recall("f1", Call()) is None
        assert len(journal.unresolved()) == 1

    def test_liveness_of_other_processes(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            with open(f"/proc/{other.pid}/stat", encoding="utf-8") as status:
                started = status.read().rpartition(")")[2].split()[19]
            assert is_live(f"{other.pid}.{started}/1")
            assert not is_live(f"{other.pid}.1{started}/1")
            assert other.stdin is not None
            other.stdin.close()
            other.wait()
            assert not is_live(f"{other.pid}.{started}/1")
        for junk in ("junk", "9" * 5_000, str(2**40), "-1", "٣", "4611686018427387904.1/1", ""):
            assert not is_live(junk)


class TestLimits:
    def test_B12_the_day_is_a_rolling_one(self, journal: Journal, clock: Clock) -> None:
        limits = Limits(per_day="0.02")
        hold(journal, call := Call(), "a", limits=limits)
        clock.now += HOUR_SECONDS
        hold(journal, call, "b", limits=limits)
        with pytest.raises(DeclinedError) as caught:
            hold(journal, call, "c", limits=limits)
        assert caught.value.code == "budget_exceeded"
        assert caught.value.details == {"limit": "0.02", "spent": "0.020000", "asked": "0.01"}
        assert len(journal.history()) == 2
        clock.now += DAY_SECONDS - HOUR_SECONDS
        hold(journal, call, "c", limits=limits)

    def test_the_hour_and_the_host(self, journal: Journal, clock: Clock) -> None:
        limits = Limits(per_hour="0.03", per_host="0.01")
        call = Call()
        hold(journal, call, "a", limits=limits)
        with pytest.raises(DeclinedError, match=r"seller\.test in a day"):
            hold(journal, call, "b", limits=limits)
        hold(journal, call, "b", limits=limits, host="b.test")
        hold(journal, call, "c", limits=limits, host="c.test")
        with pytest.raises(DeclinedError, match="an hour"):
            hold(journal, call, "d", limits=limits, host="d.test")
        clock.now += HOUR_SECONDS
        hold(journal, call, "d", limits=limits, host="d.test")

    def test_a_bound_is_inclusive_and_counts_part_of_a_cent(self, journal: Journal) -> None:
        limits = Limits(per_call="0.01", per_day="0.010001")
        with pytest.raises(DeclinedError, match="one call"):
            hold(journal, Call(), usd=Decimal("0.010001"), limits=limits)
        hold(journal, call := Call(), limits=limits)
        hold(journal, call, "b", usd=Decimal("0.0000009"), limits=limits)
        with pytest.raises(DeclinedError):
            hold(journal, call, "c", usd=Decimal("0.0000009"), limits=limits)

    def test_B11_a_refused_payment_still_counts(self, journal: Journal) -> None:
        limits = Limits(per_day="0.01")
        expose(journal, call := Call())
        journal.conclude("p1", event=Event.REFUSE, stage=Refused("r", "m"))
        with pytest.raises(DeclinedError):
            hold(journal, call, "p2", limits=limits)
        journal.release("p1", "proven dead")
        hold(journal, call, "p2", limits=limits)

    @pytest.mark.parametrize("bound", ["per_call", "per_hour", "per_day", "per_host"])
    def test_limits_are_prices(self, bound: str) -> None:
        assert getattr(Limits(**{bound: "$1.50"}), bound) == Decimal("1.50")
        with pytest.raises(TypeError):
            Limits(**{bound: 0.1})  # type: ignore[arg-type]
        with pytest.raises(MalformedError):
            Limits(**{bound: "-1"})

    def test_B12_threads_share_one_budget(self, tmp_path: Path, clock: Clock) -> None:
        journals = [Journal(tmp_path / "journal.sqlite", clock=clock) for _ in range(2)]
        taken, refused, limits = [], [], Limits(per_day="0.10")
        calls = [Call() for _ in range(40)]

        def spend(number: int) -> None:
            try:
                hold(journals[number % 2], calls[number], f"p{number}", limits=limits)
                taken.append(number)
            except DeclinedError:
                refused.append(number)

        threads = [threading.Thread(target=spend, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (10, 30)
        assert journals[0].spent(DAY_SECONDS) == Decimal("0.1")


SPENDER = """
    import sys, time
    from decimal import Decimal
    from x402.client.budget import Limits
    from x402.client.journal import Journal
    from x402.client.owner import Call
    from x402.errors import DeclinedError
    from x402.lifecycle import Subject
    journal, call, taken = Journal(sys.argv[1], clock=lambda: int(time.time())), Call(), 0
    for number in range(12):
        subject = Subject(f"{call.owner}-{number}", "eip155:84532", "a", "b", "c", 1, fingerprint="f")
        try:
            journal.hold(subject, host="h", usd=Decimal("0.01"), limits=Limits(per_day="0.20"), call=call)
        except DeclinedError:
            continue
        journal.expose(subject.pay_id, "PAYMENT-SIGNATURE", "header")
        taken += 1
    print(taken, flush=True)
    if sys.argv[2:] == ["die"]:
        journal.hold(Subject("unborn", "eip155:84532", "a", "b", "c", 1), host="h", usd=Decimal("0.001"),
                     limits=Limits(), call=call)
        print("held", flush=True)
        time.sleep(60)
"""


def spender(path: Path, *more: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(SPENDER)
    return subprocess.Popen([sys.executable, "-c", code, str(path), *more], stdout=subprocess.PIPE, text=True)


def test_B12_processes_share_one_budget_and_one_new_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    running = [spender(path) for _ in range(4)]
    taken = [int(process.communicate(timeout=60)[0]) for process in running]
    assert all(process.returncode == 0 for process in running)
    assert sum(taken) == 20


def test_a_killed_process_forgets_nothing_that_it_exposed(tmp_path: Path, clock: Clock) -> None:
    import time

    path = tmp_path / "journal.sqlite"
    with spender(path, "die") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "12\n"
        assert process.stdout.readline() == "held\n"
        journal = Journal(path, clock=lambda: int(time.time()))
        assert journal.recall("f", Call()) is None, "it still lives"
        process.kill()
        process.wait()
    assert [record.state for record in journal.history()].count(State.EXPOSED) == 12
    mine = Call()
    again = journal.recall("f", mine)
    assert again is not None
    assert again.header == "header"
    hold(journal, mine, "new")
    unborn = journal.find("unborn")
    assert unborn is not None
    assert unborn.state is State.RELEASED
    journal.close()


class TestTrouble:
    def test_E10_no_place_to_write(self, tmp_path: Path, clock: Clock) -> None:
        (tmp_path / "file").write_text("")
        journal = Journal(tmp_path / "file" / "journal.sqlite", clock=clock)
        with pytest.raises(UnavailableError, match="X402_JOURNAL"):
            hold(journal, Call())
        with pytest.raises(UnavailableError):
            journal.history()

    def test_a_file_that_is_no_journal(self, tmp_path: Path, clock: Clock) -> None:
        path = tmp_path / "journal.sqlite"
        path.write_bytes(b"this is not a database, whatever it is called" * 50)
        with pytest.raises(UnavailableError):
            hold(Journal(path, clock=clock), Call())

    def test_a_journal_of_a_later_version_is_left_alone(self, tmp_path: Path, clock: Clock) -> None:
        path = tmp_path / "journal.sqlite"
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        with pytest.raises(MisconfiguredError, match="later version"):
            hold(Journal(path, clock=clock), Call())

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("amount", "ten"),
            ("state", "nowhere"),
            ("stage", "{"),
            ("stage", '{"other":1}'),
            ("stage", "[" * 3_000),
            ("record", "x"),
            ("receipt", "{}"),
            ("usd_micros", "1-"),
        ],
    )
    def test_a_row_that_something_else_wrote_is_told_as_damage(
        self, tmp_path: Path, clock: Clock, column: str, value: str
    ) -> None:
        journal = Journal(tmp_path / "journal.sqlite", clock=clock)
        expose(journal, Call())
        assert journal.find("p1") is not None
        with sqlite3.connect(journal.path) as db:
            db.execute(f"UPDATE payments SET {column} = ?", (value,))
        with pytest.raises(UnavailableError, match="X402_JOURNAL") as told:
            journal.find("p1")
        assert told.value.code == "journal_damaged"
        for ask in (journal.totals, lambda: journal.spent(60), journal.history):
            with suppress(UnavailableError):
                ask()

    def test_a_failed_hold_leaves_no_transaction_open(self, journal: Journal) -> None:
        hold(journal, Call(), "p1")
        with pytest.raises(UnavailableError):
            hold(journal, Call(), "p1")
        hold(journal, Call(), "p2")

    def test_after_a_fork_the_child_opens_its_own_connection(self, tmp_path: Path, clock: Clock) -> None:
        journal = Journal(tmp_path / "journal.sqlite", clock=clock)
        call = Call()
        expose(journal, call)
        inherited = journal._file._connection
        child = os.fork()
        if child == 0:
            try:
                own = Call()
                owned = journal.recall("f1", own) is None
                hold(journal, own, "child")
                os._exit(0 if owned and journal._file._connection is not inherited else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert {record.pay_id for record in journal.history()} == {"p1", "child"}
