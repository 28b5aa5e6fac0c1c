"""Damaged messages in Hypothesis' hands: every decoder answers or refuses, and a failure shrinks (faults E04, F08).

A case is a short tape of bytes; it decides which valid message is damaged, where and how. The same targets and wounds
serve `scripts/fuzz`, which runs millions of them and the doors behind them.
"""

from __future__ import annotations

import pytest
from fuzzing import chain_targets, message_targets, wire_targets
from fuzzing.case import Target, check_refusal
from fuzzing.guided import plain_targets
from fuzzing.tape import Tape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGETS = {one.name: one for one in (*wire_targets.TARGETS, *chain_targets.TARGETS, *message_targets.TARGETS)}
TAPES_EACH = 250
RAW_EACH = 80

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(target: Target, data: bytes) -> bool:
    """True when the input was read, False when it was refused; any other exception is the test's failure."""
    try:
        target.run(data)
    except target.refusals as error:
        check_refusal(error)
        return False
    return True


@pytest.mark.parametrize("name", TARGETS)
@settings(relaxed, max_examples=TAPES_EACH)
@given(tape=st.binary(min_size=8, max_size=96))
def test_a_damaged_message_is_read_or_refused(name: str, tape: bytes) -> None:
    survives(TARGETS[name], TARGETS[name].make(Tape(tape)))


@pytest.mark.parametrize("name", plain_targets())
@settings(relaxed, max_examples=RAW_EACH)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    survives(TARGETS[name], data)


def test_control_the_cases_sum_to_nine_thousand() -> None:
    assert TAPES_EACH * len(TARGETS) + RAW_EACH * len(plain_targets()) > 9_000
