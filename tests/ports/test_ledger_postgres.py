"""A ledger on PostgreSQL: the server goes away, replicas race, one of them is killed. A04, D01, E02, E10, E11."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.ports.ledgers import ME, NETWORK, child, intended, nonce_of
from tests.postgres import Postgres
from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Event
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.settings import FacilitatorSettings, GatewaySettings
from x402.stages import Intended, Refused, Settled

CANARY = "hunter2canary"


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server that a test may kill."""
    server = Postgres()
    yield server
    server.stop()


async def say(ledger: SqlLedger, statement: str) -> None:
    await ledger._do(lambda connection: connection.execute(text(statement)))


async def shown(ledger: SqlLedger, name: str) -> str:
    return str(await ledger._do(lambda connection: connection.execute(text(f"SHOW {name}")).scalar_one()))


async def test_E02_a_server_that_went_away_fails_closed_and_heals_by_itself(own_server: Postgres) -> None:
    async with SqlLedger(own_server.database()) as ledger:
        await ledger.begin(intended("before"))
        own_server.kill()
        many = await asyncio.gather(*(ledger.begin(intended(f"{n}")) for n in range(20)), return_exceptions=True)
        assert {type(one) for one in many} == {UnavailableError}
        with pytest.raises(UnavailableError) as unavailable:
            await nonce_of(ledger, "away")
        assert unavailable.value.code == "ledger_unavailable"
        own_server.start()
        assert [entry.subject.pay_id for entry in await ledger.unresolved(ME)] == ["before"]
        assert await nonce_of(ledger, "after") == 0
        assert (await ledger.begin(intended("more")))[1]


async def test_E02_a_connection_that_was_ended_is_nobodys_failure(postgres: Postgres) -> None:
    async with SqlLedger(postgres.database()) as ledger:
        for number in range(3):
            postgres.hang_up()
            assert (await ledger.begin(intended(f"{number}")))[1]
        assert len(await ledger.unresolved(ME)) == 3


DEADLY = (
    "CREATE SEQUENCE deaths",
    # A sequence counts on when its transaction is lost, so only the first commit dies.
    "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('deaths') = 1 THEN "
    "PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION die()",
)


async def test_E10_what_was_lost_in_the_commit_is_told_and_not_done_again(postgres: Postgres) -> None:
    async with SqlLedger(postgres.database()) as ledger:
        await ledger.begin(intended())
        for statement in DEADLY:
            await say(ledger, statement)
        # The server ends the connection within the commit, and nobody can know whether it was written.
        with pytest.raises(UnavailableError):
            await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))
        entry = await ledger.find(ME, "pay")
        assert entry is not None
        assert isinstance(entry.stage, Intended)
        await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))


async def test_E10_a_session_that_can_write_no_more_is_replaced(postgres: Postgres) -> None:
    async with SqlLedger(postgres.database()) as ledger:
        # As after a failover, when the server at the other end has become a copy that only answers.
        await say(ledger, "SET default_transaction_read_only = on")
        with pytest.raises(UnavailableError):
            await ledger.begin(intended())
        assert (await ledger.begin(intended()))[1]


async def test_work_that_the_database_gave_up_is_done_again(postgres: Postgres) -> None:
    place = postgres.database()
    tries = {"deadlock": 0, "always": 0}

    async with SqlLedger(place) as ledger:

        def raising(name: str, times: int) -> Callable[[Connection], int]:
            def work(connection: Connection) -> int:
                tries[name] += 1
                if tries[name] <= times:
                    connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'given up' USING ERRCODE = '40P01'; END $$"))
                return tries[name]

            return work

        told = await asyncio.gather(
            ledger.begin(intended("a")),
            ledger._do(raising("deadlock", 2)),
            ledger._do(raising("always", 1000)),
            ledger.begin(intended("b")),
            return_exceptions=True,
        )
        assert [type(one) for one in told] == [tuple, int, UnavailableError, tuple]
        assert tries["deadlock"] == 3
        assert tries["always"] < 20
        assert len(await ledger.unresolved(ME)) == 2


async def test_E11_a_replica_that_stops_in_a_transaction_holds_up_no_row_for_ever(postgres: Postgres) -> None:
    async with SqlLedger(postgres.database()) as ledger:
        limits = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        assert {await shown(ledger, name) for name in limits} == {"20s", "30s"}
        assert await shown(ledger, "transaction_isolation") == "read committed"


async def test_what_was_answered_is_on_the_disk_whatever_the_server_does_for_others(postgres: Postgres) -> None:
    place = postgres.database()
    name = place.partition("@/")[2].partition("?")[0]
    async with SqlLedger(place) as ledger:
        await say(ledger, f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with SqlLedger(place) as ledger:
        assert await shown(ledger, "synchronous_commit") == "on"


@pytest.mark.parametrize(("place", "words"), [
    (f"postgresql://shop:{CANARY}@127.0.0.1:9/ledger", "127.0.0.1.*refused"),
    (f"postgres://shop:{CANARY}@127.0.0.1:9/ledger?sslmode=nonsense", "sslmode"),
    (f"postgresql://shop:{CANARY}@127.0.0.1:9/ledger?nonsense=1", "nonsense"),
])  # fmt: skip
async def test_G06_no_password_is_told(place: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    ledger = SqlLedger(place)
    with pytest.raises(UnavailableError, match=words) as refused:
        await ledger.start()
    error: BaseException | None = refused.value
    while error is not None:
        assert CANARY not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    with pytest.raises((UnavailableError, MisconfiguredError)) as unread, read_ledger(place):
        pass
    assert CANARY not in f"{unread.value!r} {unread.value}"
    settings = (GatewaySettings.read(ledger=place), FacilitatorSettings.read(ledger=place))
    assert all(one.ledger == place for one in settings)
    assert CANARY not in f"{ledger!r} {settings!r} {settings[0]} {settings[1]}"
    assert CANARY not in "".join(capfd.readouterr())


async def test_without_its_driver_a_ledger_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MisconfiguredError, match=r"x402-engine\[postgres\]"):
        await SqlLedger("postgresql://shop@localhost/ledger").start()


REPLICA = """
import asyncio, json, sys
from tests.ports.ledgers import intended, nonce_of, signing, subject
from x402.lifecycle import Event, Party, begin
from x402.ports import NoRoom, Room
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Refused

async def claim(ledger, n):
    try:
        return (await ledger.begin(begin(Party.GATEWAY, subject(f"claim{n}", 10), Claimed()), room=Room(total=200)))[1]
    except NoRoom:
        return False

async def run(url, name):
    async with SqlLedger(url) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        names = [f"pay{n}" for n in range(40)]
        same = await asyncio.gather(*(ledger.intend(subject(one), "0xsender", 0, signing(one)) for one in names))
        mine = await asyncio.gather(*(nonce_of(ledger, f"{name}-{n}") for n in range(20)))
        claims = await asyncio.gather(*(claim(ledger, n) for n in range(50)))
        taken = []
        while rows := await ledger.take_open(Party.FACILITATOR, 3600, limit=5):
            taken += [row.subject.pay_id for row in rows]
        print(json.dumps({
            "wins": [n for n, (_, won) in enumerate(same) if won],
            "nonces": [entry.stage.nonce for entry, won in same if won] + mine,
            "claims": [n for n, won in enumerate(claims) if won],
            "taken": taken,
        }), flush=True)

asyncio.run(run(*sys.argv[1:]))
"""


def start_together(code: str, place: str, names: str) -> list[Any]:
    replicas = [child(code, place, name) for name in names]
    for replica in replicas:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    return replicas


def test_A04_D01_E11_four_replicas_share_one_ledger(ledger_url: str) -> None:
    told = []
    for replica in start_together(REPLICA, ledger_url, "abcd"):
        out, _ = replica.communicate(timeout=90)
        assert replica.returncode == 0
        told.append(json.loads(out))
    assert sorted(n for one in told for n in one["wins"]) == list(range(40))
    assert sorted(n for one in told for n in one["nonces"]) == list(range(40 + 4 * 20))
    claims = [n for one in told for n in one["claims"]]
    assert len(claims) == len(set(claims)) == 20
    taken = [name for one in told for name in one["taken"]]
    assert len(taken) == len(set(taken)) == 40 + 4 * 20


WORKER = """
import asyncio, itertools, sys
from tests.ports.ledgers import nonce_of
from x402.ports.ledger import SqlLedger

async def run(url, name):
    async with SqlLedger(url) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()

        async def work(lane):
            for n in itertools.count():
                nonce = await nonce_of(ledger, f"{name}-{lane}-{n}")
                print(f"{name}-{lane}-{n}", nonce, flush=True)

        await asyncio.gather(*(work(lane) for lane in range(4)))

asyncio.run(run(*sys.argv[1:]))
"""


async def test_E11_a_replica_that_is_killed_leaves_no_gap_and_loses_nothing(ledger_url: str) -> None:
    replicas = start_together(WORKER, ledger_url, "abcd")
    lines: list[str] = []
    for turn, replica in enumerate(replicas):
        lines += [replica.stdout.readline() for _ in range(4 + turn)]
        replica.send_signal(signal.SIGKILL)
    for replica in replicas:
        lines += replica.stdout.readlines()
        replica.communicate()
    # The last line of a process that was killed may be half a line.
    confirmed = dict(line.split() for line in lines if line.endswith("\n"))
    async with SqlLedger(ledger_url) as ledger:
        rows = {entry.subject.pay_id: entry.stage for entry in await ledger.unresolved(ME)}
        kept = {name: stage.nonce or 0 for name, stage in rows.items() if isinstance(stage, Intended)}
        assert {name: kept[name] for name in confirmed} == {name: int(nonce) for name, nonce in confirmed.items()}
        book = await ledger.nonces(NETWORK, "0xsender")
        assert sorted(kept.values()) == list(range(book.next))
        assert len(confirmed) >= 22
        # Whoever comes next finds every row, takes the work over, and goes on with the next nonce.
        assert len(await ledger.take_open(ME, 10, limit=10_000)) == len(rows)
        assert await nonce_of(ledger, "next") == book.next
        await ledger.advance(ME, "next", Event.REFUSE, Refused("a", "b"))
