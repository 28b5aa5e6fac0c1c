"""Many calls in one: the layout of `aggregate3`, against a library and against whatever bytes come back."""

from __future__ import annotations

from eth_abi.abi import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from tests.payments import address
from x402.chain import CallResult
from x402.schemes import multicall

TARGETS = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
CALLS = st.lists(st.tuples(TARGETS, st.binary(max_size=300)), max_size=6)
ANSWERS = st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=6)
RETURNED = "(bool,bytes)[]"


@given(CALLS)
def test_the_layout_is_that_of_the_abi(calls: list[tuple[str, bytes]]) -> None:
    data = multicall.aggregate3(calls)
    (told,) = decode(["(address,bool,bytes)[]"], data[4:])
    assert [(target.lower(), may_fail, call) for target, may_fail, call in told] == [
        (target, True, call) for target, call in calls
    ]
    assert data[4:] == encode(["(address,bool,bytes)[]"], [[(to, True, call) for to, call in calls]])
    assert multicall.read(data) == calls


@given(ANSWERS)
def test_each_answer_is_read_in_its_place(answers: list[tuple[bool, bytes]]) -> None:
    found = multicall.results(encode([RETURNED], [answers]), len(answers))
    assert found is not None
    for (succeeded, said), result in zip(answers, found, strict=True):
        assert result.succeeded is succeeded
        assert not succeeded or result == CallResult(True, said)
    assert multicall.results(encode([RETURNED], [answers]), len(answers) + 1) is None


def test_a_failed_call_says_why() -> None:
    words = bytes.fromhex("08c379a0") + encode(["string"], ["paused"])
    assert multicall.results(encode([RETURNED], [[(False, words)]]), 1) == [CallResult(False, revert="paused")]


@given(st.binary(max_size=400), ANSWERS, st.integers(0, 4), st.integers(0, 800))
def test_bytes_that_are_no_answer_are_none(
    junk: bytes, answers: list[tuple[bool, bytes]], count: int, cut: int
) -> None:
    honest = encode([RETURNED], [answers])
    for data in (junk, honest[:cut], honest[:cut] + junk, b""):
        found = multicall.results(data, count)
        assert found is None or len(found) == count
        multicall.read(data)
        multicall.read(multicall.AGGREGATE3 + data)
    assert multicall.read(multicall.aggregate3([(address(), b"x")])[1:]) is None
