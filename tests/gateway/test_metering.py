"""What is due for each piece of an answer, and when a stream is cut, played or withheld (faults B16, A17, G03)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.waiting import until
from x402 import networks
from x402.billing import Metered
from x402.discount import Discount
from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.metered import Counted, Exhausted, MeteredSale
from x402.gateway.recording import BrokenOff, Recording, sold_of
from x402.gateway.running import Running
from x402.lifecycle import Event, Party, UnlawfulEvent
from x402.stages import NOTHING_DUE, Released, Settling, State
from x402.wire.receipt import Receipt

EVM = "eip155:84532"
PRICED = {"GET /report": "$0.01"}
MAXIMUM = 10_000
AHEAD = 16
STREAM = (("Content-Type", "text/event-stream; charset=utf-8"),)


class Meter:
    """A payment of scheme upto that is claimed by hand, and its meter."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop

    async def open(self) -> None:
        self.shop.open(PRICED, schemes=("exact", "upto"))
        self.register = self.shop.paywall.till.register
        challenge = await self.shop.challenge()
        self.offer = next(one for one in challenge.accepts if one.scheme == "upto")
        self.payment = self.shop.payer.payment(self.offer, challenge)
        self.job = await self.register.claim(self.payment, "print", self.offer)
        self.recording = Recording(limit=1000, withhold=False)
        self.sink = Counted(self.job, self.recording, self.register)
        self.use(0)

    def use(self, units: int) -> None:
        self.job.sale.metered = Metered(model="m", charged=units)

    def sale(self, patience: float = 60) -> tuple[MeteredSale, Running]:
        async def offer() -> Any:
            return self.offer

        async def handler(*_: Any) -> None:
            return

        running = Running(self.job.pay_id, self.payment, "print", offer, handler)
        running.begin(self.job)
        return MeteredSale(self.register, self.job, running, limit=1000, patience=patience), running


@pytest.fixture
async def meter(shop: Any) -> Meter:
    meter = Meter(shop)
    await meter.open()
    return meter


@pytest.mark.parametrize(
    ("decimals", "charged", "due"),
    [(6, 7, 7), (6, -5, 0), (6, MAXIMUM, MAXIMUM), (8, 7, 700), (4, 100, 1), (4, 101, 2), (5, 7, 1), (None, 7, 7)],
)
async def test_B16_what_is_metered_is_due_in_the_units_of_the_token(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, decimals: int | None, charged: int, due: int
) -> None:
    """Rounded up, where a token counts fewer decimals than a meter: what is due was used."""
    token = networks.get(EVM).assets[0]
    assets = () if decimals is None else (replace(token, decimals=decimals),)
    other = replace(networks.get(EVM), assets=assets)
    monkeypatch.setattr(networks, "get", lambda _: other)
    meter.use(charged)
    assert meter.sink.due == due


async def test_row_078_a_discount_lowers_what_is_due(meter: Meter) -> None:
    meter.use(1000)
    meter.job.sale.discount = Discount(0, Decimal(10))
    assert meter.sink.due == 900
    # Off what is taken at most, and not off what was metered beyond it.
    meter.use(2 * MAXIMUM)
    assert meter.sink.due == MAXIMUM * 9 // 10


async def test_G03_a_stream_may_use_all_that_is_authorised_and_no_unit_more(meter: Meter) -> None:
    meter.use(MAXIMUM)
    await meter.sink.write(b"the last piece")
    meter.use(MAXIMUM + 1)
    with pytest.raises(Exhausted):
        await meter.sink.write(b"one more")
    assert meter.recording.pieces == 1
    # Control: an answer that is withheld is not cut; it is charged what was signed.
    meter.recording.withhold = True
    await meter.sink.write(b"one more")
    assert (meter.recording.pieces, meter.sink.due) == (2, MAXIMUM)


async def test_A18_a_handler_is_never_further_ahead_of_its_reader_than_is_said(meter: Meter) -> None:
    """What is never read is never paid for, so it is not made."""
    reader = meter.recording.play()
    for piece in range(AHEAD):
        meter.use(piece + 1)
        await asyncio.wait_for(meter.sink.write(b"piece"), 5)
    meter.use(AHEAD + 1)
    writing = asyncio.create_task(meter.sink.write(b"piece"))
    await asyncio.sleep(0.01)
    assert (writing.done(), meter.sink.read) == (False, 0)
    await anext(reader)
    await asyncio.wait_for(writing, 5)
    assert (meter.sink.read, meter.sink.due) == (1, AHEAD + 1)
    await reader.aclose()


@pytest.mark.parametrize(
    ("status", "headers", "played"),
    [
        (200, STREAM, True),
        (399, STREAM, True),
        (400, STREAM, False),
        (200, (("content-type", "text/plain"),), False),
        (200, (("x-was", "text/event-stream"), ("accept", "text/event-stream")), False),
        (200, (("accept", "text/plain"), *STREAM), True),
    ],
)
async def test_only_a_stream_of_events_is_played_before_it_is_paid(
    meter: Meter, status: int, headers: Any, played: bool
) -> None:
    sale, running = meter.sale()
    await sale.recording.start(status, headers)
    assert sale.recording.withhold is not played
    assert (running._reply is not None) is played
    await sale.recording.close()


async def test_A17_a_sale_has_as_long_as_its_payment_and_never_less_than_nothing(meter: Meter) -> None:
    sale, _ = meter.sale(patience=30)
    assert sale._left() == 30
    meter.shop.now += 10
    assert sale._left() == 20
    meter.shop.now += 30
    assert sale._left() == 0


@pytest.mark.parametrize("broken", [True, False])
async def test_a_stream_that_breaks_off_is_told_to_who_runs_it(
    meter: Meter, caplog: pytest.LogCaptureFixture, broken: bool
) -> None:
    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(200, STREAM)
        meter.use(100)
        await sink.write(b"data: 1\n\n")
        if broken:
            raise UnavailableError("upstream_failed", "the upstream broke off")

    sale, running = meter.sale()
    with caplog.at_level(logging.ERROR, "x402.gateway"):
        serving = asyncio.create_task(sale.serve(run))
        reply = await asyncio.wait_for(running.reply_to(2), 5)
        pieces = []
        with suppress(BrokenOff):
            async for piece in reply.chunks:
                pieces.append(piece)
        assert await asyncio.wait_for(serving, 5) is None
    assert pieces == [b"data: 1\n\n"]
    assert ["broke off" in record.getMessage() for record in caplog.records] == [True] * broken
    entry = await meter.register.ledger.find(Party.GATEWAY, meter.job.pay_id)
    assert entry is not None
    assert (entry.state, entry.amount) == (State.DELIVERED, 100)
    # What broke off is never sent again as if it were whole.
    kept = await meter.register.answers.find(meter.job.pay_id)
    assert (kept is None) is broken


@pytest.mark.parametrize(("status", "charged"), [(399, 100), (400, 0)])
@pytest.mark.parametrize("credits", [True, False])
async def test_a_withheld_answer_is_paid_and_noted_at_once_unless_it_is_an_error(
    meter: Meter, status: int, charged: int, credits: bool
) -> None:
    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(status, (("content-type", "text/plain"),))
        meter.use(100)
        await sink.write(b"secret")

    meter.register.credits = credits
    sale, _ = meter.sale()
    answer = await sale.serve(run)
    assert answer is not None
    # What an answer sold is kept with it where accounts are, for its bill.
    assert (answer.body, bool(sold_of(answer))) == (b"secret", credits)
    entry = await meter.register.ledger.find(Party.GATEWAY, meter.job.pay_id)
    assert entry is not None
    assert entry.state is (State.DELIVERED if charged else State.CLAIMED)
    assert [units for _, units in meter.shop.bank.payees.values()] == [charged] * bool(charged)


@pytest.mark.parametrize("in_time", [True, False])
async def test_A18_a_reader_has_until_the_payments_end_and_pays_for_what_it_has_read(
    meter: Meter, in_time: bool
) -> None:
    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(200, STREAM)
        for piece in range(3):
            meter.use(100 * (piece + 1))
            await sink.write(b"data\n\n")
        # The upstream says in the end what it really was.
        meter.use(350)
        if not in_time:
            meter.shop.now += 60

    sale, running = meter.sale(patience=60)
    serving = asyncio.create_task(sale.serve(run))
    reply = await asyncio.wait_for(running.reply_to(2), 5)
    reading = aiter(reply.chunks)
    await anext(reading)
    await until(lambda: sale.recording.pieces == 3)
    await asyncio.sleep(0.01)
    if in_time:
        assert [piece async for piece in reading] == [b"data\n\n"] * 2
    await asyncio.wait_for(serving, 5)
    assert [units for _, units in meter.shop.bank.payees.values()] == [350 if in_time else 100]


async def test_A22_what_is_due_is_written_down_every_two_seconds(meter: Meter) -> None:
    written = []
    reader = meter.recording.play()
    for units in (10, 20, 30, 40, 50):
        meter.use(units)
        await meter.sink.write(b"piece")
        entry = await meter.register.ledger.find(Party.GATEWAY, meter.job.pay_id)
        written.append(entry.due if entry else None)
        meter.shop.now += 1
    assert written == [None, None, 30, 30, 50]
    await reader.aclose()


@pytest.mark.parametrize("which", [1, 2, 4])
async def test_E10_a_note_that_was_written_and_told_as_failed_breaks_no_stream(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    real, noted, reader = meter.register.ledger.advance, [], meter.recording.play()

    async def unsure(*arrow: Any, **options: Any) -> Any:
        entry = await real(*arrow, **options)
        noted.append(entry.due)
        if len(noted) == which:
            raise UnavailableError("ledger_unavailable", "nobody knows whether it was written")
        return entry

    monkeypatch.setattr(meter.register.ledger, "advance", unsure)
    for units in (10, 20, 30, 40):
        meter.use(units)
        meter.shop.now += 2
        await meter.sink.write(b"piece")
    assert noted == [10, 20, 30, 40], "what was written is not written again, and nothing is left out"
    await reader.aclose()


async def test_A22_what_another_process_has_taken_over_is_given_no_more_for(meter: Meter) -> None:
    reader = meter.recording.play()
    meter.use(10)
    meter.shop.now += 2
    await meter.sink.write(b"piece")
    await meter.register.ledger.advance(Party.GATEWAY, meter.job.pay_id, Event.SUBMIT, Settling(10))
    meter.use(20)
    meter.shop.now += 2
    with pytest.raises(UnlawfulEvent):
        await meter.sink.write(b"piece")
    await reader.aclose()


async def test_A17_a_handler_that_says_nothing_in_time_costs_nothing(meter: Meter) -> None:
    async def run(*_: Any) -> None:
        await asyncio.Event().wait()

    sale, _ = meter.sale(patience=0)
    with pytest.raises(UnavailableError, match="nothing is charged") as told:
        await sale.serve(run)
    assert told.value.code == "handler_timeout"
    assert (await meter.shop.entry()).state is State.CLAIMED


async def test_a_handler_that_fails_before_it_says_anything_costs_nothing(meter: Meter) -> None:
    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(200, (("content-type", "text/plain"),))
        meter.use(100)
        raise UnavailableError("upstream_failed", "the upstream is away")

    with pytest.raises(UnavailableError, match="the upstream is away"):
        await meter.sale()[0].serve(run)
    assert (await meter.shop.entry()).state is State.CLAIMED


async def test_A18_a_stream_that_settles_itself_waits_for_its_reader_first(meter: Meter) -> None:
    """Its last event carries the receipt; a reader that leaves before it pays for what it has read."""

    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(200, STREAM)
        for piece in range(3):
            meter.use(100 * (piece + 1))
            await sink.write(b"data\n\n")
        await sale.settle()

    sale, running = meter.sale()
    serving = asyncio.create_task(sale.serve(run))
    reply = await asyncio.wait_for(running.reply_to(2), 5)
    await anext(aiter(reply.chunks))
    await until(lambda: sale.recording.pieces == 3)
    await asyncio.sleep(0.01)
    assert "settle" not in meter.shop.bank.asked
    await reply.chunks.aclose()
    await asyncio.wait_for(serving, 5)
    assert [units for _, units in meter.shop.bank.payees.values()] == [100]


@pytest.mark.parametrize("swallowed", [True, False])
async def test_an_answer_too_long_to_withhold_is_no_answer_whatever_its_handler_makes_of_it(
    meter: Meter, swallowed: bool
) -> None:
    async def run(_: Any, __: Any, sink: Any) -> None:
        await sink.start(200, (("content-type", "text/plain"),))
        with suppress(*[MisconfiguredError] * swallowed):
            await sink.write(b"x" * 1001)

    sale, _ = meter.sale()
    with pytest.raises(MisconfiguredError, match="1000 bytes"):
        await sale.serve(run)
    assert (await meter.shop.entry()).state is State.CLAIMED
    assert "settle" not in meter.shop.bank.asked


async def test_the_receipt_at_the_end_of_a_stream_says_that_nothing_was_due(meter: Meter) -> None:
    sale, _ = meter.sale()
    free = await sale.settle()
    assert (free.success, free.amount, free.transaction) == (True, "0", "")
    assert await sale.settle() is free


async def test_the_receipt_at_the_end_of_a_stream_says_why_it_was_not_paid(meter: Meter) -> None:
    meter.use(100)
    meter.shop.bank.script = [
        lambda _, truth: Receipt.refused("permit2_invalid_nonce", "no", truth.network, proven=True)
    ]
    refused = await meter.sale()[0].settle()
    assert (refused.success, refused.error_reason) == (False, "permit2_invalid_nonce")


async def test_A22_a_stream_that_cannot_be_settled_now_says_so_and_is_told_to_who_runs_it(
    meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process has moved the payment on meanwhile."""
    await meter.register.ledger.follow(Party.GATEWAY, meter.job.pay_id, [(Event.RELEASE, Released(NOTHING_DUE))])
    meter.use(100)
    with caplog.at_level(logging.ERROR, "x402.gateway"):
        receipt = await meter.sale()[0].settle()
    assert (receipt.success, receipt.error_reason, receipt.payer) == (
        False, "settlement_pending", meter.shop.payer.address,
    )  # fmt: skip
    assert ["could not be settled" in record.getMessage() for record in caplog.records] == [True]
