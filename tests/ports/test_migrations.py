"""Ledgers of older programs open and finish, whole in one schema or the other, whoever opens them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.pool import NullPool

from tests.ports.ledgers import ME, child, intended, nonce_of, url
from tests.postgres import Postgres
from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import LAW, Entry, Event, Party, is_terminal, open_states
from x402.ports import Answer
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_database import address_of
from x402.ports.ledger_reading import read_ledger
from x402.ports.ledger_text import attest
from x402.ports.migrations import migrate, upgrade
from x402.ports.schema import SCHEMA_VERSION, metadata
from x402.stages import (
    STAGES,
    Claimed,
    Delivered,
    Exposed,
    Final,
    Held,
    Intended,
    Owed,
    Refused,
    Released,
    Served,
    Settled,
    Settling,
    Stage,
)

SHOP = Party.GATEWAY
RECORDED = Path(__file__).parent / "ledger_v1.sql"
SIGNER = "0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"
V1: dict[Party, tuple[tuple[Event | None, Stage], ...]] = {
    # The open states that the first version knew, each with the arrow that leads there from the one before.
    Party.CLIENT: ((None, Held()), (Event.EXPOSE, Exposed("header")), (Event.REFUSE, Refused("why", "words"))),
    Party.GATEWAY: (
        (None, Claimed()),
        (Event.SERVE, Served()),
        (Event.SUBMIT, Settling()),
        (Event.SETTLE, Settled("0xtx", 7)),
        (Event.FAIL, Owed("0xtx", "why")),
    ),
    Party.FACILITATOR: ((None, Intended("0xtx", b"raw", 99, "0xsender", 5)), (Event.SETTLE, Settled("0xtx", 7))),
}


@contextmanager
def opened(place: str) -> Iterator[Connection]:
    """A connection of nobody in particular, in a transaction as the ledger's own is."""
    engine = create_engine(address_of(place), poolclass=NullPool)
    if place.startswith("sqlite"):
        # Python's sqlite3 would leave what changes tables out of the transaction.
        event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def first_schema(place: str) -> None:
    with opened(place) as connection, connection.begin():
        upgrade(connection, 0, target=1)
        # The first version made its tables without Alembic.
        connection.execute(text("DROP TABLE alembic_version"))


def own(stage: Any, steps: int) -> Stage:
    names = {"transaction": f"0x{steps}", "nonce": steps}
    one: Stage = replace(stage, **{name: value for name, value in names.items() if hasattr(stage, name)})
    return one


def write_v1(place: str, party: Party, steps: int) -> None:
    """A payment as the first version left it after that many steps."""
    constants = {
        "network": "eip155:84532", "asset": "0xasset", "payer": "0xpayer", "payee": "0xpayee", "amount": "1000",
        "expires_at": 99, "fingerprint": "print", "record": '{"deep":1}',
    }  # fmt: skip
    with opened(place) as connection, connection.begin():
        for number, (event, kind) in enumerate(V1[party][: steps + 1]):
            stage = own(kind, steps)
            names = ("transaction", "last_valid", "sender", "nonce", "block", "header", "reason", "message")
            told = json.dumps({name: getattr(stage, name) for name in names if hasattr(stage, name)})
            told = json.dumps(json.loads(told), separators=(",", ":"))
            row = {"party": party, "pay_id": f"{steps}", "after": stage.state, "stage": told, "at": number}
            first = attest(told, constants)
            connection.execute(
                text('INSERT INTO events (party, pay_id, at, event, "after", stage) '
                     "VALUES (:party, :pay_id, :at, :event, :after, :stage)"),
                row | ({"event": str(event)} if event else {"event": "begin", "stage": first}),
            )  # fmt: skip
        row |= constants | {"raw": b"raw" if party is ME else None, "created": 0}
        connection.execute(
            text("INSERT INTO payments VALUES (:party, :pay_id, :after, :network, :asset, :payer, :payee, :amount, "
                 ":expires_at, :fingerprint, :record, :stage, :raw, :created, :at)"),
            row,
        )  # fmt: skip


def onward(party: Party, entry: Entry) -> tuple[Event, Stage]:
    """The first arrow that leads on."""
    members: dict[str, Any] = {
        "transaction": f"0x{entry.subject.pay_id}",
        "reason": "why",
        "message": "words",
        "header": "header",
    }
    event, after = next((event, after) for event, after in LAW[party][entry.state].items() if after is not entry.state)
    return event, STAGES[after](**{member.name: members[member.name] for member in fields(STAGES[after])
                                   if member.name in members})  # fmt: skip


@pytest.mark.parametrize("party", list(Party))
async def test_rows_in_flight_of_the_first_version_open_and_finish(ledger_url: str, party: Party) -> None:
    first_schema(ledger_url)
    for steps in range(len(V1[party])):
        write_v1(ledger_url, party, steps)
    async with SqlLedger(ledger_url) as ledger:
        entries = await ledger.unresolved(party)
        assert {entry.subject.pay_id: entry.stage for entry in entries} == {
            f"{steps}": own(stage, steps) for steps, (_, stage) in enumerate(V1[party])
        }
        assert {entry.state for entry in entries} <= open_states(party)
        for entry in entries:
            moved = entry
            while not is_terminal(party, moved.state):
                moved = await ledger.advance(party, moved.subject.pay_id, *onward(party, moved))
        assert await ledger.unresolved(party) == []
    with read_ledger(ledger_url) as snapshot:
        assert audit(snapshot.histories(), now=0).violations == []


async def test_a_file_that_the_first_version_wrote_opens_and_finishes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw:
        raw.executescript(RECORDED.read_text())
    async with SqlLedger(url(tmp_path)) as ledger:
        assert {entry.subject.pay_id for entry in await ledger.unresolved(SHOP)} == {
            "claimed", "served", "settling", "settled", "owed",
        }  # fmt: skip
        assert {entry.subject.pay_id for entry in await ledger.unresolved(ME)} == {"settled", "intended", "solana"}
        intent = await ledger.find(ME, "intended")
        assert intent is not None
        assert intent.stage == Intended("0xintended", b"\x02\xf8raw intended", 1_790_000_000, SIGNER, 4)
        # What is settled and not final yet keeps its nonce; the one that came back is handed out first.
        assert (await ledger.nonces("eip155:84532", SIGNER)).held == {3, 4}
        assert [await nonce_of(ledger, f"{number}", 3, SIGNER) for number in range(2)] == [7, 8]
        assert await ledger.answer("served") == Answer(200, (("content-type", "text/plain"),), b"the report")
        for party, name, event, stage in (
            (SHOP, "claimed", Event.RELEASE, Released("expired")),
            (SHOP, "served", Event.SUBMIT, Settling()),
            (SHOP, "served", Event.SETTLE, Settled("0xserved")),
            (SHOP, "served", Event.DELIVER, Delivered("0xserved")),
            (SHOP, "settling", Event.REFUSE, Refused("why", "words")),
            (SHOP, "settled", Event.DELIVER, Delivered("0xsettled")),
            (SHOP, "owed", Event.DELIVER, Delivered("0xowed")),
            (ME, "settled", Event.FINALISE, Final("0xsettled", 9)),
            (ME, "intended", Event.SETTLE, Settled("0xintended", 10)),
            (ME, "intended", Event.FINALISE, Final("0xintended", 10)),
            (ME, "solana", Event.SETTLE, Settled("5sig", 10)),
        ):
            await ledger.advance(party, name, event, stage)
        assert await ledger.unresolved(SHOP) == []
    with read_ledger(url(tmp_path)) as snapshot:
        found = audit(snapshot.histories(), now=0)
    assert (found.violations, found.unattested, found.payments) == ([], 0, 14)


async def test_the_books_of_an_older_version_are_read_without_changing_them(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw:
        raw.executescript(RECORDED.read_text())
    before = (tmp_path / "ledger.sqlite").read_bytes()
    with read_ledger(url(tmp_path)) as snapshot:
        assert audit(snapshot.histories(), now=0).violations == []
        assert len(list(snapshot.payments())) == 12
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_every_way_ends_in_the_same_tables(ledger_url: str, postgres: Postgres, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.sqlite'}" if ledger_url.startswith("sqlite") else postgres.database()
    with opened(ledger_url) as connection, connection.begin():
        upgrade(connection, 0)
    with opened(other) as connection:
        migrate(connection)
    tables = []
    for place in (ledger_url, other):
        with opened(place) as connection:
            found = inspect(connection)
            tables.append({
                name: (
                    sorted((one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(name)),
                    sorted((str(one["name"]), one["column_names"]) for one in found.get_indexes(name)),
                    found.get_pk_constraint(name)["constrained_columns"],
                )
                for name in found.get_table_names()
            })  # fmt: skip
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            rows = connection.execute(text("SELECT version_num, version FROM alembic_version, schema_version")).all()
            assert [tuple(row) for row in rows] == [(f"{SCHEMA_VERSION:04}", SCHEMA_VERSION)]
    assert tables[0] == tables[1]
    assert set(tables[0]) == set(metadata.tables)


OPENER = """
import asyncio, sys
from tests.ports.ledgers import intended
from x402.ports.ledger import SqlLedger

async def run(url, name):
    print("ready", flush=True)
    sys.stdin.readline()
    async with SqlLedger(url) as ledger:
        await ledger.begin(intended(name))

asyncio.run(run(*sys.argv[1:]))
"""


@pytest.mark.parametrize("age", ["new", "old"])
async def test_processes_that_start_together_migrate_once(ledger_url: str, age: str) -> None:
    if age == "old":
        first_schema(ledger_url)
        write_v1(ledger_url, ME, 0)
    openers = [child(OPENER, ledger_url, f"pay{number}") for number in range(4)]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    assert [opener.wait(60) for opener in openers] == [0] * 4
    async with SqlLedger(ledger_url) as ledger:
        assert len(await ledger.unresolved(ME)) == 4 + (age == "old")


async def test_a_migration_that_fails_leaves_the_older_ledger_whole(ledger_url: str) -> None:
    first_schema(ledger_url)
    write_v1(ledger_url, ME, 0)
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("CREATE TABLE spending (something INTEGER)"))
    with pytest.raises(UnavailableError):
        await SqlLedger(ledger_url).start()
    with opened(ledger_url) as connection:
        assert "sender" not in {column["name"] for column in inspect(connection).get_columns("payments")}
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == 1
        assert "alembic_version" not in inspect(connection).get_table_names()
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("DROP TABLE spending"))
    async with SqlLedger(ledger_url) as ledger:
        assert len(await ledger.unresolved(ME)) == 1


async def test_a_first_start_that_was_killed_is_finished(ledger_url: str) -> None:
    first_schema(ledger_url)
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("DELETE FROM schema_version"))
        connection.execute(text("DROP TABLE answers"))
    async with SqlLedger(ledger_url) as ledger:
        assert (await ledger.begin(intended()))[1]
        await ledger.keep_answer("pay", Answer(200, (), b""))


async def test_a_ledger_of_a_newer_program_and_tables_of_another_are_refused(ledger_url: str) -> None:
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("CREATE TABLE payments (id INTEGER)"))
    with pytest.raises(MisconfiguredError, match="payments") as refused:
        await SqlLedger(ledger_url).start()
    assert refused.value.code == "foreign_tables"
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("DROP TABLE payments"))
    async with SqlLedger(ledger_url):
        pass
    with opened(ledger_url) as connection, connection.begin():
        connection.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(MisconfiguredError, match="99") as refused:
        await SqlLedger(ledger_url).start()
    assert refused.value.code == "ledger_version"
