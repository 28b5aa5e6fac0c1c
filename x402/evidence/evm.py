"""What an EVM network proves about a payment: receipts and events for a yes, the contract's own memory for a no.

The token, or Permit2, remembers every nonce for ever, whatever a node has pruned: a payment that is unused after the
last moment of its life will never be used. State is read *at* a block that the same question has seen, so that a node
which lags behind says that it can't answer, and not that nothing happened (fault E01).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from x402.chain import EvmReceipt
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.evidence.horizon import Horizon, horizon_of
from x402.lifecycle import Subject
from x402.ports import EvmChain
from x402.schemes.evm_payment import EvmPayment, balance_call
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.memory import recall
from x402.stages import Refused, Settled

_EXPIRY_MARGIN_SECONDS = 30
"""How much later than `validBefore` a block is that no reorganisation replaces by one before it."""
_CLOCK_MARGIN_SECONDS = 600
"""How far the clock may have been behind of whoever says since when; only where it is looked for depends on it."""
_WINDOW_BLOCKS = 2_000
_WINDOWS_MAX = 64
_LOOKUP_SECONDS = 5.0
_WORD = 32


@dataclass(frozen=True, slots=True)
class _Vain:
    """The payment was used up, and no transfer of it was made: in this block, where an event tells that."""

    block: int | None = None


class EvmWitness:
    """Implements `evidence.Witness`."""

    def __init__(self, network: str, chain: EvmChain) -> None:
        self.network = network
        self._chain = chain

    async def judge(
        self,
        subject: Subject,
        transactions: Sequence[str] = (),
        *,
        last_valid: int = 0,
        since: int = 0,
        timeout: float = 0.0,
    ) -> Verdict:
        """By the receipts of `transactions`, else by the payment's own state; `last_valid` is its own."""
        signed = authorization_of(subject)
        found = await self._first_receipt(transactions, signed, timeout)
        if isinstance(found, Settled):
            return found
        # A transaction that failed proves nothing: a fork may take its block back, other bytes may be on their way, and
        # anybody may submit what names no sender (faults A11, A16). What is over is said by the payment's own nonce.
        horizon = await horizon_of(self._chain)
        height = horizon.height
        now, spent = await asyncio.gather(self._chain.time_of(height), self._is_spent(signed, height))
        if spent:
            verdict = _proven(await self._spender(signed, height, now, since), signed, now, horizon)
        else:
            verdict = signed.ends.expired if spent is False and _is_dead(signed, now) else None
        return _named(verdict, found, signed) if isinstance(verdict, Refused) and found is not None else verdict

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        signed = authorization_of(subject)
        horizon = await horizon_of(self._chain)
        height = horizon.height
        now, spent = await asyncio.gather(self._chain.time_of(height), self._is_spent(signed, height))
        found = await self._spender(signed, height, now, since) if spent else None
        verdict = _proven(found, signed, now, horizon)
        if spent is None or (spent and verdict is None):
            raise UnavailableError("rpc_unavailable", "the node does not show what became of a payment")
        return signed.ends.expired if not spent and _is_dead(signed, now) else verdict

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        signed = authorization_of(subject)
        horizon = await horizon_of(self._chain)
        height = horizon.height
        receipt, spent = await asyncio.gather(
            self._chain.receipt(settled.transaction, timeout=0), self._is_spent(signed, height)
        )
        if receipt is not None and await self._transfer(receipt, signed) is not None:
            # Of several nodes behind one address one may be left on a fork that has lost. It shows the receipt still,
            # and knows no block as high as the other's, where the payment is not spent any more.
            return horizon.over(receipt.block) if spent or receipt.block > height else None
        if spent is None or height < settled.block:
            # This node has not seen the block of the transfer, so its silence proves nothing (fault E01).
            return None
        # Another transaction may have made the same transfer after the reorganisation, or the payer cancelled it.
        found = await self._spender(signed, height, await self._chain.time_of(height), 0) if spent else None
        if isinstance(found, Settled):
            return horizon.over(found.block)
        return Standing(0) if found is not None or not spent else None

    async def is_spent(self, subject: Subject) -> bool | None:
        """Whether the payment was used up or taken back by now; None when the node does not say."""
        return await self._is_spent(authorization_of(subject), await self._chain.block_number())

    async def failure(self, subject: Subject, transactions: Sequence[str]) -> str | None:
        """The one of these transactions that is in a block, where none of them made the transfer; by what is seen now,
        which a fork may change, so it is no verdict."""
        found = await self._first_receipt(transactions, authorization_of(subject), 0)
        return found.transaction if isinstance(found, EvmReceipt) else None

    async def balance(self, owner: str, asset: str) -> int:
        return await balance_of(self._chain, asset, owner)

    async def _first_receipt(
        self, transactions: Sequence[str], signed: EvmPayment, timeout: float
    ) -> EvmReceipt | Settled | None:
        """The transfer, by the first of these ids that shows it; else a receipt that does not. A replaced one may be
        the one that was mined, and an older one that failed leaves its payment to the newest."""
        if len(transactions) == 1:
            only = await self._chain.receipt(transactions[0], timeout=timeout)
            return None if only is None else await self._transfer(only, signed) or only
        vain: EvmReceipt | None = None
        waits = [asyncio.ensure_future(self._chain.receipt(one, timeout=timeout)) for one in transactions]
        try:
            for wait in asyncio.as_completed(waits):
                receipt = await wait
                if receipt is None:
                    continue
                settled = await self._transfer(receipt, signed)
                if settled is not None:
                    return settled
                vain = receipt
                if receipt.transaction == transactions[0]:
                    break
        finally:
            for unread in waits:
                unread.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return vain

    async def _is_spent(self, signed: EvmPayment, height: int) -> bool | None:
        """Whether the payment was used up or taken back up to a block; None when the node's answer is none."""
        contract, call = signed.spent_call()
        try:
            said = await self._chain.call(contract, call, block=height)
        except UnavailableError:
            return None
        if not said.succeeded or len(said.data) != _WORD:
            return None
        return signed.is_spent(int.from_bytes(said.data, "big"))

    async def _transfer(self, receipt: EvmReceipt, signed: EvmPayment) -> Settled | None:
        """The transfer of this payment, if a transaction made it; None also when the node does not show its call."""
        call = await self._chain.transaction(receipt.transaction) if signed.named_in_call else None
        units = signed.moved(receipt, call)
        if units is None:
            return None
        return Settled(receipt.transaction, receipt.block, units if signed.named_in_call else None)

    async def _spender(self, signed: EvmPayment, height: int, now: int, since: int) -> Settled | _Vain | None:
        """What became of a spent payment, by its events, searched backwards from the end of its life: the
        transfer, whoever sent it (fault A11), what used it up in vain, or None when no event is to be found."""
        used_at, given_up_at = signed.used, signed.given_up
        last = height if now <= signed.valid_before else await self._block_at(signed.valid_before + 1, height)
        born = max(signed.valid_after, since - _CLOCK_MARGIN_SECONDS)
        for _ in range(_WINDOWS_MAX):
            first = max(0, last - _WINDOW_BLOCKS + 1)
            used, cancelled = await asyncio.gather(
                self._chain.logs(used_at.address, used_at.topics, first, last),
                self._chain.logs(given_up_at.address, given_up_at.topics, first, last),
            )
            for transaction, _ in used:
                receipt = await self._chain.receipt(transaction, timeout=_LOOKUP_SECONDS)
                if receipt is None:
                    return None
                settled = await self._transfer(receipt, signed)
                if settled is not None:
                    return settled
            # Where events name the payment, one that moved nothing is proof; transfers between the two prove nothing.
            vain = [] if signed.named_in_call else [transaction for transaction, _ in used]
            vain += [transaction for transaction, log in cancelled if signed.gives_up(log)]
            if vain:
                receipt = await self._chain.receipt(vain[0], timeout=_LOOKUP_SECONDS)
                return None if receipt is None else _Vain(receipt.block)
            if first == 0 or (born and await self._chain.time_of(first) < born):
                # All blocks of its life were looked through. Another permit of the payer's has taken the nonce.
                return _Vain() if signed.named_in_call and born else None
            last = first - 1
        return None

    async def _block_at(self, second: int, height: int) -> int:
        """The first block at or after a unix second; `height` when there is none yet."""
        low, high = 0, height
        while low < high:
            middle = (low + high) // 2
            if await self._chain.time_of(middle) < second:
                low = middle + 1
            else:
                high = middle
        return low


def _proven(found: Settled | _Vain | None, signed: EvmPayment, now: int, horizon: Horizon) -> Verdict:
    """What a search below a horizon has found, a use in vain only once it is for good: a fork may take back the block
    of a cancellation, and put the transfer into another one (fault A16)."""
    if not isinstance(found, _Vain):
        return found
    final = found.block is not None and horizon.is_final(found.block)
    return signed.ends.used_up if final or _is_dead(signed, now) else None


def _is_dead(signed: EvmPayment, now: int) -> bool:
    """Whether no block takes a payment any more, whatever a reorganisation does, at the time of the newest block."""
    return now > signed.valid_before + _EXPIRY_MARGIN_SECONDS


async def balance_of(chain: EvmChain, asset: str, owner: str) -> int:
    """What an account holds of a token, in atomic units. Raises `UnavailableError`."""
    said = await chain.call(asset, balance_call(owner))
    if not said.succeeded or len(said.data) != _WORD:
        raise UnavailableError("rpc_unavailable", "the node did not say what an account holds")
    return int.from_bytes(said.data, "big")


def authorization_of(subject: Subject) -> EvmPayment:
    """The signed payment that a remembered one consists of.

    Raises `RefusedError` or `MalformedError` when it can't be read any more.
    """
    facilitation = recall(subject)
    return evm_scheme(facilitation.requirement.scheme).read(facilitation.payment, facilitation.requirement)


def _named(over: Refused, receipt: EvmReceipt, signed: EvmPayment) -> Refused:
    """How a payment ended that is over, with the transaction of ours that failed to settle it."""
    how = over
    if receipt.succeeded and (signed.named_in_call or _names(receipt, signed)):
        how = signed.ends.mismatch
    elif over == signed.ends.expired:
        # Among several payments in one transaction, each may fail alone.
        how = signed.ends.mismatch if receipt.succeeded else signed.ends.reverted
    return replace(how, transaction=receipt.transaction)


def _names(receipt: EvmReceipt, signed: EvmPayment) -> bool:
    """Whether a receipt has the event with which this very payment is used up."""
    used = signed.used
    return any(
        log.address.lower() == used.address.lower() and tuple(topic.lower() for topic in log.topics) == used.topics
        for log in receipt.logs
    )
