"""What was settled is looked at until no reorganisation reaches it (fault A16).

    SETTLED, OWED ─▶ gone from the chain: REVERSED ─▶ landed again, and final: RESTORED
                                             └─────▶ provably never to land again: REFUSED
    DELIVERED, CREDITED ─▶ gone from the chain: LOST ─▶ landed again, and final: FINAL

A transfer that a reorganisation undid is told as the fact `sale.reversed` and written down: its payer is settled before
it is served from then on. This needs a witness, and remembers what it watches in this process only: after a restart
the facilitator's own watch is all there is, and a loss is looked at again when its payment is presented.
"""

from __future__ import annotations

from x402.errors import UnavailableError
from x402.evidence import Verdict, Witness, Witnesses
from x402.gateway.hash_proof import HashProofs, is_of_hash_proof
from x402.lifecycle import LAW, Entry, Event, Party, Subject, UnlawfulEvent
from x402.ports import Ledger
from x402.stages import Final, Lost, Reversed, Settled, State
from x402.telemetry import Telemetry

WATCHED_MAX = 10_000
"""How many payments are watched at once; beyond it the oldest is let go."""
_SERVED = frozenset({State.DELIVERED, State.CREDITED})


class Watch:
    """The settled payments of one seller that are not final yet."""

    def __init__(self, ledger: Ledger, witnesses: Witnesses, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._witnesses = witnesses
        self._telemetry = telemetry
        self.proofs: HashProofs | None = None
        """Looks after payments that were made of transfers."""
        self._watched: dict[str, tuple[Subject, Settled]] = {}
        self._lost: dict[str, tuple[Subject, str]] = {}
        """Those that were served, with the transaction that is gone."""

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
        for pay_id, (subject, transaction) in list(self._lost.items()):
            try:
                await self._look_again(pay_id, subject, transaction)
            except UnavailableError:
                continue
        return len(self._watched) + len(self._lost)

    async def landed_again(self, subject: Subject, transaction: str) -> Verdict:
        """What became of a payment whose `transaction` is gone from the chain: settled where no reorganisation reaches
        it, provably dead, or None while it may land, or has landed in a block that another may replace.

        Raises `UnavailableError` when the chain can't be asked.
        """
        witness = self._witness(subject)
        if witness is None:
            return None
        shown = await witness.judge(subject, (transaction,))
        if not isinstance(shown, Settled):
            return shown
        standing = await witness.standing(subject, shown)
        return shown if standing is not None and standing.final else None

    def _witness(self, subject: Subject) -> HashProofs | Witness | None:
        return self.proofs if self.proofs and is_of_hash_proof(subject) else self._witnesses.get(subject.network)

    async def _look_at(self, pay_id: str, subject: Subject, settled: Settled) -> None:
        witness = self._witness(subject)
        if witness is None:
            return
        if not settled.block:
            # Only with its block is the silence of a node that lags behind told from a transfer that is gone (E01).
            shown = await witness.judge(subject, (settled.transaction,))
            if isinstance(shown, Settled) and shown.block:
                self._watched[pay_id] = (subject, shown)
            return
        standing = await witness.standing(subject, settled)
        if standing is None:
            return
        if standing.final or (standing.gone and await self._is_undone(pay_id, subject, settled.transaction)):
            self._watched.pop(pay_id, None)

    async def _is_undone(self, pay_id: str, subject: Subject, transaction: str) -> bool:
        """Write down that a transfer is gone; False when its payment was moved on meanwhile."""
        entry = await self._ledger.find(Party.GATEWAY, pay_id)
        if entry is None or Event.REORGANISE not in LAW[Party.GATEWAY][entry.state]:
            # It went back to the payer meanwhile, or another replica has seen it first.
            return True
        served = entry.state in _SERVED
        stage = Lost(transaction) if served else Reversed(transaction)
        try:
            await self._ledger.advance(Party.GATEWAY, pay_id, Event.REORGANISE, stage)
        except UnlawfulEvent:
            return False
        if served:
            self._lost[pay_id] = (subject, transaction)
        self._telemetry.emit("sale.reversed", network=subject.network, amount_units=subject.amount)
        return True

    async def _look_again(self, pay_id: str, subject: Subject, transaction: str) -> None:
        shown = await self.landed_again(subject, transaction)
        if isinstance(shown, Settled):
            await self.regained(pay_id, shown)
        if shown is not None:
            self._lost.pop(pay_id, None)

    async def regained(self, pay_id: str, settled: Settled) -> Entry | None:
        """Write down that what was lost has landed again; the row as it is then."""
        stage = Final(settled.transaction, settled.block, settled.amount)
        try:
            return await self._ledger.advance(Party.GATEWAY, pay_id, Event.FINALISE, stage)
        except UnlawfulEvent:
            return await self._ledger.find(Party.GATEWAY, pay_id)
