"""An answer paid out of a balance: the bound is set aside, the answer is made, and what it used is debited.

    reserve the bound ─▶ handler ─▶ debit what was metered, release the rest, write the bill: one transaction
        │ too little: 402 with offers          │ failed before it began, or empty: all of it is released

A stream is played as it is made and billed for what was metered when it ended, whoever ended it: the model, an upstream
that died (fault G04), a reader who hung up (A18), or the bound itself (G03). Each sale runs in a task of its own; a
reservation whose process dies is released when its lease ends (E11).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from x402.billing import Bill, Metered, PaidBy
from x402.errors import ConflictError, Moved, UnavailableError
from x402.gateway.accounts import Holder
from x402.gateway.accounts.charge import (
    bill_header,
    bound_of,
    metered_of,
    name_of,
    not_billed,
    refused,
    reply_of,
    sale_of,
)
from x402.gateway.problem import AT_WORK, ApiProblem
from x402.gateway.recording import Reader, Recording
from x402.gateway.register import Register
from x402.gateway.sale import Handler, HeaderPairs, PaidRequest, Reply, Sale
from x402.gateway.terms import Flow, Terms
from x402.ports import Answer
from x402.ports.accounts import Accounts, Held, NotHeld, OtherRequest, Reservation, TooLittle
from x402.wire.headers import REQUEST_ID

_BEATS = 3
_log = logging.getLogger("x402.gateway")


class _Cut(Exception):
    """The answer has used up what was set aside for it (fault G03)."""


@dataclass(slots=True, eq=False)
class _Order:
    """A sale at work: `begun` when the head of its answer is there, `ended` when it is settled for. `reader` plays it
    where it is a stream."""

    held: Reservation
    sale: Sale
    recording: Recording
    reader: Reader | None = None
    gone: bool = False
    work: asyncio.Future[None] | None = None
    bill: Bill | None = None
    begun: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Tab:
    """Serves requests of account holders. `timeout_seconds` is how long a handler may take, `answer_limit` how many
    bytes of an answer are held for a reader who is slow."""

    def __init__(self, register: Register, book: Accounts, *, answer_limit: int, timeout_seconds: float) -> None:
        self._register = register
        self._book = book
        self._limit = answer_limit
        self._timeout = timeout_seconds
        self._orders: set[_Order] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None

    async def take(self, holder: Holder, request: PaidRequest, terms: Terms, handler: Handler) -> Reply:
        """Serve one request out of a balance.

        A request that names itself (`Idempotency-Key`, or the caller's own `X-Request-ID`) is served and debited once:
        again the same is the same answer. Raises `RefusedError(EMPTY)` when the balance does not cover the bound,
        `ConflictError` for a name that is at work or belongs to another request, and what the handler raises before its
        answer begins: then nothing is charged.
        """
        wanted = Reservation(
            id=f"res_{secrets.token_hex(16)}",
            account=holder.account,
            units=bound_of(terms),
            key_id=holder.key_id,
            fingerprint=request.digest,
            identifier=name_of(request),
        )
        discounts = self._register.discounts
        discount = None if discounts is None else await discounts.of(holder.account)
        held, won = await self._reserve(wanted, holder)
        if not won:
            return await self._again(held)
        order = self._order(held, request, terms)
        order.sale.discount = discount
        task = asyncio.create_task(self._serve(order, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            waiting: list[asyncio.Future[Any]] = [order.begun, order.ended]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            recording = order.recording
            if order.reader is not None:
                chunks = _Heard(order.reader, lambda: self._hung_up(order))
                return Reply(recording.status, (*recording.headers, bill_header(order.held)), chunks)
            return reply_of(await asyncio.shield(order.ended), order.held, order.bill)
        except asyncio.CancelledError:
            self._hung_up(order)
            if order.reader is not None:
                await order.reader.aclose()
            raise

    async def _reserve(self, wanted: Reservation, holder: Holder) -> tuple[Reservation, bool]:
        seconds = self._register.policy.lease_seconds
        try:
            return await self._book.reserve(wanted, lease_seconds=seconds, key_limit=holder.spend_limit)
        except TooLittle as error:
            raise refused(error, wanted.account) from error
        except OtherRequest as error:
            raise ConflictError(
                "idempotency_conflict", "you gave this name to another request; choose another Idempotency-Key"
            ) from error

    async def _again(self, held: Reservation) -> Reply:
        """The same answer again, for a request that names itself."""
        if held.state is Held.OPEN:
            raise ConflictError(AT_WORK, "this request is being served; send the very same request again")
        answer, bill = await self._register.answers.find(held.id), await self._book.bill(held.id)
        if answer is None:
            raise ApiProblem(
                410, "answer_gone", "this request was served, and its answer is not kept any more", moved=Moved.YES
            )
        return reply_of(answer, held, bill)

    def _order(self, held: Reservation, request: PaidRequest, terms: Terms) -> _Order:
        sale = sale_of(held, terms.flow or Flow.AUTHORIZATION, seconds=max(1, int(self._timeout)))
        sale.request_id = request.header(REQUEST_ID) or ""
        order = _Order(held, sale, Recording(limit=self._limit, withhold=sale.flow is Flow.AUTHORIZATION))
        self._orders.add(order)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        return order

    @staticmethod
    def _begin(order: _Order) -> None:
        """The head is known. Its reader is there before the first piece is: what is too long to be kept is held for
        readers alone."""
        if order.sale.flow is Flow.UPFRONT and order.recording.status < 400 and not order.gone:
            order.reader = order.recording.play()
        order.begun.set_result(None)

    def _hung_up(self, order: _Order) -> None:
        """Nobody reads any more. What has no name can't be asked for again, so it is made no further (fault A18)."""
        order.gone = True
        if order.work is not None and not order.held.identifier and not order.work.done():
            order.work.cancel()

    async def _serve(self, order: _Order, handler: Handler) -> None:
        """Make the answer and settle for it; whoever waits is told when both are durable."""
        recording, outcome = order.recording, "served"
        failure: Exception | None = None
        recording.on_begin = lambda: self._begin(order)
        begun_at = asyncio.get_running_loop().time()
        order.work = asyncio.ensure_future(self._run(order, handler))
        if order.gone:
            order.work.cancel()
        try:
            await asyncio.shield(order.work)
        except asyncio.CancelledError:
            if not order.work.cancelled():
                # This process goes down: what was metered so far is what is owed.
                order.work.cancel()
                await asyncio.gather(order.work, return_exceptions=True)
            outcome = "hung_up" if order.gone else "stopped"
        except _Cut:
            outcome = "cut"
        except Exception as error:  # noqa: BLE001 - it belongs to the caller, who waits for the answer
            # Who reads so slowly that the time is up has left it no less than who hangs up.
            outcome, failure = ("hung_up", None) if recording.held_up else ("failed", error)
        order.sale.latency_ms = int((asyncio.get_running_loop().time() - begun_at) * 1000)
        if recording.first_byte_at:
            order.sale.first_token_ms = int((recording.first_byte_at - begun_at) * 1000)
        try:
            await self._end(order, outcome, failure)
        finally:
            if not order.ended.done():
                words = "what became of this request is not known; its bill tells"
                self._tell(order, recording.answer({}), UnavailableError("answer_unavailable", words))
            await recording.close(broken=outcome != "served")
            self._orders.discard(order)
            if not self._orders:
                self.rest()

    async def _run(self, order: _Order, handler: Handler) -> None:
        sink, recording = _Bounded(order), order.recording
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await handler(order.sale, sink)
        except TimeoutError as error:
            if limit.expired():
                raise UnavailableError("handler_timeout", f"no answer within {self._timeout:g} seconds") from error
            raise
        # A handler may have swallowed what it was told while it wrote.
        if sink.is_cut:
            raise _Cut
        if recording.withhold and not recording.kept:
            raise recording.too_large()
        if not recording.status:
            raise RuntimeError("the handler returned without an answer")

    async def _end(self, order: _Order, outcome: str, failure: Exception | None) -> None:
        recording, sale = order.recording, order.sale
        began = bool(recording.status) and recording.status < 400
        withheld = sale.flow is Flow.AUTHORIZATION
        if not began or (withheld and outcome != "served"):
            await self._give_back(order)
            if failure is None and not (recording.status and outcome == "served"):
                failure = UnavailableError("answer_stopped", "the answer was stopped; nothing is charged")
            self._tell(order, recording.answer({}), failure)
            return
        if failure is not None:
            _log.error("a handler failed after its answer had begun", exc_info=failure)
        sold = outcome == "served" or (outcome == "hung_up" and bool(recording.pieces))
        metered = sale.reduced(metered_of(sale, order.held.units, sold=sold, whole=outcome == "served"))
        answer = recording.answer(sale.notes)
        try:
            if order.held.identifier and recording.kept and outcome == "served":
                sealed = self._register.answers.sealed(order.held.id, answer)
                await self._register.ledger.keep_answer(order.held.id, sealed)
            order.bill = self._bill(order, metered, outcome)
            await self._book.settle(order.held.id, order.bill)
        except (UnavailableError, NotHeld) as error:
            self._register.telemetry.emit("balance.unbilled", account=order.held.account, units=metered.charged)
            if withheld:
                self._tell(order, answer, not_billed(error))
                return
        else:
            self._register.telemetry.emit("balance.charged", units=metered.charged)
            self._register.telemetry.emit("answer.sold", **order.bill.facts())
        self._tell(order, answer, None)

    def _bill(self, order: _Order, metered: Metered, outcome: str) -> Bill:
        sale, held = order.sale, order.held
        return Bill(
            bill_id=held.id,
            at=self._register.clock(),
            account=held.account,
            paid_by=PaidBy.BALANCE,
            metered=metered,
            quoted=held.units,
            earned=metered.charged - metered.fee,
            key_id=held.key_id,
            network=sale.network,
            request_id=sale.request_id,
            outcome=outcome,
            latency_ms=sale.latency_ms,
            first_token_ms=sale.first_token_ms,
            tags=dict(sale.tags),
        )

    async def _give_back(self, order: _Order) -> None:
        # A ledger that is away lets the lease end by itself.
        with suppress(UnavailableError):
            await self._book.release(order.held.id)

    @staticmethod
    def _tell(order: _Order, answer: Answer, failure: Exception | None) -> None:
        if failure is not None:
            order.ended.set_exception(failure)
            # Where nobody waits any more, the exception needs no reader.
            order.ended.exception()
        else:
            order.ended.set_result(answer)

    async def reconcile(self) -> int:
        """Release what processes left behind when they died, and forget what was kept long enough; returns how many
        reservations were released."""
        mine = {order.held.id for order in self._orders}
        if mine:
            await self._book.keep(mine, self._register.policy.lease_seconds)
        released = await self._book.release_abandoned()
        await self._book.forget(self._register.clock() - self._register.answers.retention_seconds)
        return len(released)

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the sales at work; those that go on then are billed as far as they came."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for order in list(self._orders):
            if order.work is not None:
                order.work.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.rest()

    def rest(self) -> None:
        """Renew nothing any more."""
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    async def _beat(self) -> None:
        seconds = self._register.policy.lease_seconds
        while True:
            await asyncio.sleep(seconds / _BEATS)
            with suppress(UnavailableError):
                await self._book.keep([order.held.id for order in self._orders], seconds)


class _Bounded:
    """What a handler writes to: stops a stream for good when it has used what was set aside. An answer that is withheld
    goes out whole, and costs that at most."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self.is_cut = False

    async def start(self, status: int, headers: HeaderPairs) -> None:
        await self._order.recording.start(status, headers)

    async def write(self, chunk: bytes) -> None:
        recording, metered = self._order.recording, self._order.sale.metered
        if not recording.withhold and metered is not None and metered.charged > self._order.held.units:
            self.is_cut = True
        if self.is_cut:
            raise _Cut
        await recording.write(chunk)


class _Heard:
    """A reader that tells when it goes away."""

    def __init__(self, reader: Reader, gone: Callable[[], None]) -> None:
        self._reader, self._gone = reader, gone

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._reader

    async def aclose(self) -> None:
        await self._reader.aclose()
        self._gone()
