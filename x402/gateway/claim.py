"""Claiming a payment that was never seen before: verified, within bounds, and by one winner.

What a payer has open at once never exceeds the balance that was read when the payment was verified, and what all payers
together have open never exceeds the operator's limit (fault A08). A payer whose balance nobody knows, or who has failed
before, is settled first: then there is nothing to lose (faults A16, D11).
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from x402.errors import ConflictError, Mender, RefusedError, UnavailableError
from x402.evidence import Witnesses
from x402.gateway.belief import is_account
from x402.gateway.facilitators import Facilitators
from x402.gateway.hash_proof import subject_of
from x402.gateway.offers import flow_of, shortfall
from x402.gateway.policy import Policy, units_of
from x402.gateway.problem import OVER_COMMITTED
from x402.gateway.terms import Flow
from x402.lifecycle import Entry, Event, Party, Subject, begin
from x402.ports import Arrow, Clock, IdentifierTaken, Instead, Ledger, NoRoom, Room
from x402.stages import Claimed, Settling
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement
from x402.wire.extensions import payment_identifier
from x402.wire.facilitation import Verification
from x402.wire.payment import Payment

FACILITATOR = "facilitator"
"""Member of a claim's record: the name of the facilitator that verified, and alone may settle."""
FLOW = "flow"
"""Member of a claim's record: the flow in which it is served, when it is not the one that was offered."""
_ME = Party.GATEWAY
_LOOKS = 3
"""How often a payer is looked at who pays for several things at once, before he is told that he has no more."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Where new payments are claimed."""

    ledger: Ledger
    clock: Clock
    policy: Policy
    witnesses: Witnesses
    telemetry: Telemetry

    async def claim(
        self, facilitators: Facilitators, payment: Payment, requirement: Requirement, *, fingerprint: str
    ) -> tuple[Entry, bool]:
        """Verify and claim: the row, and whether this call won it. The row remembers who verified.

        Raises `RefusedError` with the facilitator's reason, or when the payer has too much open for its balance;
        `UnavailableError` when the facilitator can't be asked, or when too much is open in all; `ConflictError` when
        the payer has given its identifier to another payment (fault B14). An invalid payment claims nothing (A13).
        """
        looks = 0
        while True:
            try:
                return await self._claim(facilitators, payment, requirement, fingerprint)
            except NoRoom as error:
                looks += 1
                if looks == _LOOKS or not error.doubtful:
                    raise self._no_room(error, requirement) from error
            # From the next second on, a balance that is read knows of what was settled by now.
            await sleep(1)

    async def _claim(
        self, facilitators: Facilitators, payment: Payment, requirement: Requirement, fingerprint: str
    ) -> tuple[Entry, bool]:
        subject = subject_of(payment, requirement, fingerprint=fingerprint)
        asked_at = self.clock()
        with self.telemetry.step("step.verify", network=subject.network, amount_units=subject.amount):
            verdict, facilitator = await facilitators.verify(payment, requirement)
        self._check(verdict, subject, requirement)
        subject = replace(subject, record={**subject.record, FACILITATOR: facilitator})
        if subject.amount != requirement.amount or not is_account(subject.network, subject.payee, requirement.pay_to):
            raise RefusedError("invalid_payment_requirements", "what was signed is not what is asked")
        name = payment_identifier(payment.extensions) or ""
        flow = flow_of(requirement)
        if flow is Flow.UPFRONT:
            return await self._begin(subject, flow, name)
        balance = await self._balance(verdict, subject)
        cap = units_of(self.policy.max_unsettled, subject.network, subject.asset)
        room = Room(
            payer=subject.amount if balance is None else balance,
            total=cap,
            since=asked_at,
            failures_since=self.clock() - self.policy.failure_memory_seconds,
        )
        # What is metered costs what is known only afterwards, so it can't be settled first.
        first = () if flow is Flow.METERED else ("failures",) if balance is not None else ("failures", "payer")
        return await self._begin(subject, flow, name, room, settled_first=first)

    def _check(self, verdict: Verification, subject: Subject, requirement: Requirement) -> None:
        if verdict.is_valid is not True:
            reason = verdict.invalid_reason or "invalid_payment"
            self.telemetry.emit("sale.refused", network=subject.network, reason=reason)
            message = verdict.invalid_message or f"the payment is not valid: {reason}"
            raise RefusedError(reason, message, details=shortfall(requirement, subject.amount))

    async def _balance(self, verdict: Verification, subject: Subject) -> int | None:
        """What the payer holds, from the very look at the chain that verified the payment where there is one."""
        witness = self.witnesses.get(subject.network)
        if verdict.balance is not None or witness is None:
            return verdict.balance
        try:
            return await witness.balance(subject.payer, subject.asset)
        except UnavailableError:
            return None

    async def _begin(
        self,
        subject: Subject,
        flow: Flow,
        identifier: str,
        room: Room | None = None,
        *,
        settled_first: Collection[str] = (),
    ) -> tuple[Entry, bool]:
        """Write the claim, if there is room; without, in one of the scopes `settled_first`, as one that needs none."""
        entry, arrows = _first(subject, flow)
        instead = Instead(frozenset(settled_first), *_first(subject, Flow.UPFRONT)) if settled_first else None
        try:
            return await self.ledger.begin(
                entry,
                lease_seconds=self.policy.lease_seconds,
                room=room,
                identifier=identifier,
                arrows=arrows,
                instead=instead,
            )
        except IdentifierTaken as error:
            raise ConflictError(
                "payment_identifier_conflict",
                "you gave this payment-identifier to another payment; send that one again, or choose another",
            ) from error

    def _no_room(self, error: NoRoom, asked: Requirement) -> RefusedError | UnavailableError:
        self.telemetry.emit("sale.no_room", network=asked.network, reason=error.scope)
        if error.scope == "failures":
            return RefusedError(
                "prepayment_required",
                "a payment of yours was verified and then failed, so you are served after you have paid: take the offer"
                " of scheme exact",
                mender=Mender.PAYER,
            )
        if error.scope != "payer":
            return UnavailableError(
                "too_much_unsettled", "too many answers wait for their settlement; send the same payment again soon"
            )
        sponsored = flow_of(asked) is Flow.METERED and asked.amount <= error.room
        return RefusedError(
            OVER_COMMITTED,
            "wait until your first payments are settled, or let Permit2 move more of your tokens: x402 approve"
            if sponsored
            else "the payer's balance does not cover this payment and those that are not settled yet",
            mender=Mender.PAYER,
            details={"open": str(error.open_units), "balance": str(error.room), "amount": str(asked.amount)},
        )


def _first(subject: Subject, flow: Flow) -> tuple[Entry, Sequence[Arrow]]:
    """The first memory of a claim that is served in this flow, and the arrows that follow at once."""
    entry = begin(_ME, replace(subject, record={**subject.record, FLOW: str(flow)}), Claimed())
    # What is settled before it is served is handed over next.
    return entry, ((Event.SUBMIT, Settling()),) if flow is Flow.UPFRONT else ()
