"""Each look at what was settled, one answer of the chain at a time (faults A16, E01)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.facilitator.world import Meddled
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.gateway import watch as watching
from x402.gateway.watch import Watch
from x402.lifecycle import Entry, Event, Party, Subject, begin
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Delivered, Final, Lost, Owed, Refunding, Refused, Reversed, Settled, Settling
from x402.telemetry import Telemetry

NETWORK = "eip155:84532"
PAID = Settled("0xpaid", 7)
GONE, SHALLOW, FINAL = Standing(0), Standing(1), Standing(9, final=True)


class Chain:
    """Implements `Witness` by heart: what is said of each payment, an exception for a node that is away."""

    network = NETWORK

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.standings: dict[str, Standing | Exception | None] = {}
        self.blocks: list[int] = []

    async def judge(self, subject: Subject, transactions: Sequence[str] = (), **_: Any) -> Verdict:
        return self.verdicts.get(subject.pay_id)

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        return self.verdicts.get(subject.pay_id)

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        self.blocks.append(settled.block)
        said = self.standings.get(subject.pay_id)
        if isinstance(said, Exception):
            raise said
        return said

    async def balance(self, owner: str, asset: str) -> int:
        return 0


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def watch(ledger: SqlLedger, chain: Chain) -> Watch:
    return Watch(ledger, {NETWORK: chain}, Telemetry())


@pytest.fixture
def settle(ledger: SqlLedger, watch: Watch) -> Callable[..., Any]:
    """Writes down a payment that was settled, and what followed; watched from then on."""

    async def settle(name: str, *arrows: tuple[Event, Any], settled: Settled = PAID) -> Subject:
        subject = Subject(name, NETWORK, "0xasset", "0xpayer", "0xpayee", 1000, 99, "print", {})
        await ledger.begin(begin(Party.GATEWAY, subject, Claimed()))
        path = [(Event.SUBMIT, Settling()), (Event.SETTLE, settled), *arrows]
        await ledger.follow(Party.GATEWAY, name, path)
        watch.add(subject, settled)
        return subject

    return settle


DELIVERED = (Event.DELIVER, Delivered("0xpaid"))


async def stage(ledger: SqlLedger, name: str) -> Any:
    entry = await ledger.find(Party.GATEWAY, name)
    assert entry is not None
    return entry.stage


async def test_A16_the_oldest_is_let_go_for_the_newest(
    watch: Watch, chain: Chain, settle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCHED_MAX", 2)
    for name in ("one", "two", "three"):
        await settle(name)
    assert await watch.look() == 2
    chain.standings = {"two": FINAL, "three": FINAL}
    assert await watch.look() == 0


async def test_E01_a_node_that_is_away_for_one_payment_is_asked_about_the_others(
    watch: Watch, chain: Chain, settle: Any, ledger: SqlLedger
) -> None:
    away = UnavailableError("rpc_unavailable", "the node did not answer")
    for name in ("one", "two"):
        await settle(name, DELIVERED)
    chain.standings = {"one": away, "two": FINAL}
    assert await watch.look() == 1
    await settle("three", DELIVERED)
    chain.standings = {"one": GONE, "three": GONE}
    assert await watch.look() == 2
    # Both are lost, and looked at as such; the one whose node is away stays that, and the other comes back.
    chain.verdicts = {"one": PAID, "three": PAID}
    chain.standings = {"one": away, "three": FINAL}
    assert await watch.look() == 1
    assert (await stage(ledger, "one"), await stage(ledger, "three")) == (Lost("0xpaid"), Final("0xpaid", 7))


async def test_A16_what_is_watched_and_what_is_lost_are_both_counted(watch: Watch, chain: Chain, settle: Any) -> None:
    await settle("stands", DELIVERED)
    await settle("gone", DELIVERED)
    chain.standings = {"stands": SHALLOW, "gone": GONE}
    assert await watch.look() == 2
    chain.verdicts, chain.standings = {"gone": PAID}, {"stands": FINAL, "gone": FINAL}
    assert await watch.look() == 0


async def test_A16_what_never_lands_again_is_looked_at_no_more(
    watch: Watch, chain: Chain, settle: Any, ledger: SqlLedger
) -> None:
    await settle("gone", DELIVERED)
    chain.standings, chain.verdicts = {"gone": GONE}, {"gone": None}
    assert await watch.look() == 1
    chain.verdicts = {"gone": Refused("expired", "it never lands")}
    assert await watch.look() == 0
    # What was served for it stays a loss: nothing was moved on by that.
    assert await stage(ledger, "gone") == Lost("0xpaid")


@pytest.mark.parametrize("silent", [None, Refused("expired", "so it seems"), Settled("0xpaid")])
async def test_E01_without_its_block_no_silence_undoes_a_transfer(
    watch: Watch, chain: Chain, settle: Any, silent: Verdict, ledger: SqlLedger
) -> None:
    await settle("paid", DELIVERED, settled=Settled("0xpaid"))
    chain.verdicts, chain.standings = {"paid": silent}, {"paid": GONE}
    assert await watch.look() == 1
    assert (chain.blocks, await stage(ledger, "paid")) == ([], Delivered("0xpaid"))
    # Control: as soon as its block is known, it is asked about with it.
    chain.verdicts, chain.standings = {"paid": PAID}, {"paid": FINAL}
    assert [await watch.look(), await watch.look()] == [1, 0]
    assert chain.blocks == [7]


async def test_A16_what_went_back_to_its_payer_meanwhile_is_no_loss(
    watch: Watch, chain: Chain, settle: Any, ledger: SqlLedger
) -> None:
    back = Refunding("0xpaid", "0xpurse", "header")
    await settle("owed", (Event.FAIL, Owed("0xpaid", "no answer")), (Event.REFUND, back))
    chain.standings = {"owed": GONE}
    assert await watch.look() == 0
    assert await stage(ledger, "owed") == back


async def test_A16_what_another_replica_moved_on_meanwhile_is_looked_at_again(
    ledger: SqlLedger, chain: Chain, settle: Any, watch: Watch
) -> None:
    """It was SETTLED when we looked, and DELIVERED when we wrote: a loss of another kind."""
    subject = await settle("paid")
    before = await ledger.find(Party.GATEWAY, "paid")
    await ledger.follow(Party.GATEWAY, "paid", [DELIVERED])
    chain.standings = {"paid": GONE}

    async def late(*_: Any) -> Entry | None:
        return before

    slow = Watch(Meddled(ledger, find=late), {NETWORK: chain}, Telemetry())
    slow.add(subject, PAID)
    assert await slow.look() == 1
    assert await stage(ledger, "paid") == Delivered("0xpaid")
    # Control: whoever sees it as it is writes the loss down.
    assert await watch.look() == 1
    assert await stage(ledger, "paid") == Lost("0xpaid")


async def test_A16_a_payment_that_was_never_answered_is_reversed_and_left_to_who_asks(
    watch: Watch, chain: Chain, settle: Any, ledger: SqlLedger
) -> None:
    await settle("paid")
    chain.standings = {"paid": GONE}
    assert await watch.look() == 0
    assert await stage(ledger, "paid") == Reversed("0xpaid")


async def test_A16_what_another_replica_has_regained_is_told_as_it_is(
    watch: Watch, settle: Any, ledger: SqlLedger
) -> None:
    await settle("paid", DELIVERED, (Event.REORGANISE, Lost("0xpaid")), (Event.FINALISE, Final("0xpaid", 8)))
    again = await watch.regained("paid", PAID)
    assert again is not None
    assert again.stage == Final("0xpaid", 8)


async def test_a_payment_that_the_ledger_does_not_know_is_watched_no_more(watch: Watch, chain: Chain) -> None:
    unknown = Subject("unknown", NETWORK, "0xasset", "0xpayer", "0xpayee", 1000, 99, "print", {})
    watch.add(unknown, PAID)
    chain.standings = {"unknown": GONE}
    assert await watch.look() == 0


async def test_A16_what_was_made_of_a_transfer_is_looked_after_by_who_reads_transfers(
    watch: Watch, chain: Chain, settle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers: Any = Chain()
    monkeypatch.setattr(watching, "is_of_hash_proof", lambda subject: subject.pay_id == "transfer")
    for name in ("transfer", "payment"):
        await settle(name, DELIVERED)
    chain.standings = transfers.standings = {"transfer": SHALLOW, "payment": SHALLOW}
    assert [await watch.look(), len(chain.blocks)] == [2, 2]
    watch.proofs = transfers
    assert [await watch.look(), len(chain.blocks), len(transfers.blocks)] == [2, 3, 1]
