"""Settle once, answer for ever: the facilitator's side of the lifecycle.

    settle ─ known payId? ── yes ──▶ the same answer, or the chain's answer when it is still open
                │ no
                ▼
             check ─▶ intend ─▶ ledger: INTENDED ─▶ submit ─▶ decide ─▶ ledger: SETTLED | REFUSED
                               (durable first)              (or pending, and `reconcile.py` goes on)

Idempotency is this file's business, exclusivity is the seller's (design D6): however often, from wherever, and in
whatever encoding a payment is presented, there is one transaction and one answer (faults A04-A13).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress

from x402 import networks
from x402.errors import LimitedError, MalformedError, RefusedError, UnavailableError
from x402.facilitator import finality, spent
from x402.facilitator.allowance import Allowance
from x402.facilitator.callers import ANYBODY, Caller
from x402.facilitator.preparing import Unprepared, prepare
from x402.facilitator.rail import Checked, Rail, cost_of
from x402.lifecycle import Entry, Event, Party, Subject, UnlawfulEvent, begin
from x402.ports import Ledger, NotSent
from x402.schemes import exact_evm
from x402.schemes.memory import recall
from x402.stages import NOTHING_DUE, Final, Intended, Refused, Reversed, Settled
from x402.telemetry import Telemetry
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind, Supported, Verification
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

ME = Party.FACILITATOR
_REPLACEMENTS_AT_ONCE = 3


class LocalFacilitator:
    """The facilitator in this process; implements `wire.facilitation.Facilitator`.

    `settle_timeout_seconds` bounds how long one `settle` waits for the chain before it answers pending.
    """

    in_process = True
    """Its word needs no witness: what it says about a payment is what its own ledger and chain say."""

    def __init__(
        self,
        rails: Iterable[Rail],
        ledger: Ledger,
        *,
        telemetry: Telemetry | None = None,
        settle_timeout_seconds: float = 30.0,
        allowance: Allowance | None = None,
    ) -> None:
        self.rails = {rail.network: rail for rail in rails}
        self.ledger = ledger
        self.telemetry = telemetry or Telemetry()
        self.allowance = allowance
        self._timeout = settle_timeout_seconds
        self._flights: dict[str, dict[str, asyncio.Task[Receipt]]] = {}

    async def verify(self, payment: Payment, requirement: Requirement, *, caller: Caller = ANYBODY) -> Verification:
        """Whether the payment would settle now. Raises `UnavailableError` when the chain can't be asked."""
        try:
            rail = self._rail(requirement)
            checked = await rail.check(payment, requirement)
            if self.allowance is not None:
                await self.allowance.ask(checked.subject, await rail.fee(checked), caller)
        except (RefusedError, MalformedError) as error:
            self.telemetry.emit("verify.refused", network=requirement.network, reason=error.code)
            return Verification.invalid(error.code, error.message, _payer(error))
        self.telemetry.emit("verify.valid", network=requirement.network)
        return Verification.valid(checked.subject.payer, balance=checked.balance)

    async def settle(self, payment: Payment, requirement: Requirement, *, caller: Caller = ANYBODY) -> Receipt:
        """Move the money once, and give the same answer to everybody who asks for this payment.

        Raises `UnavailableError` only when nothing was handed to a chain; where the ledger can't say whether
        something was, the answer is pending.
        """
        try:
            checked = self._rail(requirement).read(payment, requirement)
        except (RefusedError, MalformedError) as error:
            return self._refuse(requirement, error)
        # A caller that gives up must not stop a settlement that others, or the money, depend on.
        return await asyncio.shield(self._flight(checked, caller))

    async def supported(self) -> Supported:
        """Every kind that can be settled now, in both versions."""
        kinds: list[Kind] = []
        signers: dict[str, list[str]] = {}
        extensions: dict[str, None] = {}
        for rail in self.rails.values():
            offered = await rail.kinds()
            if not offered:
                continue
            kinds += offered
            kinds += [
                kind.model_copy(update={"version": 1, "network": networks.to_v1(kind.network)})
                for kind in offered
                if kind.scheme in _SPOKEN_BY_V1
            ]
            mine = signers.setdefault(f"{rail.network.partition(':')[0]}:*", [])
            mine += [address for address in rail.signers() if address not in mine]
            extensions |= dict.fromkeys(rail.extensions)
        return Supported(kinds=tuple(kinds), extensions=tuple(extensions), signers=signers)

    async def reconcile(self, pay_id: str, *, timeout: float) -> Receipt | None:
        """What has become of a payment: the chain is asked when the ledger does not know. None for an unknown one.

        A settlement that is under way in this process is joined, never raced.
        """
        flights = self._flights.get(pay_id)
        if flights:
            await asyncio.wait(list(flights.values()))
        entry = await self.ledger.find(ME, pay_id)
        return None if entry is None else await self._resume(entry, timeout)

    def _flight(self, checked: Checked, caller: Caller) -> asyncio.Task[Receipt]:
        """The settlement that is under way for these terms and this signature. Others over the same identity fly
        beside it and meet it in the ledger, so that nobody's garbage answers for a real payment (fault A13)."""
        subject = checked.subject
        flights = self._flights.setdefault(subject.pay_id, {})
        key = json.dumps([subject.amount, subject.payee, subject.payer, subject.asset, subject.record.get("proof")])
        flight = flights.get(key)
        if flight is None:
            flight = flights[key] = asyncio.create_task(self._settle(checked, caller))
            flight.add_done_callback(lambda done: self._landed(subject.pay_id, key, done))
        return flight

    def _landed(self, pay_id: str, key: str, flight: asyncio.Task[Receipt]) -> None:
        flights = self._flights[pay_id]
        del flights[key]
        if not flights:
            del self._flights[pay_id]
        if not flight.cancelled():
            # Read here, so that a failure whose callers have all gone away is no surprise to the event loop.
            flight.exception()

    async def _resume(self, entry: Entry, timeout: float) -> Receipt:
        rail = self.rails.get(entry.subject.network)
        if rail is not None and isinstance(entry.stage, Intended):
            entry = await self._decide(rail, entry, entry.stage, timeout)
        return self._answer(entry)

    async def reread(self, entry: Entry) -> None:
        """Ask the chain whether a settled payment is final by now, or gone (`finality.py`)."""
        rail = self.rails.get(entry.subject.network)
        if rail is not None:
            await finality.reread(rail, self.ledger, self.telemetry, entry)

    async def _settle(self, checked: Checked, caller: Caller) -> Receipt:
        subject, requirement = checked.subject, checked.requirement
        try:
            known = await self.ledger.find(ME, subject.pay_id)
        except UnavailableError as error:
            # Nobody can look up whether this payment is under way, so nobody may call it refused (fault E02).
            return self._doubt(subject, error)
        if known is not None:
            return await self._repeat(known, checked)
        rail = self._rail(requirement)
        try:
            checked = await rail.check(checked.payment, requirement, settling=True)
            if checked.preparation is not None:
                checked = await prepare(rail, checked, checked.preparation, self.allowance, caller, self._timeout)
        except LimitedError as error:
            return self._refuse(requirement, error)
        except (RefusedError, MalformedError) as error:
            return await self._refuse_unless_settled(rail, checked, error)
        except Unprepared as error:
            return self._doubt(subject, error)
        try:
            entry, won = await (self._close(subject) if checked.nothing_due else self._intend(rail, checked, caller))
        except RefusedError as error:
            return self._refuse(requirement, error)
        if not won:
            return await self._repeat(entry, checked)
        if checked.nothing_due:
            return await self._resume(entry, self._timeout)
        return self._answer(await self._broadcast(rail, entry))

    async def _close(self, subject: Subject) -> tuple[Entry, bool]:
        """Remember that nothing is due for a payment, so that nothing can be taken for it any more (fault B16)."""
        return await self.ledger.begin(begin(ME, subject, Intended("", b"", subject.expires_at)))

    async def _intend(self, rail: Rail, checked: Checked, caller: Caller) -> tuple[Entry, bool]:
        """Sign and write down what the budgets allow, booked before it is signed. Raises `RefusedError` beyond them."""
        if self.allowance is None:
            return await rail.intend(checked, self.ledger)
        await self.allowance.admit(checked.subject, await rail.fee(checked), caller)
        won = False
        try:
            entry, won = await rail.intend(checked, self.ledger)
        finally:
            if not won:
                await self.allowance.correct(checked.subject, 0)
        return entry, won

    async def _repeat(self, known: Entry, checked: Checked) -> Receipt:
        """The answer for a payment that is remembered, to whoever presents it on the same terms (fault A24)."""
        if _mutated(known.subject, checked.subject):
            return self._refuse(checked.requirement, _USED)
        return await self._resume(known, self._timeout)

    async def _refuse_unless_settled(
        self, rail: Rail, checked: Checked, error: RefusedError | MalformedError
    ) -> Receipt:
        """A payment that the chain calls spent may have been submitted by a stranger, or by us before the ledger was
        lost: then its money is where it belongs, and the payer has paid (faults A06, A10, A11)."""
        subject = checked.subject
        if error.code not in spent.PERHAPS:
            return self._refuse(checked.requirement, error, proven=True)
        try:
            spent_by = await rail.spent_by(subject)
            if spent_by is None and error.code in spent.CERTAINLY:
                # The node that checked knows of a block that the one asked now has not seen yet (fault E01).
                return self._doubt(subject, UnavailableError("rpc_unavailable", "two nodes disagree; ask again"))
            if not isinstance(spent_by, Settled):
                # What nobody has submitted yet may be submitted by anybody for as long as it lives.
                proven = spent_by is not None or not rail.is_open_to_all(subject)
                return self._refuse(checked.requirement, error, proven=proven)
            if spent_by.amount not in (None, subject.amount):
                # It was settled before this ledger knew of it, for another amount (fault B16).
                return self._refuse(checked.requirement, _USED)
            entry, _ = await self.ledger.begin(
                begin(ME, subject, Intended(spent_by.transaction, b"", subject.expires_at))
            )
            deep = await rail.is_deep(subject, spent_by)
        except UnavailableError as doubt:
            return self._doubt(subject, doubt)
        if isinstance(entry.stage, Intended) and deep:
            entry = await self._write(entry, Event.SETTLE, spent_by)
        return await self._repeat(entry, checked)

    async def _broadcast(self, rail: Rail, entry: Entry) -> Entry:
        """Send what is written down, and ask the chain. Bytes that a node refuses for our own fault (no gas, a nonce
        that somebody else used) are replaced by others; the payment itself is none the worse."""
        refusals = 0
        while isinstance(entry.stage, Intended):
            intended = entry.stage
            try:
                await rail.submit(intended)
            except NotSent as error:
                refusals += 1
                after = await self._not_sent(rail, entry, intended, error)
                if after is None or refusals > _REPLACEMENTS_AT_ONCE:
                    break
                entry = after
            else:
                entry = await self._decide(rail, entry, intended, self._timeout)
                break
        if refusals:
            await self._heal(rail)
        return entry

    async def _heal(self, rail: Rail) -> None:
        # What can't be mended now is mended by the next reconciliation.
        with suppress(UnavailableError):
            await rail.heal(self.ledger)

    async def _not_sent(self, rail: Rail, entry: Entry, intended: Intended, error: NotSent) -> Entry | None:
        """The node refused our bytes; refused is the payment only if no others can pay, nor have paid (fault A11).
        None while nobody can tell."""
        try:
            spent_by = await rail.spent_by(entry.subject)
            if isinstance(spent_by, Settled) and not await rail.is_deep(entry.subject, spent_by):
                return None
            if spent_by is not None:
                event = Event.SETTLE if isinstance(spent_by, Settled) else Event.REFUSE
                return await self._write(entry, event, spent_by)
            if error.ours:
                return await rail.replace(entry, intended, self.ledger)
        except UnavailableError:
            return None
        except UnlawfulEvent:
            # Another replica has moved it on; what it wrote is the answer.
            return await self.ledger.find(ME, entry.subject.pay_id)
        family = "evm" if entry.subject.network.startswith(networks.EIP155) else "svm"
        reason = f"invalid_{recall(entry.subject).requirement.scheme}_{family}_transaction_failed"
        refused = Refused(reason, f"the node refused the transaction: {error}")
        after = await self._write(entry, Event.REFUSE, refused)
        if self.allowance is not None and after.stage is refused:
            await self.allowance.correct(entry.subject, 0)
        return after

    async def _decide(self, rail: Rail, entry: Entry, intended: Intended, timeout: float) -> Entry:
        try:
            stage = await rail.decide(entry, intended, self.ledger, timeout=timeout)
        except UnavailableError:
            return entry
        if stage is None:
            await self._note_failure(rail, entry)
            return entry
        after = await self._write(entry, Event.SETTLE if isinstance(stage, Settled) else Event.REFUSE, stage)
        if stage.transaction not in intended.transactions:
            # It was decided without our bytes, so our nonce may be one that nobody will ever use.
            await self._heal(rail)
        return after

    async def _note_failure(self, rail: Rail, entry: Entry) -> None:
        """Have a failure count as soon as it is seen, which is long before it is one for good (fault D11)."""
        if self.allowance is None:
            return
        with suppress(UnavailableError):
            # Other bytes may have been made for it just now.
            entry = await self.ledger.find(ME, entry.subject.pay_id) or entry
            if isinstance(entry.stage, Intended) and entry.stage.raw:
                self.allowance.note(entry.subject, failing=await rail.failure(entry, entry.stage) is not None)

    async def _write(self, entry: Entry, event: Event, stage: Settled | Refused) -> Entry:
        subject = entry.subject
        try:
            after = await self.ledger.advance(ME, subject.pay_id, event, stage)
        except UnlawfulEvent:
            # Another replica was told by the chain first; what it wrote is the answer.
            self._charge(entry, stage)
            return await self.ledger.find(ME, subject.pay_id) or entry
        except UnavailableError:
            # What can't be written down is not yet known: the answer stays pending, and the chain is asked again.
            return entry
        facts = {"network": subject.network, "pay_id": subject.pay_id}
        if isinstance(stage, Refused):
            self.telemetry.emit("settle.refused", **facts, reason=stage.reason)
        else:
            self.telemetry.emit("settle.settled", **facts, transaction=stage.transaction, amount=subject.amount)
        self._charge(entry, stage)
        if self.allowance is not None:
            self.allowance.note(subject, failing=False)
        return after

    def _charge(self, entry: Entry, stage: Settled | Refused) -> None:
        """Have the booked fee replaced by what our own transaction cost; a stranger's is none of ours."""
        intended = entry.stage
        if not isinstance(intended, Intended) or self.allowance is None:
            return
        if intended.raw and stage.transaction in intended.transactions:
            rail = self.rails[entry.subject.network]
            self.allowance.correct_soon(entry.subject, lambda: cost_of(rail, intended))

    def _answer(self, entry: Entry) -> Receipt:
        network, payer, stage = entry.subject.network, entry.subject.payer, entry.stage
        if isinstance(stage, Settled | Final):
            return Receipt.settled(stage.transaction, network, payer, entry.due)
        if isinstance(stage, Refused) and stage.reason == NOTHING_DUE:
            return Receipt.settled("", network, payer, 0)
        if isinstance(stage, Refused):
            return Receipt.refused(stage.reason, stage.message, network, payer, proven=True)
        self.telemetry.emit("settle.pending", network=network, pay_id=entry.subject.pay_id)
        if isinstance(stage, Reversed):
            words = "a chain reorganisation undid the transfer; it may land again"
            return Receipt.pending(stage.transaction, network, payer, words)
        return Receipt.pending(stage.transaction if isinstance(stage, Intended) else "", network, payer)

    def _doubt(self, subject: Subject, error: UnavailableError) -> Receipt:
        self.telemetry.emit("settle.pending", network=subject.network, pay_id=subject.pay_id)
        return Receipt.pending("", subject.network, subject.payer, error.message)

    def _refuse(
        self, requirement: Requirement, error: RefusedError | MalformedError, *, proven: bool = False
    ) -> Receipt:
        self.telemetry.emit("settle.refused", network=requirement.network, reason=error.code)
        return Receipt.refused(error.code, error.message, requirement.network, _payer(error), proven=proven)

    def _rail(self, requirement: Requirement) -> Rail:
        rail = self.rails.get(requirement.network)
        if rail is None:
            supported = ", ".join(self.rails) or "none"
            raise RefusedError("invalid_network", f"{requirement.network} is not settled here; supported: {supported}")
        return rail


_USED = RefusedError("duplicate_settlement", "another payment with this identity was already settled")

_SPOKEN_BY_V1 = frozenset({exact_evm.SCHEME})


def _mutated(stored: Subject, claimed: Subject) -> bool:
    """Whether a known payId now claims other terms than those that are being, or were, settled (fault A24)."""
    return (stored.amount, stored.payee, stored.payer, stored.asset) != (
        claimed.amount,
        claimed.payee,
        claimed.payer,
        claimed.asset,
    )


def _payer(error: RefusedError | MalformedError) -> str | None:
    payer = error.details.get("payer")
    return payer if isinstance(payer, str) else None
