"""After a crash, an outage or a client that never came back: what a gateway's ledger left open is brought to its end.

    CLAIMED, SERVED   handed over once the signature is dead: a stranger may have settled it, else it is refused;
                      what was metered is taken at once, and nobody is asked where nothing was
    SETTLING          asked about again
    SETTLED           delivered when its answer is kept, else owed
    REVERSED          looked at until it has landed again, or never can
    OWED, REFUNDING   paid back, when there is a refund wallet (`refund.py`), else credited where accounts are kept
    RESTORED          delivered when its answer is kept, else paid back like what is owed

Every replica does this; a row is leased while it is looked at, so no two look at one at once, and what a living replica
works on is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container

from x402.errors import RefusedError, X402Error
from x402.gateway.job import Job
from x402.gateway.recording import sold_of
from x402.gateway.refund import Refunds
from x402.gateway.register import ME, Register
from x402.gateway.sale import Refusal
from x402.gateway.terms import Flow
from x402.lifecycle import Entry, UnlawfulEvent
from x402.stages import Claimed, Owed, Refunding, Restored, Reversed, Served, Settled, Settling

RELEASE_MARGIN_SECONDS = 60
_AT_ONCE = 16


class Reconciler:
    """Ends what is open in one seller's ledger. `refunds` pays back what is owed, when it is given."""

    def __init__(self, register: Register, refunds: Refunds | None = None) -> None:
        self.register = register
        self.refunds = refunds
        self._looks: dict[str, asyncio.Event] = {}
        self.left_alone: Container[str] = ()
        """What this process works on otherwise."""
        self.held_elsewhere = 0
        """How many open payments the last round left to the replicas that hold them, or that died holding them."""

    async def run(self) -> int:
        """Look once at every open payment that nobody works on; returns how many are still undecided. Answers that
        were kept long enough are forgotten."""
        ledger, leases = self.register.ledger, self.register.leases
        undecided, seen = 0, set[str]()
        while taken := await ledger.take_open(ME, leases.seconds, _AT_ONCE):
            for entry in taken:
                leases.keep(entry.subject.pay_id)
            fresh = [entry for entry in taken if entry.subject.pay_id not in seen]
            try:
                undecided += (await asyncio.gather(*(self._look_at(entry) for entry in fresh))).count(False)
            finally:
                for entry in taken:
                    if entry.subject.pay_id not in self.left_alone:
                        await leases.end(entry.subject.pay_id)
            seen |= {entry.subject.pay_id for entry in fresh}
            if len(fresh) < len(taken):
                # Rows that stay open come back behind all others: the round is complete.
                break
        self.held_elsewhere = await ledger.held_elsewhere(ME)
        await self.register.watch.look()
        await self.register.answers.forget()
        return undecided

    async def looked_at(self, pay_id: str) -> None:
        """Return once nothing here looks at a payment: at once, or after the seconds that its facilitator takes."""
        while (look := self._looks.get(pay_id)) is not None:
            await look.wait()

    async def _look_at(self, entry: Entry) -> bool:
        """One row that was leased to us; False while nobody can know what becomes of its money."""
        pay_id, leases = entry.subject.pay_id, self.register.leases
        if pay_id in self.left_alone:
            return True
        look = self._looks[pay_id] = asyncio.Event()
        try:
            return await self._resolve(Job.of(entry))
        except (X402Error, UnlawfulEvent):
            return False
        finally:
            try:
                await leases.end(pay_id)
            finally:
                del self._looks[pay_id]
                look.set()

    async def _resolve(self, job: Job) -> bool:
        match job.entry.stage:
            case Claimed() | Served() if job.sale.flow is Flow.METERED and not job.entry.due:
                if isinstance(job.entry.stage, Served) or self._is_dead(job):
                    await self.register.waive(job, None)
                return True
            case Claimed() | Served() if job.sale.flow is not Flow.METERED and not self._is_dead(job):
                return True
            case Claimed() | Served() | Settling():
                try:
                    transaction = await self.register.settle(job)
                except Refusal as refusal:
                    return isinstance(refusal.error, RefusedError)
            case Reversed():
                try:
                    transaction = await self.register.restore(job)
                except Refusal as refusal:
                    return isinstance(refusal.error, RefusedError)
            case Settled(transaction) | Restored(transaction):
                pass
            case Owed(transaction) if self._is_credited(job):
                await self.register.credit(job, transaction)
                return True
            case Owed() | Refunding():
                return self.refunds is None or await self.refunds.pay_back(job.entry)
            case _:
                return True
        answer = await self.register.answers.find(job.pay_id)
        if answer is not None:
            job.sale.recall(sold_of(answer))
            await self.register.delivered(job, transaction, None)
        elif job.sale.flow is Flow.METERED:
            # It was played while it was made, and no more was taken than for what was.
            await self.register.delivered(job, transaction, None)
        elif isinstance(job.entry.stage, Restored):
            return self.refunds is None or await self.refunds.pay_back(job.entry)
        else:
            await self.register.owe(job, transaction, "settled, and its answer was not fetched yet")
        return True

    def _is_credited(self, job: Job) -> bool:
        """Whether what is owed goes to the payer's account now: where no wallet pays back, and nobody asked in time."""
        if not self.register.credits or (self.refunds is not None and self.refunds.covers(job.entry.subject.network)):
            return False
        return self.register.clock() >= job.entry.updated_at + self.register.policy.refund_after_seconds

    def _is_dead(self, job: Job) -> bool:
        born_dead_at = job.entry.created_at + job.taken.requirement.max_timeout_seconds
        dead_at = (job.entry.subject.expires_at or born_dead_at) + RELEASE_MARGIN_SECONDS
        return self.register.clock() >= dead_at
