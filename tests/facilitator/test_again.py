"""Bytes that leave and leave again: when the same, when better ones, when others, when none (C16, D01, D03, D05, D11).

The chain, the check and the keys are scripted, so that each moment comes; the ledger is real.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.facilitator.script import ME, THEIRS, offer_and_payment
from tests.facilitator.test_sender import Chain, Pool, pool
from x402.chain import EvmFees
from x402.errors import RefusedError, UnavailableError
from x402.facilitator.evm_again import EvmAgain
from x402.facilitator.evm_sender import Gas
from x402.lifecycle import Entry, Event, Subject, begin
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes.subject import subject_of
from x402.stages import Intended

AWAY = UnavailableError("rpc_unavailable", "the node did not answer")
GAS = Gas(limit=10, max_fee=10**12, patience=20, attempts=3)
NOW = 1000


class Node(Chain):
    """With what it has, and what has landed."""

    def __init__(self) -> None:
        super().__init__()
        self.bid = EvmFees(100, 10)
        self.has: set[str] = set()
        self.landed: set[str] = set()
        self.go_on: asyncio.Event | None = None

    async def send(self, raw: bytes, transaction: str) -> None:
        await super().send(raw, transaction)
        if self.go_on is not None:
            await self.go_on.wait()

    async def knows(self, transaction: str) -> bool:
        return transaction in self.has

    async def receipt(self, transaction: str, *, timeout: float) -> object | None:
        assert timeout == 0
        return transaction if transaction in self.landed else None


class World:
    """What sends again, and everything around it."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.ledger = ledger
        self.node = Node()
        self.pool: Pool = pool("a", "b", gas=GAS)
        self.pool.chain, self.pool.sender._chain = self.node, self.node  # type: ignore[assignment]
        for key in self.pool.keys:
            key.mark = "+"
        self.spent: bool | None = False
        self.refusal: Exception | None = None
        self.affordable = True
        self.landed: list[str] = []
        self.asked: list[int] = []
        self.inspected: list[int] = []
        self.inspecting_takes = 0
        everything: Any = self
        self.again = EvmAgain(
            everything.node, self.pool.sender, everything, everything, everything, GAS, lambda: self.pool.now,
            everything.afford,
        )  # fmt: skip

    async def is_spent(self, _: Subject) -> bool | None:
        return self.spent

    async def inspect(self, _: Any, __: Any, gas: int) -> None:
        self.inspected.append(gas)
        self.pool.now += self.inspecting_takes
        if self.refusal is not None:
            raise self.refusal

    async def afford(self, _: Subject, fee: int) -> bool:
        self.asked.append(fee)
        return self.affordable

    async def written(self, **changed: Any) -> tuple[Entry, Intended]:
        """A payment whose bytes were signed just now with key a."""
        offer, payment = offer_and_payment()
        subject = subject_of(payment, offer)
        stage = Intended(f"0x{subject.pay_id[-6:]}", b"raw", 5000, "a", 0, signed_at=NOW, bid=(80, 8))
        entry, _ = await self.ledger.begin(begin(ME, subject, replace(stage, **changed)))
        assert isinstance(entry.stage, Intended)
        return entry, entry.stage

    async def intended(self, *, together: int = 1, key: str = "a") -> list[tuple[Entry, Intended]]:
        """The same with a nonce that the ledger has handed out, for several payments perhaps."""
        signed = [offer_and_payment() for _ in range(together)]
        subjects = [subject_of(payment, offer) for offer, payment in signed]

        def sign(nonce: int, waiting: Any) -> Any:
            one = Intended(f"{key}:{nonce}", b"raw", 5000, key, nonce, signed_at=NOW, bid=(80, 8), shares=len(waiting))
            return [one] * len(waiting)

        made = await self.ledger.intend_together(subjects, key, 0, sign)
        return [(entry, entry.stage) for entry, _ in made if isinstance(entry.stage, Intended)]

    async def stage(self, entry: Entry) -> Any:
        found = await self.ledger.find(ME, entry.subject.pay_id)
        assert found is not None
        return found.stage


@pytest.fixture
def world(ledger: SqlLedger) -> World:
    made = World(ledger)

    class Queue:
        def landed(self, transaction: str) -> None:
            made.landed.append(transaction)

    queue: Any = Queue()
    made.again.queue = queue
    return made


async def test_C16_a_send_that_nobody_answered_is_no_refusal(world: World) -> None:
    _, stage = await world.written()
    world.node.refusal = AWAY
    await world.again.submit(stage)
    assert (world.node.sent, world.landed) == ([stage.transaction], [])
    # Whoever asks is told once that no node has said that it took them.
    assert [world.again.unheard(stage), world.again.unheard(stage)] == [True, False]
    world.node.refusal = None
    await world.again.submit(stage)
    assert not world.again.unheard(stage)


@pytest.mark.parametrize(("ours", "shares", "told"), [(True, 1, True), (False, 1, False), (False, 2, True)])
async def test_D01_a_refused_send_frees_its_place_and_says_whose_fault_it_is(
    world: World, ours: bool, shares: int, told: bool
) -> None:
    """What a node has against a transaction of many is nothing that it has against one payment."""
    _, stage = await world.written(shares=shares)
    world.node.refusal = NotSent("Insufficient funds", ours=ours)
    with pytest.raises(NotSent, match="Insufficient funds") as refused:
        await world.again.submit(stage)
    assert (refused.value.ours, world.landed, world.pool.sender.able()) == (told, [stage.transaction], ["b"])


async def test_a_transaction_of_many_is_sent_once_for_all_of_them(world: World) -> None:
    _, stage = await world.written(shares=2)
    world.node.go_on = asyncio.Event()
    sends = [asyncio.create_task(world.again.submit(stage)) for _ in range(3)]
    await asyncio.sleep(0.01)
    # Who goes away takes nobody's send along.
    sends[0].cancel()
    await asyncio.gather(sends[0], return_exceptions=True)
    world.node.go_on.set()
    await asyncio.gather(*sends[1:])
    assert world.node.sent == [stage.transaction]
    await world.again.submit(stage)
    assert world.node.sent == [stage.transaction] * 2
    alone = replace(stage, shares=1)
    await asyncio.gather(world.again.submit(alone), world.again.submit(alone))
    assert len(world.node.sent) == 4


@pytest.mark.parametrize(
    ("spent", "landed", "taken"),
    [(False, (), False), (None, (), False), (True, (), True), (False, ("0xnew",), True), (False, ("0xold",), True)],
)
async def test_what_is_spent_or_in_a_block_is_not_sent_again(
    world: World, spent: bool | None, landed: tuple[str, ...], taken: bool
) -> None:
    entry, stage = await world.written(transaction="0xnew", earlier=("0xold",), attempt=2)
    world.spent, world.node.landed = spent, set(landed)
    assert await world.again.is_taken(entry.subject, stage) is taken


@pytest.mark.parametrize(
    ("attempt", "now", "tries"), [(1, 4989, True), (1, 4990, False), (2, NOW, True), (3, NOW, False)]
)
async def test_D03_there_is_a_last_attempt_and_a_last_moment(world: World, attempt: int, now: int, tries: bool) -> None:
    entry, stage = await world.written(attempt=attempt)
    world.pool.now = now
    after = await world.again.replace(entry, stage, world.ledger)
    assert (after is not None) is tries
    assert await world.again.alone(entry, stage, world.ledger) is None


async def test_D01_other_bytes_keep_a_nonce_that_is_still_theirs_and_only_with_another_bid(world: World) -> None:
    ((entry, stage),) = await world.intended()
    assert stage.nonce == 0
    after = await world.again.replace(entry, stage, world.ledger)
    assert after is not None
    assert isinstance(after.stage, Intended)
    assert (after.stage.sender, after.stage.nonce, after.stage.attempt, after.stage.bid) == ("a", 0, 2, (100, 10))
    assert after.stage.earlier == (stage.transaction,)
    # The very same bytes may be taken once their sender has gas; there is nothing else to make.
    world.pool.sender.take_turn("b")
    assert await world.again.replace(after, after.stage, world.ledger) is None


@pytest.mark.parametrize("why", ["used", "shared"])
async def test_D01_other_bytes_take_another_nonce_where_theirs_is_not_their_own(world: World, why: str) -> None:
    ((entry, stage), *_) = await world.intended(together=2 if why == "shared" else 1)
    if why == "used":
        world.node.counts = {"a": 1}
    after = await world.again.replace(entry, stage, world.ledger)
    assert after is not None
    assert isinstance(after.stage, Intended)
    assert (after.stage.sender, after.stage.nonce, after.stage.shares) == ("a", 1, 1)


@pytest.mark.parametrize(("key", "other"), [("a", "b"), ("b", "a")])
async def test_D01_another_key_takes_its_own_next_nonce_and_leaves_no_gap(world: World, key: str, other: str) -> None:
    for _ in range(3):
        ((entry, stage),) = await world.intended(key=key)
    assert stage.nonce == 2
    world.pool.sender.take_turn(key)
    after = await world.again.replace(entry, stage, world.ledger)
    assert after is not None
    assert isinstance(after.stage, Intended)
    assert (after.stage.sender, after.stage.nonce) == (other, 0)


async def test_D01_a_lower_bid_is_another_one_that_a_poor_key_may_pay(world: World) -> None:
    ((entry, stage),) = await world.intended()
    world.node.bid = EvmFees(50, 5)
    after = await world.again.replace(entry, stage, world.ledger)
    assert after is not None
    assert isinstance(after.stage, Intended)
    assert (after.stage.nonce, after.stage.bid) == (0, (50, 5))


async def test_D03_a_patient_sender_sends_the_same_and_an_impatient_one_bids_more(world: World) -> None:
    ((entry, stage),) = await world.intended()
    world.pool.now = NOW + 19
    await world.again.send(entry, stage, world.ledger)
    assert (world.node.sent, await world.stage(entry)) == (["a:0"], stage)
    world.pool.now = NOW + 20
    await world.again.send(entry, stage, world.ledger)
    better = await world.stage(entry)
    assert (better.attempt, better.nonce, better.bid, better.earlier) == (2, 0, (100, 10), ("a:0",))
    # What it may cost in all is asked with the new bid: ten gas, and the data.
    assert (world.node.sent, world.asked) == (["a:0", "a:0+"], [10 * 100 + 7])


@pytest.mark.parametrize("why", ["poor", "cap", "stranger's key", "no nonce", "last attempt", "moved on"])
async def test_D03_without_a_better_bid_the_same_bytes_leave_again(world: World, why: str) -> None:
    ((entry, stage),) = await world.intended()
    world.pool.now = NOW + 20
    world.affordable = why != "poor"
    if why == "cap":
        world.node.bid = EvmFees(10**12 + 1, 1)
    changed: dict[str, dict[str, Any]] = {
        "stranger's key": {"sender": "z"},
        "no nonce": {"nonce": None},
        "last attempt": {"attempt": 3},
    }
    if why == "moved on":
        await world.ledger.advance(ME, entry.subject.pay_id, Event.SETTLE, THEIRS)
    await world.again.send(entry, replace(stage, **changed.get(why, {})), world.ledger)
    assert world.node.sent == ["a:0"]
    assert await world.stage(entry) == (THEIRS if why == "moved on" else stage)


async def test_D03_two_that_share_a_transaction_are_outbid_together(world: World) -> None:
    (one, first), (two, _) = await world.intended(together=2)
    world.pool.now = NOW + 20
    await world.again.send(one, first, world.ledger)
    stages = [await world.stage(entry) for entry in (one, two)]
    assert [(each.attempt, each.shares, each.transaction) for each in stages] == [(2, 2, "a:0+")] * 2
    assert world.node.sent == ["a:0+"]


async def test_D03_a_shared_transaction_is_outbid_for_all_who_can_afford_it(world: World) -> None:
    (one, first), (two, _), (three, _) = await world.intended(together=3)
    world.pool.now = NOW + 20

    async def afford(subject: Subject, fee: int) -> bool:
        return subject.pay_id != three.subject.pay_id

    world.again.afford = afford
    await world.again.send(one, first, world.ledger)
    stages = [await world.stage(entry) for entry in (one, two, three)]
    assert [(each.attempt, each.shares) for each in stages] == [(2, 2), (2, 2), (1, 3)]
    # Who can't afford it alone sends the old bytes, which no pool takes any more.
    world.node.sent.clear()
    await world.again.send(three, stages[2], world.ledger)
    assert world.node.sent == ["a:0"]


@pytest.mark.parametrize(
    ("ours", "known", "replaced"), [(True, False, True), (True, True, False), (False, False, False)]
)
async def test_C16_bytes_that_are_refused_now_are_replaced_only_where_the_node_has_none(
    world: World, ours: bool, known: bool, replaced: bool
) -> None:
    ((entry, stage),) = await world.intended()
    world.node.has = {stage.transaction} if known else set()
    world.node.refusal = NotSent("nonce too low", ours=ours)
    await world.again.send(entry, stage, world.ledger)
    after = await world.stage(entry)
    assert (after.attempt == 2) is replaced
    assert len(world.node.sent) == (2 if replaced else 1)


async def test_C16_a_refusal_of_a_better_bid_proves_nothing(world: World) -> None:
    ((entry, stage),) = await world.intended()
    world.pool.now = NOW + 20
    world.node.refusal = NotSent("nonce too low", ours=True)
    await world.again.send(entry, stage, world.ledger)
    assert (await world.stage(entry)).attempt == 2
    assert len(world.node.sent) == 1


@pytest.mark.parametrize("known", [True, False])
async def test_A16_a_strangers_transfer_that_a_fork_took_back_is_signed_by_us(world: World, known: bool) -> None:
    entry, stage = await world.written(raw=b"", sender="", nonce=None)
    world.node.has = {stage.transaction} if known else set()
    await world.again.send(entry, stage, world.ledger)
    after = await world.stage(entry)
    assert (after.attempt, len(world.node.sent)) == ((1, 0) if known else (2, 1))


@pytest.mark.parametrize("why", ["", "no receipt", "spent", "unknown", "would fail", "poor", "late", "moved on"])
async def test_D05_what_failed_in_company_is_tried_once_more_alone(world: World, why: str) -> None:
    ((entry, stage), _) = await world.intended(together=2)
    world.node.landed = set() if why == "no receipt" else {stage.transaction}
    world.spent = {"spent": True, "unknown": None}.get(why, False)
    world.refusal = RefusedError("insufficient_funds", "no") if why == "would fail" else None
    world.affordable = why != "poor"
    world.inspecting_takes = 3990 if why == "late" else 0
    if why == "moved on":
        await world.ledger.advance(ME, entry.subject.pay_id, Event.SETTLE, THEIRS)
    after = await world.again.alone(entry, stage, world.ledger)
    if why:
        assert (after, world.node.sent) == (None, [])
    else:
        assert after is not None
        assert isinstance(after.stage, Intended)
        assert (after.stage.shares, after.stage.attempt, world.node.sent) == (1, 2, [after.stage.transaction])
        # Both transactions are paid for: the first one's share and this one, data included.
        assert (world.asked, world.inspected) == ([10 * (80 + 100) + 2 * 7], [10])


async def test_D05_a_node_that_refuses_it_alone_leaves_it_to_the_next_round(world: World) -> None:
    ((entry, stage), _) = await world.intended(together=2)
    world.node.landed = {stage.transaction}
    world.node.refusal = NotSent("underpriced")
    after = await world.again.alone(entry, stage, world.ledger)
    assert after is not None
    assert await world.stage(entry) == after.stage


async def test_A16_after_the_last_attempt_nothing_is_signed_in_place_of_a_strangers_transfer(world: World) -> None:
    entry, stage = await world.written(raw=b"", sender="", nonce=None, attempt=3)
    await world.again.send(entry, stage, world.ledger)
    assert (await world.stage(entry), world.node.sent) == (stage, [])
