"""What is unsettled, as a sum that is kept, is always what the rows say (fault A08)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, update

from tests.ports.ledgers import subject, url
from x402.errors import UnavailableError
from x402.lifecycle import LAW, Entry, Event, Party, begin
from x402.ports import NoRoom, Room
from x402.ports.ledger import SqlLedger
from x402.ports.schema import payments, unsettled
from x402.ports.unsettled import UNSETTLED
from x402.stages import Claimed, Refused, Released, Served, Settled, Settling, Stage, State

SHOP = Party.GATEWAY
STAGES: dict[State, Stage] = {
    State.SERVED: Served(),
    State.SETTLING: Settling(),
    State.SETTLED: Settled("0xtx"),
    State.REFUSED: Refused("why", "words"),
    State.RELEASED: Released("why"),
}
EVERYTHING = 2**256 - 1


def claim(name: str, amount: int, payer: str = "0xpayer", network: str = "eip155:8453") -> Entry:
    return begin(SHOP, replace(subject(name, amount), payer=payer, network=network), Claimed())


async def sums(ledger: SqlLedger) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """What stands in the sums, and what the rows say: by network and payer, and of everybody."""

    def read(connection: Connection) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
        kept = {(row.network, row.payer): int(row.units) for row in connection.execute(select(unsettled))}
        told: Counter[tuple[str, str]] = Counter()
        for row in connection.execute(
            select(payments).where(payments.c.state.in_([str(state) for state in UNSETTLED]))
        ):
            told[row.network, row.payer] += int(row.amount)
            told[row.network, ""] += int(row.amount)
        return kept, dict(told)

    return await ledger._do(read)


async def test_A08_the_sums_are_what_the_rows_say_after_any_walk(ledger_url: str) -> None:
    chance, made = random.Random(402), 0
    async with SqlLedger(ledger_url) as ledger:
        states: dict[str, State] = {}
        for _ in range(12):
            jobs = []
            for _ in range(10):
                if states and chance.random() < 0.6:
                    name = chance.choice(list(states))
                    arrows = [
                        (event, after)
                        for event, after in LAW[SHOP][states[name]].items()
                        if after in STAGES and event is not Event.METER
                    ]
                    if not arrows:
                        continue
                    event, after = chance.choice(arrows)
                    states[name] = after
                    jobs.append(ledger.advance(SHOP, name, event, STAGES[after]))
                else:
                    made += 1
                    name, payer = f"pay{made}", f"0x{chance.randrange(3)}"
                    amount = chance.choice([1, 10**6, EVERYTHING])
                    network = chance.choice(["eip155:8453", "eip155:84532"])
                    await ledger.begin(claim(name, amount, payer, network))
                    states[name] = State.CLAIMED
            await asyncio.gather(*jobs)
            kept, told = await sums(ledger)
            assert kept == told
    assert made > 20


async def test_A08_who_is_refused_or_late_changes_no_sum(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        room = Room(payer=100)
        told = await asyncio.gather(
            *(ledger.begin(claim("same", 60), room=room) for _ in range(5)),
            *(ledger.begin(claim(f"other{number}", 60), room=room) for number in range(5)),
            return_exceptions=True,
        )
        assert [isinstance(one, NoRoom) for one in told] == [False] * 5 + [True] * 5
        assert await sums(ledger) == ({("eip155:8453", ""): 60, ("eip155:8453", "0xpayer"): 60},) * 2
        await ledger.follow(SHOP, "same", [(Event.SUBMIT, Settling()), (Event.SETTLE, Settled("0xtx"))])
        assert await sums(ledger) == ({}, {})
        assert (await ledger.begin(claim("again", 100), room=room))[1]


async def test_sums_that_disagree_are_counted_anew_when_the_ledger_is_opened(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for number in range(3):
            await ledger.begin(claim(f"pay{number}", 10, f"0x{number}"))
        await ledger._do(lambda connection: connection.execute(update(unsettled).values(units="7")).rowcount)
        await ledger._do(
            lambda connection: connection.execute(delete(unsettled).where(unsettled.c.payer == "0x1")).rowcount
        )
        kept, told = await sums(ledger)
        assert kept != told
    async with SqlLedger(ledger_url) as ledger:
        kept, told = await sums(ledger)
        assert kept == told
        assert kept["eip155:8453", ""] == 30


async def test_a_row_that_nobody_here_wrote_does_not_keep_a_ledger_shut(tmp_path: Path) -> None:
    async with SqlLedger(url(tmp_path)) as ledger:
        await ledger.begin(claim("good", 10))
        await ledger.begin(claim("bad", 10, "0xbad"))
        bad = update(payments).where(payments.c.pay_id == "bad").values(amount="a lot")
        await ledger._do(lambda connection: connection.execute(bad).rowcount)
    async with SqlLedger(url(tmp_path)) as ledger:
        assert (await ledger.begin(claim("next", 10), room=Room(total=20)))[1]
        with pytest.raises(UnavailableError, match="ledger_damaged"):
            await ledger.find(SHOP, "bad")
