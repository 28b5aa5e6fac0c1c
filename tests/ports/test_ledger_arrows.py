"""Arrows that go down together: all or none of them, with an answer or without, on either engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ports.ledgers import ME, intended, logged, subject
from x402.lifecycle import Entry, Event, Party, UnlawfulEvent, begin
from x402.ports import Answer, Arrow, Instead, NoRoom, Room
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Delivered, Refused, Served, Settled, Settling, State

SHOP = Party.GATEWAY
ANSWER = Answer(200, (("x", "y"),), b"body")


def claim(name: str, payer: str = "0xpayer") -> Entry:
    return begin(SHOP, replace(subject(name), payer=payer), Claimed())


async def test_arrows_are_followed_together_and_each_is_told(ledger_url: str) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        entry, won = await ledger.begin(claim("upfront"), arrows=[(Event.SUBMIT, Settling())])
        assert (won, entry.state, entry.created_at, entry.updated_at) == (True, State.SETTLING, 7, 7)
        assert await ledger.find(SHOP, "upfront") == entry
        older, won = await ledger.begin(claim("upfront"), arrows=[(Event.SUBMIT, Settling())])
        assert (older, won) == (entry, False)
        commits = ledger.commits
        settled: list[Arrow] = [(Event.SETTLE, Settled("0xtx", 5)), (Event.DELIVER, Delivered("0xtx"))]
        entry = await ledger.follow(SHOP, "upfront", settled, answer=ANSWER)
        assert ledger.commits == commits + 1
        assert await ledger.find(SHOP, "upfront") == entry
        assert (entry.stage, await ledger.answer("upfront")) == (Delivered("0xtx"), ANSWER)
        assert [event for event, _ in await logged(ledger)] == ["begin", "submit", "settle", "deliver"]


async def test_none_is_followed_when_one_of_them_is_unlawful(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("pay"))
        with pytest.raises(UnlawfulEvent):
            await ledger.follow(SHOP, "pay", [(Event.SERVE, Served()), (Event.DELIVER, Delivered("0x"))], answer=ANSWER)
        with pytest.raises(UnlawfulEvent):
            await ledger.begin(claim("never"), arrows=[(Event.DELIVER, Delivered("0xtx"))])
        with pytest.raises(KeyError):
            await ledger.follow(SHOP, "stranger", [(Event.SUBMIT, Settling())], answer=ANSWER)
        entry = await ledger.find(SHOP, "pay")
        assert entry is not None
        assert entry.state is State.CLAIMED
        assert [await ledger.answer(name) for name in ("pay", "stranger")] == [None, None]
        assert await ledger.find(SHOP, "never") is None
        assert await logged(ledger) == [("begin", "pay")]


async def test_an_answer_is_forgotten_with_the_arrow_that_ends_its_use(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name in ("pay", "other"):
            await ledger.begin(claim(name))
            await ledger.follow(SHOP, name, [(Event.SERVE, Served()), (Event.SUBMIT, Settling())], answer=ANSWER)
        settled: list[Arrow] = [(Event.SETTLE, Settled("0xtx")), (Event.DELIVER, Delivered("0xtx"))]
        await ledger.follow(SHOP, "pay", settled, forget_answer=True)
        assert [await ledger.answer(name) for name in ("pay", "other")] == [None, ANSWER]


@pytest.mark.parametrize(("transaction", "known"), [("0xtx", "failed"), ("", "clean")])
async def test_A16_who_failed_lately_has_no_room(ledger_url: str, transaction: str, known: str) -> None:
    """A failure at the gateway, or one of a facilitator's that cost a transaction; whoever else failed."""
    now = 10
    async with SqlLedger(ledger_url, clock=lambda: now) as ledger:
        room = Room(payer=10**9, failures_since=10)
        await ledger.begin(intended("theirs"))
        await ledger.advance(
            ME, "theirs", Event.REFUSE, Refused('"transaction":""}', ',"transaction":""}', transaction)
        )
        if known == "failed":
            with pytest.raises(NoRoom, match="failures"):
                await ledger.begin(claim("mine"), room=room)
            assert await ledger.find(SHOP, "mine") is None
        else:
            assert (await ledger.begin(claim("mine"), room=room))[1]
            await ledger.follow(SHOP, "mine", [(Event.SUBMIT, Settling()), (Event.REFUSE, Refused("a", "b"))])
            with pytest.raises(NoRoom, match="failures"):
                await ledger.begin(claim("again"), room=room)
        assert (await ledger.begin(claim("another's", "0xother"), room=room))[1]
        assert (await ledger.begin(claim("later"), room=replace(room, failures_since=11)))[1]


@pytest.mark.parametrize("scope", ["payer", "total", "failures"])
async def test_A08_without_room_the_other_is_begun_in_the_same_transaction(ledger_url: str, scope: str) -> None:
    """Only where it was told for what there is no room, and whatever is open: the control has none for it."""
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        await ledger.begin(claim("failed"), arrows=[(Event.SUBMIT, Settling()), (Event.REFUSE, Refused("a", "b"))])
        await ledger.begin(claim("open"))
        room = {"payer": Room(payer=1500), "total": Room(total=1500), "failures": Room(failures_since=7)}[scope]
        entry = claim("next")
        other = replace(entry, subject=replace(entry.subject, record={"flow": "upfront"}))
        for told in ({"payer", "total", "failures"} - {scope}, set()):
            with pytest.raises(NoRoom, match=scope):
                await ledger.begin(entry, room=room, instead=Instead(frozenset(told), other))
        assert await ledger.find(SHOP, "next") is None
        commits = ledger.commits
        instead = Instead(frozenset([scope]), other, [(Event.SUBMIT, Settling())])
        begun, won = await ledger.begin(entry, lease_seconds=30, room=room, instead=instead)
        assert (won, begun.state, begun.subject, ledger.commits) == (True, State.SETTLING, other.subject, commits + 1)
        assert await ledger.find(SHOP, "next") == begun
        assert (await ledger.begin(entry, room=room, instead=instead)) == (begun, False)
        # It counts like any other, and where there is room nothing else is begun.
        with pytest.raises(NoRoom, match="2000 units are open"):
            await ledger.begin(claim("last"), room=Room(total=2999))
        begun, _ = await ledger.begin(claim("last"), room=Room(total=3000), instead=instead)
        assert begun.state is State.CLAIMED
