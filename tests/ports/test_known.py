"""What a connection knows of its SQLite file without asking is true, whoever wrote between: it is asked anew after
another program's commit, after a rollback, and after whatever was written past it. Faults A04, A06, A08, A16, E10."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Executable, select, text, update

from tests.ports.ledgers import ME, count_statements, intended, subject, url
from x402.errors import UnavailableError
from x402.lifecycle import LAW, Entry, Event, Party, UnlawfulEvent, begin
from x402.ports import Answer, Arrow, NoRoom, Room, known
from x402.ports.ledger import SqlLedger
from x402.ports.schema import payments, unsettled
from x402.ports.unsettled import UNSETTLED
from x402.stages import Claimed, Delivered, Lost, Refused, Released, Served, Settled, Settling, Stage, State

SHOP = Party.GATEWAY
ANSWER = Answer(200, (("x", "y"),), b"body")
SERVED: list[Arrow] = [(Event.SERVE, Served())]
SETTLED: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))]
REFUSED: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.REFUSE, Refused("why", "words"))]
WATCHFUL = Room(payer=100, total=1000, since=7, failures_since=7)
REFUSING = "CREATE TRIGGER refusing BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END"
STAGES: dict[State, Stage] = {
    State.SERVED: Served(),
    State.SETTLING: Settling(),
    State.SETTLED: Settled("0xtx"),
    State.DELIVERED: Delivered("0xtx"),
    State.REFUSED: Refused("why", "words"),
    State.RELEASED: Released("why"),
    State.LOST: Lost("0xtx"),
}


def claim(name: str, amount: int = 10, payer: str = "0xpayer") -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer), Claimed())


def opened(path: Path) -> SqlLedger:
    return SqlLedger(url(path), clock=lambda: 7)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How many questions and kinds of writes went to the databases of this test."""
    return count_statements(monkeypatch, url(tmp_path))


async def test_a_sale_asks_once_for_what_nobody_here_wrote(tmp_path: Path, statements: Counter[str]) -> None:
    async with opened(tmp_path) as ledger:
        for name in ("first", "second", "third"):
            statements.clear()
            assert await ledger.find(SHOP, name) is None
            await ledger.begin(claim(name), lease_seconds=30, room=WATCHFUL)
            await ledger.follow(SHOP, name, [*SERVED, SETTLED[0]], answer=ANSWER)
            await ledger.follow(SHOP, name, [SETTLED[1], (Event.DELIVER, Delivered("0xtx"))])
            # The payment, and at first its payer's conduct and sums; then three times rows, their events, and sums or
            # the answer.
            assert statements == {"ask": 4 if name == "first" else 1, "_send": 9}


async def test_A04_A08_what_another_program_wrote_is_seen(tmp_path: Path) -> None:
    async with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        await mine.begin(claim("pay", 60), room=WATCHFUL)
        with pytest.raises(NoRoom, match="60 units are open"):
            await theirs.begin(claim("other", 60), room=WATCHFUL)
        assert (await theirs.begin(claim("pay", 60), room=WATCHFUL))[1] is False
        await theirs.begin(claim("beside", 30), room=WATCHFUL)
        with pytest.raises(NoRoom, match="90 units are open"):
            await mine.begin(claim("more", 20), room=WATCHFUL)
        assert (await mine.begin(claim("beside", 30)))[1] is False
        await theirs.follow(SHOP, "pay", SERVED)
        with pytest.raises(UnlawfulEvent, match="served"):
            await mine.follow(SHOP, "pay", SERVED)
        found = await mine.find(SHOP, "pay")
        assert found == await theirs.find(SHOP, "pay")
        assert found is not None
        assert found.state is State.SERVED


@pytest.mark.parametrize("who", ["mine", "theirs"])
async def test_A08_A16_what_a_payer_did_since_is_seen(tmp_path: Path, who: str) -> None:
    """He pays, or fails at the gateway or at a facilitator with the same ledger, after it was known that he had not."""
    async with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        ledger = mine if who == "mine" else theirs
        payers = ("0xpaid", "0xfailed", "0xpayer", "0xlost", "0xcontrol")
        for payer in payers:
            await mine.begin(claim(f"first {payer}", 60, payer), room=WATCHFUL)
        await ledger.follow(SHOP, "first 0xlost", [*SETTLED, (Event.DELIVER, Delivered("0xtx"))])
        await mine.begin(claim("between", 30, "0xlost"), room=WATCHFUL)
        await ledger.follow(SHOP, "first 0xpaid", SETTLED)
        await ledger.follow(SHOP, "first 0xfailed", REFUSED)
        await ledger.begin(intended("theirs"))
        await ledger.advance(ME, "theirs", Event.REFUSE, Refused("why", "words", "0xtx"))
        await ledger.advance(SHOP, "first 0xlost", Event.REORGANISE, Lost("0xtx"))
        scopes = []
        for payer in payers:
            with pytest.raises(NoRoom) as refused:
                await mine.begin(claim(f"next {payer}", 60, payer), room=WATCHFUL)
            scopes.append(refused.value.scope)
        assert scopes == ["payer", "failures", "failures", "failures", "payer"]
        # Who is released owes and paid nothing.
        await ledger.follow(SHOP, "first 0xcontrol", [(Event.RELEASE, Released("why"))])
        assert (await mine.begin(claim("next 0xcontrol", 60, "0xcontrol"), room=WATCHFUL))[1]


async def test_E10_what_was_rolled_back_was_never_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.begin(claim("before", 40), room=WATCHFUL)
        for statement, fails in ((REFUSING, True), ("DROP TRIGGER refusing", False)):
            await ledger.run(partial(_execute, statement=text(statement)))
            jobs: list[Awaitable[Any]] = [
                ledger.begin(claim("pay", 60), room=WATCHFUL),
                ledger.follow(SHOP, "before", SERVED),
                ledger.find(SHOP, "pay"),
            ]
            told: list[Any] = await asyncio.gather(*jobs, return_exceptions=True)
            assert [isinstance(one, UnavailableError) for one in told] == [fails, fails, False]
            assert told[2] is None
        assert told[0][1]
        assert await ledger.find(SHOP, "pay") == told[0][0]


async def test_A06_a_transaction_that_fails_is_done_again_without_what_it_knew(tmp_path: Path) -> None:
    """Its neighbour breaks the transaction after the claim was noted, so the claim is made a second time, alone."""

    def broken(connection: Connection) -> None:
        connection.execute(text("SELECT * FROM nothing"))

    async with opened(tmp_path) as ledger:
        await ledger.begin(claim("before", 40), room=WATCHFUL)
        jobs: list[Awaitable[Any]] = [
            ledger.begin(claim("a", 30), room=WATCHFUL),
            ledger.begin(claim("b", 30), room=WATCHFUL),
            ledger.run(broken),
        ]
        told: list[Any] = await asyncio.gather(*jobs, return_exceptions=True)
        assert [won for _, won in told[:2]] == [True, True]
        assert isinstance(told[2], UnavailableError)
        with pytest.raises(NoRoom, match="100 units"):
            await ledger.begin(claim("c"), room=WATCHFUL)


async def test_a_defect_in_the_middle_of_a_job_makes_it_all_be_asked_anew(tmp_path: Path) -> None:
    def defect(connection: Connection) -> None:
        here = known.known(connection)
        assert here is not None
        here.entries[str(SHOP), "pay"] = None
        raise ZeroDivisionError

    async with opened(tmp_path) as ledger:
        entry, _ = await ledger.begin(claim("pay"))
        with pytest.raises(ZeroDivisionError):
            await ledger.run(defect)
        assert await ledger.find(SHOP, "pay") == entry


async def test_what_is_written_past_it_is_seen(tmp_path: Path) -> None:
    renamed = update(payments).where(payments.c.pay_id == "pay").values(fingerprint="other")
    async with opened(tmp_path) as ledger:
        statement: Executable
        for statement in (renamed, text("UPDATE payments SET fingerprint = 'third'")):
            before, _ = await ledger.begin(claim("pay"))
            await ledger.run(partial(_execute, statement=statement))
            after = await ledger.find(SHOP, "pay")
            assert after is not None
            assert after.subject.fingerprint != before.subject.fingerprint


async def test_it_is_bounded_and_true_when_it_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_ENTRIES", 3)
    monkeypatch.setattr(known, "_TIMES", 2)

    def size(connection: Connection) -> int:
        here = known.known(connection)
        return len(here.entries) if here is not None else 0

    async with opened(tmp_path) as ledger:
        for number in range(9):
            await ledger.begin(claim(f"{number}"), room=WATCHFUL)
            await ledger.follow(SHOP, f"{number}", SETTLED)
            assert await ledger.run(size) <= 4
        with pytest.raises(NoRoom, match="90 units"):
            await ledger.begin(claim("last", 11), room=WATCHFUL)


async def test_A08_two_programs_on_one_file_agree_after_any_walk(tmp_path: Path) -> None:
    chance = random.Random(402)
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        for _ in range(25):
            jobs: list[Awaitable[Any]] = []
            for _ in range(4):
                ledger, name = chance.choice([one, two]), f"pay{chance.randrange(12)}"
                entry = await ledger.find(SHOP, name)
                if entry is None:
                    room = replace(WATCHFUL, payer=chance.choice([20, 60]), total=None)
                    jobs.append(ledger.begin(claim(name, 10, f"0x{chance.randrange(3)}"), room=room))
                    continue
                arrows = [(event, STAGES[after]) for event, after in LAW[SHOP][entry.state].items() if after in STAGES]
                arrows = [arrow for arrow in arrows if arrow[0] is not Event.METER]
                if arrows:
                    jobs.append(ledger.follow(SHOP, name, [chance.choice(arrows)]))
            await asyncio.gather(*jobs, return_exceptions=True)
            async with opened(tmp_path) as fresh:
                kept, rows = await fresh.run(_sums)
                assert kept == rows
                for number in range(12):
                    told = [await ledger.find(SHOP, f"pay{number}") for ledger in (one, two, fresh)]
                    assert told[0] == told[1] == told[2]
                room = Room(payer=20, since=7, failures_since=7)
                for payer in ("0x0", "0x1", "0x2"):
                    asked = [ledger.begin(claim("never", 21, payer), room=room) for ledger in (one, two, fresh)]
                    words = [str(told) for told in await asyncio.gather(*asked, return_exceptions=True)]
                    assert words[0] == words[1] == words[2]


def _execute(connection: Connection, statement: Executable) -> None:
    connection.execute(statement)


def _sums(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
    kept = {row.payer: int(row.units) for row in connection.execute(select(unsettled))}
    told: Counter[str] = Counter()
    for row in connection.execute(select(payments).where(payments.c.state.in_([str(state) for state in UNSETTLED]))):
        told[row.payer] += int(row.amount)
        told[""] += int(row.amount)
    return kept, dict(told)
