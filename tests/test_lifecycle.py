"""The law of a payment: rank only grows, no arrow leads back, nothing moves but by `advance`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from graphlib import TopologicalSorter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.lifecycle import (
    BEGINNING,
    LAW,
    Entry,
    Event,
    Outcome,
    Party,
    Subject,
    UnlawfulEvent,
    advance,
    begin,
    is_terminal,
    mermaid,
    open_states,
    outcome,
)
from x402.stages import (
    STAGES,
    Claimed,
    Credited,
    Delivered,
    Exposed,
    Final,
    Held,
    Intended,
    Lost,
    Owed,
    Refunded,
    Refunding,
    Refused,
    Released,
    Restored,
    Reversed,
    Served,
    Settled,
    Settling,
    Stage,
    State,
)

SUBJECT = Subject("eip155:84532:0xt:0xp:0xn", "eip155:84532", "0xt", "0xp", "0xs", 10_000, 1_800_000_000)
EXAMPLES: dict[State, Stage] = {
    stage.state: stage
    for stage in (
        Held(),
        Exposed("header"),
        Claimed(),
        Served(),
        Settling(),
        Intended("0xtx", b"raw", 1_800_000_000, "0xfrom", 7),
        Settled("0xtx", 12),
        Delivered("0xtx"),
        Final("0xtx", 12),
        Owed("0xtx", "upstream failed"),
        Refunding("0xtx", "header", "eip155:1:0xtoken:0xpayee:0x2"),
        Refunded("0xtx", "0xback"),
        Credited("0xtx", "eip155:1:0xpayer"),
        Reversed("0xtx"),
        Restored("0xtx", 12),
        Lost("0xtx"),
        Refused("insufficient_funds", "too little"),
        Released("expired"),
    )
}


COUNTS = {Event.REPLACE, Event.METER}
"""Arrows that stay in their state: what they count grows, attempts and what is due."""


@cache
def ranks(party: Party) -> Mapping[State, int]:
    """How many arrows lead to a state on its longest way; computed here, so that the law cannot vouch for itself."""
    before: dict[State, set[State]] = {state: set() for state in LAW[party]}
    for state, arrows in LAW[party].items():
        for event, after in arrows.items():
            if event not in COUNTS:
                before[after].add(state)
    rank: dict[State, int] = {}
    for state in TopologicalSorter(before).static_order():
        rank[state] = max((rank[earlier] + 1 for earlier in before[state]), default=0)
    return rank


def reachable(party: Party, start: State) -> set[State]:
    found = {start}
    for event, after in LAW[party][start].items():
        if event not in COUNTS:
            found |= reachable(party, after)
    return found


def arrows_onward(party: Party) -> Iterator[tuple[State, State]]:
    """Every arrow from one state to another: all but those that count."""
    for state, arrows in LAW[party].items():
        yield from ((state, after) for event, after in arrows.items() if event not in COUNTS)


@pytest.mark.parametrize("party", Party)
def test_every_arrow_increases_rank(party: Party) -> None:
    for state, after in arrows_onward(party):
        assert ranks(party)[after] > ranks(party)[state]


@pytest.mark.parametrize("party", Party)
def test_no_arrow_leads_back(party: Party) -> None:
    for state, after in arrows_onward(party):
        assert state not in reachable(party, after)


@pytest.mark.parametrize("party", Party)
def test_replacing_stays_in_its_state(party: Party) -> None:
    replaced = {state: arrows[Event.REPLACE] for state, arrows in LAW[party].items() if Event.REPLACE in arrows}
    assert (
        replaced
        == {
            Party.CLIENT: {State.EXPOSED: State.EXPOSED},
            Party.GATEWAY: {State.REFUNDING: State.REFUNDING},
            Party.FACILITATOR: {State.INTENDED: State.INTENDED},
        }[party]
    )


def test_B16_what_is_due_only_grows_while_it_is_metered_and_never_passes_what_was_signed() -> None:
    entry = advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SERVE, Served(40))
    assert (entry.due, entry.amount) == (40, 40)
    entry = advance(advance(entry, Event.METER, Served(40)), Event.METER, Served(9_000))
    for wrong in (Served(8_999), Served(10_001), Served(-1)):
        with pytest.raises(UnlawfulEvent):
            advance(entry, Event.METER, wrong)
    with pytest.raises(UnlawfulEvent):
        advance(advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SERVE, Served()), Event.METER, Served())
    for due in (10_001, -1):
        with pytest.raises(UnlawfulEvent):
            advance(entry, Event.SUBMIT, Settling(due))
    # All of it may be due, and nothing, which may be metered again.
    assert advance(entry, Event.METER, Served(10_000)).due == 10_000
    assert advance(entry, Event.SUBMIT, Settling(0)).due == 0
    nothing = advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SERVE, Served(0))
    assert advance(nothing, Event.METER, Served(0)).due == 0
    with pytest.raises(UnlawfulEvent):
        advance(nothing, Event.METER, Served(-1))


def test_what_is_due_is_known_from_then_on() -> None:
    entry = advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SERVE, Served(40))
    for event, stage in (
        (Event.SUBMIT, Settling()),
        (Event.SETTLE, Settled("0xtx", 5)),
        (Event.FAIL, Owed("0xtx", "it failed")),
        (Event.REFUND, Refunding("0xtx", "header", "id")),
        (Event.SETTLE, Refunded("0xtx", "0xback")),
    ):
        entry = advance(entry, event, stage)
        assert (entry.due, entry.amount) == (40, 40)
    plain = advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SUBMIT, Settling())
    assert (plain.due, plain.amount) == (None, 10_000)


def test_the_chain_knows_best_what_moved() -> None:
    entry = advance(begin(Party.GATEWAY, SUBJECT, Claimed()), Event.SUBMIT, Settling(40))
    assert advance(entry, Event.SETTLE, Settled("0xtx", 5, 41)).amount == 41


def test_A23_what_is_signed_over_remembers_every_header_that_left() -> None:
    entry = advance(begin(Party.CLIENT, SUBJECT, Held()), Event.EXPOSE, Exposed("one"))
    second = advance(entry, Event.REPLACE, Exposed("two", ("one",)))
    third = advance(second, Event.REPLACE, Exposed("three", ("one", "two")))
    assert third.stage == Exposed("three", ("one", "two"))
    for wrong in (Exposed("three"), Exposed("three", ("two",)), Exposed("three", ("two", "one"))):
        with pytest.raises(UnlawfulEvent):
            advance(second, Event.REPLACE, wrong)
    with pytest.raises(UnlawfulEvent):
        advance(entry, Event.REPLACE, Exposed("two"))


def test_a_replacement_is_the_next_attempt_and_forgets_none() -> None:
    first = Intended("0x1", b"one", 9)
    entry = begin(Party.FACILITATOR, SUBJECT, first)
    second = replace(first, transaction="0x2", attempt=2, earlier=("0x1",))
    third = replace(first, transaction="0x3", attempt=3, earlier=("0x1", "0x2"))
    after = advance(advance(entry, Event.REPLACE, second), Event.REPLACE, third)
    assert isinstance(after.stage, Intended)
    assert after.stage.transactions == ("0x3", "0x2", "0x1")
    for wrong in (
        first,
        third,
        replace(second, attempt=1),
        replace(second, earlier=()),
        replace(second, earlier=("0x2",)),
        replace(second, earlier=("0x1", "0x1")),
    ):
        with pytest.raises(UnlawfulEvent):
            advance(entry, Event.REPLACE, wrong)


def test_another_refund_is_the_next_attempt() -> None:
    entry = Entry(Party.GATEWAY, SUBJECT, Refunding("0xtx", "header", "id"))
    assert advance(entry, Event.REPLACE, Refunding("0xtx", "other", "id2", attempt=2)).state is State.REFUNDING
    for attempt in (0, 1, 3):
        with pytest.raises(UnlawfulEvent):
            advance(entry, Event.REPLACE, Refunding("0xtx", "other", "id2", attempt))


@pytest.mark.parametrize("party", Party)
def test_every_state_is_reached_from_the_beginning_and_reaches_an_end(party: Party) -> None:
    assert reachable(party, BEGINNING[party]) == set(LAW[party])
    for state in LAW[party]:
        assert any(is_terminal(party, end) for end in reachable(party, state))


def test_the_ends_are_these() -> None:
    ends = {party: {state for state in LAW[party] if is_terminal(party, state)} for party in Party}
    assert ends == {
        Party.CLIENT: {State.SETTLED, State.RELEASED},
        Party.GATEWAY: {State.REFUNDED, State.FINAL, State.REFUSED, State.RELEASED},
        Party.FACILITATOR: {State.FINAL, State.REFUSED},
    }


def test_money_that_may_have_moved_is_never_released() -> None:
    """Once settlement was asked for, only proof leads on (design promise 1)."""
    assert State.RELEASED not in reachable(Party.GATEWAY, State.SETTLING)
    assert set(LAW[Party.GATEWAY][State.SETTLING]) == {Event.SETTLE, Event.REFUSE}
    assert set(LAW[Party.FACILITATOR][State.INTENDED]) == {Event.REPLACE, Event.SETTLE, Event.REFUSE}
    # Only a reorganisation, which is never silent, stands between a settled payment and a refused one.
    assert Event.REFUSE not in LAW[Party.FACILITATOR][State.SETTLED]
    assert State.REFUSED not in reachable(Party.FACILITATOR, State.FINAL)
    assert Event.REFUSE not in LAW[Party.GATEWAY][State.SETTLED]
    for safe in (State.DELIVERED, State.CREDITED, State.RESTORED, State.REFUNDING):
        assert State.REFUSED not in reachable(Party.GATEWAY, safe)


def test_a_timeout_is_no_event() -> None:
    assert not [event for event in Event if "time" in event or "expire" in event]


def test_every_state_has_its_own_stage_class() -> None:
    assert set(STAGES) == set(State)
    assert len(set(STAGES.values())) == len(State)
    assert set(EXAMPLES) == set(State)
    for state, example in EXAMPLES.items():
        assert type(example) is STAGES[state]
        assert STAGES[state].__name__.lower() == state


def test_every_state_belongs_to_somebody() -> None:
    assert {state for party in Party for state in LAW[party]} == set(State)
    assert {event for party in Party for arrows in LAW[party].values() for event in arrows} == set(Event)


@pytest.mark.parametrize("party", Party)
def test_advance_allows_exactly_the_law(party: Party) -> None:
    for state, event, target in product(State, Event, State):
        entry = Entry(party, SUBJECT, EXAMPLES[state], 1, 2)
        if event in COUNTS:
            continue
        if LAW[party].get(state, {}).get(event) is target:
            after = advance(entry, event, EXAMPLES[target])
            assert after == Entry(party, SUBJECT, EXAMPLES[target], 1, 2)
            assert entry.state is state
        else:
            with pytest.raises(UnlawfulEvent):
                advance(entry, event, EXAMPLES[target])


@pytest.mark.parametrize(("party", "state"), list(product(Party, State)))
def test_a_payment_begins_in_one_state_only(party: Party, state: State) -> None:
    if state is BEGINNING[party]:
        assert begin(party, SUBJECT, EXAMPLES[state]).state is state
    else:
        with pytest.raises(UnlawfulEvent):
            begin(party, SUBJECT, EXAMPLES[state])


@given(st.sampled_from(Party), st.lists(st.tuples(st.sampled_from(Event), st.sampled_from(State)), max_size=60))
def test_no_sequence_of_events_visits_a_state_twice(party: Party, steps: list[tuple[Event, State]]) -> None:
    entry = begin(party, SUBJECT, EXAMPLES[BEGINNING[party]])
    visited = [entry.state]
    for event, target in steps:
        try:
            entry = advance(entry, event, EXAMPLES[target])
        except UnlawfulEvent:
            continue
        visited.append(entry.state)
    assert len(visited) == len(set(visited))
    assert visited == sorted(visited, key=ranks(party).__getitem__)


@given(st.sampled_from(Party), st.data())
def test_lawful_walks_end_and_settle_at_most_once(party: Party, data: st.DataObject) -> None:
    entry = begin(party, SUBJECT, EXAMPLES[BEGINNING[party]])
    events: list[Event] = []
    settled = 0
    while not is_terminal(party, entry.state):
        event = data.draw(st.sampled_from(sorted(set(LAW[party][entry.state]) - COUNTS)))
        entry = advance(entry, event, EXAMPLES[LAW[party][entry.state][event]])
        events.append(event)
        settled += entry.state is State.SETTLED
    assert settled <= 1
    assert len(events) < len(LAW[party])


def test_the_law_cannot_be_rewritten() -> None:
    with pytest.raises(TypeError):
        LAW[Party.CLIENT][State.SETTLED][Event.REFUSE] = State.HELD  # type: ignore[index]
    with pytest.raises(TypeError):
        LAW[Party.CLIENT] = {}  # type: ignore[index]


@pytest.mark.parametrize("party", Party)
def test_open_states_are_unfinished(party: Party) -> None:
    assert open_states(party)
    assert BEGINNING[party] in open_states(party)
    for state in open_states(party):
        assert not is_terminal(party, state)


def test_three_outcomes() -> None:
    assert {state: outcome(state) for state in LAW[Party.FACILITATOR]} == {
        State.INTENDED: Outcome.PENDING,
        State.SETTLED: Outcome.SETTLED,
        State.FINAL: Outcome.SETTLED,
        State.REVERSED: Outcome.PENDING,
        State.REFUSED: Outcome.REFUSED,
    }


@pytest.mark.parametrize("party", Party)
def test_the_diagram_draws_every_arrow(party: Party) -> None:
    drawn = mermaid(party).splitlines()
    arrows = {f"    {a} --> {b}: {event}" for a, row in LAW[party].items() for event, b in row.items()}
    ends = {f"    {state} --> [*]" for state in LAW[party] if is_terminal(party, state)}
    assert drawn[:2] == ["stateDiagram-v2", f"    [*] --> {BEGINNING[party]}"]
    assert set(drawn[2:]) == arrows | ends


def test_an_attempt_that_is_left_out_is_no_replacement() -> None:
    first = Intended("0x1", b"raw", 9)
    entry = begin(Party.FACILITATOR, SUBJECT, first)
    for attempt in (0, 1, 3, 4):
        with pytest.raises(UnlawfulEvent):
            advance(entry, Event.REPLACE, replace(first, transaction="0x2", attempt=attempt, earlier=("0x1",)))
    control = replace(first, transaction="0x2", attempt=2, earlier=("0x1",))
    assert advance(entry, Event.REPLACE, control).stage == control


def test_what_is_not_known_is_zero() -> None:
    assert Subject("id", "network", "asset", "payer", "payee", 1).expires_at == 0
    entry = begin(Party.CLIENT, SUBJECT, Held())
    assert (entry.created_at, entry.updated_at) == (0, 0)


def test_G09_what_is_remembered_is_not_shown() -> None:
    shown = repr(replace(SUBJECT, record={"facilitation": {"signature": "0xcanary"}}))
    assert "0xcanary" not in shown
    assert SUBJECT.pay_id in shown
