"""The register: what the seller's ledger and its facilitator know about one payment, and every arrow between.

Nothing else in the gateway changes a payment's state. The rules of fault §0 are kept here: exclusivity by a unique
insert, three outcomes, and a settlement counts only when it names the transaction, the network and the payer.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from x402 import networks
from x402.errors import ConflictError, MalformedError, MisconfiguredError, PendingError, RefusedError, UnavailableError
from x402.gateway.offers import flow_of
from x402.gateway.problem import AT_WORK
from x402.gateway.sale import Refusal, Sale
from x402.lifecycle import Entry, Event, Outcome, Party, Subject, begin
from x402.ports import Answer, Clock, Ledger
from x402.schemes.subject import is_same_payment, recall, subject_of
from x402.stages import Claimed, Delivered, Owed, Refused, Settled, Settling, Stage, State
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitation, Facilitator
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

ME = Party.GATEWAY
ANSWER_RETENTION_SECONDS = 600


@dataclass(slots=True)
class Job:
    """A payment at work: its row in the ledger, what was taken, and what its handler may know."""

    entry: Entry
    taken: Facilitation
    sale: Sale

    @classmethod
    def of(cls, entry: Entry) -> Job:
        """The job of a remembered payment."""
        taken, subject = recall(entry.subject), entry.subject
        sale = Sale(
            pay_id=subject.pay_id,
            payer=subject.payer,
            payee=subject.payee,
            network=subject.network,
            asset=subject.asset,
            amount=subject.amount,
            flow=flow_of(taken.requirement),
            requirement=taken.requirement,
        )
        return cls(entry, taken, sale)

    @property
    def pay_id(self) -> str:
        """The payment's chain-level identity."""
        return self.entry.subject.pay_id

    def receipt(self, transaction: str) -> Receipt:
        """The receipt of a settled payment, with what its handler noted."""
        subject = self.entry.subject
        receipt = Receipt.settled(transaction, subject.network, subject.payer)
        return receipt.model_copy(update={"extra": dict(self.sale.notes)}) if self.sale.notes else receipt


class Register:
    """One seller's memory of payments, and its facilitator.

    `answer_retention_seconds` is how long a delivered answer is kept for the same payment; 0 keeps none. Raises
    `MisconfiguredError` for a negative one.
    """

    party = ME

    def __init__(
        self,
        facilitator: Facilitator,
        ledger: Ledger,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
        answer_retention_seconds: int = ANSWER_RETENTION_SECONDS,
    ) -> None:
        if answer_retention_seconds < 0:
            raise MisconfiguredError("invalid_settings", "answer_retention_seconds: at least 0")
        self.facilitator = facilitator
        self.ledger = ledger
        self.clock = clock
        self._telemetry = telemetry or Telemetry()
        self._retention = answer_retention_seconds

    async def known(self, pay_id: str, payment: Payment, fingerprint: str) -> Job | None:
        """The job of a payment that was seen before, or None. Raises `ConflictError` unless the request and the
        payment are the very same."""
        entry = await self.ledger.find(ME, pay_id)
        return None if entry is None else self._same(entry, payment, fingerprint)

    async def claim(self, payment: Payment, fingerprint: str, requirement: Requirement) -> Job:
        """Verify a new payment and claim it for one request; the unique insert has one winner (faults A04, A07).

        Raises `RefusedError` with the facilitator's reason, `UnavailableError` when it can't be asked, and
        `ConflictError` when another request was faster. An invalid payment claims nothing (fault A13).
        """
        subject = subject_of(payment, requirement, fingerprint=fingerprint)
        try:
            verdict = await self.facilitator.verify(payment, requirement)
        except MalformedError as error:
            raise UnavailableError("facilitator_unavailable", f"the facilitator: {error.message}") from error
        if verdict.is_valid is not True:
            reason = verdict.invalid_reason or "invalid_payment"
            self._telemetry.emit("sale.refused", network=subject.network, reason=reason)
            raise RefusedError(reason, verdict.invalid_message or f"the payment is not valid: {reason}")
        if subject.amount != requirement.amount or not _is_account(subject, subject.payee, requirement.pay_to):
            raise RefusedError("invalid_payment_requirements", "what was signed is not what is asked")
        entry, won = await self.ledger.begin(begin(ME, subject, Claimed()))
        if won:
            self.emit("sale.claimed", subject)
        return self._same(entry, payment, fingerprint)

    def _same(self, entry: Entry, payment: Payment, fingerprint: str) -> Job:
        if entry.subject.fingerprint != fingerprint:
            raise in_use(same_request=False)
        job = Job.of(entry)
        try:
            presented = subject_of(payment, job.taken.requirement, fingerprint=fingerprint)
        except (RefusedError, MalformedError) as error:
            raise in_use(same_request=False) from error
        if not is_same_payment(entry.subject, presented):
            raise in_use(same_request=False)
        return job

    async def advance(self, job: Job, event: Event, stage: Stage) -> None:
        """Follow one arrow; raises `UnlawfulEvent` when another process has moved the payment on."""
        job.entry = await self.ledger.advance(ME, job.pay_id, event, stage)

    async def settle(self, job: Job) -> str:
        """Have the payment settled; returns the transaction that paid.

        Raises `Refusal` with a `RefusedError` when provably no money moved, else with a `PendingError`.
        """
        if job.entry.state is not State.SETTLING:
            await self.advance(job, Event.SUBMIT, Settling())
        subject = job.entry.subject
        try:
            receipt = await self.facilitator.settle(job.taken.payment, job.taken.requirement)
        except Exception as error:  # noqa: BLE001 - whatever failed, a transaction may land: pending (fault A09)
            receipt = Receipt.pending("", subject.network, subject.payer, f"{type(error).__name__} while settling")
        if receipt.outcome is Outcome.REFUSED:
            raise await self._refused(job, receipt)
        if receipt.outcome is Outcome.SETTLED and _proves(receipt, subject):
            try:
                await self.advance(job, Event.SETTLE, Settled(receipt.transaction))
            except UnavailableError:
                # The money moved and could not be written down: asking again will find it.
                raise self._pending(job, receipt.transaction) from None
            self.emit("sale.settled", subject)
            return receipt.transaction
        raise self._pending(job, receipt.transaction)

    async def _refused(self, job: Job, receipt: Receipt) -> Refusal:
        subject = job.entry.subject
        reason = receipt.error_reason or "settlement_refused"
        message = receipt.error_message or f"the settlement was refused: {reason}"
        await self.advance(job, Event.REFUSE, Refused(reason, message))
        self._telemetry.emit("sale.refused", network=subject.network, reason=reason)
        told = Receipt.refused(reason, message, subject.network, subject.payer)
        return Refusal(RefusedError(reason, message), told)

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
        try:
            if answer is not None:
                await self.ledger.keep_answer(job.pay_id, answer)
            await self.advance(job, Event.DELIVER, Delivered(transaction))
        except UnavailableError:
            self.emit("sale.delivery_failed", job.entry.subject)
        else:
            self.emit("sale.delivered", job.entry.subject)
            if not self._retention:
                # When the ledger is away now, the next reconciliation forgets it.
                with suppress(UnavailableError):
                    await self.forget_answers()

    async def forget_answers(self) -> int:
        """Delete what was delivered longer ago than answers are kept; returns how many answers that were."""
        return await self.ledger.forget_answers(self.clock() - self._retention)

    async def is_delivered(self, job: Job) -> bool:
        """Whether the ledger says by now, perhaps by another process, that the answer went out."""
        entry = await self.ledger.find(ME, job.pay_id)
        return entry is not None and entry.state is State.DELIVERED

    async def owe(self, job: Job, transaction: str, reason: str) -> None:
        """Note that the money moved and nothing was delivered: the same payment may ask again."""
        self.emit("sale.owed_failed", job.entry.subject)
        if job.entry.state is State.SETTLED:
            await self.advance(job, Event.FAIL, Owed(transaction, reason[:200]))

    async def kept_answer(self, job: Job) -> Answer | None:
        """The answer that was kept for a payment, when it is whole."""
        answer = await self.ledger.answer(job.pay_id)
        return answer if answer is not None and answer.complete and answer.status < 400 else None

    def emit(self, name: str, subject: Subject) -> None:
        """Tell a fact about a payment."""
        self._telemetry.emit(name, network=subject.network, amount_units=subject.amount)


def in_use(*, same_request: bool) -> ConflictError:
    """The payment belongs to a request that is at work (`same_request`), or to another one."""
    if same_request:
        return ConflictError(AT_WORK, "this payment is being served; send the very same request again")
    return ConflictError("payment_already_used", "this payment belongs to another request; sign a new one")


def _proves(receipt: Receipt, subject: Subject) -> bool:
    """Whether a success names what was asked for; a success about something else is no proof (fault A03)."""
    if not receipt.transaction or networks.to_caip2(receipt.network) != subject.network:
        return False
    return receipt.payer is None or _is_account(subject, receipt.payer, subject.payer)


def _is_account(subject: Subject, one: str, other: str) -> bool:
    if subject.network.startswith(networks.EIP155 + ":"):
        return one.lower() == other.lower()
    return one == other
