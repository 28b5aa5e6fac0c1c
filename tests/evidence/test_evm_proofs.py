"""What proves what became of a payment on an EVM network, moment by moment (faults A10, A11, A15, A16, A23, E01, E14).

The node is scripted, so that each moment comes; `test_evm.py` asks a real one.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.evidence.evm_case import FINAL_SECONDS, HERS, LANDED, NEW, OLD, Case
from tests.nodes import BLOCK_SECONDS
from x402.chain import CallResult, Log
from x402.errors import UnavailableError
from x402.schemes.eip712 import uint256
from x402.stages import Settled

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


@BOTH
async def test_A11_A16_a_failure_is_no_end_while_the_payment_lives(scheme: str) -> None:
    """However final it is: other bytes may be on their way, and anybody's. It is named once all that is over."""
    case = Case(scheme)
    case.land(OLD, LANDED, succeeded=False)
    case.node.final = case.node.height
    for seconds, dead in ((-500, False), (FINAL_SECONDS, False), (FINAL_SECONDS + 1, True)):
        case.after_its_end(seconds)
        assert await case.judge(OLD) == (replace(case.signed.ends.reverted, transaction=OLD) if dead else None)
    case.land(HERS, LANDED + 1)
    case.spend()
    paid = await case.judge(OLD)
    assert isinstance(paid, Settled)
    assert paid.transaction == HERS


@BOTH
async def test_D11_what_failed_is_known_before_it_is_a_verdict(scheme: str) -> None:
    case = Case(scheme)
    assert await case.witness.failure(case.subject, (OLD, NEW)) is None
    case.land(NEW, LANDED, succeeded=False)
    assert await case.witness.failure(case.subject, (OLD, NEW)) == NEW
    case.land(OLD, LANDED)
    assert await case.witness.failure(case.subject, (OLD, NEW)) is None
    assert {seconds for _, seconds in case.node.heard("receipt")} == {0}


async def test_A15_a_success_without_the_transfer_is_a_mismatch(case: Case) -> None:
    """By the event that names this payment, which is used up by it."""
    case.land(OLD, LANDED, units=999)
    case.spend()
    case.node.final = LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.mismatch, transaction=OLD)


@pytest.mark.parametrize("wrong", [{"address": "0x" + "99" * 20}, {"address": "0x01"}, {"topics": ("0x01",)}])
async def test_A15_an_event_of_another_contract_or_payment_names_nothing(case: Case, wrong: Any) -> None:
    case.land(OLD, LANDED, units=999)
    used, moved = case.node.receipts[OLD].logs
    case.node.receipts[OLD] = replace(case.node.receipts[OLD], logs=(replace(used, **wrong), moved))
    case.spend()
    case.node.final = LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.used_up, transaction=OLD)


async def test_A15_events_are_read_in_any_spelling(case: Case) -> None:
    case.land(OLD, LANDED, units=999)
    used, moved = case.node.receipts[OLD].logs
    shouted = Log(
        used.address.upper().replace("X", "x"), tuple(one.upper().replace("X", "x") for one in used.topics), "0x"
    )
    case.node.receipts[OLD] = replace(case.node.receipts[OLD], logs=(shouted, moved))
    case.spend()
    case.node.final = LANDED
    assert await case.judge(OLD) == replace(case.signed.ends.mismatch, transaction=OLD)


@BOTH
@pytest.mark.parametrize("succeeded", [True, False])
async def test_D08_one_that_failed_among_others_may_fail_alone(scheme: str, succeeded: bool) -> None:
    case = Case(scheme)
    case.land(OLD, LANDED, succeeded=succeeded, emits=False)
    case.node.calls.clear()
    case.node.height = case.node.final = LANDED
    ends = case.signed.ends
    assert await case.judge(OLD) is None
    case.after_its_end(FINAL_SECONDS + 1)
    for height in (LANDED, LANDED - 1):
        case.node.height = height
        assert await case.judge(OLD) == replace(ends.mismatch if succeeded else ends.reverted, transaction=OLD)


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
        # What is unused has been used by nobody, and never will be once it is dead.
        assert await case.spent_by() == verdict


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


async def test_A16_what_was_taken_back_twice_is_for_good_with_the_first() -> None:
    case = Case("upto")
    nonce = int(case.payment.payload["permit2Authorization"]["nonce"])
    for name, block in ((OLD, LANDED), (NEW, LANDED + 1)):
        case.cancel(name, block, "0x" + uint256(nonce >> 8).hex() + uint256(1 << (nonce & 0xFF)).hex())
    case.spend()
    case.node.final = LANDED
    assert await case.judge() == case.signed.ends.used_up


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
