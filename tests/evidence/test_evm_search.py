"""How far back the events of a payment are looked for, and how well a transfer stands (faults A11, A16, E01).

The node is scripted, so that each moment comes; `test_evm.py` asks a real one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.evidence.evm_case import FINAL_SECONDS, HERS, LANDED, OLD, Case
from tests.nodes import BLOCK_SECONDS
from x402.chain import CallResult
from x402.errors import UnavailableError
from x402.evidence import Standing
from x402.schemes.eip712 import uint256
from x402.schemes.evm_payment import balance_call

BOTH = pytest.mark.parametrize("scheme", ["exact", "upto"])


@pytest.fixture
def case() -> Case:
    return Case()


# How far is looked.


def far_away(case: Case) -> None:
    """Used up in a block that nobody finds, on a long chain."""
    case.spend()
    case.node.height = 1_000_000


async def test_the_search_goes_back_by_windows_that_touch(case: Case) -> None:
    far_away(case)
    assert await case.judge() is None
    windows = case.searched()
    assert windows[0] == (998_001, 1_000_000)
    assert len(windows) == 64
    assert all(later[0] == earlier[1] + 1 for later, earlier in itertools.pairwise(windows))
    assert {last - first for first, last in windows} == {1_999}
    assert len(case.node.heard("logs")) == 2 * 64


async def test_the_search_ends_at_the_first_block(case: Case) -> None:
    case.spend()
    assert await case.judge() is None
    assert case.searched() == [(3_001, 5_000), (1_001, 3_000), (0, 1_000)]
    case.node.height = 3_999
    assert await case.judge() is None
    assert case.searched() == [(2_000, 3_999), (0, 1_999)]


@BOTH
async def test_the_search_ends_before_its_life_began(scheme: str) -> None:
    """Ten minutes earlier, because clocks may be off; another permit of the payer's has taken the nonce."""
    case = Case(scheme)
    far_away(case)
    first = case.node.second - BLOCK_SECONDS * 1_999
    gone = case.signed.ends.used_up if scheme == "upto" else None
    assert await case.judge(since=first + 600) is None
    assert case.searched() == [(998_001, 1_000_000), (996_001, 998_000)]
    assert await case.judge(since=first + 601) is None
    assert case.searched() == [(998_001, 1_000_000)]
    case.node.second = case.signed.valid_before + FINAL_SECONDS + 1
    assert await case.judge(since=case.node.second) == gone
    if scheme == "upto":
        assert await case.spent_by(since=case.node.second) == gone
        # Nobody knows when its life began.
        assert await case.judge() is None


async def test_A11_a_failure_and_a_search_know_since_when(case: Case) -> None:
    far_away(case)
    case.land(OLD, 1_000_000, succeeded=False)
    assert await case.judge(OLD, since=case.node.second) is None
    assert case.searched() == [(998_001, 1_000_000)]


async def test_what_is_not_yet_valid_was_not_used_before(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    far_away(case)
    signed = replace(case.signed, authorization=replace(case.signed.authorization, valid_after=case.node.second))  # type: ignore[type-var, attr-defined]
    monkeypatch.setattr("x402.evidence.evm.authorization_of", lambda _: signed)
    assert await case.judge() is None
    assert case.searched() == [(998_001, 1_000_000)]


@pytest.mark.parametrize(("seconds", "last"), [(-1, 5_000), (0, 5_000), (1, 5_000), (2, 5_000), (3, 4_999), (4, 4_999)])
async def test_after_its_end_it_is_looked_for_where_it_ended(case: Case, seconds: int, last: int) -> None:
    """Up to the first block that is too late for it, whatever has come since."""
    case.spend()
    case.after_its_end(seconds)
    assert await case.judge() is None
    assert case.searched()[0] == (last - 1_999, last)
    case.node.height, case.node.second = 5_000 + 10**6, case.node.second + BLOCK_SECONDS * 10**6
    assert await case.judge() is None
    assert case.searched()[0] == ((last - 1_999, last) if seconds > 0 else (3_002, 5_001))


@pytest.mark.parametrize(("height", "last"), [(5, 0), (6, 1)])
async def test_a_chain_that_began_after_its_end_has_one_block_to_look_at(case: Case, height: int, last: int) -> None:
    case.spend()
    case.after_its_end(11)
    case.node.height = height
    assert await case.judge() is None
    assert case.searched() == [(0, last)]


# How well a transfer stands.


@BOTH
async def test_A16_a_transfer_is_as_deep_as_the_blocks_above_it(scheme: str) -> None:
    case = Case(scheme)
    case.land(OLD, LANDED)
    case.spend()
    # A node may show a receipt before it counts its block.
    for height, depth in ((LANDED - 3, 1), (LANDED, 1), (LANDED + 1, 2), (LANDED + 30, 31)):
        case.node.height, case.node.final = height, LANDED - 1
        assert await case.standing() == Standing(depth)
        assert case.node.heard("receipt") == [(OLD, 0)]
        case.node.final = LANDED
        assert await case.standing() == Standing(depth, final=True)
    case.node.away.add("finalized")
    assert await case.standing() == Standing(31)


async def test_A16_a_transfer_is_gone_when_it_is_unused_again(case: Case) -> None:
    case.node.height = LANDED - 1
    # This node has not seen its block, so its silence proves nothing (fault E01).
    assert await case.standing() is None
    for height in (LANDED, LANDED + 1):
        case.node.height = height
        assert await case.standing() == Standing(0)
    # The same bytes, which fail in the other fork, are no transfer.
    case.land(OLD, LANDED, succeeded=False)
    assert await case.standing() == Standing(0)
    case.spend()
    assert await case.standing() is None


async def test_A16_another_transaction_may_have_made_the_transfer_since(case: Case) -> None:
    case.land(HERS, LANDED)
    case.spend()
    case.node.height, case.node.final = LANDED + 4, LANDED
    assert await case.standing() == Standing(5, final=True)


async def test_A16_a_transfer_that_was_taken_back_since_is_gone(case: Case) -> None:
    case.cancel(HERS, LANDED)
    case.spend()
    assert await case.standing() == Standing(0)


# What an account holds.


async def test_what_an_account_holds_is_one_word(case: Case) -> None:
    question = case.offer.asset, balance_call(case.offer.pay_to)
    case.node.says[question] = CallResult(True, uint256(2**70))
    assert await case.witness.balance(case.offer.pay_to, case.offer.asset) == 2**70
    for said in (CallResult(False, uint256(1)), CallResult(True, bytes(31)), CallResult(True, bytes(33))):
        case.node.says[question] = said
        with pytest.raises(UnavailableError, match="what an account holds"):
            await case.witness.balance(case.offer.pay_to, case.offer.asset)
