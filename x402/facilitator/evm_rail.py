"""Scheme `exact` on one EVM network: one round trip to verify, one transaction to settle, logs to be sure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from x402.chain import EvmReceipt
from x402.errors import Mender, MisconfiguredError, RefusedError, UnavailableError
from x402.facilitator.rail import Checked, prove, send_again
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, Subject
from x402.ports import Clock, EvmChain, Ledger
from x402.schemes import exact_evm, exact_evm_rules
from x402.schemes.exact_evm import SignedAuthorization
from x402.schemes.subject import evm_subject, recall
from x402.stages import Intended, Refused, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_EXPIRY_MARGIN_SECONDS = 30
_LOG_WINDOW_BLOCKS = 5_000
_LOOKUP_SECONDS = 5.0
_WORD = 32


@dataclass(frozen=True, slots=True)
class Gas:
    """What one settlement may cost. `limit` in gas for signatures of 65 bytes, `wallet_limit` for all others, which
    only a wallet's own code can check (fault D05), `max_fee` in wei per gas; `reserve` is the wei below which a signer
    stops offering (fault E08)."""

    limit: int = 160_000
    wallet_limit: int = 400_000
    max_fee: int = 500 * 10**9
    reserve: int = 10**13


class EvmRail:
    """Implements `facilitator.rail.Rail`."""

    def __init__(
        self,
        network: str,
        chain: EvmChain,
        signers: Sequence[EvmSigner],
        ledger: Ledger,
        clock: Clock,
        gas: Gas | None = None,
    ) -> None:
        if not signers:
            raise MisconfiguredError("no_signer", f"{network} needs at least one key that pays gas")
        self.network = network
        self._chain = chain
        self._signers = {signer.address: signer for signer in signers}
        self._order = list(self._signers)
        self._ledger = ledger
        self._clock = clock
        self._gas = gas or Gas()
        self._counts: dict[str, int] = {}
        self._counting = asyncio.Lock()
        self._mended: set[str] = set()
        self._owed_nonces: set[tuple[str, int]] = set()
        self._proven = False

    async def start(self) -> None:
        await self._chain.check_chain_id()
        self._proven = True

    async def kind(self) -> Kind | None:
        try:
            balances = await asyncio.gather(*(self._chain.balance(address) for address in self._order))
        except UnavailableError:
            return None
        if max(balances) < self._gas.reserve:
            return None
        return Kind(scheme=exact_evm.SCHEME, network=self.network)

    def signers(self) -> list[str]:
        return list(self._order)

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        signed = exact_evm_rules.read(payment, requirement)
        return Checked(evm_subject(signed, payment, requirement), payment, requirement)

    async def check(self, payment: Payment, requirement: Requirement) -> Checked:
        signed = exact_evm_rules.check(payment, requirement, now=self._clock())
        asset, limit = signed.asset.address, self._gas_limit(signed)
        _, code, deployed, simulated = await asyncio.gather(
            self._prove(),
            self._chain.code(signed.authorization.payer),
            self._chain.is_contract(asset),
            self._chain.call(asset, signed.calldata(), sender=self._order[0], gas=limit),
        )
        exact_evm_rules.judge_signature(signed, code)
        if not deployed:
            raise RefusedError("asset_not_deployed_contract", f"no token lives at {asset}", mender=Mender.SELLER)
        exact_evm_rules.judge_simulation(signed, simulated)
        return Checked(evm_subject(signed, payment, requirement), payment, requirement)

    async def prepare(self, checked: Checked) -> Intended:
        signed = exact_evm_rules.read(checked.payment, checked.requirement)
        await self._return_owed_nonces()
        address = self._order.pop(0)
        self._order.append(address)
        fees, count = await asyncio.gather(self._chain.fees(), self._count(address))
        nonce = await self._ledger.reserve_nonce(self.network, address, count)
        transaction, raw = self._signers[address].sign_transaction(
            {
                "type": 2,
                "chainId": self._chain.chain_id,
                "nonce": nonce,
                "to": signed.asset.address,
                "value": 0,
                "data": signed.calldata(),
                "gas": self._gas_limit(signed),
                "maxFeePerGas": min(fees.max_fee, self._gas.max_fee),
                "maxPriorityFeePerGas": min(fees.priority_fee, fees.max_fee, self._gas.max_fee),
            }
        )
        return Intended(transaction, raw, signed.authorization.valid_before, address, nonce)

    async def abandon(self, intended: Intended) -> None:
        # The node's own count decides next time: a refusal often means that somebody else used this key.
        self._counts.pop(intended.sender, None)
        if intended.nonce is not None:
            self._owed_nonces.add((intended.sender, intended.nonce))
        try:
            await self._return_owed_nonces()
        except UnavailableError:
            # The ledger is away; the nonce stays owed, and the next settlement returns it first (fault D02).
            return

    async def submit(self, intended: Intended) -> None:
        try:
            await self._chain.send(intended.raw, intended.transaction)
        except UnavailableError:
            # The bytes may be in a pool all the same; the chain will tell.
            return

    async def decide(self, entry: Entry, intended: Intended, *, timeout: float) -> Settled | Refused | None:
        signed = _remembered(entry.subject)
        receipt = await self._chain.receipt(intended.transaction, timeout=timeout)
        if receipt is not None:
            return await self._judge(receipt, signed)
        # Time and height are asked before the state: a state read after the last moment is final.
        now, height = await asyncio.gather(self._chain.now(), self._chain.block_number())
        spent = await self._is_spent(signed)
        if spent:
            return await self._spender(signed, height)
        if spent is False and now > intended.last_valid + _EXPIRY_MARGIN_SECONDS:
            return _refusal("invalid_exact_evm_payload_authorization_valid_before")
        await send_again(self, intended)
        return None

    async def release(self, intended: Intended) -> None:
        try:
            if not await self._chain.knows(intended.transaction):
                # Nobody will mine what no pool has, and everything above would wait for its nonce (fault D02).
                await self.abandon(intended)
        except UnavailableError:
            # The next start of the process mends the gap, if there is one.
            return

    async def find_settled(self, subject: Subject) -> Settled | None:
        verdict = await self._spender(_remembered(subject), await self._chain.block_number())
        return verdict if isinstance(verdict, Settled) else None

    async def _judge(self, receipt: EvmReceipt, signed: SignedAuthorization) -> Settled | Refused | None:
        if exact_evm.moved(receipt, signed):
            return Settled(receipt.transaction, receipt.block)
        if receipt.succeeded:
            return Refused(
                "invalid_exact_evm_transfer_event_mismatch",
                "the transaction succeeded without the transfer that it should have made",
                receipt.transaction,
            )
        if await self._chain.block_number() < receipt.block:
            # This node has not seen the block of the receipt, so its state and its logs prove nothing (fault E01).
            return None
        spent = await self._is_spent(signed)
        if spent is None:
            return None
        if spent:
            verdict = await self._spender(signed, receipt.block)
            return replace(verdict, transaction=receipt.transaction) if isinstance(verdict, Refused) else verdict
        return Refused(
            "invalid_exact_evm_transaction_failed", "the transfer was reverted on chain", receipt.transaction
        )

    async def _is_spent(self, signed: SignedAuthorization) -> bool | None:
        """Whether the authorization was used or cancelled, or None when the node's answer is none."""
        used = await self._chain.call(signed.asset.address, exact_evm.authorization_state_call(signed.authorization))
        return bool(int.from_bytes(used.data, "big")) if used.succeeded and len(used.data) == _WORD else None

    async def _spender(self, signed: SignedAuthorization, height: int) -> Settled | Refused | None:
        """What became of a spent authorization, by its events around block `height`: a stranger's transaction that
        settled it (fault A11), proof that it never will, or None when the events are not to be found."""
        asset, first = signed.asset.address, max(0, height - _LOG_WINDOW_BLOCKS)
        used, cancelled = await asyncio.gather(
            self._chain.logs(asset, signed.used_topics(), first),
            self._chain.logs(asset, signed.canceled_topics(), first),
        )
        for transaction, _ in used:
            receipt = await self._chain.receipt(transaction, timeout=_LOOKUP_SECONDS)
            if receipt is None:
                return None
            if exact_evm.moved(receipt, signed):
                return Settled(receipt.transaction, receipt.block)
        return _refusal("invalid_exact_evm_nonce_already_used") if used or cancelled else None

    async def _prove(self) -> None:
        if not self._proven:
            await prove(self)

    def _gas_limit(self, signed: SignedAuthorization) -> int:
        """The same for simulation and settlement, so that what passed the one has enough for the other (D05)."""
        return self._gas.limit if len(signed.signature) == 65 else self._gas.wallet_limit

    async def _count(self, address: str) -> int:
        async with self._counting:
            if address not in self._counts:
                count = await self._chain.transaction_count(address)
                if address not in self._mended:
                    await self._ledger.mend_nonces(self.network, address, count)
                    self._mended.add(address)
                self._counts[address] = count
            return self._counts[address]

    async def _return_owed_nonces(self) -> None:
        while self._owed_nonces:
            address, nonce = owed = min(self._owed_nonces)
            await self._ledger.return_nonce(self.network, address, nonce)
            self._owed_nonces.discard(owed)


def _remembered(subject: Subject) -> SignedAuthorization:
    facilitation = recall(subject)
    return exact_evm_rules.read(facilitation.payment, facilitation.requirement)


def _refusal(reason: str) -> Refused:
    return Refused(reason, exact_evm_rules.WORDS[reason])
