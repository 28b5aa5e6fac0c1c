"""What a refusal by a check, a node or another replica comes to: never more than it proves (A06, A10, A11, D01, D11).

Each moment is scripted: real chains bring them in `test_strangers.py`, `test_doubt.py` and `test_evm_nonces.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.facilitator.script import DEAD, ME, OURS, THEIRS, Budget
from tests.facilitator.world import Meddled, unreachable
from x402.errors import RefusedError, UnavailableError
from x402.facilitator import spent
from x402.lifecycle import Entry, Event, Outcome, begin
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes import exact_svm_reasons
from x402.schemes.subject import subject_of
from x402.stages import Intended, Refused, Settled, State

AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
OURS_AT_FAULT, THEIRS_AT_FAULT = NotSent("nonce too low", ours=True), NotSent("execution reverted")
USED = "invalid_exact_evm_nonce_already_used"
POOR = "invalid_exact_evm_insufficient_balance"


@pytest.mark.parametrize(
    ("code", "shown", "outcome", "asked"),
    [
        ("invalid_exact_evm_signature", THEIRS, "proven", 0),
        (USED, THEIRS, "settled", 1),
        (USED, None, "pending", 1),
        (POOR, None, "for now", 1),
        (POOR, DEAD, "proven", 1),
        (POOR, AWAY, "pending", 1),
        (POOR, THEIRS, "settled", 1),
        (POOR, replace(THEIRS, amount=1000), "settled", 1),
        (POOR, replace(THEIRS, amount=999), "other", 1),
    ],
)
async def test_A06_A10_A11_a_refusal_behind_which_a_settlement_may_hide(
    scripted: Any, code: str, shown: Any, outcome: str, asked: int
) -> None:
    party, rail = scripted(check=RefusedError(code, "refused"), spent_by=shown, is_open_to_all=True)
    receipt = await party.settle()
    told = {
        "proven": (Outcome.REFUSED, code, True),
        "for now": (Outcome.REFUSED, code, False),
        "other": (Outcome.REFUSED, "duplicate_settlement", False),
        "pending": (Outcome.PENDING, "settlement_pending", False),
        "settled": (Outcome.SETTLED, None, False),
    }
    assert (receipt.outcome, receipt.error_reason, receipt.proven) == told[outcome]
    assert (rail.asked.count("spent_by"), rail.asked.count("decide")) == (asked, 0)
    assert await party.state() is (State.SETTLED if outcome == "settled" else None)
    facts = {
        "proven": "settle.refused",
        "for now": "settle.refused",
        "other": "settle.refused",
        "pending": "settle.pending",
    }
    assert party.told() == [facts.get(outcome, "settle.settled")]


async def test_A11_what_only_we_can_send_is_refused_for_good(scripted: Any) -> None:
    party, _ = scripted(check=RefusedError(POOR, "refused"), spent_by=None, is_open_to_all=False)
    receipt = await party.settle()
    assert (receipt.outcome, receipt.error_reason, receipt.proven) == (Outcome.REFUSED, POOR, True)


async def test_A16_what_a_stranger_settled_waits_for_its_blocks(scripted: Any) -> None:
    party, _ = scripted(check=RefusedError(USED, "refused"), spent_by=THEIRS, is_deep=False, decide=[None, THEIRS])
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction, await party.state()) == (
        Outcome.PENDING, "0xtheirs", State.INTENDED,
    )  # fmt: skip
    assert (await party.settle()).transaction == "0xtheirs"
    assert await party.state() is State.SETTLED


def test_A06_A10_A11_the_refusals_that_a_used_payment_brings() -> None:
    """By name, because a code that is missing here sends a payer who has paid to pay again."""
    certainly = {USED, "permit2_invalid_nonce", exact_svm_reasons.DUPLICATE}
    assert certainly == spent.CERTAINLY
    assert (
        certainly
        | {
            POOR,
            "invalid_exact_evm_transaction_simulation_failed",
            "invalid_exact_evm_payload_authorization_valid_before",
            "asset_restricted",
            "invalid_upto_evm_transaction_failed",
            "permit2_insufficient_balance",
            "permit2_allowance_required",
            "permit2_deadline_expired",
            exact_svm_reasons.SIMULATION,
            exact_svm_reasons.INSUFFICIENT_FUNDS,
        }
        == spent.PERHAPS
    )


async def test_D11_the_fee_is_booked_before_anything_is_signed_and_corrected_by_what_was_taken(scripted: Any) -> None:
    budget = Budget()
    party, rail = scripted(budget)
    assert (await party.settle()).success
    assert rail.asked == ["check settling", "fee", "intend", "submit", "decide"]
    assert budget.booked == [("admit", 7), ("soon", 0)]


@pytest.mark.parametrize("verdict", [THEIRS, Refused("reverted", "it failed", "0xours"), Refused("expired", "late")])
async def test_D11_a_strangers_transaction_is_none_of_our_cost(scripted: Any, verdict: Any) -> None:
    budget = Budget()
    party, rail = scripted(budget, decide=verdict)
    receipt = await party.settle()
    assert (receipt.success, receipt.proven) == (verdict is THEIRS, verdict is not THEIRS)
    ours = verdict.transaction == "0xours"
    assert budget.booked == [("admit", 7), *[("soon", 0)] * ours]
    # A nonce of ours that nothing used is mended at once.
    assert rail.asked.count("heal") == (not ours)


async def test_D11_what_another_replica_intended_first_is_not_booked_twice(scripted: Any, ledger: SqlLedger) -> None:
    budget = Budget()
    party, rail = scripted(budget)

    async def lost(*_: Any) -> Any:
        subject = subject_of(party.payment, party.offer)
        return (await ledger.begin(begin(ME, subject, Intended("0xtheirs", b"raw", 2**40))))[0], False

    rail.intend = lost
    rail.answers["decide"] = THEIRS
    assert (await party.settle()).transaction == "0xtheirs"
    assert budget.booked[:2] == [("admit", 7), ("correct", 0)]
    assert "submit" not in rail.asked


@pytest.mark.parametrize("error", [AWAY, RefusedError("odd", "no")])
async def test_D11_what_could_not_be_written_costs_nothing(scripted: Any, error: Exception) -> None:
    budget = Budget()
    party, _ = scripted(budget, intend=error)
    if isinstance(error, RefusedError):
        assert (await party.settle()).error_reason == "odd"
    else:
        with pytest.raises(UnavailableError):
            await party.settle()
    assert budget.booked == [("admit", 7), ("correct", 0)]


@pytest.mark.parametrize("refusals", [1, 3])
async def test_D01_bytes_that_a_node_refuses_for_our_fault_are_replaced(scripted: Any, refusals: int) -> None:
    party, rail = scripted(
        submit=[*[OURS_AT_FAULT] * refusals, None], replace=True, decide=Settled(f"0xours{refusals + 1}", 7)
    )
    receipt = await party.settle()
    assert (receipt.success, receipt.transaction) == (True, f"0xours{refusals + 1}")
    assert (rail.asked.count("replace"), rail.asked.count("heal")) == (refusals, 1)


async def test_D01_no_more_than_three_times_at_once(scripted: Any) -> None:
    party, rail = scripted(submit=OURS_AT_FAULT, replace=True)
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction) == (Outcome.PENDING, "0xours4")
    assert (rail.asked.count("submit"), rail.asked.count("heal"), await party.state()) == (4, 1, State.INTENDED)


async def test_D01_a_heal_that_fails_is_left_for_the_next_round(scripted: Any) -> None:
    party, rail = scripted(submit=[OURS_AT_FAULT, None], replace=True, heal=AWAY, decide=Settled("0xours2", 7))
    assert (await party.settle()).success
    assert rail.asked.count("heal") == 1


@pytest.mark.parametrize(
    ("error", "shown", "deep", "outcome"),
    [
        (THEIRS_AT_FAULT, None, True, "refused"),
        (THEIRS_AT_FAULT, THEIRS, True, "settled"),
        (THEIRS_AT_FAULT, THEIRS, False, "pending"),
        (THEIRS_AT_FAULT, DEAD, True, "dead"),
        (THEIRS_AT_FAULT, AWAY, True, "pending"),
        (OURS_AT_FAULT, None, True, "pending"),
        (OURS_AT_FAULT, THEIRS, True, "settled"),
    ],
)
async def test_A11_a_node_that_refuses_our_bytes_refuses_the_payment_only_if_nobody_paid(
    scripted: Any, error: NotSent, shown: Any, deep: bool, outcome: str
) -> None:
    budget = Budget()
    party, rail = scripted(budget, submit=error, spent_by=shown, is_deep=deep)
    receipt = await party.settle()
    told = {
        "refused": (Outcome.REFUSED, "invalid_exact_evm_transaction_failed", State.REFUSED),
        "settled": (Outcome.SETTLED, None, State.SETTLED),
        "pending": (Outcome.PENDING, "settlement_pending", State.INTENDED),
        "dead": (Outcome.REFUSED, "expired", State.REFUSED),
    }
    assert (receipt.outcome, receipt.error_reason, await party.state()) == told[outcome]
    assert receipt.proven is (outcome in ("refused", "dead"))
    facts = {"refused": "settle.refused", "dead": "settle.refused", "settled": "settle.settled"}
    assert party.told() == [facts.get(outcome, "settle.pending")]
    # What was never sent costs nothing; the proof of a death may be a transaction of ours.
    booked = {"refused": [("correct", 0)], "dead": [("soon", 0)]}
    assert budget.booked == [("admit", 7), *booked.get(outcome, [])]
    assert rail.asked.count("heal") == 1


async def test_A11_what_another_replica_moved_on_meanwhile_is_the_answer(scripted: Any, ledger: SqlLedger) -> None:
    party, rail = scripted(submit=OURS_AT_FAULT)

    async def late(entry: Entry, *_: Any) -> Any:
        await ledger.advance(ME, party.pay_id, Event.SETTLE, THEIRS)
        return await ledger.advance(ME, party.pay_id, Event.REPLACE, entry.stage)

    rail.replace = late
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction) == (Outcome.SETTLED, "0xtheirs")


@pytest.mark.parametrize("verdict", [OURS, Refused("reverted", "it failed", "0xours")])
async def test_A24_what_another_replica_wrote_first_is_the_answer_and_the_fee_is_ours(
    scripted: Any, ledger: SqlLedger, verdict: Any
) -> None:
    budget = Budget()
    party, rail = scripted(budget)

    async def late(*_: Any, **__: Any) -> Any:
        await ledger.advance(ME, party.pay_id, Event.SETTLE, THEIRS)
        return verdict

    rail.decide = late
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction) == (Outcome.SETTLED, "0xtheirs")
    assert (budget.booked, party.told()) == ([("admit", 7), ("soon", 0)], [])


async def test_E10_what_cannot_be_written_down_is_not_known_yet(scripted: Any, ledger: SqlLedger) -> None:
    budget = Budget()
    party, _ = scripted(budget, on=Meddled(ledger, advance=unreachable))
    receipt = await party.settle()
    assert (receipt.outcome, receipt.transaction, budget.booked) == (Outcome.PENDING, "0xours", [("admit", 7)])
    assert party.told() == ["settle.pending"]


async def test_A11_without_budgets_a_refusal_of_our_bytes_is_one_all_the_same(scripted: Any) -> None:
    party, _ = scripted(submit=THEIRS_AT_FAULT)
    receipt = await party.settle()
    assert (receipt.error_reason, receipt.proven) == ("invalid_exact_evm_transaction_failed", True)


async def test_D11_what_another_replica_settled_meanwhile_keeps_its_fee(scripted: Any, ledger: SqlLedger) -> None:
    """The node refuses our bytes, nobody has paid as far as it knows, and the other replica knows better."""
    budget = Budget()
    party, rail = scripted(budget, submit=THEIRS_AT_FAULT)

    async def late(*_: Any) -> None:
        await ledger.advance(ME, party.pay_id, Event.SETTLE, THEIRS)

    rail.spent_by = late
    assert (await party.settle()).transaction == "0xtheirs"
    assert budget.booked == [("admit", 7)]
