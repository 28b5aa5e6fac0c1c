"""The till: one payment from its first sight to its receipt, on the seller's side of the lifecycle.

    known payId? ── yes ─▶ the same request: taken up where it stands, or the same answer again
        │ no               another request: 409
        ▼
      verify ─▶ CLAIMED (one winner)
        authorization: handler (withheld) ─▶ SERVED ─▶ SETTLING ─▶ settle ─▶ SETTLED ─▶ DELIVERED ─▶ released
        upfront:       SETTLING ─▶ settle ─▶ SETTLED ─▶ handler, played as it comes ─▶ DELIVERED

Each sale runs in a task of its own, so a client that hangs up cancels nothing (fault A18), and every arrow is durable
before the effect that it announces (fault A22). A settlement that is not decided is answered 503, never 402 (A09).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from x402.errors import MalformedError, Moved, RefusedError, UnavailableError, X402Error
from x402.gateway.offers import identity_of
from x402.gateway.problem import ApiProblem, status_of
from x402.gateway.recording import Recording, split_notes
from x402.gateway.register import Job, Register, in_use
from x402.gateway.sale import Handler, Refusal, Reply, whole
from x402.gateway.terms import Flow
from x402.lifecycle import Event, UnlawfulEvent
from x402.ports import Answer
from x402.stages import Claimed, Delivered, Owed, Refunded, Refused, Released, Served, Settled, Settling, State
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

ANSWER_LIMIT = 8 * 1024 * 1024
HANDLER_TIMEOUT_SECONDS = 600.0
RELEASE_MARGIN_SECONDS = 60

Offer = Callable[[], Awaitable[Requirement]]
"""Computes the requirement that a new payment takes, or raises `RefusedError`."""

_log = logging.getLogger("x402.gateway")


@dataclass(frozen=True, slots=True)
class _Call:
    """One request that came with a payment, and who waits for its reply."""

    pay_id: str
    payment: Payment
    fingerprint: str
    offer: Offer
    handler: Handler
    reply: asyncio.Future[Reply]

    def answer(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Till:
    """Takes payments for one seller; the caller's handler serves.

    `answer_limit` bounds the bytes of an answer that are kept, `handler_timeout_seconds` how long a handler may take.
    """

    def __init__(
        self,
        register: Register,
        *,
        answer_limit: int = ANSWER_LIMIT,
        handler_timeout_seconds: float = HANDLER_TIMEOUT_SECONDS,
    ) -> None:
        self.register = register
        self._answer_limit = answer_limit
        self._timeout = handler_timeout_seconds
        self._at_work: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, payment: Payment, fingerprint: str, offer: Offer, handler: Handler) -> Reply:
        """Serve one request for one payment, once.

        `fingerprint` is the digest of the request. Raises `Refusal` for every end but an answer: its error says which
        status, and its receipt what is known about the money. What the handler raises under `authorization` comes
        back as it is: nothing was settled, and the same payment may ask again.
        """
        try:
            pay_id = identity_of(payment)
        except (RefusedError, MalformedError) as error:
            raise Refusal(error) from error
        if pay_id in self._at_work:
            raise Refusal(in_use(same_request=self._at_work[pay_id] == fingerprint))
        self._at_work[pay_id] = fingerprint
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        # When nobody waits any more, the outcome is in the ledger and the exception needs no reader.
        reply.add_done_callback(lambda future: future.cancelled() or future.exception())
        task = asyncio.create_task(self._work(_Call(pay_id, payment, fingerprint, offer, handler, reply)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A caller that is cancelled takes its own wait with it, never the sale.
        return await reply

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the sales at work; what is left then is in the ledger, to be reconciled."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, call: _Call) -> None:
        try:
            job = await self.register.known(call.pay_id, call.payment, call.fingerprint)
            if job is None:
                job = await self.register.claim(call.payment, call.fingerprint, await call.offer())
            answered = await self._proceed(job, call)
            if answered is not None:
                call.answer(answered)
        except asyncio.CancelledError:
            call.reply.cancel()
            raise
        except X402Error as error:
            call.fail(Refusal(error))
        except UnlawfulEvent:
            # Another process has moved this payment on while we held it.
            call.fail(Refusal(in_use(same_request=True)))
        except Exception as error:  # noqa: BLE001 - it belongs to the caller, who waits for the reply
            call.fail(error)
        finally:
            # Nobody who waits runs before this: whoever has the answer may send the payment again at once.
            self._at_work.pop(call.pay_id, None)

    async def _proceed(self, job: Job, call: _Call) -> Reply | None:
        """Go on from wherever the payment stands. None when the reply has been given on the way."""
        match job.entry.stage:
            case Claimed() | Served():
                await self._check_alive(job)
                if job.sale.flow is Flow.AUTHORIZATION:
                    return await self._serve_and_settle(job, call)
                return await self._deliver(job, call, await self.register.settle(job))
            case Settling():
                return await self._deliver(job, call, await self.register.settle(job))
            case Settled(transaction) | Owed(transaction):
                return await self._deliver(job, call, transaction)
            case Delivered(transaction):
                return await self._replay(job, transaction)
            case Refused(reason, message):
                raise RefusedError(reason, message)
            case Released(reason):
                raise RefusedError("payment_expired", f"this payment was given up: {reason}")
            case Refunded():
                raise RefusedError("payment_refunded", "this payment was refunded; sign a new one")
        raise UnlawfulEvent(f"a gateway's payment is never {job.entry.state}")

    async def _check_alive(self, job: Job) -> None:
        expires_at = job.entry.subject.expires_at
        if expires_at and self.register.clock() >= expires_at:
            await self.register.advance(job, Event.RELEASE, Released("it expired before it was settled"))
            raise RefusedError("payment_expired", "the payment expired before it was settled; no money moved")

    async def _serve_and_settle(self, job: Job, call: _Call) -> Reply:
        answer = await self.register.kept_answer(job) if job.entry.state is State.SERVED else None
        if answer is None:
            recording = Recording(limit=self._answer_limit, withhold=True)
            await self._run(job, call.handler, recording)
            if not recording.kept:
                raise recording.too_large()
            answer = recording.answer(job.sale.notes)
            if answer.status >= 400:
                # Nothing is charged for an error; the claim stays, and the same payment may ask again.
                return _reply(job, answer, None)
            await self.register.ledger.keep_answer(job.pay_id, answer)
            if job.entry.state is State.CLAIMED:
                await self.register.advance(job, Event.SERVE, Served())
        transaction = await self.register.settle(job)
        await self.register.delivered(job, transaction, None)
        return _reply(job, answer, transaction)

    async def _deliver(self, job: Job, call: _Call, transaction: str) -> Reply | None:
        """Give a settled payment its answer: the one that is kept, or the handler's as it comes."""
        answer = await self.register.kept_answer(job)
        if answer is not None:
            await self.register.delivered(job, transaction, None)
            return _reply(job, answer, transaction)
        # Under `authorization` it was kept before the money moved, so another process has delivered and forgotten it.
        if job.sale.flow is Flow.AUTHORIZATION and await self.register.is_delivered(job):
            return await self._replay(job, transaction)
        job.sale.receipt = job.receipt(transaction)
        recording = Recording(limit=self._answer_limit, withhold=False)

        def play() -> None:
            if recording.status >= 400 or call.reply.done():
                recording.ignore()
                return
            version = job.taken.payment.version
            call.answer(Reply(recording.status, recording.headers, recording.play(), job.sale.receipt, version))

        recording.on_begin = play
        whole_answer = False
        try:
            whole_answer = await self._serve_paid(job, call, recording, transaction)
        finally:
            self._at_work.pop(call.pay_id, None)
            await recording.close(broken=not whole_answer)
        return None if whole_answer else _reply(job, recording.answer({}), transaction)

    async def _serve_paid(self, job: Job, call: _Call, recording: Recording, transaction: str) -> bool:
        """Run the handler for a payment that is settled; False when it answered with an error."""
        try:
            await self._run(job, call.handler, recording)
        except Exception as error:
            _log.error("a handler failed after its payment was settled", exc_info=error)
            await self.register.owe(job, transaction, type(error).__name__)
            raise Refusal(_undelivered(error), job.sale.receipt) from error
        if recording.status >= 400:
            await self.register.owe(job, transaction, f"the handler answered {recording.status}")
            return False
        await self.register.delivered(job, transaction, recording.answer(job.sale.notes) if recording.kept else None)
        return True

    async def _run(self, job: Job, handler: Handler, recording: Recording) -> None:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await handler(job.sale, recording)
        except TimeoutError as error:
            if limit.expired():
                raise UnavailableError("handler_timeout", f"no answer within {self._timeout:g} seconds") from error
            raise
        if not recording.status:
            raise RuntimeError("the handler returned without an answer")

    async def _replay(self, job: Job, transaction: str) -> Reply:
        answer = await self.register.kept_answer(job)
        self.register.emit("sale.replayed", job.entry.subject)
        if answer is None:
            error = ApiProblem(
                410, "answer_gone", "this payment was served, and its answer is not kept any more", moved=Moved.YES
            )
            raise Refusal(error, job.receipt(transaction))
        return _reply(job, answer, transaction)

    async def reconcile(self) -> int:
        """Resolve what a crash or an outage left open; returns how many payments are still undecided.

        SETTLING is asked about again; a settled payment whose answer is kept counts as delivered, one without is
        owed; a claim that was never submitted is released once its signature is dead. Payments at work are left
        alone. Answers that were delivered longer ago than they are kept are forgotten.
        """
        undecided = 0
        for entry in await self.register.ledger.unresolved(self.register.party):
            pay_id = entry.subject.pay_id
            if pay_id in self._at_work:
                continue
            self._at_work[pay_id] = entry.subject.fingerprint
            try:
                undecided += not await self._resolve(Job.of(entry))
            except (X402Error, UnlawfulEvent):
                undecided += 1
            finally:
                self._at_work.pop(pay_id, None)
        await self.register.forget_answers()
        return undecided

    async def _resolve(self, job: Job) -> bool:
        match job.entry.stage:
            case Claimed() | Served():
                born_dead_at = job.entry.created_at + job.taken.requirement.max_timeout_seconds
                dead_at = (job.entry.subject.expires_at or born_dead_at) + RELEASE_MARGIN_SECONDS
                if self.register.clock() >= dead_at:
                    reason = "it was never settled, and has expired"
                    await self.register.advance(job, Event.RELEASE, Released(reason))
                return True
            case Settling():
                try:
                    transaction = await self.register.settle(job)
                except Refusal as refusal:
                    return isinstance(refusal.error, RefusedError)
            case Settled(transaction):
                pass
            case _:
                return True
        if await self.register.kept_answer(job) is not None:
            await self.register.delivered(job, transaction, None)
        else:
            await self.register.owe(job, transaction, "settled, and its answer was not fetched yet")
        return True


def _reply(job: Job, answer: Answer, transaction: str | None) -> Reply:
    headers, notes = split_notes(answer)
    job.sale.notes = notes
    receipt = None if transaction is None else job.receipt(transaction)
    return Reply(answer.status, headers, whole(answer.body), receipt, job.taken.payment.version)


def _undelivered(error: Exception) -> ApiProblem:
    if isinstance(error, X402Error):
        return ApiProblem(status_of(error), error.code, error.message, moved=Moved.YES, details=error.details)
    message = "the answer could not be made; the payment is kept: send the very same request again"
    return ApiProblem(500, "handler_failed", message, kind="server_error", moved=Moved.YES)
