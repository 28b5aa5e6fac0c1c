"""`x402 ledger` on the books of a real town, on forged ones, and on what is no ledger."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.cli.conftest import LiveTown, run
from tests.postgres import Postgres
from x402.lifecycle import Event, Party, Subject, begin
from x402.networks import BASE_SEPOLIA, get
from x402.ports.ledger import SqlLedger
from x402.ports.schema import payments
from x402.stages import Claimed, Delivered, Settled, Settling

USDC = get(BASE_SEPOLIA).usd.address


async def _write(place: str) -> None:
    async with SqlLedger(place, clock=lambda: 1_800_000_000) as ledger:
        for name, asset, transaction in (("one", USDC, "0xab"), ("two", "0xodd", "=cmd|x")):
            paid = Subject(name, BASE_SEPOLIA, asset, "0xpayer", "0xpayee", 12_500, record={"a": 1})
            await ledger.begin(begin(Party.GATEWAY, paid, Claimed()))
            await ledger.advance(Party.GATEWAY, name, Event.SUBMIT, Settling())
            await ledger.advance(Party.GATEWAY, name, Event.SETTLE, Settled(transaction))
            await ledger.advance(Party.GATEWAY, name, Event.DELIVER, Delivered(transaction))


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A gateway's ledger with two sales."""
    file = tmp_path / "books.sqlite"
    asyncio.run(_write(f"sqlite:///{file}"))
    return file


def test_the_books_of_a_town_agree_while_it_runs(live_town: LiveTown) -> None:
    environment = live_town.environment
    sold = run("chat", "hello", "-m", "demo/echo-1", "--max-tokens", "8", "--json", **environment)
    assert sold.exit_code == 0, sold.output
    folder = Path(live_town.buyer["walletFile"]).parent
    for party, done in (("gateway", "delivered"), ("facilitator", "settled")):
        (file,) = folder.glob(f"*{party}*.sqlite")
        checked = run("ledger", "audit", str(file), "--json")
        assert checked.exit_code == 0, checked.output
        told = json.loads(checked.stdout)
        assert told["agrees"]
        assert (told["unattested"], told["violations"]) == (0, [])
        assert done in {total["state"] for total in told["totals"]}
        rows = json.loads(run("ledger", "export", str(file), "--format", "json").stdout)
        assert len(rows) == told["payments"] > 0
        assert {row["symbol"] for row in rows} == {"USDC"}


def test_an_honest_ledger_is_told_in_words_and_sums(books: Path) -> None:
    result = run("ledger", "audit", str(books))
    assert result.exit_code == 0, result.output
    assert "agrees with itself" in result.stdout
    assert "0.0125 USDC" in result.stdout
    assert "12500 of 0xodd" in result.stdout
    assert run("ledger", "audit", f"sqlite:///{books}").exit_code == 0


def test_forged_books_exit_with_1_and_name_the_invariant(books: Path) -> None:
    with closing(sqlite3.connect(books)) as raw, raw:
        raw.execute("UPDATE payments SET amount = '99' WHERE pay_id = 'one'")
    result = run("ledger", "audit", str(books))
    assert result.exit_code == 1
    assert "I5 gateway one: amount is '99', and was '12500' when the payment began" in result.stdout
    told = json.loads(run("ledger", "audit", str(books), "--json").stdout)
    assert not told["agrees"]
    assert [(one["invariant"], one["pay_id"]) for one in told["violations"]] == [("I5", "one")]


def test_the_export_is_one_row_per_payment(books: Path) -> None:
    result = run("ledger", "export", str(books))
    assert result.exit_code == 0, result.output
    first, second = csv.DictReader(io.StringIO(result.stdout))
    assert first == {
        "created": "2027-01-15T08:00:00Z",
        "updated": "2027-01-15T08:00:00Z",
        "party": "gateway",
        "pay_id": "one",
        "network": BASE_SEPOLIA,
        "asset": USDC,
        "symbol": "USDC",
        "amount_atomic": "12500",
        "amount": "0.0125",
        "payer": "0xpayer",
        "payee": "0xpayee",
        "state": "delivered",
        "transaction": "0xab",
    }
    assert (second["symbol"], second["amount"]) == ("", "")
    # No spreadsheet runs what a facilitator called a transaction.
    assert second["transaction"] == "'=cmd|x"
    rows = json.loads(run("ledger", "export", str(books), "--json").stdout)
    assert rows[0] == first
    assert rows[1]["transaction"] == "=cmd|x"
    assert run("ledger", "export", str(books), "--party", "facilitator").stdout.count("\n") == 1
    assert len(json.loads(run("ledger", "export", str(books), "--party", "gateway", "--json").stdout)) == 2


def test_the_books_in_postgresql_are_read_as_well(postgres: Postgres) -> None:
    place = postgres.database()
    result = run("ledger", "audit", place)
    assert result.exit_code == 2, result.output
    assert "is no ledger" in result.stderr
    asyncio.run(_write(place))
    told = json.loads(run("ledger", "audit", place, "--json").stdout)
    assert (told["agrees"], told["payments"]) == (True, 2)
    assert run("ledger", "export", place).stdout.count("\n") == 3
    asyncio.run(_forge(place))
    forged = run("ledger", "audit", place)
    assert forged.exit_code == 1
    assert "I5 gateway one: amount is '99', and was '12500' when the payment began" in forged.stdout


async def _forge(place: str) -> None:
    async with SqlLedger(place) as ledger:
        change = update(payments).where(payments.c.pay_id == "one").values(amount="99")
        await ledger._do(lambda connection: connection.execute(change))


@pytest.mark.parametrize("command", ["audit", "export"])
def test_what_is_no_ledger_is_a_sentence(tmp_path: Path, command: str) -> None:
    text = tmp_path / "text"
    text.write_text("nothing of the kind")
    away = "postgresql://shop:canary@127.0.0.1:9/ledger"
    for place, code in ((text, 2), (tmp_path / "gone", 2), ("mysql://u:canary@h/x", 3), (away, 7)):
        result = run("ledger", command, str(place))
        assert result.exit_code == code, result.output
        assert "No money moved." in result.stderr
        assert "canary" not in result.output
        assert "error" in json.loads(run("ledger", command, str(place), "--json").stdout)
