"""How deep is deep enough, by amount."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.confirmation import FINALIZED, Confirmations, parse_confirmations
from x402.errors import MisconfiguredError
from x402.networks import BASE_SEPOLIA, get

USDC = get(BASE_SEPOLIA).assets[0]


def test_steps_begin_at_their_dollars() -> None:
    policy = parse_confirmations("0=1, 10=12, 1000=finalized")
    wanted = {1: 1, 9_999_999: 1, 10_000_000: 12, 999_999_999: 12, 1_000_000_000: FINALIZED, 10**15: FINALIZED}
    assert {units: policy.required(units, USDC) for units in wanted} == wanted
    assert Confirmations().required(10**12, USDC) == Confirmations().required(1, USDC) == 1
    # No number of blocks that can be written is as deep as a final one.
    assert parse_confirmations("0=99999").required(1, USDC) < FINALIZED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0=0",
        "1=1",
        "0=1,10=0",
        "0=1,10=2,10=3",
        "0=1,10=2,10=3,20=4",
        "0=1,10=2,5=3",
        "0=1;10=2",
        "0=-1",
        "0=1.5",
        "0=١",
        "0=Final",
    ],
)
def test_anything_else_is_no_policy(text: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        parse_confirmations(text)
    assert caught.value.code == "invalid_confirmations"


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 99_999)), unique_by=lambda step: step[0]), st.data())
def test_more_money_never_asks_for_another_step_than_its_own(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    table = [(0, 1), *sorted(steps)]
    policy = parse_confirmations(",".join(f"{dollars}={blocks}" for dollars, blocks in table))
    units = data.draw(st.integers(0, 10**13))
    expected = [blocks for dollars, blocks in table if Decimal(units) / 10**6 >= dollars][-1]
    assert policy.required(units, USDC) == expected
