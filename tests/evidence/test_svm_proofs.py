"""What proves what became of a payment on Solana, moment by moment (faults A10, A11, A14, A16, A23, E01, E14).

The node is scripted, so that each moment comes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.nodes import SvmNode, SvmSale
from x402.chain import SvmAccount
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict, svm
from x402.evidence.svm import SvmWitness
from x402.lifecycle import Subject
from x402.networks import SOLANA_DEVNET
from x402.schemes.exact_svm_layout import SignedTransfer, token_account
from x402.stages import Refused, Settled

NOW = 1_800_000_000
CUSTOM = '{"InstructionError":[2,{"Custom":1}]}'
DEAD_HEIGHT, MARGIN = 900, 32
LIFETIME, SKEW, KEPT = 300, 600, 6 * 3600


class Case(SvmSale):
    """A payment, and who judges it."""

    def __init__(self) -> None:
        super().__init__(SvmNode(), second=NOW)
        self.witness = SvmWitness(SOLANA_DEVNET, self.node)

    async def judge(self, *transactions: str, **how: Any) -> Verdict:
        self.node.asked.clear()
        return await self.witness.judge(self.subject, transactions, **how)

    async def standing(self, slot: int = 70) -> Standing | None:
        self.node.asked.clear()
        return await self.witness.standing(self.subject, Settled(self.name, slot))

    def fetched(self) -> list[str]:
        """The transactions that were looked at."""
        return [name for (name,) in self.node.heard("transaction")]


@pytest.fixture
def case() -> Case:
    return Case()


def died(verdict: Verdict) -> bool:
    """Whether this is the proof that it expired, and not another end."""
    return isinstance(verdict, Refused) and "blockhash expired" in verdict.message


# By its transaction's id.


async def test_a_transaction_that_moved_the_money_settles(case: Case) -> None:
    assert await case.judge(case.name) is None
    case.status()
    assert await case.judge(case.name, timeout=7) is None
    assert case.node.asked == [("status", case.name, 7), ("transaction", case.name)]
    case.land()
    assert await case.judge(case.name) == Settled(case.name, 70)
    assert case.node.asked == [("status", case.name, 0.0), ("transaction", case.name)]


async def test_what_a_transaction_took_is_known_once_it_was_judged(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.witness.fee_of(case.name) == 0
    monkeypatch.setattr(svm, "_KEPT", 2)
    sales = [SvmSale(case.node) for _ in range(3)]
    for sale in sales:
        sale.land()
        sale.status()
        await case.witness.judge(sale.subject, [sale.name])
        if sale is sales[1]:
            assert [case.witness.fee_of(one.name) for one in sales] == [10_001, 10_001, 0]
    # The oldest is forgotten.
    assert [case.witness.fee_of(sale.name) for sale in sales] == [0, 10_001, 10_001]


async def test_A14_a_transaction_that_landed_in_vain_is_refused(case: Case) -> None:
    case.status(error=CUSTOM)
    refused = await case.judge(case.name)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.transaction) == ("insufficient_funds", case.name)
    case.status(error='"AccountInUse"')
    refused = await case.judge(case.name)
    assert isinstance(refused, Refused)
    assert refused.reason == svm._EXPIRED.reason
    assert case.fetched() == []


async def test_A15_a_success_that_moved_less_is_no_settlement(case: Case) -> None:
    case.status()
    case.land(units=999)
    refused = await case.judge(case.name)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.transaction) == ("post_settlement_transfer_not_confirmed", case.name)
    case.land(error=CUSTOM)
    refused = await case.judge(case.name)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.transaction) == ("insufficient_funds", case.name)
    case.land(error='"AccountInUse"')
    refused = await case.judge(case.name)
    assert isinstance(refused, Refused)
    assert refused.reason == svm._EXPIRED.reason


async def test_A23_dead_is_a_blockhash_that_no_block_takes_any_more(case: Case) -> None:
    for height, dead in ((DEAD_HEIGHT + MARGIN, False), (DEAD_HEIGHT + MARGIN + 1, True)):
        case.node.height = height
        assert died(await case.judge(case.name, last_valid=DEAD_HEIGHT)) is dead
        # Asked again after the height: what is absent now was and will be.
        assert case.node.heard("status") == [(case.name, 0.0), (case.name, 1.0)][: 1 + dead]
    assert await case.judge(case.name, last_valid=0) is None
    assert await case.judge(case.name) is None


async def test_A23_who_landed_at_the_last_moment_is_not_dead(case: Case) -> None:
    case.node.height = DEAD_HEIGHT + 1000
    real, asked = case.node.status, []

    async def status(signature: str, *, timeout: float) -> Any:
        asked.append(timeout)
        if len(asked) == 2:
            case.status()
        return await real(signature, timeout=timeout)

    case.node.status = status  # type: ignore[method-assign]
    assert await case.judge(case.name, last_valid=DEAD_HEIGHT) is None
    assert asked == [0.0, 1.0]


async def test_A15_a_transaction_of_somebody_else_says_nothing(case: Case) -> None:
    stranger = SvmSale(case.node)
    stranger.land()
    stranger.status()
    case.land()
    case.status()
    assert await case.judge(stranger.name, case.name, stranger.name) == Settled(case.name, 70)
    assert await case.judge("", "0x00", stranger.name) is None
    assert case.node.heard("status") == []


async def test_who_was_told_what_to_expect_reads_no_record(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this very subject, and once."""
    read: list[str] = []

    def transfer_of(subject: Subject) -> SignedTransfer:
        read.append(subject.pay_id)
        return case.signed

    monkeypatch.setattr(svm, "transfer_of", transfer_of)
    monkeypatch.setattr(svm, "_KEPT", 2)
    case.status()
    for subject, known in ((case.subject, True), (case.subject, False), (replace(case.subject), False)):
        read.clear()
        if subject is not case.subject or known:
            case.witness.expect(case.subject, case.signed)
        await case.witness.judge(subject, [case.name])
        assert (read == []) is known
    # Two newer ones leave no room for it.
    case.witness.expect(case.subject, case.signed)
    for number in range(2):
        case.witness.expect(replace(case.subject, pay_id=f"{number}"), case.signed)
    read.clear()
    await case.witness.judge(case.subject, [case.name])
    assert read == [case.subject.pay_id]


# By the transactions of the account that it spends from.


async def test_A11_whoever_sent_it_the_transfer_is_found(case: Case) -> None:
    case.list()
    case.land()
    assert await case.judge() == await case.witness.spent_by(case.subject) == Settled(case.name, 70)
    assert case.node.heard("signatures_of")[0] == (case.signed.transfer.source, 1000, "")
    case.land(error=CUSTOM)
    assert isinstance(await case.judge(), Refused)
    assert isinstance(await case.witness.spent_by(case.subject), Refused)


async def test_A10_what_is_not_there_was_spent_by_nobody(case: Case) -> None:
    assert await case.witness.spent_by(case.subject) is None
    assert await case.judge() is None
    assert set(case.node.heard("is_blockhash_valid")) == {(case.signed.transfer.blockhash,)}


@pytest.mark.parametrize(
    ("valid", "age", "dead"),
    [(False, LIFETIME + 1, True), (False, LIFETIME, False), (True, LIFETIME + 1, False), (True, 10**4, False)],
)
async def test_A23_without_an_id_it_is_dead_by_its_age(case: Case, valid: bool, age: int, dead: bool) -> None:
    case.node.valid = valid
    assert died(await case.judge(since=NOW - age)) is dead
    assert await case.judge() is None


async def test_E14_who_may_have_forgotten_it_proves_nothing(case: Case) -> None:
    case.node.valid = False
    assert died(await case.judge(since=NOW - KEPT + 1))
    assert await case.judge(since=NOW - KEPT) is None
    # Unless what it has begins before.
    case.list(NOW - KEPT - SKEW, "somebody", "")
    case.node.transactions["somebody"] = replace(case.land(), signatures=("else",))
    assert await case.judge(since=NOW - KEPT) is None
    case.list(NOW - KEPT - SKEW - 1, "older", "")
    assert died(await case.judge(since=NOW - KEPT))
    assert case.fetched() == ["somebody"]


async def test_the_search_goes_back_page_by_page(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "_PAGE", 2)
    for number in range(5):
        case.list(None, f"{number}", "of another payment")
    case.list()
    case.land()
    assert await case.judge() == Settled(case.name, 70)
    source = case.signed.transfer.source
    assert case.node.heard("signatures_of") == [(source, 2, ""), (source, 2, "1"), (source, 2, "3")]
    # Others were told apart by their memos.
    assert case.fetched() == [case.name]


async def test_the_search_has_an_end_and_then_proves_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "_PAGE", 1)
    case.node.valid = False
    for number in range(30):
        case.list(None, f"{number}", "of another payment")
    assert await case.judge(since=NOW - LIFETIME - 1) is None
    assert len(case.node.heard("signatures_of")) == 20
    # One page that is not full is the last.
    monkeypatch.setattr(svm, "_PAGE", 31)
    assert died(await case.judge(since=NOW - LIFETIME - 1))
    assert len(case.node.heard("signatures_of")) == 1


@pytest.mark.parametrize("memo", ["", "[32] {memo}", "{memo}"])
async def test_a_transaction_whose_memo_may_be_ours_is_looked_at(case: Case, memo: str) -> None:
    case.list(None, memo=memo.format(memo=case.signed.transfer.memos[0].decode()))
    case.land()
    assert await case.judge() == Settled(case.name, 70)


async def test_a_memo_that_a_node_may_spell_otherwise_tells_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(case.signed, transfer=replace(case.signed.transfer, memos=(b"cr\xc3\xa8me",)))
    monkeypatch.setattr(svm, "transfer_of", lambda _: odd)
    case.list(None, memo="cr?me")
    case.land()
    assert await case.judge() == Settled(case.name, 70)


async def test_E01_a_node_that_lists_what_it_does_not_show_proves_nothing(case: Case) -> None:
    case.list()
    with pytest.raises(UnavailableError, match="does not show"):
        await case.judge()
    with pytest.raises(UnavailableError):
        await case.witness.spent_by(case.subject)


@pytest.mark.parametrize("data", [None, bytes(39)])
async def test_E01_a_node_without_a_clock_proves_nothing(case: Case, data: bytes | None) -> None:
    if data is None:
        case.node.accounts_by.clear()
    else:
        case.show_time(0, data)
    with pytest.raises(UnavailableError, match="clock"):
        await case.judge()


# How well a transfer stands.


async def test_A16_a_transfer_is_final_or_one_deep(case: Case) -> None:
    case.status(confirmation="processed")
    assert await case.standing() == Standing(1)
    case.status()
    assert await case.standing() == Standing(1)
    # What is absent after the final slot was asked for, though its slot was final, is on no fork.
    assert case.node.asked == [("finalized",), ("status", case.name, 0)]
    case.status(confirmation="finalized")
    assert await case.standing() == Standing(32, final=True)


@pytest.mark.parametrize("confirmation", ["confirmed", "finalized"])
async def test_A14_A16_what_the_other_fork_let_fail_is_gone(case: Case, confirmation: str) -> None:
    """However final that is: the same bytes have moved nothing."""
    case.status(error=CUSTOM, confirmation=confirmation)
    standing = await case.standing()
    assert standing == Standing(0)
    assert standing.gone
    assert not standing.final


async def test_A16_a_transfer_is_gone_when_its_slot_is_final_without_it(case: Case) -> None:
    for final, gone in ((70 + MARGIN, None), (70 + MARGIN + 1, Standing(0))):
        case.node.final = final
        assert await case.standing() == gone
    # A node that has the transaction has only forgotten its status.
    case.land()
    assert await case.standing() is None


# What an account holds.


async def test_what_a_token_account_holds(case: Case) -> None:
    mint = case.offer.asset
    token = token_account(case.seller, mint, svm.pinned(SOLANA_DEVNET, mint).token_program)
    case.hold(token, case.seller, 2**63 + 7)
    assert await case.witness.balance(case.seller, mint) == 2**63 + 7
    whole = case.node.accounts_by[token]
    exactly, others = whole.data[:72], [bytes([byte]) * 32 + whole.data[32:] for byte in (0, 255)]
    for data, units in (
        (exactly, 2**63 + 7), (exactly + b"\x01" * 93, 2**63 + 7), (exactly[:71], 0), *((one, 0) for one in others),
    ):  # fmt: skip
        case.node.accounts_by[token] = SvmAccount(whole.owner, 1, data)
        assert await case.witness.balance(case.seller, mint) == units
    del case.node.accounts_by[token]
    assert await case.witness.balance(case.seller, mint) == 0
    with pytest.raises(UnavailableError, match="not a known asset"):
        await case.witness.balance(case.seller, case.seller)
