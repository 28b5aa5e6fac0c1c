"""The ledger's disk: shared commits, killed processes, full and read-only disks. Faults A06, E10."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.ports.ledgers import ME, child, intended, logged, nonce_of, subject, url
from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Event
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.stages import Settled


async def test_group_commit_shares_commits(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        before = ledger.commits
        await asyncio.gather(*(ledger.begin(intended(f"pay{number}")) for number in range(100)))
        together = ledger.commits - before
        before = ledger.commits
        for number in range(20):
            await ledger.begin(intended(f"alone{number}"))
        alone = ledger.commits - before
    assert together <= 20
    assert alone == 20


async def test_A06_the_memory_outlives_the_process(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.begin(intended())
    async with SqlLedger(ledger_url) as ledger:
        entry, won = await ledger.begin(intended(nonce=6))
        assert not won
        assert entry.stage == intended().stage
        assert [one.subject for one in await ledger.unresolved(ME)] == [subject()]


VICTIM = """
import asyncio, sys
from tests.ports.ledgers import intended
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


async def test_A06_what_was_confirmed_survives_a_kill(ledger_url: str) -> None:
    victim = child(VICTIM, ledger_url)
    assert victim.stdout is not None
    confirmed = [int(victim.stdout.readline()) for _ in range(25)]
    victim.send_signal(signal.SIGKILL)
    confirmed += [int(line) for line in victim.communicate()[0].splitlines()]
    async with SqlLedger(ledger_url) as ledger:
        rows = {entry.subject.pay_id: entry for entry in await ledger.unresolved(ME)}
        assert {f"pay{number}" for number in confirmed} <= rows.keys()
        assert {entry.stage for entry in rows.values()} == {intended().stage}
        assert len(await logged(ledger)) == len(rows)


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
                lambda: nonce_of(ledger, "full"),
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
        assert await logged(ledger) == [("begin", "before")]
        assert (await ledger.begin(intended("after")))[1]
        assert await nonce_of(ledger, "intended") == 0
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
    for other in ("mysql://user:canary@x", "nonsense", "", "user:canary@nowhere", "postgresql+asyncpg://u:canary@h/x"):
        with pytest.raises(MisconfiguredError) as refused:
            await SqlLedger(other).start()
        assert "canary" not in str(refused.value)


async def test_a_schema_that_is_no_text_is_told_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """sqlite3 raises a UnicodeDecodeError here, which ended the ledger's thread before anybody was told."""
    async with SqlLedger(url(tmp_path)):
        pass
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE payments", b"CREATE TAB\xffE payments"))
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(SqlLedger(url(tmp_path)).start(), 5)
    with pytest.raises(UnavailableError), read_ledger(str(file)):
        pass


@pytest.mark.parametrize(
    ("column", "value"),
    [("state", "no"), ("stage", "{"), ("stage", '{"other":1}'), ("stage", "7"), ("amount", "ten"), ("record", "x")],
)
async def test_a_row_that_something_else_wrote_is_told_as_damage(tmp_path: Path, column: str, value: str) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended("p1"))
        assert await ledger.find(ME, "p1") is not None
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw, raw:
            raw.execute(f"UPDATE payments SET {column} = ?", (value,))
        with pytest.raises(UnavailableError, match="x402 ledger audit") as told:
            await ledger.find(ME, "p1")
        assert told.value.code == "ledger_damaged"
