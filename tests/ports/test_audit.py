"""A ledger's own court: every forgery in a real file is found, and an honest file is not accused."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.ports.ledgers import ME, NETWORK, intended, subject, url
from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.lifecycle import Event, Party, Subject, begin
from x402.ports import Sign
from x402.ports.audit import Audit, Obligation, Total, audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.ports.ledger_text import CONSTANTS, EventRow, History, PaymentRow, transaction_of
from x402.stages import (
    Claimed,
    Delivered,
    Final,
    Intended,
    Owed,
    Refunded,
    Refunding,
    Refused,
    Reversed,
    Served,
    Settled,
    Settling,
    Stage,
)

SHOP = Party.GATEWAY
BORN = 100
SOLANA = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"

WALKS: dict[str, tuple[tuple[Event, Stage], ...]] = {
    "done": (
        (Event.SERVE, Served()),
        (Event.SUBMIT, Settling()),
        (Event.SETTLE, Settled("0xdone", 7)),
        (Event.DELIVER, Delivered("0xdone")),
    ),
    "owed": (
        (Event.SUBMIT, Settling()),
        (Event.SETTLE, Settled("0xowed")),
        (Event.FAIL, Owed("0xowed", "RuntimeError")),
    ),
    "waiting": ((Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xwaiting"))),
    "new": (),
}


async def books(folder: Path) -> Path:
    """An honest ledger of a gateway and a facilitator, closed."""
    ticks = iter(range(BORN, 10_000))
    async with SqlLedger(url(folder), clock=lambda: next(ticks)) as ledger:
        for name, walk in WALKS.items():
            await ledger.begin(begin(SHOP, subject(name), Claimed()))
            for event, stage in walk:
                await ledger.advance(SHOP, name, event, stage)
        for nonce, name in enumerate(("done", "bad", "sent")):
            await ledger.begin(begin(ME, subject(name), Intended(f"0x{name}", b"\x00raw\xff", 2**200, "0xs", nonce)))
        await ledger.advance(ME, "done", Event.SETTLE, Settled("0xdone", 12))
        await ledger.advance(ME, "done", Event.FINALISE, Final("0xdone", 12))
        await ledger.advance(ME, "bad", Event.REFUSE, Refused("why", "it reverted", "0xbad"))
    return folder / "ledger.sqlite"


def forge(file: Path, *statements: str) -> None:
    """What a hand at the file, or a defect of ours, would have done."""
    with closing(sqlite3.connect(file)) as raw, raw:
        for statement in statements:
            assert raw.execute(statement).rowcount > 0, statement


def judge(file: Path, *, now: int = 200, batched: bool = False) -> Audit:
    with read_ledger(str(file)) as snapshot:
        return audit(snapshot.histories(), now=now, batched=batched)


def found(file: Path) -> set[tuple[str, str, str]]:
    return {(one.invariant, one.party, one.pay_id) for one in judge(file).violations}


async def test_an_honest_ledger_agrees_with_itself(tmp_path: Path) -> None:
    told = judge(await books(tmp_path))
    assert told.violations == []
    assert (told.payments, told.events, told.unattested) == (7, 19, 0)
    place = (NETWORK, "0xasset")
    assert told.totals[("gateway", *place, "delivered")] == Total(1, 1000)
    assert told.totals[("facilitator", *place, "final")] == Total(1, 1000)
    assert sum(total.units for total in told.totals.values()) == 7000


async def test_I4_what_is_owed_is_listed_at_once_and_what_is_undecided_in_time(tmp_path: Path) -> None:
    file = await books(tmp_path)
    told = judge(file)
    assert {(one.pay_id, one.state) for one in told.obligations} == {("owed", "owed"), ("waiting", "settled")}
    assert Obligation("gateway", "owed", "owed", 108, NETWORK, "0xasset", "1000", "0xowed") in told.obligations
    later = judge(file, now=1000)
    assert {one.pay_id for one in later.obligations} == {"owed", "waiting", "sent"}
    assert [(one.invariant, one.pay_id) for one in later.violations] == [("I4", "waiting")]


LAWLESS = "INSERT INTO events (party, pay_id, at, event, after, stage) VALUES "


@pytest.mark.parametrize(
    ("forgery", "invariant", "party", "pay_id"),
    [
        (LAWLESS + "('gateway', 'done', 104, 'release', 'released', '{\"reason\":\"x\"}')", "I12", "gateway", "done"),
        (LAWLESS + "('gateway', 'new', 900, 'settle', 'settled', '{\"transaction\":\"0x1\",\"block\":0}')",
         "I12", "gateway", "new"),
        (LAWLESS + "('gateway', 'new', 900, 'invented', 'claimed', '{}')", "I12", "gateway", "new"),
        ("UPDATE events SET after = 'held' WHERE pay_id = 'new'", "I12", "gateway", "new"),
        ("UPDATE events SET party = 'stranger' WHERE pay_id = 'new'", "I12", "stranger", "new"),
        ("DELETE FROM events WHERE pay_id = 'done' AND event = 'submit'", "I12", "gateway", "done"),
        ("DELETE FROM events WHERE pay_id = 'done' AND event = 'deliver'", "I5", "gateway", "done"),
        ("DELETE FROM events WHERE pay_id = 'new'", "I5", "gateway", "new"),
        ("DELETE FROM payments WHERE pay_id = 'new'", "I5", "gateway", "new"),
        ("UPDATE payments SET amount = '1001' WHERE pay_id = 'done' AND party = 'gateway'", "I5", "gateway", "done"),
        ("UPDATE payments SET payee = '0xthief' WHERE pay_id = 'owed'", "I5", "gateway", "owed"),
        ("UPDATE payments SET record = '{\"deep\":1}' WHERE pay_id = 'owed'", "I5", "gateway", "owed"),
        ("UPDATE payments SET state = 'refunded' WHERE pay_id = 'owed'", "I5", "gateway", "owed"),
        ("UPDATE payments SET state = 'nonsense' WHERE pay_id = 'new'", "I5", "gateway", "new"),
        ("UPDATE payments SET stage = replace(stage, ':', ': ') WHERE pay_id = 'owed'", "I5", "gateway", "owed"),
        ("UPDATE payments SET stage = 'not json' WHERE pay_id = 'new'", "I5", "gateway", "new"),
        ("UPDATE payments SET updated_at = 1 WHERE pay_id = 'new'", "I5", "gateway", "new"),
        ("UPDATE events SET stage = '[]' WHERE event = 'fail'", "I5", "gateway", "owed"),
        ("UPDATE payments SET amount = '10.5' WHERE pay_id = 'new'", "I10", "gateway", "new"),
        ("UPDATE payments SET amount = '-1' WHERE pay_id = 'new'", "I10", "gateway", "new"),
        ("UPDATE payments SET amount = x'00ff' WHERE pay_id = 'new'", "I10", "gateway", "new"),
        ("UPDATE payments SET record = 'lost' WHERE pay_id = 'owed'", "I4", "gateway", "owed"),
        ("UPDATE events SET stage = '{\"transaction\":\"0xother\",\"block\":7}' WHERE pay_id = 'done' "
         "AND party = 'gateway' AND event = 'settle'", "I1", "gateway", "done"),
        ("UPDATE payments SET stage = '{\"transaction\":\"\"}' WHERE pay_id = 'done' AND party = 'gateway'",
         "I1", "gateway", "done"),
    ],
)  # fmt: skip
async def test_each_forgery_is_found(tmp_path: Path, forgery: str, invariant: str, party: str, pay_id: str) -> None:
    file = await books(tmp_path)
    assert found(file) == set()
    forge(file, forgery)
    assert (invariant, party, pay_id) in found(file)


async def test_I1_parties_in_one_file_name_one_transaction(tmp_path: Path) -> None:
    file = await books(tmp_path)
    change = "SET stage = replace(stage, '0xdone', '0xelse') WHERE pay_id = 'done' AND party = 'facilitator'"
    forge(file, f"UPDATE payments {change}", f"UPDATE events {change}")
    assert {invariant for invariant, _, _ in found(file)} == {"I1"}


async def test_I1_A16_a_gateway_may_name_the_transaction_that_a_fork_undid_later(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(begin(SHOP, subject("done"), Claimed()))
        for event, stage in WALKS["done"]:
            await ledger.advance(SHOP, "done", event, stage)
        await ledger.begin(begin(ME, subject("done"), Intended("0xdone", b"raw", 1, "0xs", 0)))
        await ledger.advance(ME, "done", Event.SETTLE, Settled("0xdone", 12))
        await ledger.advance(ME, "done", Event.REORGANISE, Reversed("0xdone"))
        await ledger.advance(ME, "done", Event.FINALISE, Final("0xstranger"))
    file = tmp_path / "ledger.sqlite"
    assert found(file) == set()
    # Control: one that the facilitator never named pays nothing.
    forge(file, *(
        f"UPDATE {table} SET stage = replace(stage, '0xdone', '0xelse') WHERE party = 'gateway'"
        for table in ("payments", "events")
    ))  # fmt: skip
    assert {invariant for invariant, _, _ in found(file)} == {"I1"}


async def test_I5_a_stage_that_is_none_of_its_state_is_found_even_when_row_and_event_agree(tmp_path: Path) -> None:
    file = await books(tmp_path)
    change = """SET stage = '{"transaction":"0xowed"}' WHERE pay_id = 'owed'"""
    forge(file, f"UPDATE payments {change}", f"UPDATE events {change} AND event = 'fail'")
    assert found(file) == {("I5", "gateway", "owed")}


@pytest.mark.parametrize(("network", "batched", "guilty"), [
    (NETWORK, False, True), (NETWORK, True, False), (SOLANA, False, True), (SOLANA, True, True),
])  # fmt: skip
async def test_I1_a_transaction_pays_one_payment_unless_batched(
    tmp_path: Path, network: str, batched: bool, guilty: bool
) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        for name in ("one", "two"):
            paid = Subject(name, network, "0xasset", "0xpayer", "0xpayee", 5)
            await ledger.begin(begin(ME, paid, Intended("0xshared", b"raw", 1)))
            await ledger.advance(ME, name, Event.SETTLE, Settled("0xshared"))
    told = judge(tmp_path / "ledger.sqlite", batched=batched).violations
    assert [one.invariant for one in told] == (["I1"] if guilty else [])


async def test_a_payment_of_an_older_program_is_checked_as_far_as_its_events_go(tmp_path: Path) -> None:
    file = await books(tmp_path)
    forge(file, "UPDATE events SET stage = '{}' WHERE pay_id = 'new' AND event = 'begin'")
    told = judge(file)
    assert (told.violations, told.unattested) == ([], 1)


async def test_the_first_event_repeats_what_was_signed_and_no_secret(tmp_path: Path) -> None:
    file = await books(tmp_path)
    with closing(sqlite3.connect(file)) as raw:
        (text,) = raw.execute("SELECT stage FROM events WHERE pay_id = 'sent'").fetchone()
    told = json.loads(text)
    assert told["subject"]["amount"] == "1000"
    assert len(told["subject"]["record_sha256"]) == 64
    assert "raw" not in text
    assert "deep" not in text


async def test_reading_writes_nothing_and_sees_a_ledger_in_use(tmp_path: Path) -> None:
    file = await books(tmp_path)
    before = file.read_bytes()
    assert judge(file).payments == 7
    assert os.listdir(tmp_path) == ["ledger.sqlite"]
    assert file.read_bytes() == before
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(intended("while it runs"))
        assert judge(file).payments == 8
        with read_ledger(url(tmp_path)) as snapshot:
            first = next(rows := snapshot.histories())
            await ledger.begin(intended("during"))
            assert len([first, *rows]) == 8
        assert (await ledger.begin(intended("after")))[1]


async def test_a_ledger_that_is_opened_while_it_is_read_is_no_snapshot(tmp_path: Path) -> None:
    await books(tmp_path)
    ledger = SqlLedger(url(tmp_path))
    with ExitStack() as reading:
        snapshot = reading.enter_context(read_ledger(url(tmp_path)))
        await ledger.start()
        await ledger.ping()
        assert list(snapshot.histories())
        with pytest.raises(UnavailableError, match="while it was read"):
            reading.close()
    await ledger.close()


async def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    file = await books(tmp_path)
    text, other = tmp_path / "text", tmp_path / "other.sqlite"
    text.write_text("nothing of the kind, " * 100)
    with closing(sqlite3.connect(other)) as raw, raw:
        raw.execute("CREATE TABLE payments (pay_id TEXT)")
    for place, code in ((text, "not_a_ledger"), (other, "not_a_ledger"), (tmp_path / "gone", "no_ledger"),
                        (tmp_path, "no_ledger")):  # fmt: skip
        with pytest.raises(MalformedError) as refused, read_ledger(str(place)):
            pass
        assert refused.value.code == code, place
    forge(file, "UPDATE schema_version SET version = 99")
    for address, code in ((str(file), "ledger_version"), ("mysql://u:canary@h/x", "unsupported_ledger")):
        with pytest.raises(MisconfiguredError) as refused_too, read_ledger(address):
            pass
        assert refused_too.value.code == code
        assert "canary" not in str(refused_too.value)
    forge(file, "UPDATE schema_version SET version = 2")
    assert judge(file).payments == 7
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UnavailableError), read_ledger(str(file)) as snapshot:
        list(snapshot.histories())


def test_rows_of_nobody_are_judged_and_do_not_crash() -> None:
    def nothing() -> Iterator[History]:
        yield History("", "", None, ())

    deep = '{"transaction":' + "[" * 5_000
    row = PaymentRow("gateway", "p", "settled", deep, 1, 1, dict.fromkeys(CONSTANTS, deep))
    walk = (EventRow("begin", "claimed", deep, 1), EventRow("settle", "settled", deep, 1))
    assert audit([History("gateway", "p", row, walk)], now=0).violations
    assert {one.invariant for one in audit(nothing(), now=0).violations} == {"I5", "I12"}
    assert [transaction_of(text) for text in ("", "[]", "null", '{"transaction":null}')] == [""] * 4


async def test_A16_what_was_reversed_is_listed_and_what_waits_for_finality_is_not(tmp_path: Path) -> None:
    ticks = iter(range(BORN, 10_000))
    async with SqlLedger(url(tmp_path), clock=lambda: next(ticks)) as ledger:
        for nonce, name in enumerate(("settled", "reversed", "again")):
            paid = Intended(f"0x{name}", b"raw", 1, "0xs", nonce)
            await ledger.begin(begin(ME, subject(name), paid))
            await ledger.replace(name, 1, "0xs", 0, _replacement(name), keep_nonce=True)
            await ledger.advance(ME, name, Event.SETTLE, Settled(f"0x{name}-2"))
        await ledger.advance(ME, "reversed", Event.REORGANISE, Reversed("0xreversed-2"))
        await ledger.advance(ME, "again", Event.REORGANISE, Reversed("0xagain-2"))
        await ledger.advance(ME, "again", Event.FINALISE, Final("0xstranger"))
        await ledger.begin(begin(SHOP, subject("refund"), Claimed()))
        for event, stage in (*WALKS["owed"], (Event.REFUND, Refunding("0xowed", "header", "back"))):
            await ledger.advance(SHOP, "refund", event, stage)
    told = judge(tmp_path / "ledger.sqlite", now=100_000)
    assert told.violations == []
    assert {(one.pay_id, one.state) for one in told.obligations} == {("reversed", "reversed"), ("refund", "refunding")}


def _replacement(name: str) -> Sign:
    return lambda nonce: Intended(f"0x{name}-2", b"raw2", 1, "0xs", nonce, 2, (f"0x{name}",))


async def test_I8_a_nonce_is_held_by_one_payment(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        for name, nonce in (("one", 5), ("two", 6), ("free", 7), ("other", 7)):
            await ledger.begin(begin(ME, subject(name), Intended(f"0x{name}", b"raw", 1, "0xs", nonce)))
        await ledger.advance(ME, "one", Event.SETTLE, Settled("0xone"))
        await ledger.advance(ME, "one", Event.FINALISE, Final("0xone"))
        # Its bytes never left, so another payment has its nonce.
        await ledger.advance(ME, "free", Event.REFUSE, Refused("a", "b"))
        # A stranger's transaction settled it, so its own nonce is another's by now (fault A11).
        await ledger.begin(begin(ME, subject("stranger"), Intended("0xmine", b"raw", 1, "0xs", 6)))
        await ledger.advance(ME, "stranger", Event.SETTLE, Settled("0xstranger"))
    file = tmp_path / "ledger.sqlite"
    assert found(file) == set()
    change = "SET stage = replace(stage, '\"nonce\":6', '\"nonce\":5') WHERE pay_id = 'two'"
    forge(file, f"UPDATE events {change}", f"UPDATE payments {change}")
    assert found(file) == {("I8", "facilitator", "two")}


async def test_I11_a_refund_pays_back_one_payment(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        for name in ("one", "two"):
            await ledger.begin(begin(SHOP, subject(name), Claimed()))
            for event, stage in (
                (Event.SUBMIT, Settling()),
                (Event.SETTLE, Settled(f"0x{name}")),
                (Event.FAIL, Owed(f"0x{name}", "why")),
                (Event.REFUND, Refunding(f"0x{name}", "header", f"back {name}")),
                (Event.SETTLE, Refunded(f"0x{name}", f"0xback{name}")),
            ):
                await ledger.advance(SHOP, name, event, stage)
    file = tmp_path / "ledger.sqlite"
    assert found(file) == set()
    for wrong in ("0xbackone", "", "0xtwo"):
        change = f'SET stage = \'{{"transaction":"0xtwo","refund":"{wrong}"}}\' WHERE pay_id = \'two\''
        forge(file, f"UPDATE payments {change}", f"UPDATE events {change} AND after = 'refunded'")
        assert found(file) & {("I11", "gateway", "one"), ("I11", "gateway", "two")}, wrong


async def test_I11_refunds_may_share_a_transaction_and_never_a_payment(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        for name, back in (("one", "a"), ("two", "b"), ("three", "b")):
            await ledger.begin(begin(SHOP, subject(name), Claimed()))
            for event, stage in (
                (Event.SUBMIT, Settling()),
                (Event.SETTLE, Settled(f"0x{name}")),
                (Event.FAIL, Owed(f"0x{name}", "why")),
                (Event.REFUND, Refunding(f"0x{name}", "header", back)),
                (Event.SETTLE, Refunded(f"0x{name}", "0xtogether")),
            ):
                await ledger.advance(SHOP, name, event, stage)
    told = judge(tmp_path / "ledger.sqlite", batched=True).violations
    assert {(one.invariant, one.pay_id) for one in told} in ({("I11", "three")}, {("I11", "two")})
