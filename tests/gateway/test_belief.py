"""Each line of the table of what a facilitator's word is worth (faults A03, A09, A10, A11, A16, B16, E12)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from x402 import networks
from x402.confirmation import parse_confirmations
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.gateway.belief import NEVER_SENT, Belief, dead_at, in_process, is_account
from x402.gateway.policy import Policy
from x402.lifecycle import Entry, Party, Subject
from x402.schemes import exact_svm_reasons as svm
from x402.stages import Refused, Settled, Settling
from x402.telemetry import Fact, Telemetry
from x402.wire.receipt import Receipt

EVM, SVM = networks.BASE_SEPOLIA, networks.SOLANA_DEVNET
BORN, EXPIRES = 10_000, 20_000
PAYER = {EVM: "0xAbCdEf0000000000000000000000000000000001", SVM: "Payer1111"}
CENT, TWO_DOLLARS = 10_000, 2_000_000
DEAD = Refused("expired", "the chain proves it")
AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
UNPROVEN, LIED, SILENT = "sale.facilitator_unproven", "sale.facilitator_lied", "sale.witness_unavailable"


class Chain:
    """Implements `Witness` by heart, and remembers what it was asked."""

    def __init__(self, verdict: Verdict | Exception = None, standing: Standing | None = None) -> None:
        self.verdict, self.stands = verdict, standing
        self.asked: list[tuple[tuple[str, ...], int, float]] = []

    async def judge(
        self, subject: Subject, transactions: Sequence[str] = (), *, since: int = 0, timeout: float = 0.0, **_: Any
    ) -> Verdict:
        self.asked.append((tuple(transactions), since, timeout))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        return self.stands


class Foreign:
    """A facilitator in another house."""


class Ours:
    in_process = True


def entry(network: str = EVM, amount: int = CENT, due: int | None = None, name: str = "pay") -> Entry:
    expires = EXPIRES if network == EVM else 0
    asset = networks.get(network).usd.address
    subject = Subject(name, network, asset, PAYER[network], "payee", amount, expires, "print", {})
    return Entry(Party.GATEWAY, subject, Settling(due), BORN, BORN)


class Judge:
    """A belief, and the facts that it tells."""

    def __init__(self, chain: Chain | None = None, network: str = EVM, now: int = BORN, **policy: Any) -> None:
        self.facts: list[Fact] = []
        witnesses: Any = {} if chain is None else {network: chain}
        given = {"check_percent": 0, **policy}
        self.belief = Belief(
            clock=lambda: now, witnesses=witnesses, policy=Policy(**given), telemetry=Telemetry([self.facts.append]),
            key=b"a key",
        )  # fmt: skip

    async def of(self, receipt: Receipt, known: Entry | None = None, who: Any = None) -> Verdict:
        elsewhere: Any = Foreign()
        return await self.belief.verdict(who or elsewhere, known or entry(), receipt)

    def told(self) -> list[str]:
        return [fact.name for fact in self.facts]


def settled(on: str = EVM, /, **members: Any) -> Receipt:
    receipt = Receipt.settled("0xpaid", on, PAYER[on])
    return receipt.model_copy(update=members)


def refused(reason: str, *, network: str = EVM, proven: bool = False) -> Receipt:
    return Receipt.refused(reason, "no", network, PAYER[network], proven=proven)


PENDING = Receipt.pending("0xhash", EVM, PAYER[EVM])


@pytest.mark.parametrize(
    ("shown", "believed", "told"),
    [
        (Settled("0xother", 7), Settled("0xother", 7), []),
        (Settled("0xother", 7, TWO_DOLLARS), Settled("0xother", 7, TWO_DOLLARS), []),
        (Settled("0xother", 7, CENT), Settled("0xother", 7, CENT), [LIED]),
        (None, None, [UNPROVEN]),
        (DEAD, DEAD, [LIED]),
        (AWAY, None, [SILENT, UNPROVEN]),
    ],
)
async def test_E12_B16_a_dear_success_is_what_the_chain_shows_of_it(
    shown: Verdict | Exception, believed: Verdict, told: list[str]
) -> None:
    judge = Judge(Chain(shown))
    assert await judge.of(settled(), entry(amount=TWO_DOLLARS)) == believed
    assert judge.told() == told
    assert all(fact.attributes == {"network": EVM, "amount_units": TWO_DOLLARS} for fact in judge.facts)


async def test_E12_a_success_is_looked_up_from_the_stated_price_on() -> None:
    chain = Chain(Settled("0xpaid"))
    for amount, asked in ((CENT - 1, 0), (CENT, 1), (CENT + 1, 2)):
        judge = Judge(chain, check_above=Decimal("0.01"))
        assert await judge.of(settled(), entry(amount=amount)) == Settled("0xpaid")
        assert len(chain.asked) == asked


async def test_E12_below_it_so_many_of_a_hundred_are_looked_up_that_nobody_foresees() -> None:
    for name in map(str, range(40)):
        digest = hashlib.sha256(b"a key" + name.encode()).digest()
        draw = int.from_bytes(digest[:8], "big") % 100
        for percent, asked in ((draw, 0), (draw + 1, 1)):
            chain = Chain(Settled("0xpaid"))
            await Judge(chain, check_percent=percent).of(settled(), entry(name=name))
            assert len(chain.asked) == asked
    # Whoever gives no key gets one that nobody else has.
    assert Belief(clock=lambda: 0)._key != Belief(clock=lambda: 0)._key
    assert len(Belief(clock=lambda: 0)._key) == 16


async def test_E12_without_a_witness_a_success_is_believed() -> None:
    judge = Judge()
    assert await judge.of(settled(), entry(amount=TWO_DOLLARS)) == Settled("0xpaid")
    assert judge.told() == []
    # So it is where another network's node is all there is.
    assert await Judge(Chain(), SVM).of(settled(), entry(amount=TWO_DOLLARS)) == Settled("0xpaid")


@pytest.mark.parametrize(
    "lie",
    [
        {"transaction": ""},
        {"network": "eip155:8453"},
        {"network": SVM},
        {"network": ""},
        {"payer": "0x" + "11" * 20},
        {"success": False},
    ],
)
@pytest.mark.parametrize("who", [Ours(), Foreign()])
async def test_A03_a_success_about_something_else_is_none(lie: dict[str, Any], who: Any) -> None:
    assert await Judge().of(settled(**lie), who=who) is None


@pytest.mark.parametrize(
    ("network", "members"),
    [
        (EVM, {}),
        (EVM, {"payer": None}),
        (EVM, {"payer": PAYER[EVM].lower()}),
        (EVM, {"network": "base-sepolia"}),
        (EVM, {"amount": "77"}),
        (SVM, {}),
    ],
)
async def test_A03_control_a_success_in_any_spelling_counts(network: str, members: dict[str, Any]) -> None:
    assert await Judge().of(settled(network, **members), entry(network)) == Settled("0xpaid")


async def test_A03_solana_addresses_have_one_spelling() -> None:
    assert await Judge().of(settled(SVM, payer=PAYER[SVM].lower()), entry(SVM)) is None
    assert is_account(EVM, "0xAB", "0xab")
    assert not is_account(EVM, "0xab", "0xac")
    assert not is_account(EVM, "0xac", "0xab")
    assert not is_account(SVM, "Ab", "ab")
    assert is_account(SVM, "Ab", "Ab")


@pytest.mark.parametrize(("amount", "counts"), [(None, True), ("500", True), ("499", False), ("501", False)])
async def test_B16_a_success_names_what_was_due_or_nothing(amount: str | None, counts: bool) -> None:
    verdict = await Judge().of(settled(amount=amount), entry(due=500))
    assert verdict == (Settled("0xpaid") if counts else None)


@pytest.mark.parametrize("outcome", [settled(), refused("anything", proven=True), PENDING])
async def test_A09_our_own_facilitator_is_believed_and_no_chain_asked(outcome: Receipt) -> None:
    chain = Chain(AWAY)
    verdict = await Judge(chain, check_percent=100).of(outcome, who=Ours())
    assert verdict == {
        True: Settled("0xpaid"), False: Refused("anything", "no") if outcome is not PENDING else None,
    }[outcome.success]  # fmt: skip
    assert chain.asked == []


@pytest.mark.parametrize("who", [Ours, Foreign])
async def test_A11_what_could_not_be_settled_now_may_still_be_submitted_by_anybody(who: Any) -> None:
    """The payer was poor for a moment, or a node failed to simulate: no proof, whoever says so."""
    poor = refused("invalid_exact_evm_insufficient_balance")
    for shown, verdict in ((AWAY, None), (None, None), (Settled("0xtheirs", 7), Settled("0xtheirs", 7)), (DEAD, DEAD)):
        assert await Judge(Chain(shown)).of(poor, who=who()) == verdict
    assert await Judge().of(poor, who=who()) is None
    terms = refused("invalid_exact_evm_recipient_mismatch")
    assert isinstance(await Judge().of(terms, who=who()), Refused)


def test_E12_only_who_says_so_plainly_is_in_this_process() -> None:
    def one(value: object) -> Any:
        return type("Facilitator", (), {"in_process": value})()

    assert [in_process(one(value)) for value in (True, False, 1, "yes", None)] == [True, False, False, False, False]
    assert in_process(Foreign()) is False  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [refused("unexpected_error"), refused("insufficient_funds"), PENDING])
@pytest.mark.parametrize(("shown", "believed"), [(Settled("0xa", 3), Settled("0xa", 3)), (DEAD, DEAD), (None, None)])
async def test_A09_A10_a_refusal_that_proves_nothing_is_what_the_chain_says(
    said: Receipt, shown: Verdict, believed: Verdict
) -> None:
    chain = Chain(shown)
    assert await Judge(chain, now=10**9).of(said) == believed
    # It is looked for under the name that the facilitator gave, for as long as one request waits.
    assert chain.asked == [((said.transaction,) if said.transaction else (), BORN - 3600, 2.0)]


async def test_A11_a_stranger_may_have_settled_earlier_only_what_says_until_when_it_lives() -> None:
    chain = Chain(None)
    judge = Judge(chain, SVM)
    assert await judge.of(refused("odd", network=SVM), entry(SVM)) is None
    assert chain.asked == [((), BORN, 2.0)]


@pytest.mark.parametrize("family", sorted(NEVER_SENT))
@pytest.mark.parametrize("shown", [None, Settled("0xa", 3), DEAD])
async def test_A09_terms_that_never_change_prove_a_refusal_unless_the_chain_shows_more(
    family: str, shown: Verdict
) -> None:
    network = EVM if family == networks.EIP155 else SVM
    for reason in NEVER_SENT[family]:
        judge = Judge(Chain(shown), network)
        expected = shown or Refused(reason, "no")
        assert await judge.of(refused(reason, network=network), entry(network)) == expected


async def test_A09_solana_reasons_are_read_in_every_sdks_spelling() -> None:
    told = svm.MINT.replace("invalid_exact_svm_", "invalid_exact_solana_") + ": wrong mint"
    assert await Judge().of(refused(told, network=SVM), entry(SVM)) == Refused(told, "no")
    # What is another family's reason proves nothing here.
    assert await Judge().of(refused("invalid_permit2_spender", network=SVM), entry(SVM)) is None
    assert await Judge().of(refused(svm.MINT)) is None


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_A09_a_refusal_counts_when_it_is_proven_or_the_payment_is_dead(network: str) -> None:
    known = entry(network)
    died = EXPIRES + 120 if network == EVM else BORN + 300
    assert dead_at(known) == died
    said, proven = refused("odd", network=network), refused("odd", network=network, proven=True)
    believed = Refused("odd", "no")
    assert await Judge(now=died - 1).of(said, known) is None
    assert await Judge(now=died).of(said, known) == believed
    assert await Judge(now=BORN).of(proven, known) == believed
    # Where there is a node, only that one buries a payment; what was proven needs no node.
    assert await Judge(Chain(AWAY), network, now=died).of(said, known) is None
    assert await Judge(Chain(AWAY), network).of(proven, known) == believed
    # Silence is no refusal, however late it is.
    late = Receipt.pending("", network, PAYER[network])
    assert await Judge(now=died).of(late, known) is None


async def test_A09_a_refusal_without_words_gets_some() -> None:
    bare = Receipt(success=False, network=EVM)
    verdict = await Judge(now=10**9).of(bare)
    assert verdict == Refused("settlement_refused", "the settlement was refused: settlement_refused")
    worded = bare.model_copy(update={"error_reason": "odd", "error_message": "why"})
    assert await Judge(now=10**9).of(worded) == Refused("odd", "why")


async def test_A09_a_node_that_is_away_proves_nothing_and_is_told() -> None:
    judge = Judge(Chain(AWAY))
    assert await judge.of(PENDING) is None
    assert judge.told() == [SILENT]


@pytest.mark.parametrize(
    ("standing", "counts"),
    [(None, False), (Standing(2), False), (Standing(3), True), (Standing(4), True), (Standing(1, final=True), True)],
)
async def test_A16_our_own_look_counts_blocks(standing: Standing | None, counts: bool) -> None:
    depths = {"eip155": parse_confirmations("0=1,1=2,2=3")}
    chain = Chain(Settled("0xa", 3), standing)
    judge = Judge(chain, confirmations=depths)
    verdict = await judge.of(PENDING, entry(amount=TWO_DOLLARS))
    assert verdict == (Settled("0xa", 3) if counts else None)
    # Control: a cheap one counts in its first block, and one of a middling price in its second.
    assert await judge.of(PENDING, entry()) == Settled("0xa", 3)
    verdict = await judge.of(PENDING, entry(amount=TWO_DOLLARS // 2))
    assert (verdict is None) is (standing is None)
    chain.stands = Standing(1)
    assert await judge.of(PENDING, entry(amount=TWO_DOLLARS // 2)) is None


async def test_A09_who_was_handed_a_payment_before_is_looked_after_by_the_chain() -> None:
    chain = Chain(Settled("0xa", 3))
    belief = Judge(chain).belief
    assert await belief.look(Foreign(), entry()) == Settled("0xa", 3)  # type: ignore[arg-type]
    assert chain.asked == [((), BORN - 3600, 2.0)]
    assert await belief.look(Ours(), entry()) is None  # type: ignore[arg-type]
    assert len(chain.asked) == 1
