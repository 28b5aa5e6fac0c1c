"""Who works on a row: one at a time, in turn, and nobody for ever. Faults A08, E11."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from sqlalchemy import Connection, text

from tests.ports.ledgers import ME, intended, nonce_of, signing, subject
from tests.postgres import Postgres
from x402.lifecycle import Entry, Event, Party, begin
from x402.ports import NoRoom, Room
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Delivered, Final, Refused, Released, Served, Settled, Settling, Stage, State

SHOP = Party.GATEWAY


async def test_E11_a_row_has_one_worker_until_the_lease_ends(ledger_url: str) -> None:
    now = 100
    async with SqlLedger(ledger_url, clock=lambda: now) as mine, SqlLedger(ledger_url, clock=lambda: now) as theirs:
        assert not await mine.lease(ME, "pay", 10)
        assert (await mine.begin(intended(), lease_seconds=10))[1]
        assert not await theirs.lease(ME, "pay", 10)
        assert await theirs.take_open(ME, 10) == []
        await theirs.end_lease(ME, "pay")
        assert not await theirs.lease(ME, "pay", 10)
        now = 109
        assert await mine.lease(ME, "pay", 10)
        now = 118
        assert not await theirs.lease(ME, "pay", 10)
        now = 119
        assert await theirs.lease(ME, "pay", 10)
        assert not await mine.lease(ME, "pay", 10)
        await mine.end_lease(ME, "pay")
        assert not await mine.lease(ME, "pay", 10)
        await theirs.end_lease(ME, "pay")
        assert await mine.lease(ME, "pay", 10)


async def test_E11_the_winner_alone_holds_the_row(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as mine, SqlLedger(ledger_url) as theirs:
        assert (await mine.intend(subject(), "0xsender", 0, signing(), lease_seconds=60))[1]
        assert not (await theirs.intend(subject(), "0xsender", 0, signing(), lease_seconds=60))[1]
        assert not await theirs.lease(ME, "pay", 10)
        assert await mine.lease(ME, "pay", 10)
        await nonce_of(mine, "unleased")
        assert [one.subject.pay_id for one in await theirs.take_open(ME, 10)] == ["unleased"]


async def test_open_rows_are_taken_in_turn(ledger_url: str) -> None:
    def names(entries: object) -> list[str]:
        assert isinstance(entries, list)
        return [entry.subject.pay_id for entry in entries if isinstance(entry, Entry)]

    async with SqlLedger(ledger_url, clock=lambda: 7) as mine, SqlLedger(ledger_url, clock=lambda: 7) as theirs:
        for name in ("a", "b", "c", "d", "gone"):
            await nonce_of(mine, name)
        await mine.advance(ME, "gone", Event.REFUSE, Refused("a", "b"))
        await mine.advance(ME, "b", Event.SETTLE, Settled("0xtx"))
        assert names(await mine.take_open(ME, 10, limit=2)) == ["a", "b"]
        # What this process works on already is not given out again, nor to anybody else.
        assert names(await theirs.take_open(ME, 10, limit=1)) == ["c"]
        assert names(await mine.take_open(ME, 10)) == ["d"]
        assert names(await theirs.take_open(ME, 10)) == []
        for name in ("d", "b", "a"):
            await mine.end_lease(ME, name)
        await nonce_of(mine, "e")
        # The new one was never taken, then those that waited longest.
        assert names(await theirs.take_open(ME, 10, limit=3)) == ["e", "a", "b"]
        assert names(await theirs.take_open(SHOP, 10)) == []
        for name in ("e", "a", "b"):
            await theirs.end_lease(ME, name)
        assert names(await mine.take_open(ME, 10, limit=2)) == ["d", "a"]


async def test_E11_what_was_taken_is_free_from_the_second_on_in_which_its_lease_ends(ledger_url: str) -> None:
    now = 100
    async with SqlLedger(ledger_url, clock=lambda: now) as mine, SqlLedger(ledger_url, clock=lambda: now) as theirs:
        await nonce_of(mine, "pay")
        assert len(await mine.take_open(ME, 10)) == 1
        now = 109
        assert await theirs.take_open(ME, 10) == []
        now = 110
        assert len(await theirs.take_open(ME, 10)) == 1


async def settled(ledger: SqlLedger, party: Party, name: str) -> None:
    """A payment that is open still, in a state that gateway and facilitator both know."""
    if party is ME:
        await nonce_of(ledger, name)
    else:
        await ledger.begin(claim(name, 10))
        await ledger.advance(SHOP, name, Event.SUBMIT, Settling())
    await ledger.advance(party, name, Event.SETTLE, Settled("0xtx"))


@pytest.mark.parametrize("party", [ME, SHOP])
async def test_E11_what_others_hold_is_counted_by_party_while_it_is_open(ledger_url: str, party: Party) -> None:
    now = 100
    async with SqlLedger(ledger_url, clock=lambda: now) as mine, SqlLedger(ledger_url, clock=lambda: now) as theirs:
        for owner in (ME, SHOP):
            for name in ("a", "b", "c", "d", "over"):
                await settled(mine, owner, f"{owner} {name}")
        await theirs.lease(party, f"{party} over", 10)
        over: tuple[Event, Stage] = (
            (Event.FINALISE, Final("0xtx")) if party is ME else (Event.DELIVER, Delivered("0xtx"))
        )
        await theirs.advance(party, f"{party} over", *over)
        assert (await mine.held_elsewhere(party), await theirs.held_elsewhere(party)) == (0, 0)
        assert await mine.lease(party, f"{party} a", 10)
        for name in ("b", "c"):
            assert await theirs.lease(party, f"{party} {name}", 10)
        assert (await mine.held_elsewhere(party), await theirs.held_elsewhere(party)) == (2, 1)
        taken = await mine.take_open(party, 10)
        assert [(one.party, one.subject.pay_id) for one in taken] == [(party, f"{party} d")]
        assert (await mine.held_elsewhere(party), await theirs.held_elsewhere(party)) == (2, 2)
        now = 110
        assert (await mine.held_elsewhere(party), await theirs.held_elsewhere(party)) == (0, 0)


async def test_only_rows_in_the_states_that_are_wanted_are_taken_and_none_that_is_over(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name in ("intended", "settled", "over"):
            await nonce_of(ledger, name)
        await ledger.advance(ME, "settled", Event.SETTLE, Settled("0xtx"))
        await ledger.advance(ME, "over", Event.REFUSE, Refused("a", "b"))
        taken = await ledger.take_open(ME, 10, states={State.SETTLED, State.REFUSED})
        assert [one.subject.pay_id for one in taken] == ["settled"]


async def test_E11_a_row_that_is_being_written_to_is_passed_over(postgres: Postgres) -> None:
    place, locked, go_on = postgres.database(), threading.Event(), threading.Event()

    def write(connection: Connection) -> None:
        connection.execute(text("SELECT 1 FROM payments WHERE pay_id = 'busy' FOR UPDATE"))
        locked.set()
        go_on.wait(30)

    async with SqlLedger(place) as mine, SqlLedger(place) as theirs:
        for name in ("busy", "free"):
            await nonce_of(mine, name)
        writing = asyncio.create_task(theirs.run(write))
        await asyncio.to_thread(locked.wait, 30)
        try:
            taken = await asyncio.wait_for(mine.take_open(ME, 10), 10)
        finally:
            go_on.set()
            await writing
        assert [entry.subject.pay_id for entry in taken] == ["free"]


def claim(name: str, amount: int, payer: str = "0xpayer") -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer), Claimed())


async def test_A08_fifty_at_once_claim_no_more_than_the_room(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        told = await asyncio.gather(
            *(ledger.begin(claim(f"{n}", 10), room=Room(payer=75)) for n in range(50)), return_exceptions=True
        )
        assert sum(isinstance(one, tuple) for one in told) == 7
        refused = [one for one in told if isinstance(one, NoRoom)]
        assert len(refused) == 43
        assert {(one.scope, one.open_units, one.room) for one in refused} == {("payer", 70, 75)}
        assert len(await ledger.unresolved(SHOP)) == 7


async def test_A08_only_what_is_unsettled_takes_room(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        room = Room(payer=100, total=150)
        walks: dict[str, tuple[tuple[Event, Stage], ...]] = {
            "settling": ((Event.SERVE, Served()), (Event.SUBMIT, Settling())),
            "settled": ((Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))),
            "released": ((Event.RELEASE, Released("why")),),
        }
        for name, walk in walks.items():
            assert (await ledger.begin(claim(name, 60), room=room))[1]
            if name == "settling":
                # The same payment again is the same claim, however little room there is.
                assert not (await ledger.begin(claim(name, 60), room=room))[1]
                with pytest.raises(NoRoom, match="payer"):
                    await ledger.begin(claim("more", 41), room=room)
                assert await ledger.find(SHOP, "more") is None
            for event, stage in walk:
                await ledger.advance(SHOP, name, event, stage)
            if name == "settling":
                assert (await ledger.begin(claim("beside", 40), room=room))[1]
                await ledger.advance(SHOP, "beside", Event.RELEASE, Released("why"))
                await ledger.advance(SHOP, name, Event.SETTLE, Settled("0xtx"))
        assert (await ledger.begin(claim("theirs", 100, "0xother"), room=room))[1]
        with pytest.raises(NoRoom, match="total"):
            await ledger.begin(claim("mine", 51), room=room)
        assert (await ledger.begin(claim("mine", 50), room=room))[1]
        assert (await ledger.begin(claim("unlimited", 10**30)))[1]
