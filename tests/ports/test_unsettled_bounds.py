"""The sums of what is unsettled at each of their bounds: whose payment counts, from which second on, in which asset and
network, and what a refusal tells. Faults A08, A16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, update

from tests.ports.ledgers import ME, count_statements, intended, subject, url
from x402.lifecycle import Entry, Event, Party, begin
from x402.ports import Arrow, NoRoom, Room
from x402.ports.known import Known, Sum, remember
from x402.ports.ledger import SqlLedger
from x402.ports.schema import payments, unsettled
from x402.ports.unsettled import EVERYBODY, Sums
from x402.stages import Claimed, Owed, Refunding, Refused, Reversed, Settled, Settling

SHOP = Party.GATEWAY
NETWORK, ASSET, PAYER = "eip155:84532", "0xm", "0xm"
"""Each test has others beside them that come before and after in the alphabet."""
SETTLED: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))]
REFUSED: list[Arrow] = [(Event.SUBMIT, Settling()), (Event.REFUSE, Refused("why", "words"))]


def claim(name: str, amount: int = 60, *, payer: str = PAYER, asset: str = ASSET, network: str = NETWORK) -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer, asset=asset, network=network), Claimed())


def opened(place: str, now: int = 7) -> SqlLedger:
    return SqlLedger(place, clock=lambda: now)


async def refusal(ledger: SqlLedger, amount: int, room: Room) -> tuple[str, int, int, bool]:
    """What is told to who claims that much."""
    with pytest.raises(NoRoom) as refused:
        await ledger.begin(claim("never", amount), room=room)
    told = refused.value
    return told.scope, told.open_units, told.room, told.doubtful


async def kept(ledger: SqlLedger) -> dict[Sum, int]:
    """The sums that stand in the database."""

    def read(connection: Connection) -> dict[Sum, int]:
        rows = connection.execute(select(unsettled))
        return {(row.network, row.asset, row.payer): int(row.units) for row in rows}

    return await ledger.run(read)


async def forget_sums(ledger: SqlLedger) -> None:
    """Delete the sums, as nobody here would."""
    await ledger.run(lambda connection: connection.execute(delete(unsettled)).rowcount)


@pytest.mark.parametrize(("room", "scope"), [(Room(payer=100), "payer"), (Room(total=100), "total")])
async def test_A08_who_owes_nothing_has_all_of_the_room_and_not_a_unit_more(
    ledger_url: str, room: Room, scope: str
) -> None:
    """As a fresh process reads it, and as the same process knows it the second time."""
    async with opened(ledger_url) as ledger:
        for _ in range(2):
            assert await refusal(ledger, 101, room) == (scope, 0, 100, False)
        assert (await ledger.begin(claim("pay", 100), room=room))[1]
        assert await refusal(ledger, 1, room) == (scope, 100, 100, False)


@pytest.mark.parametrize("room", [Room(payer=100), Room(total=100)])
async def test_A08_a_process_that_asks_for_the_first_time_lets_all_of_the_room_be_claimed(
    ledger_url: str, room: Room
) -> None:
    async with opened(ledger_url) as ledger:
        assert (await ledger.begin(claim("pay", 100), room=room))[1]


@pytest.mark.parametrize("asset", ["0xa", "0xz"])
async def test_A08_what_is_open_in_another_asset_takes_no_room_of_this_one(ledger_url: str, asset: str) -> None:
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("theirs", asset=asset))
    for room in (Room(payer=100), Room(total=100)):
        async with opened(ledger_url) as fresh:
            assert (await refusal(fresh, 101, room))[1] == 0


async def test_A08_who_owes_nothing_any_more_takes_nobody_elses_sum_with_him(ledger_url: str) -> None:
    others = [
        claim("payer before", 1, payer="0xa"),
        claim("payer after", 2, payer="0xz"),
        claim("asset before", 4, asset="0xa"),
        claim("asset after", 8, asset="0xz"),
        claim("network before", 16, network="eip155:1"),
        claim("network after", 32, network="eip155:9"),
    ]
    async with opened(ledger_url) as ledger:
        for entry in (claim("pay"), *others):
            await ledger.begin(entry)
        await ledger.follow(SHOP, "pay", SETTLED)
        assert await kept(ledger) == {
            (NETWORK, ASSET, EVERYBODY): 3,
            (NETWORK, ASSET, "0xa"): 1,
            (NETWORK, ASSET, "0xz"): 2,
            (NETWORK, "0xa", EVERYBODY): 4,
            (NETWORK, "0xa", PAYER): 4,
            (NETWORK, "0xz", EVERYBODY): 8,
            (NETWORK, "0xz", PAYER): 8,
            ("eip155:1", ASSET, EVERYBODY): 16,
            ("eip155:1", ASSET, PAYER): 16,
            ("eip155:9", ASSET, EVERYBODY): 32,
            ("eip155:9", ASSET, PAYER): 32,
        }


async def test_A08_what_he_paid_lately_counts_and_nothing_that_was_paid_otherwise(ledger_url: str) -> None:
    """Not before the second, in another asset or network, by another payer, or in a facilitator's own memory."""
    paid = [
        claim("mine"),
        claim("asset before", 1, asset="0xa"),
        claim("asset after", 2, asset="0xz"),
        claim("network before", 4, network="eip155:1"),
        claim("network after", 8, network="eip155:9"),
        claim("payer before", 16, payer="0xa"),
        claim("payer after", 32, payer="0xz"),
    ]
    room = Room(payer=100, since=7)
    async with opened(ledger_url, now=6) as earlier:
        await earlier.begin(claim("earlier", 64))
        await earlier.follow(SHOP, "earlier", SETTLED)
    async with opened(ledger_url) as ledger:
        for entry in paid:
            await ledger.begin(entry)
            await ledger.follow(SHOP, entry.subject.pay_id, SETTLED)
        theirs = intended("theirs", amount=128)
        await ledger.begin(replace(theirs, subject=replace(theirs.subject, asset=ASSET, payer=PAYER)))
        await ledger.advance(ME, "theirs", Event.SETTLE, Settled("0xtx"))
    async with opened(ledger_url) as fresh:
        assert await refusal(fresh, 41, room) == ("payer", 60, 100, True)
    async with opened(ledger_url) as fresh:
        assert (await fresh.begin(claim("next", 40), room=room))[1]


@pytest.mark.parametrize(
    ("amount", "room", "told"),
    [
        # Ten are open and sixty were paid lately; of all together, fifty are open.
        (31, Room(payer=100, since=7), ("payer", 70, 100, True)),
        (90, Room(payer=100, since=7), ("payer", 70, 100, True)),
        (91, Room(payer=100, since=7), ("payer", 70, 100, False)),
        (91, Room(payer=100), ("payer", 10, 100, False)),
        (91, Room(payer=100, since=8), ("payer", 10, 100, False)),
        (51, Room(total=100, since=7), ("total", 50, 100, False)),
        (51, Room(payer=121, total=100, since=7), ("total", 50, 100, False)),
        (51, Room(payer=120, total=100, since=7), ("payer", 70, 120, True)),
    ],
)
async def test_A08_a_refusal_tells_what_is_open_and_whether_only_a_payment_that_was_made_is_in_the_way(
    ledger_url: str, amount: int, room: Room, told: tuple[str, int, int, bool]
) -> None:
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("paid"))
        await ledger.follow(SHOP, "paid", SETTLED)
        await ledger.begin(claim("open", 10))
        await ledger.begin(claim("beside", 40, payer="0xz"))
        assert await refusal(ledger, amount, room) == told
    async with opened(ledger_url) as fresh:
        assert await refusal(fresh, amount, room) == told


@pytest.mark.parametrize(
    "arrows",
    [
        [(Event.REORGANISE, Reversed("0xtx"))],
        [(Event.FAIL, Owed("0xtx", "why")), (Event.REFUND, Refunding("0xtx", "header", "back"))],
    ],
)
async def test_A08_a_payment_that_came_to_nothing_or_goes_back_takes_no_room_any_more(
    ledger_url: str, arrows: list[Arrow]
) -> None:
    room = Room(payer=100, since=7)
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("first"), room=room)
        await ledger.follow(SHOP, "first", SETTLED)
        assert await refusal(ledger, 41, room) == ("payer", 60, 100, True)
        await ledger.follow(SHOP, "first", arrows)
        assert (await ledger.begin(claim("next", 100), room=room))[1]


@pytest.mark.parametrize(("transaction", "counts"), [("", False), ("0xtx", True)])
async def test_A16_what_a_facilitator_refused_without_a_transaction_is_no_failure_of_the_payer(
    ledger_url: str, transaction: str, counts: bool
) -> None:
    room = Room(failures_since=7)
    theirs = intended("theirs")
    async with opened(ledger_url) as ledger:
        await ledger.begin(replace(theirs, subject=replace(theirs.subject, payer=PAYER)))
        await ledger.advance(ME, "theirs", Event.REFUSE, Refused("why", "words", transaction))
    async with opened(ledger_url) as fresh:
        if counts:
            assert await refusal(fresh, 1, room) == ("failures", 0, 0, False)
        else:
            assert (await fresh.begin(claim("next"), room=room))[1]


async def test_A16_what_a_gateway_refused_is_a_failure_of_its_payer_alone(ledger_url: str) -> None:
    async with opened(ledger_url) as ledger:
        for payer in ("0xa", "0xz"):
            await ledger.begin(claim(payer, payer=payer))
            await ledger.follow(SHOP, payer, REFUSED)
    async with opened(ledger_url) as fresh:
        assert (await fresh.begin(claim("mine"), room=Room(failures_since=7)))[1]
        await fresh.follow(SHOP, "mine", REFUSED)
        assert await refusal(fresh, 1, Room(payer=0, failures_since=7)) == ("failures", 0, 0, False)


@pytest.mark.parametrize(("last", "refused"), [(None, False), (6, False), (7, True), (8, True)])
async def test_A16_a_failure_that_is_known_counts_from_its_very_second_on(
    tmp_path: Path, last: int | None, refused: bool
) -> None:
    def check(connection: Connection) -> bool:
        remember(connection, Known(failed={PAYER: (5, last)}))
        try:
            Sums(connection, claim("next").subject, Room(failures_since=7)).check()
        except NoRoom:
            return True
        return False

    async with opened(url(tmp_path)) as ledger:
        assert await ledger.run(check) is refused


async def test_what_was_asked_for_a_claim_in_vain_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_statements(monkeypatch, url(tmp_path))
    async with opened(url(tmp_path)) as ledger:
        asked = []
        for _ in range(2):
            counted.clear()
            await refusal(ledger, 101, Room(payer=100))
            asked.append(counted["ask"])
        # The payment and the sums, and then neither.
        assert asked == [2, 0]


async def test_A08_a_row_without_a_number_adds_nothing_and_takes_nothing_away(ledger_url: str) -> None:
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("good", 10))
        await ledger.begin(claim("bad", 10, payer="0xbad"))
        bad = update(payments).where(payments.c.pay_id == "bad").values(amount="a lot")
        await ledger.run(lambda connection: connection.execute(bad).rowcount)
    async with opened(ledger_url) as fresh:
        assert await kept(fresh) == {(NETWORK, ASSET, EVERYBODY): 10, (NETWORK, ASSET, PAYER): 10}
        assert await refusal(fresh, 11, Room(total=20)) == ("total", 10, 20, False)


@pytest.mark.parametrize("amount", [1, 2])
async def test_A08_a_sum_that_is_missing_is_written_when_the_ledger_is_opened(ledger_url: str, amount: int) -> None:
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("pay", amount))
        await forget_sums(ledger)
        assert await kept(ledger) == {}
    async with opened(ledger_url) as fresh:
        assert await kept(fresh) == {(NETWORK, ASSET, EVERYBODY): amount, (NETWORK, ASSET, PAYER): amount}
        assert await refusal(fresh, 100, Room(payer=100)) == ("payer", amount, 100, False)


@pytest.mark.parametrize("room", [Room(payer=100), Room(total=100)])
async def test_A08_no_sum_is_below_nothing_whatever_became_of_it(ledger_url: str, room: Room) -> None:
    async with opened(ledger_url) as ledger:
        await ledger.begin(claim("pay"))
        await forget_sums(ledger)
        await ledger.follow(SHOP, "pay", SETTLED)
        assert await kept(ledger) == {}
        assert (await refusal(ledger, 101, room))[1] == 0
        assert (await ledger.begin(claim("next", 100), room=room))[1]
