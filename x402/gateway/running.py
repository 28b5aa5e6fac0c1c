"""A sale at work, and everybody who waits for its reply: all who sent the same request with the same payment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from x402.gateway.job import Job
from x402.gateway.recording import Recording
from x402.gateway.register import in_use
from x402.gateway.sale import Handler, Refusal, Reply
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

Offer = Callable[[], Awaitable[Requirement]]
"""Computes the requirement that a new payment takes, or raises `RefusedError`."""


class Running:
    """One sale in this process. `job` is None until the payment is known to be this request's."""

    def __init__(self, pay_id: str, payment: Payment, fingerprint: str, offer: Offer, handler: Handler) -> None:
        self.pay_id = pay_id
        self.payment = payment
        self.fingerprint = fingerprint
        self.offer = offer
        self.handler = handler
        self.job: Job | None = None
        self._known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: list[tuple[asyncio.Future[Reply], int]] = []
        self._reply: Callable[[int], Reply] | None = None
        self._failure: Exception | None = None
        self._over = False

    async def known(self) -> Job | None:
        """The job, once the payment is claimed; None when that failed."""
        await asyncio.shield(self._known)
        return self.job

    async def reply_to(self, version: int) -> Reply:
        """The reply in the dialect of one caller, from its first byte; raises what the others are told."""
        if self._failure is not None:
            raise self._failure
        if self._reply is not None:
            return self._reply(version)
        if self._over:
            raise Refusal(in_use(same_request=True))
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, version))
        # When nobody waits any more, the outcome is in the ledger and the exception needs no reader.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            # A caller that is cancelled takes its own wait with it, never the sale.
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                await future.result().chunks.aclose()
            raise

    def begin(self, job: Job) -> None:
        """The payment is claimed for this request."""
        self.job = job
        self._tell_known()

    def answer(self, reply: Reply) -> None:
        """Everybody gets the same whole answer."""
        self._give(lambda version: reply if version == reply.version else replace(reply, version=version))

    def play(self, recording: Recording, receipt: Receipt | None, *, live: bool = False) -> None:
        """Everybody gets the answer as it is being made, each from its first byte at a pace of its own; `live` as in
        `Reply`."""

        def reply(version: int) -> Reply:
            if not recording.kept:
                # What was played already is not remembered, so nobody can join any more.
                raise Refusal(in_use(same_request=True))
            return Reply(recording.status, recording.headers, recording.play(), receipt, version, live)

        self._give(reply)

    def fail(self, error: Exception) -> None:
        """Everybody who has no reply yet is told this."""
        self._failure = None if self._reply else error
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._tell_known()

    def end(self) -> None:
        """Nothing more comes; whoever still waits is let go."""
        self._over = True
        for future, _ in self._waiting:
            future.cancel()
        self._tell_known()

    def _give(self, reply: Callable[[int], Reply]) -> None:
        if self._reply is not None:
            return
        self._reply = reply
        for future, version in self._waiting:
            if not future.done():
                future.set_result(reply(version))
        self._tell_known()

    def _tell_known(self) -> None:
        if not self._known.done():
            self._known.set_result(None)
