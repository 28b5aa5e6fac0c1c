"""The register: what the seller's ledger and its facilitator know about one payment, and every arrow between.

Nothing else in the gateway changes a payment's state. The rules of fault §0 are kept here: exclusivity by a unique
insert and a lease, three outcomes, and a settlement counts only when it names the transaction, the network and the
payer, or when the chain itself shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from x402.billing import Booking
from x402.errors import ConflictError, MalformedError, PendingError, RefusedError, UnavailableError
from x402.evidence import Verdict, Witnesses
from x402.gateway.accounts import credits
from x402.gateway.accounts.discounts import Discounts
from x402.gateway.answers import Answers
from x402.gateway.belief import Belief
from x402.gateway.claim import FACILITATOR, Claims
from x402.gateway.facilitators import Facilitators
from x402.gateway.hash_proof import subject_of
from x402.gateway.job import Job
from x402.gateway.lease import Leases
from x402.gateway.offers import identity_of
from x402.gateway.policy import Policy
from x402.gateway.problem import AT_WORK
from x402.gateway.sale import Refusal
from x402.gateway.watch import Watch
from x402.lifecycle import Entry, Event, Party, Subject, UnlawfulEvent, open_states
from x402.ports import Answer, Arrow, Clock, Ledger
from x402.schemes.memory import is_same_payment, recall
from x402.stages import (
    NOTHING_DUE,
    Credited,
    Delivered,
    Lost,
    Owed,
    Refused,
    Released,
    Restored,
    Reversed,
    Served,
    Settled,
    Settling,
    Stage,
    State,
)
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitation, Facilitator
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

ME = Party.GATEWAY


class Register:
    """One seller's memory of payments, and its facilitator, or several.

    `witnesses` check the word of a facilitator that is not in this process; `answer_keys` seal what is kept. With
    `credits` every answer has a bill, and what is paid and not used goes to the payer's account.
    """

    party = ME

    def __init__(
        self,
        facilitator: Facilitator | Facilitators,
        ledger: Ledger,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
        policy: Policy | None = None,
        witnesses: Witnesses | None = None,
        answer_keys: Sequence[bytes] = (),
        credits: bool = False,
    ) -> None:
        self.facilitators = (
            facilitator
            if isinstance(facilitator, Facilitators)
            else Facilitators([facilitator], clock=clock, telemetry=telemetry)
        )
        self.ledger = ledger
        self.clock = clock
        self.policy = policy or Policy()
        self.telemetry = telemetry or Telemetry()
        self.belief = Belief(clock=clock, witnesses=witnesses, policy=self.policy, telemetry=self.telemetry)
        self.leases = Leases(ledger, seconds=self.policy.lease_seconds)
        self.watch = Watch(ledger, self.belief.witnesses, self.telemetry)
        retention = self.policy.answer_retention_seconds
        self.credits = credits
        self.discounts: Discounts | None = None
        """What those get off who spend much, where accounts are kept."""
        self.answers = Answers(ledger, clock=clock, retention_seconds=retention, keys=answer_keys)

    async def known(self, pay_id: str, payment: Payment, fingerprint: str) -> Job | None:
        """The job of a payment that was seen before, or None. Raises `ConflictError` unless the request and the
        payment are the very same, and while another replica works on them."""
        entry = await self.ledger.find(ME, pay_id)
        if entry is None:
            return None
        self.check_same(entry, payment, fingerprint)
        return await self._taken_up(entry)

    async def claim(self, payment: Payment, fingerprint: str, requirement: Requirement) -> Job:
        """Verify a new payment and claim it for one request; the unique insert has one winner (faults A04, A07).

        Raises what `Claims.claim` raises, and `ConflictError` when another request was faster.
        """
        claims = Claims(self.ledger, self.clock, self.policy, self.belief.witnesses, self.telemetry)
        try:
            entry, won = await claims.claim(self.facilitators, payment, requirement, fingerprint=fingerprint)
        except RefusedError:
            # While it was looked at, another replica may have claimed it, or settled it: a chain calls that used.
            job = await self.known(identity_of(payment), payment, fingerprint)
            if job is None:
                raise
            return job
        if not won:
            self.check_same(entry, payment, fingerprint)
            return await self._taken_up(entry)
        self.leases.keep(entry.subject.pay_id)
        self.emit("sale.claimed", entry.subject)
        job = await self._discounted(self.job_of(entry, Facilitation(payment=payment, requirement=requirement)))
        job.is_new, job.is_unsent = True, entry.state is State.SETTLING
        return job

    async def _taken_up(self, entry: Entry) -> Job:
        """The job of a row that this process may work on now; ended ones need no lease."""
        if entry.state in open_states(ME):
            pay_id = entry.subject.pay_id
            if not await self.leases.take(pay_id):
                raise in_use(same_request=True)
            # Whoever held it may have moved it on between our look and our lease.
            entry = await self.ledger.find(ME, pay_id) or entry
            return await self._discounted(self.job_of(entry))
        return self.job_of(entry)

    async def _discounted(self, job: Job) -> Job:
        """The job with what its payer gets off."""
        if self.discounts is not None:
            job.sale.discount = await self.discounts.of(job.sale.account, job.sale.requirement)
        return job

    def job_of(self, entry: Entry, taken: Facilitation | None = None) -> Job:
        """The job of a remembered payment; what was `taken` is recalled when it isn't at hand."""
        job = Job.of(entry, taken)
        if self.credits:
            job.sale.credits = True
            job.sale.account = credits.account_of(entry.subject.network, entry.subject.payer)
        return job

    def check_same(self, entry: Entry, payment: Payment, fingerprint: str) -> None:
        """Raise `ConflictError` unless a request and its payment are those of a remembered one (faults A24, B14)."""
        if entry.subject.fingerprint != fingerprint:
            raise in_use(same_request=False)
        try:
            presented = subject_of(payment, recall(entry.subject).requirement, fingerprint=fingerprint)
        except (RefusedError, MalformedError) as error:
            raise in_use(same_request=False) from error
        if not is_same_payment(entry.subject, presented):
            raise in_use(same_request=False)

    async def advance(self, job: Job, event: Event, stage: Stage, booking: Booking | None = None) -> None:
        """Follow one arrow; raises `UnlawfulEvent` when another process has moved the payment on."""
        job.entry = await self.ledger.advance(ME, job.pay_id, event, stage, booking=booking)

    async def served(self, job: Job, answer: Answer) -> None:
        """Keep an answer that is withheld until it is paid, and note that the payment is handed over now."""
        serve = [(Event.SERVE, Served(job.due))] if job.entry.state is State.CLAIMED else []
        sealed = self.answers.sealed(job.pay_id, answer)
        arrows: list[Arrow] = [*serve, (Event.SUBMIT, Settling(job.due))]
        job.entry = await self.ledger.follow(ME, job.pay_id, arrows, answer=sealed)
        job.is_unsent = True

    async def meter(self, job: Job, due: int) -> None:
        """Write down what is due by now for an answer that is being played; it only grows.

        Raises `UnlawfulEvent` when another process has moved the payment on.
        """
        try:
            await self._meter(job, due)
        except UnlawfulEvent:
            # A writing that was told as failed may have been done all the same (fault E10).
            job.entry = await self.ledger.find(ME, job.pay_id) or job.entry
            if job.entry.state is not State.SERVED:
                raise
            await self._meter(job, due)

    async def _meter(self, job: Job, due: int) -> None:
        if job.entry.state is State.CLAIMED:
            await self.advance(job, Event.SERVE, Served(due))
        elif job.entry.state is State.SERVED and due > job.entry.amount:
            await self.advance(job, Event.METER, Served(due))

    async def waive(self, job: Job, answer: Answer | None) -> None:
        """Give the reservation back, because nothing is due; the answer that costs nothing may be sent again."""
        keeps = answer is not None and bool(self.answers.retention_seconds)
        sealed = self.answers.sealed(job.pay_id, answer) if answer is not None and keeps else None
        job.entry = await self.ledger.follow(ME, job.pay_id, [(Event.RELEASE, Released(NOTHING_DUE))], answer=sealed)
        self.emit("sale.waived", job.entry.subject)

    async def settle(self, job: Job, *, deliver: bool = False) -> str:
        """Have the payment settled; returns the transaction that paid. With `deliver` its answer is kept already, and
        goes out next, which is noted together with the settlement.

        Raises `Refusal` with a `RefusedError` when provably no money moved, else with a `PendingError`.
        """
        transaction, verdict = "", None
        if job.entry.state is not State.SETTLING:
            await self.advance(job, Event.SUBMIT, Settling(job.due))
        elif not job.is_unsent:
            # It was handed over before: where the chain can tell by now, nobody is asked to send it again.
            verdict = await self.belief.look(self.facilitator_of(job.entry), job.entry)
        if verdict is None:
            job.is_unsent = False
            transaction, verdict = await self._hand_over(job)
        if isinstance(verdict, Refused):
            raise await self._refused(job, verdict)
        if verdict is None:
            raise self._pending(job, transaction)
        delivered = [(Event.DELIVER, Delivered(verdict.transaction))] if deliver else []
        booking = self._booking(job, verdict.transaction) if deliver else None
        forget = deliver and not self.answers.retention_seconds
        try:
            job.entry = await self.ledger.follow(
                ME, job.pay_id, [(Event.SETTLE, verdict), *delivered], forget_answer=forget, booking=booking
            )
        except UnavailableError:
            # The money moved and could not be written down: asking again will find it.
            raise self._pending(job, verdict.transaction) from None
        self.watch.add(job.entry.subject, verdict)
        self.emit("sale.settled", job.paid)
        if deliver:
            self._tell_delivered(job, booking)
        return verdict.transaction

    async def restore(self, job: Job) -> str:
        """The transaction of a payment that a reorganisation undid, once it has landed again where no other reaches it.

        Raises `Refusal` with a `RefusedError` when it provably never will, else with a `PendingError`.
        """
        stage = job.entry.stage
        transaction = stage.transaction if isinstance(stage, Reversed | Lost) else ""
        try:
            verdict = await self.watch.landed_again(job.entry.subject, transaction)
        except UnavailableError:
            raise self._pending(job, "") from None
        if verdict is None:
            if job.entry.state is State.REVERSED:
                # Its facilitator may have to send it again; what it says about that is no proof.
                await self._hand_over(job)
            raise self._pending(job, "")
        if isinstance(stage, Lost):
            if isinstance(verdict, Refused):
                raise Refusal(RefusedError("payment_reversed", "a chain reorganisation undid this payment for good"))
            job.entry = await self.watch.regained(job.pay_id, verdict) or job.entry
        elif isinstance(verdict, Refused):
            raise await self._refused(job, verdict)
        else:
            await self.advance(job, Event.FINALISE, Restored(verdict.transaction, verdict.block, verdict.amount))
        self.emit("sale.restored", job.entry.subject)
        return verdict.transaction

    async def _hand_over(self, job: Job) -> tuple[str, Verdict]:
        subject, facilitator = job.entry.subject, self.facilitator_of(job.entry)
        wanted = job.taken.requirement
        if wanted.amount != job.entry.amount:
            wanted = wanted.model_copy(update={"amount": job.entry.amount})
        try:
            with self.telemetry.step("step.settle", network=subject.network, amount_units=job.entry.amount):
                receipt = await facilitator.settle(job.taken.payment, wanted)
        except Exception as error:  # noqa: BLE001 - whatever failed, a transaction may land: pending (fault A09)
            receipt = Receipt.pending("", subject.network, subject.payer, f"{type(error).__name__} while settling")
        verdict = await self.belief.verdict(facilitator, job.entry, receipt)
        self.facilitators.note_settlement(_name_of(job.entry), settled=isinstance(verdict, Settled))
        return receipt.transaction, verdict

    def facilitator_of(self, entry: Entry) -> Facilitator:
        """The one facilitator that a payment was ever handed to (fault E13). Raises `UnavailableError`."""
        return self.facilitators.named(_name_of(entry))

    async def _refused(self, job: Job, refused: Refused) -> Refusal:
        subject = job.entry.subject
        await self.advance(job, Event.REFUSE, refused)
        self.telemetry.emit("sale.refused", network=subject.network, reason=refused.reason)
        told = Receipt.refused(refused.reason, refused.message, subject.network, subject.payer)
        return Refusal(RefusedError(refused.reason, refused.message), told)

    def _pending(self, job: Job, transaction: str) -> Refusal:
        subject = job.entry.subject
        self.emit("sale.pending", subject)
        error = PendingError(
            "the settlement is not decided yet: send the very same payment again", transaction=transaction
        )
        return Refusal(error, Receipt.pending(transaction, subject.network, subject.payer))

    async def delivered(self, job: Job, transaction: str, answer: Answer | None) -> None:
        """Keep an answer (None: it is kept already, or too long) and note that it goes out.

        The money has moved and the answer is at hand, so a ledger that is away now changes nothing for the payer:
        the payment stays settled, and reconciliation finds the answer or owes it.
        """
        keeps = bool(self.answers.retention_seconds)
        sealed = self.answers.sealed(job.pay_id, answer) if answer is not None and keeps else None
        try:
            job.entry = await self.ledger.follow(
                ME, job.pay_id, [(Event.DELIVER, job.delivered(transaction))],
                answer=sealed, forget_answer=not keeps, booking=self._booking(job, transaction),
            )  # fmt: skip
        except UnavailableError:
            self.emit("sale.delivery_failed", job.entry.subject)
        else:
            self._tell_delivered(job, self._booking(job, transaction))

    def _tell_delivered(self, job: Job, booking: Booking | None) -> None:
        self.emit("sale.delivered", job.paid)
        if booking is not None and booking.bill is not None:
            self.telemetry.emit("answer.sold", **booking.bill.facts())

    def _booking(self, job: Job, transaction: str) -> Booking | None:
        if not self.credits:
            return None
        moved, now, given = job.entry.amount, self.clock(), self.policy.promotions
        return credits.delivered(job.entry.subject, job.sale, transaction, moved=moved, now=now, promotions=given)

    def note_credit(self, job: Job) -> None:
        """Have the receipt tell what goes to the payer's account."""
        booking = self._booking(job, "")
        told = None if booking is None else credits.told(booking)
        if told is not None:
            job.sale.note(credit=told)

    async def credit(self, job: Job, transaction: str) -> None:
        """Give what is owed to the payer's account; from then on no answer is made for it any more."""
        subject = job.entry.subject
        stage = Credited(transaction, credits.account_of(subject.network, subject.payer))
        await self.advance(job, Event.CREDIT, stage, credits.undelivered(job.paid))
        self.emit("sale.credited", subject)

    async def is_delivered(self, job: Job) -> bool:
        """Whether the ledger says by now, perhaps by another process, that the answer went out."""
        entry = await self.ledger.find(ME, job.pay_id)
        return entry is not None and entry.state in (State.DELIVERED, State.FINAL)

    async def owe(self, job: Job, transaction: str, reason: str) -> None:
        """Note that the money moved and nothing was delivered: the same payment may ask again."""
        self.emit("sale.owed_failed", job.entry.subject)
        if job.entry.state is State.SETTLED:
            await self.advance(job, Event.FAIL, Owed(transaction, reason[:200]))

    def emit(self, name: str, subject: Subject) -> None:
        """Tell a fact about a payment."""
        self.telemetry.emit(name, network=subject.network, amount_units=subject.amount)


def _name_of(entry: Entry) -> str:
    return str(entry.subject.record.get(FACILITATOR, ""))


def in_use(*, same_request: bool) -> ConflictError:
    """The payment belongs to a request that is at work (`same_request`), or to another one."""
    if same_request:
        return ConflictError(AT_WORK, "this payment is being served; send the very same request again")
    return ConflictError("payment_already_used", "this payment belongs to another request; sign a new one")
