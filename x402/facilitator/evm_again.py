"""Bytes that leave, and leave again: the same ones, ones that bid more, or others (faults C16, D01, D03).

A transaction for several payments is sent once for all of them, and outbid for all that still wait for it. A payment
that failed in such company although nothing is wrong with it is tried once more, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from x402.errors import RefusedError, UnavailableError
from x402.evidence.evm import EvmWitness, authorization_of
from x402.facilitator.evm_check import EvmCheck
from x402.facilitator.evm_queue import EvmQueue
from x402.facilitator.evm_sender import Bid, EvmSender, Gas
from x402.lifecycle import Entry, Subject, UnlawfulEvent
from x402.ports import Clock, EvmChain, Ledger, NotSent
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.memory import recall
from x402.stages import Intended

_LAST_BID_SECONDS = 10
"""So long before its end nothing more is offered for a payment: a late block would revert it."""

Afford = Callable[[Subject, int], Awaitable[bool]]
"""Whether a payment's settlement may cost so much in all, in wei; what it costs more is booked then."""


@dataclass(slots=True)
class EvmAgain:
    """Sends on one network what is written down."""

    chain: EvmChain
    sender: EvmSender
    check: EvmCheck
    witness: EvmWitness
    queue: EvmQueue
    gas: Gas
    clock: Clock
    afford: Afford
    _sends: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _unheard: set[str] = field(default_factory=set)

    async def submit(self, intended: Intended) -> None:
        """Hand bytes to a node, once for all payments in them. Raises `NotSent` on proof that they were refused."""
        try:
            await self._send_once(intended)
        except UnavailableError:
            # The bytes may be in a pool all the same; the chain will tell.
            self._unheard.add(intended.transaction)
        except NotSent as error:
            self.sender.distrust(intended.sender, str(error))
            self.queue.landed(intended.transaction)
            # What a node has against a transaction of many is nothing that it has against one payment.
            raise NotSent(str(error), ours=error.ours or intended.shares > 1) from error

    def unheard(self, intended: Intended) -> bool:
        """Whether no node has said that it took these bytes when they were sent last; told once."""
        if intended.transaction not in self._unheard:
            return False
        self._unheard.discard(intended.transaction)
        return True

    async def _send_once(self, intended: Intended) -> None:
        name = intended.transaction
        if intended.shares == 1:
            await self.chain.send(intended.raw, name)
            return
        send = self._sends.get(name)
        if send is None:
            send = self._sends[name] = asyncio.ensure_future(self.chain.send(intended.raw, name))
            send.add_done_callback(lambda _: self._sends.pop(name, None))
        await asyncio.shield(send)

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        """Other bytes for this payment alone: another key, nonce or bid. None when no others can be made, or another
        process has made them."""
        if not self._may_try_again(intended):
            return None
        signed = authorization_of(entry.subject)
        address = signed.sender or self.sender.next()
        if not self.sender.knows(address):
            return None
        fees, count = await asyncio.gather(self.chain.fees(), self.sender.count(address, ledger))
        bid = self.sender.bid(fees)
        # The nonce of a transaction for several payments is not one payment's to keep.
        own = address == intended.sender and intended.nonce is not None and intended.shares == 1
        keep = own and intended.nonce is not None and intended.nonce >= count
        if keep and bid == intended.bid:
            # The very same bytes, which may be taken once their sender has gas.
            return None
        sign = self.sender.signing(address, bid, signed, intended)
        return await ledger.replace(entry.subject.pay_id, intended.attempt, address, count, sign, keep_nonce=keep)

    async def is_taken(self, subject: Subject, intended: Intended) -> bool:
        """Whether a block has one of our transactions, or the authorization is used up: then sending could only burn
        gas, until a fork takes the block back."""
        receipts = [self.chain.receipt(transaction, timeout=0) for transaction in intended.transactions]
        spent, *found = await asyncio.gather(self.witness.is_spent(subject), *receipts)
        return bool(spent) or any(receipt is not None for receipt in found)

    async def send(self, entry: Entry, intended: Intended, ledger: Ledger) -> None:
        """A transaction that no block has taken for a while is sent again, with a higher bid where one is allowed; a
        refusal of it proves nothing, because an earlier copy may be in another pool (faults C16, D03)."""
        if not intended.raw:
            # A stranger's transfer, which a fork took back: what pays now is ours to sign.
            await self._replace_unknown(entry, intended, ledger)
            return
        patient = self.clock() < intended.signed_at + self.gas.patience
        better = None if patient else await self._bid_more(entry, intended, ledger)
        try:
            await self.submit(better or intended)
        except NotSent as error:
            if error.ours and better is None:
                await self._replace_unknown(entry, intended, ledger)

    async def alone(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        """Bytes for this payment alone, sent, when it failed together with others and would not fail by itself: another
        one may have burnt the gas. None when that is not so."""
        if not self._may_try_again(intended):
            return None
        if await self.chain.receipt(intended.transaction, timeout=0) is None:
            return None
        if await self.witness.is_spent(entry.subject) is not False:
            return None
        facilitation, signed = recall(entry.subject), authorization_of(entry.subject)
        limit = self.gas.of(signed)
        try:
            await self.check.inspect(evm_scheme(facilitation.requirement.scheme), signed, limit)
        except RefusedError:
            return None
        fees, data_fee = await asyncio.gather(self.chain.fees(), self.sender.data_fee())
        both = limit * (intended.bid[0] + self.sender.bid(fees)[0]) + 2 * data_fee
        if not await self.afford(entry.subject, both):
            return None
        try:
            after = await self.replace(entry, intended, ledger)
        except UnlawfulEvent:
            # Another replica or caller has moved this payment on meanwhile.
            return None
        if after is not None and isinstance(after.stage, Intended):
            with suppress(NotSent):
                # The next round sends it again, or makes others.
                await self.submit(after.stage)
        return after

    async def _replace_unknown(self, entry: Entry, intended: Intended, ledger: Ledger) -> None:
        """Other bytes, unless the node has those that it was to replace."""
        if await self.chain.knows(intended.transaction):
            return
        try:
            after = await self.replace(entry, intended, ledger)
            if after is not None and isinstance(after.stage, Intended):
                await self.submit(after.stage)
        except (NotSent, UnlawfulEvent):
            # The next round tries again, or another replica or caller has moved this payment on meanwhile.
            return

    async def _bid_more(self, entry: Entry, intended: Intended, ledger: Ledger) -> Intended | None:
        # Only who has its key can sign its nonce again.
        if intended.nonce is None or not self.sender.knows(intended.sender) or not self._may_try_again(intended):
            return None
        bid = self.sender.raised(intended.bid, await self.chain.fees())
        if bid is None:
            return None
        try:
            for after in await self._outbid(entry, intended, intended.nonce, bid, ledger):
                if after.subject.pay_id == entry.subject.pay_id and isinstance(after.stage, Intended):
                    return after.stage
        except UnlawfulEvent:
            # Another replica or caller has moved this payment on; its attempt is the newer one.
            return None
        return None

    async def _outbid(self, entry: Entry, intended: Intended, nonce: int, bid: Bid, ledger: Ledger) -> Sequence[Entry]:
        """A higher bid with the same nonce, for this payment or for all that share it and can afford it."""
        if intended.shares == 1:
            if not await self._affords(entry, bid):
                return ()
            sign = self.sender.signing(intended.sender, bid, authorization_of(entry.subject), intended)
            pay_id, sender = entry.subject.pay_id, intended.sender
            return [await ledger.replace(pay_id, intended.attempt, sender, nonce, sign, keep_nonce=True)]
        network = entry.subject.network
        waiting = await ledger.sharing(network, intended.sender, nonce, intended.transaction)
        able = [one.subject.pay_id for one in waiting if await self._affords(one, bid)]
        if entry.subject.pay_id not in able:
            return ()
        sign_again = self.sender.signing_again(intended.sender, bid)
        return await ledger.replace_together(
            network, intended.sender, nonce, intended.transaction, sign_again, among=able
        )

    async def _affords(self, entry: Entry, bid: Bid) -> bool:
        fee = self.gas.of(authorization_of(entry.subject)) * bid[0] + await self.sender.data_fee()
        return await self.afford(entry.subject, fee)

    def _may_try_again(self, intended: Intended) -> bool:
        return intended.attempt < self.gas.attempts and self.clock() < intended.last_valid - _LAST_BID_SECONDS
