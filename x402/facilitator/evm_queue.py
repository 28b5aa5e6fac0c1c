"""Which settlements on an EVM network leave together (design D8, ADR 13).

A payment that finds a key idle leaves at once and alone. While that transaction is in the air the next ones gather, and
leave as one: when it has landed, when four times as many wait as left last, when they fill a transaction, or a moment
before the next block, which nobody is to miss for the sake of company. So light load waits for nothing, and heavy load
costs few transactions.

Only payments of plain keys gather. A wallet's code runs inside the transaction and could burn the gas of the others, so
it goes alone; so does what only its sender may submit, and what would be too old to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from x402.facilitator.evm_sender import EvmSender, Gas
from x402.lifecycle import Entry, Subject
from x402.ports import Clock, EvmChain, Ledger
from x402.schemes.evm_payment import EvmPayment
from x402.stages import Intended

_OLD_SECONDS = 30
"""What dies sooner than this does not wait for others."""
_HELD_SECONDS = 4.0
"""How long one transaction keeps those that follow back at most, whatever becomes of it."""
_LAST_CALL_SECONDS = 0.25
"""So long before the next block, where its time is known, all leave who can."""
_GROWTH = 4
_FLIGHTS_MAX = 8
"""How many transactions of one key may be in the air, where they are a choice; nodes keep at least 16."""

Outcome = tuple[Entry, bool]


@dataclass(slots=True, eq=False)
class _Waiting:
    subject: Subject
    signed: EvmPayment
    ledger: Ledger
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class _Lane:
    """One key's transactions in the air, and how many payments left with the last of them."""

    flights: int = 0
    last: int = 0


@dataclass(slots=True)
class EvmQueue:
    """Signs and writes down what settles, alone or together. Nothing leaves here: that is `EvmAgain.submit`."""

    chain: EvmChain
    sender: EvmSender
    gas: Gas
    clock: Clock
    _waiting: list[_Waiting] = field(default_factory=list)
    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _flights: dict[str, tuple[_Lane, asyncio.TimerHandle]] = field(default_factory=dict)
    _signing: set[asyncio.Task[Sequence[Outcome]]] = field(default_factory=set)
    _departure: asyncio.Handle | None = None
    _last_call: asyncio.TimerHandle | None = None

    async def place(self, subject: Subject, signed: EvmPayment, ledger: Ledger, *, together: bool) -> Outcome:
        """Write down what settles a payment, as `Ledger.intend` does, with others where it may go `together`."""
        if not together or self.gas.shares_max < 2 or signed.valid_before < self.clock() + _OLD_SECONDS:
            return await self._intend_alone(signed.sender or self.sender.next(), subject, signed, ledger)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(subject, signed, ledger, loop.create_future())
        self._waiting.append(waiting)
        self._depart_soon(loop)
        return await waiting.outcome

    def landed(self, transaction: str) -> None:
        """A transaction is in a block, or will never be: those that gathered may go."""
        flight = self._flights.pop(transaction, None)
        if flight is not None:
            lane, timer = flight
            timer.cancel()
            lane.flights -= 1
            self._depart_soon(asyncio.get_running_loop())

    def _depart_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # At the end of this turn, so that those who were checked together go together.
        if self._departure is None and self._waiting:
            self._departure = loop.call_soon(self._depart)

    def _depart(self, *, last_call: bool = False) -> None:
        if last_call:
            self._last_call = None
        else:
            self._departure = None
        self._waiting = [one for one in self._waiting if not one.outcome.done()]
        while self._waiting:
            address = self._open_lane(last_call)
            if address is None:
                self._plan_last_call()
                return
            ledger = self._waiting[0].ledger
            batch = [one for one in self._waiting if one.ledger is ledger][: self.gas.shares_max]
            self._waiting = [one for one in self._waiting if one not in batch]
            lane = self._lanes.setdefault(address, _Lane())
            lane.flights += 1
            lane.last = len(batch)
            task = asyncio.create_task(self._intend(address, batch))
            self._signing.add(task)
            task.add_done_callback(partial(self._signed, lane, batch))

    def _plan_last_call(self) -> None:
        due = self.chain.next_block()
        if self._last_call is None and due is not None and due > _LAST_CALL_SECONDS:
            loop = asyncio.get_running_loop()
            self._last_call = loop.call_later(due - _LAST_CALL_SECONDS, partial(self._depart, last_call=True))

    def _open_lane(self, last_call: bool) -> str | None:
        """The key that may send what waits now: an idle one, or one for which enough have gathered, and on the last
        call any that has not too many in the air."""
        able = self.sender.able()
        for address in able:
            if self._lanes.setdefault(address, _Lane()).flights <= 0:
                return self.sender.take_turn(address)
        for address in able:
            lane = self._lanes[address]
            enough = 1 if last_call else min(_GROWTH * lane.last, self.gas.shares_max)
            if lane.flights < _FLIGHTS_MAX and len(self._waiting) >= enough:
                return self.sender.take_turn(address)
        return None

    def _signed(self, lane: _Lane, batch: Sequence[_Waiting], task: asyncio.Task[Sequence[Outcome]]) -> None:
        """Tell everybody, and hold the lane until what was signed has landed."""
        self._signing.discard(task)
        failure = None if task.cancelled() else task.exception()
        outcomes = () if task.cancelled() or failure else task.result()
        for index, waiting in enumerate(batch):
            if waiting.outcome.done():
                continue
            if failure is not None:
                waiting.outcome.set_exception(failure)
            elif outcomes:
                waiting.outcome.set_result(outcomes[index])
            else:
                waiting.outcome.cancel()
        loop = task.get_loop()
        signed = [entry.stage.transaction for entry, won in outcomes if won and isinstance(entry.stage, Intended)]
        if signed:
            self._flights[signed[0]] = lane, loop.call_later(_HELD_SECONDS, self.landed, signed[0])
        else:
            lane.flights -= 1
            self._depart_soon(loop)

    async def _intend(self, address: str, batch: Sequence[_Waiting]) -> Sequence[Outcome]:
        ledger = batch[0].ledger
        if len(batch) == 1:
            return [await self._intend_alone(address, batch[0].subject, batch[0].signed, ledger)]
        fees, count = await asyncio.gather(self.chain.fees(), self.sender.count(address, ledger))
        payments = {one.subject.pay_id: one.signed for one in reversed(batch)}
        sign = self.sender.signing_together(address, self.sender.bid(fees), payments)
        return await ledger.intend_together([one.subject for one in batch], address, count, sign)

    async def _intend_alone(self, address: str, subject: Subject, signed: EvmPayment, ledger: Ledger) -> Outcome:
        fees, count = await asyncio.gather(self.chain.fees(), self.sender.count(address, ledger))
        return await ledger.intend(subject, address, count, self.sender.signing(address, self.sender.bid(fees), signed))
