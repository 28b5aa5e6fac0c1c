"""How fast the ledger takes claims that are on the disk when they are told, and how its cost grows."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benching.figures import OURS, Figure, middle, tell
from tests.postgres import Postgres
from x402.lifecycle import Entry, Event, Party, Subject, begin
from x402.networks import BASE_SEPOLIA
from x402.ports import Room
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Served

AT_ONCE = 256
ASSET = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
_ROOM = Room(payer=10**12, total=10**15)


def entries(count: int, *, payers: int = 1000) -> list[Entry]:
    """So many payments as a gateway claims them, of `payers` payers in turn."""
    addresses = [f"0x{number:040x}" for number in range(1, payers + 1)]
    return [
        begin(Party.GATEWAY, _subject(addresses[number % payers]), Claimed())
        for number in range(count)
    ]  # fmt: skip


def _subject(payer: str) -> Subject:
    return Subject(
        pay_id=f"eip155:84532:{ASSET}:{payer}:0x{secrets.token_hex(32)}", network=BASE_SEPOLIA, asset=ASSET,
        payer=payer, payee="0x" + "11" * 20, amount=1000, expires_at=int(time.time()) + 3600,
        fingerprint=secrets.token_hex(32),
    )  # fmt: skip


async def claims(ledger: SqlLedger, rows: list[Entry], at_once: int = AT_ONCE) -> float:
    """Claims a second, each as the gateway makes it: with a lease, and the payer's open sum checked."""
    waiting = iter(rows)

    async def work() -> None:
        for row in waiting:
            _, ours = await ledger.begin(row, lease_seconds=30, room=_ROOM)
            assert ours

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return len(rows) / (time.perf_counter() - begun)


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """A SQLite file on this machine's disk, and a PostgreSQL that is started for this."""
    server = Postgres(durable=True)
    try:
        with tempfile.TemporaryDirectory(prefix="x402-bench-") as folder:
            yield {"sqlite": f"sqlite:///{folder}/ledger.sqlite", "postgres": server.database()}
    finally:
        server.stop()


def ledger(*, count: int, rounds: int) -> list[Figure]:
    """Durable claims a second on both databases."""
    found = []
    with databases() as urls:
        for name, url in urls.items():
            rates = asyncio.run(_rounds(url, count, rounds))
            found.append(middle([Figure(f"claims-{name}", OURS, rate, "/s", {"at_once": AT_ONCE}) for rate in rates]))
    return found


async def _rounds(url: str, count: int, rounds: int) -> list[float]:
    async with SqlLedger(url) as opened:
        await claims(opened, entries(256))
        return [await claims(opened, entries(count)) for _ in range(rounds)]


def growth(*, step: int, count: int) -> list[Figure]:
    """Claims a second while the ledger grows tenfold in payments, in open ones, and in payers: no curve may sink."""
    figures = []
    for what in ("payments", "open", "payers"):
        for times in (1, 10):
            tell(f"ledger: {what} x{times}")
            rate = asyncio.run(_grown(what, step * times, count))
            notes = {what: step * times}
            figures.append(Figure(f"claims-{what}-x{times}", OURS, rate, "/s", notes))
    return figures


async def _grown(what: str, size: int, count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as folder:
        async with SqlLedger(f"sqlite:///{folder}/ledger.sqlite") as opened:
            before = entries(size, payers=size if what == "payers" else 1000)
            await claims(opened, before)
            if what == "payments":
                moves = (opened.advance(Party.GATEWAY, row.subject.pay_id, Event.SERVE, Served()) for row in before)
                await asyncio.gather(*moves)
            return await claims(opened, entries(count))
