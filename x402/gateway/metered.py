"""A sale that is charged by what it used (scheme `upto`): served at once, metered as it goes, settled when it ends.

    CLAIMED ─▶ handler ── an event stream: played as it comes; SERVED ↺ writes down what is due, every few seconds
                  │      ── anything else: withheld until it is paid
                  ▼
    the stream ends, breaks off, or its reader hangs up ─▶ SETTLING ─▶ settle what is due ─▶ SETTLED ─▶ DELIVERED
                                                     └── nothing is due ─▶ RELEASED, without a transaction

What a reader never got is not charged: a hang-up after k pieces is due what those k came to (faults A18, G03, G04).
The maximum is reserved from the claim on, so what is not settled stays within the payer's balance and the operator's
limit (fault A08). A process that dies leaves what was written down, and the next one settles that (fault A22).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from x402 import networks
from x402.errors import UnavailableError, X402Error
from x402.gateway.job import Job
from x402.gateway.recording import Recording
from x402.gateway.register import Register
from x402.gateway.running import Running
from x402.gateway.sale import Handler, HeaderPairs, Refusal
from x402.lifecycle import UnlawfulEvent
from x402.ports import Answer
from x402.stages import Settled
from x402.wire.receipt import Receipt

METER_SECONDS = 2
"""How often what is due is written down while an answer is played."""
AHEAD = 16
"""How many pieces a handler may be ahead of its reader: what is never read is never paid for."""
_MICRO_DECIMALS = 6

_log = logging.getLogger("x402.gateway")


class Exhausted(Exception):
    """The handler says more than the payer has authorised; its stream is cut there (fault G03)."""


class Counted:
    """A sink that remembers with each piece what had come to be due when it went out."""

    def __init__(self, job: Job, recording: Recording, register: Register) -> None:
        self.settlement: asyncio.Task[Receipt] | None = None
        self._job = job
        self.recording = recording
        self._register = register
        self._marks: list[int] = []
        self._noted_at = register.clock()

    @property
    def due(self) -> int:
        """What is due by now, in atomic units of the payment's asset: what is metered, at most what was signed; all of
        that for a handler that meters nothing; less the payer's discount."""
        due, discount = min(self._metered(), self._job.entry.subject.amount), self._job.sale.discount
        return due if discount is None else due - discount.off(due)

    @property
    def read(self) -> int:
        """What is due for the pieces that a reader has got."""
        reached = self.recording.reached
        return self._marks[reached - 1] if reached else 0

    async def start(self, status: int, headers: HeaderPairs) -> None:
        await self.recording.start(status, headers)

    async def write(self, chunk: bytes) -> None:
        """The next piece. Raises `Exhausted` once more is metered of a stream than the payer has authorised."""
        if not self.recording.withhold and self._metered() > self._job.sale.amount:
            raise Exhausted(f"{self._metered()} atomic units are metered, {self._job.sale.amount} are authorised")
        await self.recording.write(chunk)
        self._marks += [self.due] * (self.recording.pieces - len(self._marks))
        if self.recording.withhold:
            return
        await self.recording.read_up(AHEAD)
        now = self._register.clock()
        if self.settlement is not None or now < self._noted_at + METER_SECONDS:
            return
        self._noted_at = now
        with suppress(UnavailableError):
            # What can't be written down now is written down next time; the stream does not wait for it.
            await self._register.meter(self._job, self.due)

    def _metered(self) -> int:
        known, subject = self._job.sale.metered, self._job.entry.subject
        if known is None:
            return subject.amount
        asset = networks.get(subject.network).asset(subject.asset)
        decimals = _MICRO_DECIMALS if asset is None else asset.decimals
        charged = max(0, known.charged)
        if decimals >= _MICRO_DECIMALS:
            return int(charged * 10 ** (decimals - _MICRO_DECIMALS))
        return int(-(-charged // 10 ** (_MICRO_DECIMALS - decimals)))


Run = Callable[[Job, Handler, Counted], Awaitable[None]]


class MeteredSale:
    """One such sale in this process. `patience` is for how many seconds the handler may work before its payment must
    be settled (fault A17)."""

    def __init__(self, register: Register, job: Job, running: Running, *, limit: int, patience: float) -> None:
        self._register = register
        self._job = job
        self._running = running
        self._ends_at = register.clock() + patience
        self.recording = Recording(limit=limit, withhold=True)
        self.recording.on_begin = self._begin
        self._sink = Counted(job, self.recording, register)
        job.sale.settle = self.settle

    async def serve(self, run: Run) -> Answer | None:
        """Have it answered, and settled. The answer that was withheld; None when it was played.

        Raises what the handler raises while nothing has been played: then nothing is due, and the claim stays; and
        `Refusal` when the settlement of a withheld answer is refused or not decided.
        """
        work = asyncio.ensure_future(run(self._job, self._running.handler, self._sink))
        deserted = asyncio.ensure_future(self.recording.deserted.wait())
        try:
            await asyncio.wait({work, deserted}, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            deserted.cancel()
            left = not work.done()
            work.cancel()
            await asyncio.gather(work, deserted, return_exceptions=True)
        failure = None if work.cancelled() else work.exception()
        if self.recording.withhold:
            if left:
                raise UnavailableError("handler_timeout", "no answer before the payment's end; nothing is charged")
            if failure is not None:
                raise failure
            return await self._release()
        if isinstance(failure, Exception):
            _log.error("a metered stream broke off", exc_info=failure)
        await self._end(whole=not left and failure is None)
        return None

    async def settle(self) -> Receipt:
        """Settle what is due by now, once, whoever asks; the handler does at the end of its stream, so that its last
        event can carry the receipt. What is not decided yet is a receipt that says so."""
        await self.recording.read_up()
        return await self._settle(self._sink.read if self.recording.deserted.is_set() else self._sink.due)

    def _left(self) -> float:
        return max(0.0, self._ends_at - self._register.clock())

    def _begin(self) -> None:
        """A stream is played from its first byte on; to nobody, if nobody waits any more."""
        kinds = [value for name, value in self.recording.headers if name.lower() == "content-type"]
        if self.recording.status < 400 and any(kind.startswith("text/event-stream") for kind in kinds):
            self.recording.withhold = False
            self._running.play(self.recording, None, live=True)
            self.recording.watch_readers()

    async def _release(self) -> Answer:
        """Settle a withheld answer, and let it go."""
        job, register = self._job, self._register
        if not self.recording.kept:
            raise self.recording.too_large()
        answer = self.recording.answer(job.sale.notes, sold=job.sale.sold() if register.credits else None)
        if answer.status >= 400:
            # Nothing is charged for an error; the claim stays, and the same payment may ask again.
            return answer
        job.due = self._sink.due
        if not job.due:
            await register.waive(job, answer)
            job.sale.receipt = job.receipt("")
            return answer
        await register.served(job, answer)
        job.sale.receipt = job.receipt(await register.settle(job, deliver=True))
        return answer

    async def _end(self, *, whole: bool) -> None:
        """Settle a stream that was played: all of it, or what its readers have got of one that they have left."""
        job, register = self._job, self._register
        with suppress(TimeoutError):
            async with asyncio.timeout(self._left()):
                await self.recording.read_up()
        unread = self.recording.reached < self.recording.pieces
        try:
            await self._settle(self._sink.read if unread or self.recording.deserted.is_set() else self._sink.due)
            keeps = whole and self.recording.kept
            answer = self.recording.answer(job.sale.notes, sold=job.sale.sold()) if keeps else None
            if isinstance(job.entry.stage, Settled):
                await register.delivered(job, job.entry.stage.transaction, answer)
        finally:
            await self.recording.close(broken=not whole)

    async def _settle(self, due: int) -> Receipt:
        if self._sink.settlement is None:
            self._sink.settlement = asyncio.ensure_future(self._take(due))
        # Whoever waits may be cancelled, because a reader has gone; the settlement goes on.
        return await asyncio.shield(self._sink.settlement)

    async def _take(self, due: int) -> Receipt:
        job, register, subject = self._job, self._register, self._job.entry.subject
        job.due = due
        try:
            if not due:
                await register.waive(job, None)
                return job.receipt("")
            return job.receipt(await register.settle(job))
        except Refusal as refusal:
            if refusal.receipt is not None:
                return refusal.receipt
        except (X402Error, UnlawfulEvent) as error:
            _log.error("a metered payment could not be settled now", exc_info=error)
        return Receipt.pending("", subject.network, subject.payer, "the settlement is not decided yet")
