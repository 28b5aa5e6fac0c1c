"""The till: one payment from its first sight to its receipt, on the seller's side of the lifecycle.

    known payId? ── yes ─▶ the same request: taken up where it stands, or the same answer again
        │ no               another request: 409
        ▼
      verify ─▶ CLAIMED (one winner)
        authorization: handler (withheld) ─▶ SERVED ─▶ SETTLING ─▶ settle ─▶ SETTLED ─▶ DELIVERED ─▶ released
                       (a handler that takes longer than its payment lives is paid for before it ends: A17)
        upfront:       SETTLING ─▶ settle ─▶ SETTLED ─▶ handler, played as it comes ─▶ DELIVERED
        metered:       handler, played as it comes ─▶ SETTLING ─▶ settle what was used ─▶ DELIVERED (`metered.py`)

Each sale runs in a task of its own, so a client that hangs up cancels nothing (fault A18), and every arrow is durable
before the effect that it announces (fault A22). A settlement that is not decided is answered 503, never 402 (A09).
While a sale is at work its row is leased: the same request again joins it in this process, and is told to come back by
any other. A lease ends by itself when its process dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace

from x402.errors import MalformedError, Moved, PendingError, RefusedError, UnavailableError, X402Error
from x402.gateway.job import Job
from x402.gateway.metered import Counted, MeteredSale
from x402.gateway.offers import identity_of
from x402.gateway.problem import ApiProblem, status_of
from x402.gateway.reconcile import Reconciler
from x402.gateway.recording import Recording, sold_of, split_notes
from x402.gateway.refund import Refunds
from x402.gateway.register import Register, in_use
from x402.gateway.running import Offer, Running
from x402.gateway.sale import Handler, Refusal, Reply, Whole
from x402.gateway.terms import Flow
from x402.lifecycle import Party, UnlawfulEvent, open_states
from x402.ports import Answer
from x402.stages import (
    NOTHING_DUE,
    Claimed,
    Credited,
    Delivered,
    Final,
    Lost,
    Owed,
    Refunded,
    Refunding,
    Refused,
    Released,
    Restored,
    Reversed,
    Served,
    Settled,
    Settling,
    State,
)
from x402.wire.payment import Payment

ANSWER_LIMIT = 8 * 1024 * 1024
HANDLER_TIMEOUT_SECONDS = 600.0
SETTLING_SECONDS = 20
"""So long before its end a payment is settled, whether its answer is made or not (fault A17)."""
BLOCKHASH_SECONDS = 60
"""How long a Solana payment lives at least, counted from its claim; only the chain knows its end."""

_log = logging.getLogger("x402.gateway")


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
        refunds: Refunds | None = None,
    ) -> None:
        self.register = register
        self.reconciler = Reconciler(register, refunds)
        self._answer_limit = answer_limit
        self._timeout = handler_timeout_seconds
        self._running: dict[str, Running] = {}
        self.reconciler.left_alone = self._running
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
        await self.reconciler.looked_at(pay_id)
        while (running := self._running.get(pay_id)) is not None:
            if running.fingerprint != fingerprint:
                raise Refusal(in_use(same_request=False))
            if await self._is_joined(running, payment):
                return await running.reply_to(payment.version)
        running = Running(pay_id, payment, fingerprint, offer, handler)
        self._start(running)
        return await running.reply_to(payment.version)

    async def _is_joined(self, running: Running, payment: Payment) -> bool:
        """Whether this very payment is at work. Its identity alone proves nothing: that is public (faults A13, B14)."""
        if payment == running.payment:
            return True
        job = await running.known()
        if job is None:
            return False
        try:
            self.register.check_same(job.entry, payment, running.fingerprint)
        except X402Error as error:
            raise Refusal(error) from error
        return True

    def _start(self, running: Running) -> None:
        self._running[running.pay_id] = running
        task = asyncio.create_task(self._work(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reconcile(self) -> int:
        """Resolve what a crash or an outage left open; returns how many payments are still undecided."""
        return await self.reconciler.run()

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the sales at work; what is left then is in the ledger, to be reconciled."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.register.leases.stop()

    async def _work(self, running: Running) -> None:
        try:
            outcome = await self._outcome(running)
            # Nobody who waits runs before this: whoever has the answer may send the payment again at once.
            await self._leave(running)
            if isinstance(outcome, Exception):
                running.fail(outcome)
            elif outcome is not None:
                running.answer(outcome)
        except asyncio.CancelledError:
            # This process goes down; another may go on at once.
            await self._leave(running)
            raise
        finally:
            self._running.pop(running.pay_id, None)
            running.end()

    async def _outcome(self, running: Running) -> Reply | Exception | None:
        """What everybody who waits is told; None when that has happened on the way."""
        register = self.register
        try:
            job = await register.known(running.pay_id, running.payment, running.fingerprint)
            if job is None:
                job = await register.claim(running.payment, running.fingerprint, await running.offer())
            running.begin(job)
            return await self._proceed(job, running)
        except X402Error as error:
            return Refusal(error)
        except UnlawfulEvent:
            # Another process has moved this payment on while we held it.
            return Refusal(in_use(same_request=True))
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, who wait for the reply
            return error

    async def _leave(self, running: Running) -> None:
        """Give up the row, for whoever comes next."""
        if self._running.get(running.pay_id) is running:
            over = running.job is not None and running.job.entry.state not in open_states(Party.GATEWAY)
            await self.register.leases.end(running.pay_id, over=over)
            self._running.pop(running.pay_id, None)

    async def _proceed(self, job: Job, running: Running) -> Reply | None:
        """Go on from wherever the payment stands. None when the reply has been given on the way."""
        match job.entry.stage:
            case Claimed() if job.sale.flow is Flow.METERED:
                return await self._serve_metered(job, running)
            case Served() if job.sale.flow is Flow.METERED and not job.entry.due:
                await self.register.waive(job, None)
                return await self._replay(job, "")
            case Released(reason) if reason == NOTHING_DUE:
                return await self._replay(job, "")
            case Claimed() | Served():
                if job.sale.flow is Flow.AUTHORIZATION:
                    return await self._serve_and_settle(job, running)
                return await self._deliver(job, running, await self.register.settle(job))
            case Settling():
                return await self._deliver(job, running, await self.register.settle(job))
            case Reversed():
                return await self._deliver(job, running, await self.register.restore(job))
            case Settled(transaction) | Owed(transaction) | Restored(transaction):
                return await self._deliver(job, running, transaction)
            case Lost():
                return await self._replay(job, await self.register.restore(job))
            case Delivered(transaction) | Final(transaction):
                return await self._replay(job, transaction)
        raise _ended(job)

    async def _serve_and_settle(self, job: Job, running: Running) -> Reply | None:
        answer = await self._found(job) if job.entry.state is State.SERVED else None
        if answer is None:
            patience = self._patience(job)
            if patience <= 0:
                return await self._deliver(job, running, await self.register.settle(job))
            recording = Recording(limit=self._answer_limit, withhold=True)
            work = asyncio.ensure_future(self._run(job, running.handler, recording))
            # Where the settlement fails first, nobody waits for the handler any more.
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.wait({work}, timeout=patience)
                if not work.done():
                    return await self._settle_meanwhile(job, work, recording)
                await work
            finally:
                work.cancel()
            answer = self._kept_answer(job, recording)
            if answer.status >= 400:
                # Nothing is charged for an error; the claim stays, and the same payment may ask again.
                return _reply(job, answer, None)
            await self.register.served(job, answer)
        transaction = await self.register.settle(job, deliver=True)
        return _reply(job, answer, transaction)

    async def _serve_metered(self, job: Job, running: Running) -> Reply | None:
        sale = MeteredSale(self.register, job, running, limit=self._answer_limit, patience=self._patience(job))
        answer = await sale.serve(self._run)
        return None if answer is None else replace(_reply(job, answer, None), receipt=job.sale.receipt)

    def _patience(self, job: Job) -> float:
        """For how many seconds a handler may work before its payment must be settled."""
        dies_at = job.entry.subject.expires_at or job.entry.created_at + BLOCKHASH_SECONDS
        return dies_at - SETTLING_SECONDS - self.register.clock()

    async def _settle_meanwhile(self, job: Job, work: asyncio.Future[None], recording: Recording) -> Reply:
        """Take the money while the answer is being made, because it would come too late; the answer is still withheld
        until both are done (fault A17)."""
        transaction = await self.register.settle(job)
        job.sale.receipt = job.receipt(transaction)
        await self._serve_paid(job, work, recording, transaction)
        return _reply(job, recording.answer(job.sale.notes), transaction)

    async def _deliver(self, job: Job, running: Running, transaction: str) -> Reply | None:
        """Give a settled payment its answer: the one that is kept, or the handler's as it comes."""
        answer = None if job.is_new else await self._found(job)
        if answer is not None:
            await self.register.delivered(job, transaction, None)
            return _reply(job, answer, transaction)
        if job.sale.flow is Flow.METERED:
            # It was played while it was made, by a process that died.
            await self.register.delivered(job, transaction, None)
            return await self._replay(job, transaction)
        # Under `authorization` it was kept before the money moved, so another process has delivered and forgotten it.
        if job.sale.flow is Flow.AUTHORIZATION and await self.register.is_delivered(job):
            return await self._replay(job, transaction)
        job.sale.receipt = job.receipt(transaction)
        recording = Recording(limit=self._answer_limit, withhold=False)

        def play() -> None:
            if recording.status < 400:
                running.play(recording, job.sale.receipt)

        recording.on_begin = play
        whole_answer = False
        try:
            work = self._run(job, running.handler, recording)
            whole_answer = await self._serve_paid(job, work, recording, transaction)
        finally:
            try:
                await self._leave(running)
            finally:
                await recording.close(broken=not whole_answer)
        return None if whole_answer else _reply(job, recording.answer({}), transaction)

    async def _serve_paid(self, job: Job, work: Awaitable[None], recording: Recording, transaction: str) -> bool:
        """Wait for the handler of a payment that is settled; False when it answered with an error."""
        try:
            await work
        except Exception as error:
            if recording.held_up:
                # It was the reader who let the time pass: all that he took none of was there for him (fault A18).
                await self.register.delivered(job, transaction, None)
                return False
            _log.error("a handler failed after its payment was settled", exc_info=error)
            await self.register.owe(job, transaction, type(error).__name__)
            raise Refusal(_undelivered(error), job.sale.receipt) from error
        if recording.status >= 400:
            await self.register.owe(job, transaction, f"the handler answered {recording.status}")
            return False
        answer = self._kept_answer(job, recording)
        await self.register.delivered(job, transaction, answer if recording.kept else None)
        return True

    def _kept_answer(self, job: Job, recording: Recording) -> Answer:
        self.register.note_credit(job)
        return recording.answer(job.sale.notes, sold=job.sale.sold() if self.register.credits else None)

    async def _found(self, job: Job) -> Answer | None:
        """The answer that is kept for a payment, and what its bill needs."""
        answer = await self.register.answers.find(job.pay_id)
        if answer is not None:
            job.sale.recall(sold_of(answer))
        return answer

    async def _run(self, job: Job, handler: Handler, sink: Recording | Counted) -> None:
        tick = asyncio.get_running_loop().time
        begun = tick()
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await handler(job.sale, sink)
        except TimeoutError as error:
            if limit.expired():
                raise UnavailableError("handler_timeout", f"no answer within {self._timeout:g} seconds") from error
            raise
        recording = sink if isinstance(sink, Recording) else sink.recording
        if recording.withhold and not recording.kept:
            # Its handler may have swallowed what it was told while it wrote.
            raise recording.too_large()
        if not recording.status:
            raise RuntimeError("the handler returned without an answer")
        job.sale.latency_ms = int((tick() - begun) * 1000)
        job.sale.first_token_ms = int((recording.first_byte_at - begun) * 1000) if recording.first_byte_at else None

    async def _replay(self, job: Job, transaction: str) -> Reply:
        answer = await self.register.answers.find(job.pay_id)
        self.register.emit("sale.replayed", job.entry.subject)
        if answer is None:
            error = ApiProblem(
                410, "answer_gone", "this payment was served, and its answer is not kept any more", moved=Moved.YES
            )
            raise Refusal(error, job.receipt(transaction))
        return _reply(job, answer, transaction)


def _ended(job: Job) -> Exception:
    """What is answered for a payment that brings no answer any more."""
    match job.entry.stage:
        case Refused(reason, message):
            return RefusedError(reason, message)
        case Released(reason):
            return RefusedError("payment_expired", f"this payment was given up: {reason}")
        case Refunding(transaction):
            pending = PendingError("no answer came of this payment, and it is being paid back", transaction=transaction)
            return Refusal(pending, job.receipt(transaction))
        case Credited(transaction):
            words = "no answer came of this payment; all of it is in the payer's account"
            return Refusal(ApiProblem(410, "payment_credited", words, moved=Moved.YES), job.receipt(transaction))
        case Refunded():
            return RefusedError("payment_refunded", "this payment was refunded; sign a new one")
    return UnlawfulEvent(f"a gateway's payment is never {job.entry.state}")


def _reply(job: Job, answer: Answer, transaction: str | None) -> Reply:
    headers, notes = split_notes(answer)
    job.sale.notes = notes
    receipt = None if transaction is None else job.receipt(transaction)
    return Reply(answer.status, headers, Whole(answer.body), receipt, job.taken.payment.version)


def _undelivered(error: Exception) -> ApiProblem:
    if isinstance(error, X402Error):
        return ApiProblem(status_of(error), error.code, error.message, moved=Moved.YES, details=error.details)
    message = "the answer could not be made; the payment is kept: send the very same request again"
    return ApiProblem(500, "handler_failed", message, kind="server_error", moved=Moved.YES)
