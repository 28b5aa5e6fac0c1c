"""Long answers out of a balance, and handlers that swallow what they are told (faults A18, A21, B17, G03)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.gateway.accounts.guest import EACH, PRICE, SOON, TEXT, UPFRONT, WITHHELD, Guest, read
from x402.billing import Metered
from x402.errors import MisconfiguredError
from x402.gateway.sale import Sale, Sink

MEBIBYTE = b"m" * 2**20


class Writer:
    """A handler that writes pieces at once, each for `each`, and hears nothing of what is said to it meanwhile."""

    def __init__(self, *pieces: bytes, each: int = EACH) -> None:
        self.pieces, self.each, self.written = pieces, each, 0

    async def __call__(self, sale: Sale, sink: Sink) -> None:
        await sink.start(200, TEXT)
        for index, piece in enumerate(self.pieces):
            sale.metered = Metered(model="m", charged=self.each * (index + 1))
            with suppress(Exception):
                await sink.write(piece)
            self.written += 1


async def test_A21_a_long_stream_that_is_made_at_once_arrives_whole(guest: Guest) -> None:
    """Its reader is there before its first piece, so nothing is too long to be kept for him."""
    guest.open(limit=10)
    pieces = [b"%06d" % index for index in range(5)]
    assert await read(await guest.take(Writer(*pieces))) == (b"".join(pieces), True)
    assert await guest.bill() == ("served", 5 * EACH)


@pytest.mark.parametrize("named", [True, False])
async def test_A18_whoever_hangs_up_while_a_long_stream_begins_keeps_nobody_waiting(guest: Guest, named: bool) -> None:
    """What has a name is made to its end for whoever comes back, the rest no further."""
    guest.open(limit=10)
    write = Writer(*[MEBIBYTE] * 3)

    async def handler(sale: Sale, sink: Sink) -> None:
        await sink.start(200, TEXT)
        taking.cancel()
        await write(sale, sink)

    taking = guest.taking(handler, name="mine" if named else "")
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(taking, SOON)
    assert await guest.bill() == (("served", 3 * EACH) if named else ("hung_up", EACH))


async def test_a_withheld_answer_too_long_is_no_answer_whatever_its_handler_makes_of_it(guest: Guest) -> None:
    guest.open(limit=10)
    with pytest.raises(MisconfiguredError) as told:
        await guest.take(Writer(b"123456", b"123456"), WITHHELD)
    assert told.value.code == "answer_too_large"
    assert await guest.bills() == []
    # Control: one that fits.
    reply = await guest.take(Writer(b"12345", b"12345"), WITHHELD)
    assert await read(reply) == (b"1234512345", True)
    assert await guest.bill() == ("served", 2 * EACH)


async def test_G03_a_stream_that_was_cut_is_not_served_whatever_its_handler_makes_of_it(guest: Guest) -> None:
    reply = await guest.take(Writer(b"one", b"two", b"three", each=PRICE // 2 + 1), UPFRONT)
    assert await read(reply) == (b"one", False)
    assert await guest.bill() == ("cut", PRICE)


async def test_B17_an_answer_that_is_withheld_goes_out_whole_and_costs_no_more_than_was_said(guest: Guest) -> None:
    reply = await guest.take(Writer(b"one", b"two", each=PRICE), WITHHELD)
    assert await read(reply) == (b"onetwo", True)
    assert await guest.bill() == ("served", PRICE)


@pytest.mark.parametrize("how", ["reads all", "hangs up", "stalls", "fails", "says nothing"])
async def test_A18_a_fixed_price_is_paid_by_who_leaves_the_end_of_its_stream(guest: Guest, how: str) -> None:
    """What nobody meters is sold as a whole; a handler that fails sells nothing."""
    guest.open(limit=1000, timeout=0.2)

    async def handler(sale: Sale, sink: Sink) -> None:
        await sink.start(200, TEXT)
        for _ in range(0 if how == "says nothing" else 20 if how == "stalls" else 9):
            await sink.write(MEBIBYTE[: 64 * 1024])
        if how == "fails":
            raise ConnectionError("upstream")
        if how != "reads all":
            await asyncio.sleep(1)

    reply = await guest.take(handler)
    chunks = aiter(reply.chunks)
    for _ in range(0 if how == "says nothing" else 9):
        await anext(chunks)
    if how in ("hangs up", "says nothing"):
        await reply.chunks.aclose()
    (bill,) = await guest.bills()
    assert bill.outcome == {"reads all": "served", "fails": "failed"}.get(how, "hung_up")
    assert bill.metered.charged == (PRICE if how in ("reads all", "hangs up", "stalls") else 0)
    assert bill.metered.complete is (how == "reads all")
