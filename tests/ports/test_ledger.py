"""The durable memory: one winner, one law, one disk. Faults A04, A06, A07, D01, D02, E10."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from tests.ports.ledgers import ME, NETWORK, child, intended, logged, subject
from x402.lifecycle import Entry, Event, Party, UnlawfulEvent, begin
from x402.ports import Answer
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_text import stage_of
from x402.ports.schema import events, payments
from x402.stages import (
    Claimed,
    Delivered,
    Final,
    Lost,
    Owed,
    Refunded,
    Refunding,
    Refused,
    Released,
    Restored,
    Reversed,
    Served,
    Settled,
    Settling,
    Stage,
    State,
)


async def test_what_was_written_is_read_back(ledger_url: str) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        huge = intended(amount=2**256 - 1)
        entry, won = await ledger.begin(huge)
        assert won
        assert entry == replace(huge, created_at=7, updated_at=7) == await ledger.find(ME, "pay")
        assert await ledger.find(Party.GATEWAY, "pay") is None
        assert await ledger.find(ME, "other") is None
        settled = await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx", 12))
        assert settled.stage == Settled("0xtx", 12)
        assert settled == await ledger.find(ME, "pay")
        assert await ledger.totals(ME, State.SETTLED) == {(NETWORK, "0xasset"): 2**256 - 1}
        assert await ledger.totals(ME, State.INTENDED) == {}


async def test_each_party_has_its_own_memory(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        assert (await ledger.begin(intended()))[1]
        assert (await ledger.begin(begin(Party.GATEWAY, subject(), Claimed())))[1]
        await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))
        gateway = await ledger.find(Party.GATEWAY, "pay")
        assert gateway is not None
        assert gateway.state is State.CLAIMED


async def test_unresolved_are_the_open_ones_oldest_first(ledger_url: str) -> None:
    ticks = iter(range(1000))
    async with SqlLedger(ledger_url, clock=lambda: next(ticks)) as ledger:
        for name in ("c", "a", "b"):
            await ledger.begin(intended(name))
        await ledger.advance(ME, "a", Event.REFUSE, Refused("why", "words", "0xtx"))
        assert [entry.subject.pay_id for entry in await ledger.unresolved(ME)] == ["c", "b"]
        assert await ledger.unresolved(Party.GATEWAY) == []


async def test_answers_are_kept_and_replaced(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        assert await ledger.answer("pay") is None
        first = Answer(200, (("content-type", "text/event-stream"), ("x", "y")), b"\x00data", complete=False)
        await ledger.keep_answer("pay", first)
        assert await ledger.answer("pay") == first
        await ledger.keep_answer("pay", replace(first, complete=True))
        assert await ledger.answer("pay") == replace(first, complete=True)


async def test_only_answers_of_payments_that_ended_are_forgotten(ledger_url: str) -> None:
    now = 10
    served = ((Event.SERVE, Served()), (Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx")))
    owed = (*served, (Event.FAIL, Owed("0xtx", "why")))
    refunding = (*owed, (Event.REFUND, Refunding("0xtx", "header", "back")))
    walks: dict[str, tuple[tuple[Event, Stage], ...]] = {f"open{steps}": served[:steps] for steps in range(4)}
    undone = (*served, (Event.REORGANISE, Reversed("0xtx")))
    restored = (*undone, (Event.FINALISE, Restored("0xtx")))
    walks |= {"owed": owed, "refunding": refunding, "undone": undone, "restored": restored}
    ended: dict[str, tuple[tuple[Event, Stage], ...]] = {
        "delivered": (*owed, (Event.DELIVER, Delivered("0xtx"))),
        "released": ((Event.RELEASE, Released("why")),),
        "refused": (*served[:2], (Event.REFUSE, Refused("a", "b"))),
        "refunded": (*refunding, (Event.SETTLE, Refunded("0xtx", "0xback"))),
        "lost": (*owed, (Event.DELIVER, Delivered("0xtx")), (Event.REORGANISE, Lost("0xtx"))),
        "final": (*restored, (Event.DELIVER, Final("0xtx"))),
    }
    async with SqlLedger(ledger_url, clock=lambda: now) as ledger:
        for name, walk in (walks | ended).items():
            await ledger.begin(begin(Party.GATEWAY, subject(name), Claimed()))
            await ledger.keep_answer(name, Answer(200, (), b"body"))
            for event, stage in walk:
                await ledger.advance(Party.GATEWAY, name, event, stage)
        await ledger.keep_answer("stranger", Answer(200, (), b"body"))
        assert await ledger.forget_answers(9) == 0
        assert await ledger.answer("delivered") is not None
        assert await ledger.forget_answers(10) == len(ended)
        for name in ended:
            assert await ledger.answer(name) is None, name
        for name in (*walks, "stranger"):
            assert await ledger.answer(name) is not None, name
        assert await ledger.forget_answers(10) == 0
        entry = await ledger.find(Party.GATEWAY, "delivered")
        assert entry is not None
        assert entry.state is State.DELIVERED


# One winner.


async def test_A07_two_hundred_at_once_have_one_winner(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        results = await asyncio.gather(*(ledger.begin(intended(nonce=number)) for number in range(200)))
        assert [won for _, won in results].count(True) == 1
        assert len({entry.stage for entry, _ in results}) == 1
        assert len(await logged(ledger)) == 1


RACER = """
import asyncio, sys
from tests.ports.ledgers import intended, nonce_of
from x402.ports.ledger import SqlLedger

async def run(url):
    async with SqlLedger(url) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        results = await asyncio.gather(*(ledger.begin(intended(f"pay{n}")) for n in range(50)))
        nonces = await asyncio.gather(*(nonce_of(ledger, f"{sys.argv[2]}-{n}") for n in range(50)))
        print([n for n, (_, won) in enumerate(results) if won], "/", nonces, flush=True)

asyncio.run(run(sys.argv[1]))
"""


def test_A04_processes_on_one_ledger_have_one_winner_each(ledger_url: str) -> None:
    racers = [child(RACER, ledger_url, str(number)) for number in range(3)]
    wins: list[int] = []
    nonces: list[int] = []
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=60)
        mine, theirs = out.split("/")
        wins += json.loads(mine)
        nonces += json.loads(theirs)
        assert racer.returncode == 0
    assert sorted(wins) == list(range(50))
    assert sorted(nonces) == list(range(150))


# One law.


async def test_the_law_holds_in_the_transaction(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        with pytest.raises(KeyError):
            await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))
        await ledger.begin(intended())
        for event, stage in ((Event.DELIVER, Delivered("0xtx")), (Event.SETTLE, Refused("a", "b"))):
            with pytest.raises(UnlawfulEvent):
                await ledger.advance(ME, "pay", event, stage)
        verdicts = await asyncio.gather(
            ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx")),
            ledger.advance(ME, "pay", Event.REFUSE, Refused("a", "b")),
            ledger.advance(ME, "pay", Event.SETTLE, Settled("0xother")),
            return_exceptions=True,
        )
        assert [type(verdict) for verdict in verdicts] == [Entry, UnlawfulEvent, UnlawfulEvent]
        entry = await ledger.find(ME, "pay")
        assert entry is not None
        assert entry.stage == Settled("0xtx")
        assert [event for event, _ in await logged(ledger)] == ["begin", "settle"]


async def test_a_law_breaker_does_not_spoil_its_neighbours(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(intended("a"))
        results = await asyncio.gather(
            ledger.begin(intended("b")),
            ledger.advance(ME, "a", Event.DELIVER, Delivered("0xtx")),
            ledger.advance(ME, "missing", Event.SETTLE, Settled("0xtx")),
            ledger.begin(intended("c")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [tuple, UnlawfulEvent, KeyError, tuple]
        assert len(await ledger.unresolved(ME)) == 3


async def test_events_rebuild_the_state(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(intended("a"))
        await ledger.begin(intended("b"))
        await ledger.begin(begin(Party.GATEWAY, subject("a"), Claimed()))
        await ledger.advance(ME, "a", Event.SETTLE, Settled("0xtx", 4))
        await ledger.advance(Party.GATEWAY, "a", Event.SUBMIT, Settling())
        told = select(events.c.party, events.c.pay_id, events.c.after, events.c.stage).order_by(events.c.seq)
        kept = select(payments.c.party, payments.c.pay_id, payments.c.state, payments.c.stage)
        rebuilt = {
            (party, pay_id): (after, stage_of(stage))
            for party, pay_id, after, stage in await ledger._do(lambda connection: connection.execute(told).all())
        }
        rows = await ledger._do(lambda connection: connection.execute(kept).all())
    assert rebuilt == {(party, pay_id): (state, stage) for party, pay_id, state, stage in rows}
    assert len(rows) == 3
