"""Jobs that share a transaction share its looks and its writes, and each has the outcome that it would have alone: on
both databases, the first of which has no trips to save. Faults A06, A08, E02."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, String, cast, func, insert, literal, select, text, update

from tests.ports.ledgers import count_statements, logged, subject
from tests.postgres import Postgres
from x402.errors import UnavailableError
from x402.lifecycle import Entry, Event, Party, UnlawfulEvent, begin
from x402.ports import Answer, Arrow, NoRoom, Room, kept_answers, ledger_rows
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.ports.schema import payments, unsettled
from x402.ports.unsettled import EVERYBODY, UNSETTLED
from x402.stages import Claimed, Delivered, Refused, Served, Settled, Settling, State

SHOP = Party.GATEWAY
SUMS = select(unsettled)
OTHERS: dict[str, str | int] = {
    **dict.fromkeys(("state", "network", "asset", "payer", "payee", "fingerprint", "record"), "x"),
    **{"stage": "x" * 600, "amount": "1", "expires_at": 1, "created_at": 1, "updated_at": 1},
}
"""What else a row needs, about as long as it is."""
SERVED: list[Arrow] = [(Event.SERVE, Served())]
SETTLED: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))]
ANSWER = Answer(200, (("x", "y"),), b"\x00body\xff")


def claim(name: str, amount: int = 10, payer: str = "0xpayer") -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer), Claimed())


class Pause:
    """A piece of work that lasts until its gate is open."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def hold(self, _: Connection) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        self.gate.wait(10)


async def together(ledger: SqlLedger, *jobs: Awaitable[Any]) -> list[Any]:
    """What each of them comes to when all of them go into one transaction."""
    pause = Pause()
    held = asyncio.ensure_future(ledger.run(pause.hold))
    await pause.begun.wait()
    asked = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0)
    before = ledger.commits
    pause.gate.set()
    told = await asyncio.gather(*asked, return_exceptions=True)
    await held
    # Those who only ask write nothing that could be committed.
    assert ledger.commits <= before + 2, "they were not together"
    return told


async def sound(ledger: SqlLedger, place: str) -> bool:
    """Whether the rows are what their events say, and the sums what the rows say."""
    with read_ledger(place) as snapshot:
        assert not audit(snapshot.histories(), now=0).violations
    told = await ledger._do(lambda connection: connection.execute(SUMS).all())
    rows = await ledger._do(lambda connection: connection.execute(select(payments)).all())
    counted: Counter[str] = Counter()
    for row in rows:
        if row.party == SHOP and row.state in UNSETTLED:
            counted[row.payer] += int(row.amount)
            counted[EVERYBODY] += int(row.amount)
    assert {row.payer: int(row.units) for row in told} == dict(counted)
    return True


async def test_A06_each_claim_has_its_own_outcome(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("old"))
        told = await together(ledger, *(ledger.begin(claim(name)) for name in ("a", "b", "a", "old", "c")))
        assert [(entry.subject.pay_id, won) for entry, won in told] == [
            ("a", True), ("b", True), ("a", False), ("old", False), ("c", True),
        ]  # fmt: skip
        assert sorted(await logged(ledger)) == [("begin", name) for name in ("a", "b", "c", "old")]
        assert await sound(ledger, ledger_url)


async def test_A08_claims_that_come_together_share_a_payers_room(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("before"))
        room = Room(payer=40, total=70)
        mine = [ledger.begin(claim(f"mine{n}"), room=room) for n in range(5)]
        others = [ledger.begin(claim(f"other{n}", payer=f"0x{n}"), room=room) for n in range(5)]
        told = await together(ledger, *mine, *others)
        # Forty of one payer's with what was open before, and seventy of all.
        assert [isinstance(one, tuple) for one in told] == [True] * 3 + [False] * 2 + [True] * 3 + [False] * 2
        assert [one.scope for one in told if isinstance(one, NoRoom)] == ["payer", "payer", "total", "total"]
        assert await sound(ledger, ledger_url)


@pytest.mark.parametrize("since", [0, 8])
async def test_A08_what_a_neighbour_in_the_transaction_pays_is_still_counted(ledger_url: str, since: int) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        await ledger.begin(claim("paid"))
        room = Room(payer=15, since=since)
        settled, told = await together(
            ledger, ledger.follow(SHOP, "paid", SETTLED), ledger.begin(claim("next"), room=room)
        )
        assert settled.state is State.SETTLED
        # The control: a balance that was read after it has it subtracted already.
        assert isinstance(told, tuple if since == 8 else NoRoom)
        assert await sound(ledger, ledger_url)


async def test_A08_a_payer_who_failed_is_known_to_all(ledger_url: str) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        await ledger.begin(claim("failed", payer="0xbad"), arrows=SERVED)
        refused: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.REFUSE, Refused("why", "words"))]
        jobs = [
            ledger.begin(claim(f"{payer} {since}", payer=payer), room=Room(failures_since=since))
            for payer in ("0xgood", "0xbad")
            for since in (7, 8)
        ]
        await ledger.follow(SHOP, "failed", refused)
        assert [type(one) for one in await together(ledger, *jobs)] == [tuple, tuple, NoRoom, tuple]
        # Nor is it forgotten by those who claim beside the failure.
        await ledger.begin(claim("worse", payer="0xworse"), arrows=SERVED)
        _, late = await together(
            ledger,
            ledger.follow(SHOP, "worse", refused),
            ledger.begin(claim("late", payer="0xworse"), room=Room(failures_since=7)),
        )
        assert isinstance(late, NoRoom)


async def test_a_payments_whole_life_in_one_transaction(ledger_url: str) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        told = await together(
            ledger,
            ledger.find(SHOP, "pay"),
            ledger.begin(claim("pay"), lease_seconds=30),
            ledger.follow(SHOP, "pay", SERVED, answer=ANSWER),
            ledger.begin(claim("other"), arrows=SERVED),
            ledger.run(lambda connection: ledger_rows.find(connection, SHOP, "pay")),
            ledger.follow(SHOP, "pay", SETTLED),
            ledger.follow(SHOP, "pay", SERVED),
            ledger.run(lambda connection: kept_answers.read(connection, "pay")),
            ledger.follow(SHOP, "pay", [(Event.DELIVER, Delivered("0xtx"))], forget_answer=True),
            ledger.run(lambda connection: ledger_rows.find(connection, SHOP, "pay")),
            ledger.lease(SHOP, "pay", 60),
            ledger.end_lease(SHOP, "pay"),
            ledger.run(lambda connection: kept_answers.read(connection, "pay")),
        )
        assert told[0] is None
        assert [told[n][0].state for n in (1, 3)] == [State.CLAIMED, State.SERVED]
        assert [told[n].state for n in (2, 4, 5, 8)] == [State.SERVED, State.SERVED, State.SETTLED, State.DELIVERED]
        assert isinstance(told[6], UnlawfulEvent)
        assert told[7] == ANSWER
        assert told[9] == told[8] == await ledger.find(SHOP, "pay")
        assert told[10:] == [True, None, None]
        events = [event for event, name in await logged(ledger) if name == "pay"]
        assert events == ["begin", "serve", "submit", "settle", "deliver"]
        assert await sound(ledger, ledger_url)


async def test_A06_who_only_asks_is_told_what_is_durable_and_waits_for_no_commit(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("old"))
        first, second = Pause(), Pause()
        held = asyncio.ensure_future(ledger.run(first.hold))
        await first.begun.wait()
        jobs = [ledger.begin(claim("new")), ledger.run(second.hold), ledger.follow(SHOP, "old", SERVED)]
        writing = [asyncio.ensure_future(job) for job in jobs]
        asking = [asyncio.ensure_future(ledger.find(SHOP, name)) for name in ("new", "old")]
        await asyncio.sleep(0)
        first.gate.set()
        new, old = await asyncio.wait_for(asyncio.gather(*asking), 5)
        assert new is None
        assert old is not None
        assert old.state is State.CLAIMED
        assert not [job for job in writing if job.done()]
        second.gate.set()
        await asyncio.gather(held, *writing)
        new, old = [await ledger.find(SHOP, name) for name in ("new", "old")]
        assert [one.state for one in (new, old) if one] == [State.CLAIMED, State.SERVED]


async def test_what_is_written_to_one_payment_keeps_its_order(ledger_url: str) -> None:
    """A new row may be moved by a statement that moves an older one as well, and goes out first."""
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(claim("old"))
        jobs = [ledger.follow(SHOP, "old", SERVED), ledger.begin(claim("new")), ledger.follow(SHOP, "new", SERVED)]
        await together(ledger, *jobs)
        for name in ("old", "new"):
            entry = await ledger.find(SHOP, name)
            assert entry is not None
            assert entry.state is State.SERVED
        assert await sound(ledger, ledger_url)


async def test_E02_what_waits_to_be_sent_is_lost_with_its_transaction_and_done_again(postgres: Postgres) -> None:
    place, tries = postgres.database(), 0

    def given_up(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'given up' USING ERRCODE = '53200'; END $$"))

    async with SqlLedger(place) as ledger:
        told = await asyncio.gather(ledger.begin(claim("a")), ledger._do(given_up), ledger.begin(claim("b")))
        assert [told[0][1], told[2][1]] == [True, True]
        assert sorted(await logged(ledger)) == [("begin", "a"), ("begin", "b")]
        assert await sound(ledger, place)


async def test_a_row_that_cannot_be_read_is_the_loss_of_its_own_asker(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name in ("broken", "whole"):
            await ledger.begin(claim(name))
        spoiled = update(payments).where(payments.c.pay_id == "broken").values(stage="no JSON")
        await ledger._do(lambda connection: connection.execute(spoiled).rowcount)
        told = await together(ledger, *(ledger.follow(SHOP, name, SERVED) for name in ("broken", "whole")))
        assert isinstance(told[0], UnavailableError)
        assert told[0].code == "ledger_damaged"
        assert told[1].state is State.SERVED


async def test_many_claims_ask_as_often_as_a_few(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement is one that costs PostgreSQL the same trip, whoever it is for."""
    place = postgres.database()
    counted = count_statements(monkeypatch, place)
    seen = []
    async with SqlLedger(place, clock=lambda: 7) as ledger:
        room = Room(payer=10**6, total=10**6, since=0, failures_since=0)
        for many in (4, 40):
            counted.clear()
            names = [f"{many} {n}" for n in range(many)]
            await together(ledger, *(ledger.begin(claim(name, payer=name), room=room) for name in names))
            begun = dict(counted)
            counted.clear()
            await together(ledger, *(ledger.follow(SHOP, name, SERVED, answer=ANSWER) for name in names))
            seen.append((begun, dict(counted)))
    # Rows, failures, what was paid, and sums; payments, events and sums. Then rows and sums; rows, events and answers.
    assert seen == [({"ask": 4, "_send": 3}, {"ask": 2, "_send": 3})] * 2


async def test_a_look_is_by_index_however_small_the_table_was_when_it_was_first_asked(postgres: Postgres) -> None:
    rows = func.generate_series(1, 3000).table_valued("n").render_derived()
    async with SqlLedger(postgres.database()) as ledger:
        for n in range(12):
            await together(ledger, *(ledger.find(SHOP, f"{n} {one}") for one in range(30)))

        def grow(connection: Connection) -> str:
            many = select(
                literal("gateway"),
                literal("p").concat(cast(rows.c.n, String)),
                *(literal(value) for value in OTHERS.values()),
            )
            connection.execute(insert(payments).from_select(["party", "pay_id", *OTHERS], many))
            raw: Any = connection.connection.dbapi_connection
            kept = raw.execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%unnest%FROM payments%'")
            name = kept.fetchone()[0]
            plan = raw.execute(f"EXPLAIN EXECUTE {name}(ARRAY['p1', 'p2'], 'gateway', 0)").fetchall()
            return "\n".join(line for (line,) in plan)

        plan = await ledger._do(grow)
        assert "Index Scan using payments_pkey" in plan, plan
