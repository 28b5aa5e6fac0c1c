"""What an EVM network proves about an EIP-3009 payment: receipts and events for a yes, the token's own memory for a no.

The token remembers every nonce for ever, whatever a node has pruned: an authorization that is unused after the last
moment of its life will never be used. State is read *at* a block that the same question has seen, so that a node which
lags behind says that it can't answer, and not that nothing happened (fault E01).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from x402.chain import EvmReceipt
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.lifecycle import Subject
from x402.ports import EvmChain
from x402.schemes import exact_evm, exact_evm_rules
from x402.schemes.exact_evm import SignedAuthorization
from x402.schemes.subject import recall
from x402.stages import Refused, Settled

_EXPIRY_MARGIN_SECONDS = 30
"""How much later than `validBefore` a block is that no reorganisation replaces by one before it."""
_CLOCK_MARGIN_SECONDS = 600
"""How far the clock may have been behind of whoever says since when; only where it is looked for depends on it."""
_WINDOW_BLOCKS = 2_000
_WINDOWS_MAX = 64
_LOOKUP_SECONDS = 5.0
_WORD = 32


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
        """By the receipts of `transactions`, else by the authorization's own state; `last_valid` is its own."""
        signed = authorization_of(subject)
        receipt = await self._first_receipt(transactions, timeout)
        if receipt is not None:
            verdict = await self._judge_receipt(receipt, signed, since)
            if not isinstance(verdict, Refused) or await self._is_for_good(receipt, transactions):
                return verdict
        height = await self._chain.block_number()
        now, spent = await asyncio.gather(self._chain.time_of(height), self._is_spent(signed, height))
        if spent:
            return await self._spender(signed, height, now, since)
        if spent is False and now > signed.authorization.valid_before + _EXPIRY_MARGIN_SECONDS:
            return _refusal("invalid_exact_evm_payload_authorization_valid_before")
        return None

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        signed = authorization_of(subject)
        height = await self._chain.block_number()
        now, spent = await asyncio.gather(self._chain.time_of(height), self._is_spent(signed, height))
        verdict = await self._spender(signed, height, now, since) if spent else None
        if spent is None or (spent and verdict is None):
            raise UnavailableError("rpc_unavailable", "the node does not show what became of an authorization")
        return verdict

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        signed = authorization_of(subject)
        receipt, height = await asyncio.gather(
            self._chain.receipt(settled.transaction, timeout=0), self._chain.block_number()
        )
        if receipt is not None and exact_evm.moved(receipt, signed):
            return await self._depth(receipt.block, height)
        if height < settled.block:
            # This node has not seen the block of the transfer, so its silence proves nothing (fault E01).
            return None
        now, spent = await asyncio.gather(self._chain.time_of(height), self._is_spent(signed, height))
        if spent is None:
            return None
        # Another transaction may have made the same transfer after the reorganisation, or the payer cancelled it.
        found = await self._spender(signed, height, now, 0) if spent else None
        if isinstance(found, Settled):
            return await self._depth(found.block, height)
        return Standing(0) if found is not None or not spent else None

    async def is_spent(self, subject: Subject) -> bool | None:
        """Whether the authorization was used or cancelled by now; None when the node does not say."""
        return await self._is_spent(authorization_of(subject), await self._chain.block_number())

    async def balance(self, owner: str, asset: str) -> int:
        said = await self._chain.call(asset, exact_evm.balance_call(owner))
        if not said.succeeded or len(said.data) != _WORD:
            raise UnavailableError("rpc_unavailable", "the node did not say what an account holds")
        return int.from_bytes(said.data, "big")

    async def _is_for_good(self, receipt: EvmReceipt, transactions: Sequence[str]) -> bool:
        """Whether a transaction that failed leaves nothing that could still pay: a fork may take its block back and put
        the very same bytes into another one, and other bytes that were signed for this payment may land (fault A16).
        Without that, only the authorization itself can say that it is dead."""
        return len(transactions) == 1 and (await self._depth(receipt.block, receipt.block)).final

    async def _depth(self, block: int, height: int) -> Standing:
        try:
            final = block <= await self._chain.finalized()
        except UnavailableError:
            # Some networks know no final block; their transfers stay as deep as they are.
            final = False
        return Standing(max(1, height - block + 1), final)

    async def _first_receipt(self, transactions: Sequence[str], timeout: float) -> EvmReceipt | None:
        """The first receipt that any of these ids gets. A replaced one may be the one that was mined."""
        waits = [asyncio.ensure_future(self._chain.receipt(one, timeout=timeout)) for one in transactions]
        try:
            for wait in asyncio.as_completed(waits):
                receipt = await wait
                if receipt is not None:
                    return receipt
        finally:
            for unread in waits:
                unread.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return None

    async def _judge_receipt(self, receipt: EvmReceipt, signed: SignedAuthorization, since: int) -> Verdict:
        if exact_evm.moved(receipt, signed):
            return Settled(receipt.transaction, receipt.block)
        if receipt.succeeded:
            return Refused(
                "invalid_exact_evm_transfer_event_mismatch",
                "the transaction succeeded without the transfer that it should have made",
                receipt.transaction,
            )
        height = await self._chain.block_number()
        if height < receipt.block:
            # This node has not seen the block of the receipt, so its state and its logs prove nothing (fault E01).
            return None
        spent = await self._is_spent(signed, height)
        if spent is None:
            return None
        if spent:
            now = await self._chain.time_of(height)
            verdict = await self._spender(signed, height, now, since)
            return replace(verdict, transaction=receipt.transaction) if isinstance(verdict, Refused) else verdict
        return Refused(
            "invalid_exact_evm_transaction_failed", "the transfer was reverted on chain", receipt.transaction
        )

    async def _is_spent(self, signed: SignedAuthorization, height: int) -> bool | None:
        """Whether the authorization was used or cancelled up to a block; None when the node's answer is none."""
        call = exact_evm.authorization_state_call(signed.authorization)
        try:
            said = await self._chain.call(signed.asset.address, call, block=height)
        except UnavailableError:
            return None
        return bool(int.from_bytes(said.data, "big")) if said.succeeded and len(said.data) == _WORD else None

    async def _spender(self, signed: SignedAuthorization, height: int, now: int, since: int) -> Verdict:
        """What became of a spent authorization, by its events, searched backwards from the end of its life: the
        transfer, whoever sent it (fault A11), proof that it was cancelled, or None when no event is to be found."""
        auth, asset = signed.authorization, signed.asset.address
        last = height if now <= auth.valid_before else await self._block_at(auth.valid_before + 1, height)
        born = max(auth.valid_after, since - _CLOCK_MARGIN_SECONDS)
        for _ in range(_WINDOWS_MAX):
            first = max(0, last - _WINDOW_BLOCKS + 1)
            used, cancelled = await asyncio.gather(
                self._chain.logs(asset, signed.used_topics(), first, last),
                self._chain.logs(asset, signed.canceled_topics(), first, last),
            )
            for transaction, _ in used:
                receipt = await self._chain.receipt(transaction, timeout=_LOOKUP_SECONDS)
                if receipt is None:
                    return None
                if exact_evm.moved(receipt, signed):
                    return Settled(receipt.transaction, receipt.block)
            if used or cancelled:
                return _refusal("invalid_exact_evm_nonce_already_used")
            if first == 0 or (born and await self._chain.time_of(first) < born):
                return None
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


def authorization_of(subject: Subject) -> SignedAuthorization:
    """The authorization that a remembered payment consists of.

    Raises `RefusedError` or `MalformedError` when it can't be read any more.
    """
    facilitation = recall(subject)
    return exact_evm_rules.read(facilitation.payment, facilitation.requirement)


def _refusal(reason: str) -> Refused:
    return Refused(reason, exact_evm_rules.WORDS[reason])
