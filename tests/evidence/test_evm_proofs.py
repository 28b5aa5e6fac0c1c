"""What proves what became of a payment on an EVM network, moment by moment (faults A10, A11, A15, A16, A23, E01, E14).

The node is scripted, so that each moment comes; `test_evm.py` asks a real one.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.nodes import BLOCK_SECONDS, EvmNode, EvmSale
from x402.chain import CallResult, Log
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.evidence.evm import EvmWitness
from x402.networks import BASE_SEPOLIA
from x402.schemes.eip712 import uint256
from x402.schemes.evm_payment import balance_call
from x402.stages import Refused, Settled

OLD, NEW, HERS = "0x0a", "0x0b", "0x0c"
LANDED = 4_900
FINAL_SECONDS = 30
"""So much later than the payment's end a block is that no reorganisation replaces by one before it."""


class Case(EvmSale):
    """A payment, and who judges it."""

    def __init__(self, scheme: str = "exact", **how: Any) -> None:
        super().__init__(EvmNode(), scheme, **how)
        self.witness = EvmWitness(BASE_SEPOLIA, self.node)

    def after_its_end(self, seconds: int) -> None:
        """The newest block is so much younger than the payment may be."""
        self.node.second = self.signed.valid_before + seconds

    async def judge(self, *transactions: str, **how: Any) -> Verdict:
        self.node.asked.clear()
        return await self.witness.judge(self.subject, transactions, **how)

    async def spent_by(self, **how: Any) -> Verdict:
        self.node.asked.clear()
        return await self.witness.spent_by(self.subject, **how)

    async def standing(self, transaction: str = OLD, block: int = LANDED) -> Standing | None:
        self.node.asked.clear()
        return await self.witness.standing(self.subject, Settled(transaction, block))

    def searched(self) -> list[tuple[int, int]]:
        """The windows of blocks in which its events were looked for, each once."""
        return list(dict.fromkeys((first, last) for _, _, first, last in self.node.heard("logs")))


BOTH = pytest.mark.parametrize("scheme", ["exact", "upto"])


@pytest.fixture
def case() -> Case:
    return Case()


# What a receipt proves.


@BOTH
async def test_A15_a_receipt_that_shows_the_transfer_settles(scheme: str) -> None:
    case = Case(scheme)
    case.land(OLD, LANDED)
    moved = None if scheme == "exact" else 1000
    assert await case.judge(OLD) == Settled(OLD, LANDED, moved)
    assert case.node.asked == [("receipt", OLD, 0.0), *([("transaction", OLD)] if moved else [])]
    assert await case.judge(OLD, timeout=7) == Settled(OLD, LANDED, moved)
    assert case.node.heard("receipt") == [(OLD, 7)]


@BOTH
async def test_a_payment_of_which_nothing_is_seen_is_open(scheme: str) -> None:
    case = Case(scheme)
    for transactions in ((), (OLD,), (NEW, OLD)):
        assert await case.judge(*transactions) is None
    assert await case.spent_by() is None


@pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (NEW, OLD)])
@pytest.mark.parametrize("shows", [True, False])
async def test_whichever_attempt_was_mined_settles(case: Case, first: str, second: str, shows: bool) -> None:
    """An older one that is not there, or failed, leaves the payment to the others, which may come later."""
    case.land(second, LANDED)
    if shows:
        case.land(first, LANDED - 1, succeeded=False)
    case.node.later[second] = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, case.node.later[second].set)
    assert await case.judge(second, first) == Settled(second, LANDED)
    assert await case.judge(second, HERS, first) == Settled(second, LANDED)


@pytest.mark.parametrize(("newest", "older"), [(OLD, NEW), (NEW, OLD)])
async def test_who_has_failed_last_leaves_nothing_to_wait_for(case: Case, newest: str, older: str) -> None:
    case.land(newest, LANDED, succeeded=False)
    case.node.later[older] = asyncio.Event()
    async with asyncio.timeout(1):
        found = await case.witness._first_receipt((newest, older), case.signed, 1)
    assert found == case.node.receipts[newest]
    assert case.node.asked[-1] == ("given up", older)


async def test_A16_a_transaction_that_failed_for_good_is_refused(case: Case) -> None:
    """It is not, while a fork could take its block back."""
    case.land(OLD, LANDED, succeeded=False)
    case.node.final = LANDED - 1
    assert await case.judge(OLD) is None
    case.node.final = LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.reverted, transaction=OLD)
    case.node.away.add("finalized")
    assert await case.judge(OLD) is None


@pytest.mark.parametrize(("failed", "other"), [(OLD, NEW), (NEW, OLD)])
async def test_A16_what_failed_speaks_for_no_other_bytes(case: Case, failed: str, other: str) -> None:
    case.land(failed, LANDED, succeeded=False)
    case.node.final = LANDED
    assert await case.judge(failed, other) is None
    assert case.node.heard("receipt")[-1] == (other, 0)
    # Unless they have failed as well, and for good.
    for block, dead in ((LANDED + 1, False), (LANDED, True), (LANDED - 1, True)):
        case.land(other, block, succeeded=False)
        assert isinstance(await case.judge(failed, other), Refused) is dead


async def test_A15_a_success_without_the_transfer_is_a_mismatch(case: Case) -> None:
    """By the event that names this payment: no state is asked for, however far the node lags behind."""
    case.land(OLD, LANDED, units=999)
    case.node.height, case.node.final = LANDED - 1, LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.mismatch, transaction=OLD)
    assert not case.node.heard("call")


@pytest.mark.parametrize("wrong", [{"address": "0x" + "99" * 20}, {"topics": ("0x01",)}])
async def test_A15_an_event_of_another_contract_or_payment_names_nothing(case: Case, wrong: Any) -> None:
    case.land(OLD, LANDED, units=999)
    used, moved = case.node.receipts[OLD].logs
    case.node.receipts[OLD] = replace(case.node.receipts[OLD], logs=(replace(used, **wrong), moved))
    case.node.height, case.node.final = LANDED - 1, LANDED
    assert await case.judge(OLD) is None


async def test_A15_events_are_read_in_any_spelling(case: Case) -> None:
    case.land(OLD, LANDED, units=999)
    used, moved = case.node.receipts[OLD].logs
    shouted = Log(
        used.address.upper().replace("X", "x"), tuple(one.upper().replace("X", "x") for one in used.topics), "0x"
    )
    case.node.receipts[OLD] = replace(case.node.receipts[OLD], logs=(shouted, moved))
    case.node.height, case.node.final = LANDED - 1, LANDED
    assert isinstance(await case.judge(OLD), Refused)


@BOTH
@pytest.mark.parametrize("succeeded", [True, False])
async def test_D08_one_that_failed_among_others_may_fail_alone(scheme: str, succeeded: bool) -> None:
    case = Case(scheme)
    case.land(OLD, LANDED, succeeded=succeeded, emits=False)
    case.node.calls.clear()
    case.node.height = case.node.final = LANDED
    ends = case.signed.ends
    assert await case.judge(OLD) == replace(ends.mismatch if succeeded else ends.reverted, transaction=OLD)
    case.node.height = LANDED - 1
    # A permit is named in its call alone, and this call has not settled it.
    proven = scheme == "upto" and succeeded
    assert (await case.judge(OLD) is None) is not proven


@pytest.mark.parametrize(
    "said", [CallResult(False, uint256(0)), CallResult(True, bytes(31)), CallResult(True, bytes(33))]
)
async def test_E01_a_node_that_does_not_tell_proves_no_end(case: Case, said: CallResult) -> None:
    case.say_spent(said.data, succeeded=said.succeeded)
    case.land(OLD, LANDED, succeeded=False)
    case.node.final = case.node.height
    assert await case.judge(OLD) is None
    case.after_its_end(1000)
    assert await case.judge(NEW) is None
    assert await case.witness.is_spent(case.subject) is None
    with pytest.raises(UnavailableError, match="does not show"):
        await case.spent_by()
    assert await case.standing() is None


async def test_E01_state_is_asked_for_at_the_block_that_was_seen(case: Case) -> None:
    case.node.height = 4_444
    assert await case.witness.is_spent(case.subject) is False
    case.spend()
    assert await case.witness.is_spent(case.subject) is True
    assert {block for *_, block in case.node.heard("call")} == {4_444}
    case.node.away.add("call")
    assert await case.witness.is_spent(case.subject) is None


@BOTH
async def test_A11_a_failure_of_ours_behind_which_a_stranger_has_paid_is_settled(scheme: str) -> None:
    case = Case(scheme)
    case.land(OLD, LANDED, succeeded=False)
    case.land(HERS, LANDED - 1)
    case.spend()
    paid = await case.judge(OLD)
    assert isinstance(paid, Settled)
    assert (paid.transaction, paid.block) == (HERS, LANDED - 1)


async def test_a_failure_of_ours_after_it_was_taken_back_names_our_transaction(case: Case) -> None:
    case.land(OLD, LANDED, succeeded=False)
    case.cancel(HERS, LANDED - 1)
    case.spend()
    assert await case.judge(OLD) is None
    case.node.final = LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.used_up, transaction=OLD)


# What its own state proves.


@BOTH
async def test_A23_unused_after_its_end_is_dead(scheme: str) -> None:
    case = Case(scheme)
    for seconds, dead in ((-500, False), (FINAL_SECONDS, False), (FINAL_SECONDS + 1, True), (10**6, True)):
        case.after_its_end(seconds)
        verdict = await case.judge(OLD)
        assert verdict == (case.signed.ends.expired if dead else None)
        # What is unused has been used by nobody.
        assert await case.spent_by() is None


@BOTH
async def test_A11_whoever_sent_it_the_transfer_is_found(scheme: str) -> None:
    case = Case(scheme)
    case.land(HERS, LANDED)
    case.spend()
    for verdict in (await case.judge(), await case.judge(OLD), await case.spent_by()):
        assert isinstance(verdict, Settled)
        assert (verdict.transaction, verdict.block) == (HERS, LANDED)
    assert case.node.heard("receipt") == [(HERS, 5.0)]
    case.node.height, case.node.second = 5_000 + 5_000, case.node.second + BLOCK_SECONDS * 5_000
    assert isinstance(await case.judge(), Settled)


async def test_E14_a_use_that_no_event_shows_is_open(case: Case) -> None:
    case.spend()
    assert await case.judge() is None
    case.after_its_end(1000)
    assert await case.judge() is None
    with pytest.raises(UnavailableError):
        await case.spent_by()
    # The event is there, and its receipt is not.
    case.land(HERS, case.node.height - 1)
    del case.node.receipts[HERS]
    assert await case.judge() is None
    case.node.events.clear()
    case.cancel(HERS, LANDED)
    del case.node.receipts[HERS]
    assert await case.judge() is None


@pytest.mark.parametrize("ours_first", [True, False])
async def test_transfers_of_the_same_two_are_told_apart_by_their_calls(ours_first: bool) -> None:
    case = Case("upto")
    for name in (HERS, OLD) if ours_first else (OLD, HERS):
        case.land(name, LANDED)
    # This one is another payment between the two.
    case.node.calls[OLD] = replace(case.node.calls[OLD], data=b"other")
    case.spend()
    assert await case.judge() == Settled(HERS, LANDED, 1000)


@BOTH
async def test_A16_taken_back_is_proven_once_no_fork_can_change_it(scheme: str) -> None:
    case = Case(scheme)
    nonce = int(case.payment.payload.get("permit2Authorization", {}).get("nonce", 0))
    case.cancel(HERS, LANDED, "0x" + uint256(nonce >> 8).hex() + uint256(1 << (nonce & 0xFF)).hex())
    case.spend()
    case.node.final = LANDED - 1
    assert await case.judge() is None
    with pytest.raises(UnavailableError):
        await case.spent_by()
    case.after_its_end(FINAL_SECONDS)
    assert await case.judge() is None
    case.after_its_end(FINAL_SECONDS + 1)
    assert await case.judge() == await case.spent_by() == case.signed.ends.used_up
    case.after_its_end(-500)
    case.node.final = LANDED
    assert await case.judge() == await case.spent_by() == case.signed.ends.used_up
    assert case.node.heard("receipt") == [(HERS, 5.0)]


async def test_A16_a_use_that_moved_nothing_is_vain_for_who_is_named_by_events(case: Case) -> None:
    case.land(HERS, LANDED, units=999)
    case.spend()
    case.node.final = LANDED
    assert await case.judge() == case.signed.ends.used_up


async def test_another_permit_that_was_given_up_says_nothing() -> None:
    case = Case("upto")
    case.cancel(HERS, LANDED, "0x" + uint256(7).hex() + uint256(1).hex())
    case.land(OLD, LANDED)
    case.node.calls.clear()
    case.spend()
    case.node.final = case.node.height
    assert await case.judge() is None


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
