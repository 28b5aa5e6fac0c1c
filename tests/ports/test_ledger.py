"""The durable memory: one winner, one law, one disk. Faults A04, A06, A07, D01, D02, E10."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import (
    Claimed,
    Delivered,
    Entry,
    Event,
    Intended,
    Party,
    Refused,
    Settled,
    Settling,
    State,
    Subject,
    UnlawfulEvent,
    begin,
)
from x402.ports import Answer
from x402.ports.ledger import SqlLedger

ME = Party.FACILITATOR
NETWORK = "eip155:84532"


def subject(name: str = "pay", amount: int = 1000) -> Subject:
    """A payment of that name."""
    return Subject(name, NETWORK, "0xasset", "0xpayer", "0xpayee", amount, 99, "print", {"deep": {"json": [1, None]}})


def intended(name: str = "pay", nonce: int = 5, amount: int = 1000) -> Entry:
    """The facilitator's first memory of it."""
    stage = Intended("0xtx", b"\x00raw\xff", 2**200, "0xsender", nonce)
    return begin(ME, subject(name, amount), stage)


def url(path: Path) -> str:
    """A ledger file in a test's directory."""
    return f"sqlite:///{path / 'ledger.sqlite'}"


async def test_what_was_written_is_read_back() -> None:
    async with SqlLedger("sqlite://", clock=lambda: 7) as ledger:
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


async def test_each_party_has_its_own_memory() -> None:
    async with SqlLedger() as ledger:
        assert (await ledger.begin(intended()))[1]
        assert (await ledger.begin(begin(Party.GATEWAY, subject(), Claimed())))[1]
        await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))
        gateway = await ledger.find(Party.GATEWAY, "pay")
        assert gateway is not None
        assert gateway.state is State.CLAIMED


async def test_unresolved_are_the_open_ones_oldest_first() -> None:
    ticks = iter(range(1000))
    async with SqlLedger(clock=lambda: next(ticks)) as ledger:
        for name in ("c", "a", "b"):
            await ledger.begin(intended(name))
        await ledger.advance(ME, "a", Event.REFUSE, Refused("why", "words", "0xtx"))
        assert [entry.subject.pay_id for entry in await ledger.unresolved(ME)] == ["c", "b"]
        assert await ledger.unresolved(Party.GATEWAY) == []


async def test_answers_are_kept_and_replaced() -> None:
    async with SqlLedger() as ledger:
        assert await ledger.answer("pay") is None
        first = Answer(200, (("content-type", "text/event-stream"), ("x", "y")), b"\x00data", complete=False)
        await ledger.keep_answer("pay", first)
        assert await ledger.answer("pay") == first
        await ledger.keep_answer("pay", replace(first, complete=True))
        assert await ledger.answer("pay") == replace(first, complete=True)


# One winner.


async def test_A07_two_hundred_at_once_have_one_winner() -> None:
    async with SqlLedger() as ledger:
        results = await asyncio.gather(*(ledger.begin(intended(nonce=number)) for number in range(200)))
        assert [won for _, won in results].count(True) == 1
        assert len({entry.stage for entry, _ in results}) == 1
        assert len(await _events(ledger)) == 1


RACER = """
import asyncio, sys
from tests.ports.test_ledger import intended
from x402.ports.ledger import SqlLedger

async def run(url):
    async with SqlLedger(url) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        results = await asyncio.gather(*(ledger.begin(intended(f"pay{n}")) for n in range(50)))
        nonces = await asyncio.gather(*(ledger.reserve_nonce("n", "s", 0) for _ in range(50)))
        print([n for n, (_, won) in enumerate(results) if won], "/", nonces, flush=True)

asyncio.run(run(sys.argv[1]))
"""


def _child(code: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root,
    )


def test_A04_processes_on_one_file_have_one_winner_each(tmp_path: Path) -> None:
    racers = [_child(RACER, url(tmp_path)) for _ in range(3)]
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


async def test_the_law_holds_in_the_transaction() -> None:
    async with SqlLedger() as ledger:
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
        assert [event for event, _ in await _events(ledger)] == ["begin", "settle"]


async def test_a_law_breaker_does_not_spoil_its_neighbours() -> None:
    async with SqlLedger() as ledger:
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


async def test_events_rebuild_the_state(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended("a"))
        await ledger.begin(intended("b"))
        await ledger.begin(begin(Party.GATEWAY, subject("a"), Claimed()))
        await ledger.advance(ME, "a", Event.SETTLE, Settled("0xtx", 4))
        await ledger.advance(Party.GATEWAY, "a", Event.SUBMIT, Settling())
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        rebuilt: dict[tuple[str, str], tuple[str, str]] = {}
        for party, pay_id, after, stage in raw.execute("SELECT party, pay_id, after, stage FROM events ORDER BY seq"):
            rebuilt[party, pay_id] = (after, stage)
        kept = {
            (party, pay_id): (state, stage)
            for party, pay_id, state, stage in raw.execute("SELECT party, pay_id, state, stage FROM payments")
        }
    raw.close()
    assert rebuilt == kept
    assert len(kept) == 3


async def _events(ledger: SqlLedger) -> list[tuple[str, str]]:
    from sqlalchemy import select

    from x402.ports.schema import events

    query = select(events.c.event, events.c.pay_id).order_by(events.c.seq)
    return await ledger._do(lambda connection: [(row.event, row.pay_id) for row in connection.execute(query)])


# One disk.


async def test_group_commit_shares_commits(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        before = ledger.commits
        await asyncio.gather(*(ledger.begin(intended(f"pay{number}")) for number in range(100)))
        together = ledger.commits - before
        before = ledger.commits
        for number in range(20):
            await ledger.begin(intended(f"alone{number}"))
        alone = ledger.commits - before
    assert together <= 20
    assert alone == 20


async def test_A06_the_memory_outlives_the_process(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended())
    async with SqlLedger(url(tmp_path)) as ledger:
        entry, won = await ledger.begin(intended(nonce=6))
        assert not won
        assert entry.stage == intended().stage
        assert [one.subject for one in await ledger.unresolved(ME)] == [subject()]


VICTIM = """
import asyncio, sys
from tests.ports.test_ledger import intended
from x402.ports.ledger import SqlLedger

async def run(url):
    ledger = SqlLedger(url)
    await ledger.start()
    number = 0
    while True:
        await ledger.begin(intended(f"pay{number}"))
        print(number, flush=True)
        number += 1

asyncio.run(run(sys.argv[1]))
"""


async def test_A06_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    victim = _child(VICTIM, url(tmp_path))
    assert victim.stdout is not None
    confirmed = [int(victim.stdout.readline()) for _ in range(25)]
    victim.send_signal(signal.SIGKILL)
    confirmed += [int(line) for line in victim.communicate()[0].splitlines()]
    async with SqlLedger(url(tmp_path)) as ledger:
        rows = {entry.subject.pay_id: entry for entry in await ledger.unresolved(ME)}
        assert {f"pay{number}" for number in confirmed} <= rows.keys()
        assert {entry.stage for entry in rows.values()} == {intended().stage}
        assert len(await _events(ledger)) == len(rows)


@contextmanager
def _no_space(limit: int) -> Iterator[None]:
    """Writes beyond `limit` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


async def test_E10_a_full_disk_writes_nothing_by_halves_and_recovers(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended("before"))
        size = (tmp_path / "ledger.sqlite-wal").stat().st_size
        with _no_space(size + 512):
            for work in (
                lambda: ledger.begin(intended("full")),
                lambda: ledger.advance(ME, "before", Event.SETTLE, Settled("0xtx")),
                lambda: ledger.reserve_nonce("n", "s", 0),
                ledger.ping,
            ):
                with pytest.raises(UnavailableError) as unavailable:
                    await work()
                assert unavailable.value.code == "ledger_unavailable"
            many = await asyncio.gather(
                *(ledger.begin(intended(f"pay{number}")) for number in range(20)), return_exceptions=True
            )
            assert {type(one) for one in many} == {UnavailableError}
        assert [entry.subject.pay_id for entry in await ledger.unresolved(ME)] == ["before"]
        assert await _events(ledger) == [("begin", "before")]
        assert (await ledger.begin(intended("after")))[1]
        assert await ledger.reserve_nonce("n", "s", 0) == 0
        await ledger.ping()


async def test_E10_a_read_only_ledger_is_unavailable(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended("before"))
        await ledger._do(lambda connection: connection.exec_driver_sql("PRAGMA query_only=ON"))
        for work in (lambda: ledger.begin(intended("more")), ledger.ping):
            with pytest.raises(UnavailableError):
                await work()


async def test_a_locked_ledger_fails_once_for_all_who_wait(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger._do(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=300"))
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        work = asyncio.gather(*(ledger.begin(intended(f"{n}")) for n in range(40)), return_exceptions=True)
        results = await asyncio.wait_for(work, 5)
        other.execute("ROLLBACK")
        other.close()
        assert {type(result) for result in results} == {UnavailableError}
        assert await ledger.unresolved(ME) == []
        assert (await ledger.begin(intended()))[1]


async def test_a_ledger_that_is_not_open_says_so() -> None:
    ledger = SqlLedger()
    with pytest.raises(UnavailableError):
        await ledger.find(ME, "pay")
    async with ledger:
        late = asyncio.gather(*(ledger.begin(intended(f"{n}")) for n in range(30)), return_exceptions=True)
        await asyncio.sleep(0)
        closing = asyncio.create_task(ledger.close())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(ledger.ping(), 5)
        await closing
        # What was asked before the close is done before the close.
        assert {type(one) for one in await asyncio.wait_for(late, 5)} == {tuple}
    with pytest.raises(UnavailableError):
        await ledger.ping()


async def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)):
        pass
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        raw.execute("UPDATE schema_version SET version = 99")
    raw.close()
    with pytest.raises(MisconfiguredError) as refused:
        await SqlLedger(url(tmp_path)).start()
    assert refused.value.code == "ledger_version"
    assert "99" in refused.value.message


async def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database at all, " * 100)
    with pytest.raises(UnavailableError):
        await SqlLedger(url(tmp_path)).start()
    with pytest.raises(UnavailableError):
        await SqlLedger(f"sqlite:///{tmp_path}/missing/folder/ledger.sqlite").start()
    for other in ("postgresql://user:canary@localhost/x", "mysql://x", "nonsense", ""):
        with pytest.raises(MisconfiguredError) as refused:
            await SqlLedger(other).start()
        assert "canary" not in str(refused.value)


# Transaction nonces.


async def test_D01_nonces_are_handed_out_once_and_never_below_the_chain() -> None:
    async with SqlLedger() as ledger:
        nonces = await asyncio.gather(*(ledger.reserve_nonce("n", "s", 7) for _ in range(50)))
        assert sorted(nonces) == list(range(7, 57))
        assert await ledger.reserve_nonce("n", "other", 7) == 7
        assert await ledger.reserve_nonce("m", "s", 0) == 0
        assert await ledger.reserve_nonce("n", "s", 100) == 100
        assert await ledger.reserve_nonce("n", "s", 3) == 101


async def test_D02_returned_nonces_come_back_first_and_once() -> None:
    async with SqlLedger() as ledger:
        for _ in range(5):
            await ledger.reserve_nonce("n", "s", 0)
        for nonce in (3, 1, 1):
            await ledger.return_nonce("n", "s", nonce)
        assert [await ledger.reserve_nonce("n", "s", 0) for _ in range(3)] == [1, 3, 5]
        await ledger.return_nonce("n", "s", 2)
        # The chain has passed it: somebody else used it.
        assert await ledger.reserve_nonce("n", "s", 4) == 6


async def test_D02_what_a_crash_lost_is_mended() -> None:
    async with SqlLedger() as ledger:
        for _ in range(6):
            await ledger.reserve_nonce(NETWORK, "0xsender", 0)
        # 0 and 1 are on chain; 3 is held by an open payment, 5 by a refused one; 2 and 4 were lost before `begin`.
        await ledger.begin(intended("open", nonce=3))
        await ledger.begin(intended("refused", nonce=5))
        await ledger.advance(ME, "refused", Event.REFUSE, Refused("a", "b"))
        await ledger.mend_nonces(NETWORK, "0xother", 2)
        await ledger.mend_nonces("eip155:1", "0xsender", 2)
        await ledger.mend_nonces(NETWORK, "0xsender", 2)
        handed = [await ledger.reserve_nonce(NETWORK, "0xsender", 2) for _ in range(4)]
        assert handed == [2, 4, 5, 6]
