"""Each round over what is open or not final, with a rail that says what a test wants (faults A06, A16, A22, E01)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.facilitator.script import DEAD, ME, OURS, ScriptedRail, Settler
from tests.facilitator.world import Meddled, unreachable
from x402.errors import MalformedError, RefusedError, UnavailableError
from x402.evidence import Standing
from x402.facilitator import reconcile
from x402.facilitator.finality import reread
from x402.lifecycle import Entry, Event, begin
from x402.ports.ledger import SqlLedger
from x402.schemes.subject import subject_of
from x402.stages import Final, Intended, Refused, Reversed, Settled, State
from x402.telemetry import Fact, Telemetry

AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
SHALLOW, FINAL, GONE = Standing(1), Standing(9, final=True), Standing(0)
UNDONE = Reversed("0xours", b"raw")


async def row(ledger: SqlLedger, party: Settler, *arrows: Any) -> Entry:
    """The payment as it stands after these arrows."""
    subject = subject_of(party.payment, party.offer)
    entry, _ = await ledger.begin(begin(ME, subject, Intended("0xours", b"raw", 2**40)))
    if arrows:
        entry = await ledger.follow(ME, party.pay_id, list(arrows))
    return entry


SETTLE = (Event.SETTLE, Settled("0xours", 7))
UNDO = (Event.REORGANISE, UNDONE)


@pytest.mark.parametrize(
    ("standing", "after", "told"),
    [
        (None, Settled("0xours", 7), None),
        (SHALLOW, Settled("0xours", 7), None),
        (FINAL, Final("0xours", 7), "settle.final"),
        (GONE, UNDONE, "settle.reversed"),
        (AWAY, Settled("0xours", 7), None),
    ],
)
async def test_A16_a_settled_payment_is_final_gone_or_neither(
    scripted: Any, ledger: SqlLedger, standing: Any, after: Any, told: str | None
) -> None:
    party, rail = scripted(standing=standing)
    entry = await row(ledger, party, SETTLE)
    facts: list[Fact] = []
    left = await reread(rail, ledger, Telemetry([facts.append]), entry)
    assert left.stage == after
    stored = await ledger.find(ME, party.pay_id)
    assert stored is not None
    assert stored.state is left.state
    assert [(fact.name, fact.attributes["transaction"], fact.attributes["amount"]) for fact in facts] == (
        [(told, "0xours", 1000)] if told else []
    )


@pytest.mark.parametrize(
    ("answers", "after", "told"),
    [
        ({"restore": DEAD}, State.REFUSED, "settle.lost"),
        ({"standing": None}, State.REVERSED, None),
        ({"standing": SHALLOW, "spent_by": OURS}, State.REVERSED, None),
        ({"standing": FINAL, "spent_by": Settled("0xagain", 9, 1000)}, State.FINAL, "settle.final"),
        ({"standing": FINAL, "spent_by": None}, State.REVERSED, None),
        ({"standing": FINAL, "spent_by": DEAD}, State.REVERSED, None),
        ({"restore": AWAY}, State.REVERSED, None),
    ],
)
async def test_A16_an_undone_payment_lands_again_dies_or_waits(
    scripted: Any, ledger: SqlLedger, answers: dict[str, Any], after: State, told: str | None
) -> None:
    party, rail = scripted(**answers)
    entry = await row(ledger, party, SETTLE, UNDO)
    facts: list[Fact] = []
    left = await reread(rail, ledger, Telemetry([facts.append]), entry)
    assert left.state is after
    if after is State.FINAL:
        assert left.stage == Final("0xagain", 9, 1000)
    assert [fact.name for fact in facts] == ([told] if told else [])


async def test_A16_what_another_replica_read_first_is_the_answer(scripted: Any, ledger: SqlLedger) -> None:
    party, rail = scripted(standing=GONE)
    entry = await row(ledger, party, SETTLE)
    await ledger.advance(ME, party.pay_id, Event.FINALISE, Final("0xours", 7))
    left = await reread(rail, ledger, Telemetry(), entry)
    assert left.stage == Final("0xours", 7)
    # Nothing is asked about what is final, or was never settled.
    rail.asked.clear()
    assert await reread(rail, ledger, Telemetry(), left) == left
    assert rail.asked == []


async def test_A22_a_round_asks_about_everything_that_is_open_once(scripted: Any, ledger: SqlLedger) -> None:
    """More than are taken at a time, and each is free for whoever comes next."""
    party, rail = scripted(decide=None)
    for index in range(70):
        if index:
            party = Settler(ledger, [rail])
        await row(ledger, party)
    rail.asked.clear()
    assert await reconcile.run(party.local, timeout_seconds=0) == 70
    assert (rail.asked.count("decide"), rail.asked.count("heal")) == (70, 1)
    rail.answers["decide"] = OURS
    assert await reconcile.run(party.local, timeout_seconds=0) == 0
    assert rail.asked.count("decide") == 140


@pytest.mark.parametrize(
    ("verdict", "open_"), [(OURS, 0), (Refused("expired", "late", "0xours"), 0), (None, 1), (AWAY, 1)]
)
async def test_A22_what_the_chain_has_decided_is_open_no_more(
    scripted: Any, ledger: SqlLedger, verdict: Any, open_: int
) -> None:
    party, rail = scripted(decide=verdict, heal=AWAY)
    await row(ledger, party)
    assert await reconcile.run(party.local, timeout_seconds=0) == open_
    assert rail.asked.count("heal") == 1


async def test_A16_what_a_fork_undid_stays_open_until_it_is_final(scripted: Any, ledger: SqlLedger) -> None:
    party, rail = scripted(standing=[FINAL, FINAL], spent_by=[None, Settled("0xagain", 9)])
    await row(ledger, party, SETTLE, UNDO)
    assert await reconcile.run(party.local, timeout_seconds=0) == 1
    assert await party.state() is State.REVERSED
    # It was decided in this round, and the next one knows.
    assert await reconcile.run(party.local, timeout_seconds=0) == 1
    assert await party.state() is State.FINAL
    assert await reconcile.run(party.local, timeout_seconds=0) == 0
    assert "decide" not in rail.asked


@pytest.mark.parametrize("error", [RefusedError("odd", "no"), MalformedError("odd", "no")])
async def test_A22_a_row_that_cannot_be_read_stays_open_alone(
    scripted: Any, ledger: SqlLedger, error: Exception
) -> None:
    party, rail = scripted(decide=error)
    await row(ledger, party)
    other = Settler(ledger, [rail])
    await row(ledger, other, SETTLE)
    rail.answers["standing"] = error
    assert await reconcile.run(party.local, timeout_seconds=0) == 1
    assert (await party.state(), await other.state()) == (State.INTENDED, State.SETTLED)


@pytest.mark.parametrize(("may_land", "served", "seconds"), [(True, True, 10), (False, True, 120), (True, False, 120)])
async def test_A16_what_could_be_sent_again_is_read_often_and_the_rest_with_patience(
    scripted: Any, may_land: bool, served: bool, seconds: int
) -> None:
    now = 1_800_000_000
    async with SqlLedger("sqlite://", clock=lambda: now) as ledger:
        rail = ScriptedRail(standing=SHALLOW, may_land=may_land)
        party = Settler(ledger, [rail])
        await row(ledger, party, SETTLE)
        if not served:
            party.local.rails = {}
        for later, read in ((0, 1), (seconds - 1, 0), (1, 1)):
            now += later
            rail.asked.clear()
            leased = await ledger.take_open(ME, 0, 1, states={State.SETTLED})
            assert len(leased) == read
            assert await reconcile.run(party.local, timeout_seconds=0) == 0
            assert rail.asked.count("standing") == (read if served else 0)


async def test_E02_a_ledger_that_cannot_be_read_leaves_nobody_ready(ledger: SqlLedger) -> None:
    party = Settler(Meddled(ledger, take_open=unreachable), [ScriptedRail()])
    with pytest.raises(UnavailableError):
        await reconcile.run(party.local)


async def test_A22_watching_goes_on_whatever_a_round_comes_to(ledger: SqlLedger) -> None:
    rounds = 0

    async def pause() -> None:
        nonlocal rounds
        rounds += 1
        if rounds > 3:
            raise asyncio.CancelledError

    party = Settler(Meddled(ledger, take_open=unreachable), [ScriptedRail()])
    with pytest.raises(asyncio.CancelledError):
        await reconcile.watch(party.local, pause)
    assert rounds == 4
    # Control: a ledger that can be read is asked about all that is open, each time.
    rail = ScriptedRail(decide=None)
    party, rounds = Settler(ledger, [rail]), 1
    await row(ledger, party)
    with pytest.raises(asyncio.CancelledError):
        await reconcile.watch(party.local, pause)
    assert rail.asked.count("decide") == 2
