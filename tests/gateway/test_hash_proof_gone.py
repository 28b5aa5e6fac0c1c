"""A transfer that a fork undid after it was claimed: open while it may land again, refused once it can't (A16, E01)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gateway.test_hash_proof_bounds import PAID, PAYER, TERMS, TRANSACTION, Node, paid, proofs
from x402.errors import RefusedError, UnavailableError
from x402.evidence import Standing
from x402.gateway.hash_proof import subject_of
from x402.lifecycle import Outcome, Subject
from x402.stages import Refused
from x402.wire.payment import Payment

GONE_AT = PAID.block + 301
"""The first final block from which on it will not land any more."""
FAILED = RefusedError("transaction_failed", "it was reverted")


class Unfinal(Node):
    """A node that does not tell which block is final."""

    async def finalized(self) -> int:
        raise UnavailableError("rpc_unavailable", "no answer")


async def claimed(payment: Payment) -> Subject:
    return subject_of(payment, proofs(Node()).requirement(payment, TERMS))


async def told(node: Node, payment: Payment) -> tuple[Outcome, str | None]:
    """How its settlement stands, by a node; what watches over it hears the same."""
    receipt = await proofs(node).settle(payment, proofs(node).requirement(payment, TERMS))
    verdict = await proofs(node).judge(await claimed(payment), (TRANSACTION,))
    assert isinstance(verdict, Refused) is (receipt.outcome is Outcome.REFUSED)
    if isinstance(verdict, Refused):
        assert (verdict.reason, verdict.message) == (receipt.error_reason, receipt.error_message)
        assert receipt.extra == {"proven": True}
        assert receipt.payer == PAYER.address
    return receipt.outcome, receipt.error_reason


@pytest.mark.parametrize("shown", [{}, {TRANSACTION: FAILED}])
async def test_A16_what_is_absent_long_after_its_block_was_final_is_refused(shown: dict[str, Exception]) -> None:
    payment = await paid()
    for final in (0, PAID.block, GONE_AT - 1):
        assert (await told(Node(dict(shown), final), payment))[0] is Outcome.PENDING
    for final in (GONE_AT, GONE_AT + 1):
        assert await told(Node(dict(shown), final), payment) == (Outcome.REFUSED, "transfer_gone")


async def test_A16_what_has_landed_again_in_a_block_that_is_not_deep_enough_is_open() -> None:
    payment = await paid()
    again = replace(PAID, block=GONE_AT, standing=Standing(1))
    assert (await told(Node({TRANSACTION: again}, GONE_AT), payment))[0] is Outcome.PENDING


async def test_E01_a_node_that_cannot_tell_is_no_proof() -> None:
    payment = await paid()
    assert (await told(Unfinal(), payment))[0] is Outcome.PENDING
    away = Node({TRANSACTION: UnavailableError("rpc_unavailable", "no answer")}, GONE_AT)
    receipt = await proofs(away).settle(payment, proofs(away).requirement(payment, TERMS))
    assert receipt.outcome is Outcome.PENDING


async def test_what_an_earlier_version_wrote_down_without_its_block_stays_open() -> None:
    payment = await paid()
    older = {name: value for name, value in payment.payload.items() if name != "block"}
    assert (await told(Node({}, GONE_AT), payment.model_copy(update={"payload": older})))[0] is Outcome.PENDING


async def test_who_names_no_transaction_is_told_nothing() -> None:
    assert await proofs(Node({TRANSACTION: PAID}, GONE_AT)).judge(await claimed(await paid())) is None
