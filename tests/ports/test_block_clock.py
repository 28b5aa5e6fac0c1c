"""The rhythm of blocks, learnt from those that came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.ports.block_clock import BlockClock


def test_nothing_is_expected_before_two_blocks_were_seen() -> None:
    clock = BlockClock()
    assert clock.expected(100.0) is None
    clock.seen(7, 100.0)
    assert clock.expected(100.5) is None


def test_the_next_block_is_expected_one_distance_after_the_last() -> None:
    clock = BlockClock()
    clock.seen(7, 100.0)
    clock.seen(9, 104.0)
    assert clock.expected(104.5) == pytest.approx(1.5)
    assert clock.expected(107.0) == pytest.approx(1.0), "one that failed to come is followed by others"


def test_a_block_that_was_seen_late_moves_the_rhythm_by_nothing() -> None:
    clock = BlockClock()
    clock.seen(7, 100.0)
    # It came between the two looks; the earlier one bounds the moment, so that the next one is looked for in time.
    clock.absent(101.9)
    clock.seen(8, 102.4)
    assert clock.expected(103.0) == pytest.approx(0.8)


@pytest.mark.parametrize("distance", [0.01, 60.0])
def test_what_is_no_rhythm_is_none(distance: float) -> None:
    clock = BlockClock()
    clock.seen(7, 100.0)
    clock.seen(8, 100.0 + distance)
    assert clock.expected(100.1) is None


def test_an_older_block_teaches_nothing() -> None:
    clock = BlockClock()
    clock.seen(7, 100.0)
    clock.seen(8, 102.0)
    clock.seen(3, 103.0)
    assert clock.expected(103.0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.floats(0, 5)), max_size=30), st.floats(0, 100))
def test_whatever_it_has_seen_what_it_expects_is_soon(seen: list[tuple[bool, int, float]], later: float) -> None:
    clock, now = BlockClock(), 1000.0
    for there, block, pause in seen:
        now += pause
        if there:
            clock.seen(block, now)
        else:
            clock.absent(now)
    expected = clock.expected(now + later)
    assert expected is None or 0.0 <= expected <= 15.0
