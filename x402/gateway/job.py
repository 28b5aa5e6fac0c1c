"""A payment at work in this process: what the ledger remembers of it, and what its handler may know."""

from __future__ import annotations

from dataclasses import dataclass, replace

from x402.gateway.claim import FLOW
from x402.gateway.offers import flow_of
from x402.gateway.sale import Sale
from x402.gateway.terms import Flow
from x402.lifecycle import Entry, Subject
from x402.schemes.memory import recall
from x402.stages import Delivered, Final, Restored
from x402.wire.facilitation import Facilitation
from x402.wire.receipt import Receipt


@dataclass(slots=True)
class Job:
    """A payment at work: its row in the ledger, what was taken, and what its handler may know."""

    entry: Entry
    taken: Facilitation
    sale: Sale
    is_new: bool = False
    """Whether it was claimed just now, so that nothing of it can lie anywhere."""
    due: int | None = None
    """What is to be taken, once that is known, where it may be less than what was signed; atomic units."""
    is_unsent: bool = False
    """Whether it is SETTLING by a decision of just now, and was handed to nobody yet."""

    @classmethod
    def of(cls, entry: Entry, taken: Facilitation | None = None) -> Job:
        """The job of a remembered payment."""
        subject = entry.subject
        taken = taken or recall(subject)
        sale = Sale(
            pay_id=subject.pay_id,
            payer=subject.payer,
            payee=subject.payee,
            network=subject.network,
            asset=subject.asset,
            amount=subject.amount,
            flow=Flow(subject.record.get(FLOW) or flow_of(taken.requirement)),
            requirement=taken.requirement,
        )
        return cls(entry, taken, sale)

    @property
    def pay_id(self) -> str:
        """The payment's chain-level identity."""
        return self.entry.subject.pay_id

    @property
    def paid(self) -> Subject:
        """The payment with what moves of it, or has moved."""
        subject, units = self.entry.subject, self.entry.amount
        return subject if units == subject.amount else replace(subject, amount=units)

    def receipt(self, transaction: str) -> Receipt:
        """The receipt of a settled payment, or of one for which nothing was due, with what its handler noted."""
        subject = self.entry.subject
        receipt = Receipt.settled(transaction, subject.network, subject.payer, self.entry.due if transaction else 0)
        return receipt.model_copy(update={"extra": dict(self.sale.notes)}) if self.sale.notes else receipt

    def delivered(self, transaction: str) -> Delivered | Final:
        """The stage of an answer that goes out: for good, where the money came for good."""
        stage = self.entry.stage
        return Final(transaction, stage.block) if isinstance(stage, Restored) else Delivered(transaction)
