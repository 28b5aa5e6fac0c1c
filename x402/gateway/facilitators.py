"""Several facilitators, so that one that fails costs no sale (fault E13).

New offers name the first that is well. A payment is verified by the one that its offer is bound to (the fee payer of a
Solana payment, the facilitator of one of scheme `upto`), else by the first that is well and answers; from then on it
belongs to that one, durably, and is never handed to another. Who fails rests for a while and is tried again after it;
when all rest, the first is asked all the same, so that nobody can take a shop down by sending it bad payments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from x402 import networks
from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.gateway.kinds import without_hints
from x402.ports import Clock
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitator, Supported, Verification
from x402.wire.hash_proof import SCHEME
from x402.wire.payment import Payment

REST_SECONDS = 20
"""How long a facilitator that failed is left out of new offers."""
REFUSALS_IN_A_ROW = 8
"""Valid-looking payments that one facilitator may refuse one after another before that looks like its own fault."""
FAILURES_IN_A_ROW = 3
"""Payments that one facilitator may verify and then not settle."""


@dataclass(slots=True)
class Seat:
    """One facilitator, and how it has done lately."""

    name: str
    facilitator: Facilitator
    known: Supported | None = None
    rests_until: int = 0
    refused: int = 0
    unsettled: int = 0


class Facilitators:
    """The facilitators of one seller, the preferred one first. Raises `MisconfiguredError` without any.

    `on_change` is called when offers should be made anew.
    """

    def __init__(
        self, facilitators: Sequence[Facilitator], *, clock: Clock, telemetry: Telemetry | None = None
    ) -> None:
        if not facilitators:
            raise MisconfiguredError("no_facilitator", "a seller needs a facilitator")
        names = [str(getattr(one, "name", "")) for one in facilitators]
        if len(set(names)) < len(names):
            raise MisconfiguredError("same_facilitator", "two facilitators have one name")
        self._seats = [Seat(name, one) for name, one in zip(names, facilitators, strict=True)]
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self.proofs: Facilitator | None = None
        """Stands for the chain, where payments are taken that were made before (`gateway.hash_proof`)."""
        self.on_change: Callable[[], None] = lambda: None

    def named(self, name: str) -> Facilitator:
        """The facilitator to which a payment belongs. Raises `UnavailableError` when it is none of ours any more."""
        if self.proofs is not None and name == SCHEME:
            return self.proofs
        return self._seat(name).facilitator

    def of(self, requirement: Requirement) -> Facilitator:
        """The facilitator that an offer is bound to, whatever it has done lately; else the preferred one."""
        bound = self._bound(requirement)
        return (bound or self._seats[0]).facilitator

    async def verify(self, payment: Payment, requirement: Requirement) -> tuple[Verification, str]:
        """The verdict on a payment that nobody has settled, and the name of the facilitator that it belongs to now.

        Raises `UnavailableError` when none of those that may be asked answers.
        """
        if self.proofs is not None and payment.scheme == SCHEME:
            return await self.proofs.verify(payment, requirement), SCHEME
        bound = self._bound(requirement)
        seats = [bound] if bound else self._preferred()
        failure: UnavailableError | None = None
        for seat in seats:
            try:
                verdict = await seat.facilitator.verify(payment, requirement)
            except UnavailableError as error:
                failure = error
            except MalformedError as error:
                failure = UnavailableError("facilitator_unavailable", f"the facilitator: {error.message}")
            else:
                self._note_verdict(seat, valid=verdict.is_valid is True)
                return verdict, seat.name
            self._rest(seat, "unavailable")
        raise failure or UnavailableError("facilitator_unavailable", "no facilitator answers")

    def note_settlement(self, name: str, *, settled: bool) -> None:
        """What came of a payment that a facilitator had verified."""
        if name == SCHEME:
            return
        seat = self._seat(name)
        seat.unsettled = 0 if settled else seat.unsettled + 1
        if seat.unsettled >= FAILURES_IN_A_ROW:
            self._rest(seat, "unsettled")

    async def supported(self) -> Supported:
        """What can be settled, each kind by the first that is well; and the signers of all, for offers made before.

        Raises `UnavailableError` when nobody ever answered.
        """
        asked = [seat for seat in self._seats if seat.rests_until <= self._clock()] or self._seats
        if not any(await asyncio.gather(*(self._ask(seat) for seat in asked))):
            raise UnavailableError("facilitator_unavailable", "no facilitator says what it can settle")
        seats = [seat for seat in self._preferred() if seat.known is not None]
        if len(seats) == 1 and seats[0].known is not None:
            return seats[0].known
        kinds = {
            (kind.version, kind.scheme, kind.network): kind
            for seat in reversed(seats)
            if seat.known is not None
            for kind in seat.known.kinds
        }
        signers: dict[str, list[str]] = {}
        for seat in seats:
            for network, payers in _fee_payers(seat).items():
                signers[network] = [*signers.get(network, ()), *payers]
        return Supported(kinds=tuple(kinds.values()), signers=signers)

    async def _ask(self, seat: Seat) -> bool:
        try:
            seat.known = await seat.facilitator.supported()
        except (UnavailableError, MalformedError):
            seat.known = seat.known and without_hints(seat.known)
            self._rest(seat, "unavailable")
            return False
        return True

    def _note_verdict(self, seat: Seat, *, valid: bool) -> None:
        seat.refused = 0 if valid else seat.refused + 1
        if seat.refused >= REFUSALS_IN_A_ROW:
            self._telemetry.emit("sale.refusals_high", reason=seat.name)
            self._rest(seat, "refusing")

    def _rest(self, seat: Seat, reason: str) -> None:
        was_well = seat.rests_until <= self._clock()
        seat.rests_until = self._clock() + REST_SECONDS
        seat.refused = seat.unsettled = 0
        if was_well and len(self._seats) > 1:
            self._telemetry.emit("facilitator.unavailable", reason=f"{reason}: {seat.name}")
            self.on_change()

    def _preferred(self) -> list[Seat]:
        now = self._clock()
        return sorted(self._seats, key=lambda seat: seat.rests_until > now)

    def _bound(self, requirement: Requirement) -> Seat | None:
        payer = requirement.extra.get("feePayer") or requirement.extra.get("facilitatorAddress")
        for seat in self._seats:
            if isinstance(payer, str) and payer in _fee_payers(seat).get(requirement.network, ()):
                return seat
        return None

    def _seat(self, name: str) -> Seat:
        for seat in self._seats:
            if name in ("", seat.name):
                return seat
        raise UnavailableError("facilitator_unavailable", "the facilitator of this payment is not configured any more")


def _fee_payers(seat: Seat) -> dict[str, tuple[str, ...]]:
    """Who settles payments that name their facilitator, at one of them, by network."""
    if seat.known is None:
        return {}
    found: dict[str, list[str]] = {}
    for kind in seat.known.kinds:
        network = networks.to_caip2(kind.network)
        stated = kind.extra.get("feePayer") or kind.extra.get("facilitatorAddress")
        signers = [
            address
            for pattern, addresses in seat.known.signers.items()
            if networks.matches(pattern, network)
            for address in addresses
        ]
        if isinstance(stated, str):
            found.setdefault(network, []).extend([stated, *signers])
    return {network: tuple(dict.fromkeys(addresses)) for network, addresses in found.items()}
