"""What was settled is looked at until no reorganisation reaches it (fault A16).

A transfer that a reorganisation undid is told as the fact `sale.reversed` and written down: its payer is settled before
it is served from then on. This needs a witness, and remembers what it watches in this process only: after a restart
the facilitator's own watch is all there is.
"""

from __future__ import annotations

from x402.errors import UnavailableError
from x402.evidence import Witnesses
from x402.gateway.hash_proof import HashProofs, is_of_hash_proof
from x402.lifecycle import Event, Party, Subject, UnlawfulEvent
from x402.ports import Ledger
from x402.stages import Reversed, Settled
from x402.telemetry import Telemetry

WATCHED_MAX = 10_000
"""How many payments are watched at once; beyond it the oldest is let go."""


class Watch:
    """The settled payments of one seller that are not final yet."""

    def __init__(self, ledger: Ledger, witnesses: Witnesses, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._witnesses = witnesses
        self._telemetry = telemetry
        self.proofs: HashProofs | None = None
        """Looks after payments that were made of transfers."""
        self._watched: dict[str, tuple[Subject, Settled]] = {}

    def add(self, subject: Subject, settled: Settled) -> None:
        """Watch a payment that was settled just now, where there is a witness."""
        if subject.network not in self._witnesses:
            return
        if len(self._watched) >= WATCHED_MAX:
            del self._watched[next(iter(self._watched))]
        self._watched[subject.pay_id] = (subject, settled)

    async def look(self) -> int:
        """Ask the chains once about everything watched; returns how many are not final yet."""
        for pay_id, (subject, settled) in list(self._watched.items()):
            try:
                await self._look_at(pay_id, subject, settled)
            except UnavailableError:
                continue
        return len(self._watched)

    async def _look_at(self, pay_id: str, subject: Subject, settled: Settled) -> None:
        witness = self.proofs if self.proofs and is_of_hash_proof(subject) else self._witnesses[subject.network]
        if not settled.block:
            # Only with its block is the silence of a node that lags behind told from a transfer that is gone (E01).
            shown = await witness.judge(subject, (settled.transaction,))
            if isinstance(shown, Settled) and shown.block:
                self._watched[pay_id] = (subject, shown)
            return
        standing = await witness.standing(subject, settled)
        if standing is None:
            return
        if standing.gone:
            await self._reverse(pay_id, subject, settled)
        if standing.gone or standing.final:
            self._watched.pop(pay_id, None)

    async def _reverse(self, pay_id: str, subject: Subject, settled: Settled) -> None:
        try:
            await self._ledger.advance(Party.GATEWAY, pay_id, Event.REORGANISE, Reversed(settled.transaction))
        except UnlawfulEvent:
            # It went back to the payer meanwhile, or another replica has seen it first.
            return
        self._telemetry.emit("sale.reversed", network=subject.network, amount_units=subject.amount)
