"""Scheme `exact` on one EVM network: one round trip to verify, one transaction to settle, logs to be sure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from x402.chain import EvmReceipt
from x402.errors import MisconfiguredError, RefusedError, UnavailableError
from x402.facilitator.rail import Checked
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, Intended, Refused, Settled
from x402.ports import Clock, EvmChain, Ledger
from x402.schemes import exact_evm, exact_evm_rules
from x402.schemes.exact_evm import SignedAuthorization
from x402.schemes.subject import evm_subject, recall
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

_EXPIRY_MARGIN_SECONDS = 30
_LOG_WINDOW_BLOCKS = 5_000


@dataclass(frozen=True, slots=True)
class Gas:
    """What one settlement may cost. `limit` in gas for accounts without code, `wallet_limit` for those with code
    (fault D05), `max_fee` in wei per gas; `reserve` is the wei below which a signer stops offering (fault E08)."""

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

    async def start(self) -> None:
        await self._chain.check_chain_id()

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
        auth = signed.authorization
        code, deployed, simulated = await asyncio.gather(
            self._chain.code(auth.payer),
            self._chain.is_contract(signed.asset.address),
            self._chain.call(
                signed.asset.address, signed.calldata(), sender=self._order[0], gas=self._gas.wallet_limit
            ),
        )
        exact_evm_rules.judge_signature(signed, code)
        if not deployed:
            raise RefusedError("asset_not_deployed_contract", f"no token lives at {signed.asset.address}")
        exact_evm_rules.judge_simulation(signed, simulated)
        return Checked(evm_subject(signed, payment, requirement), payment, requirement)

    async def prepare(self, checked: Checked) -> Intended:
        signed = _signed(checked)
        address = self._order.pop(0)
        self._order.append(address)
        fees, count = await asyncio.gather(self._chain.fees(), self._count(address))
        nonce = await self._ledger.reserve_nonce(self.network, address, count)
        limit = self._gas.limit if len(signed.signature) == 65 else self._gas.wallet_limit
        transaction, raw = self._signers[address].sign_transaction(
            {
                "type": 2,
                "chainId": self._chain.chain_id,
                "nonce": nonce,
                "to": signed.asset.address,
                "value": 0,
                "data": signed.calldata(),
                "gas": limit,
                "maxFeePerGas": min(fees.max_fee, self._gas.max_fee),
                "maxPriorityFeePerGas": min(fees.priority_fee, fees.max_fee, self._gas.max_fee),
            }
        )
        return Intended(transaction, raw, signed.authorization.valid_before, address, nonce)

    async def abandon(self, intended: Intended) -> None:
        # The node's own count decides next time: a refusal often means that somebody else used this key.
        self._counts.pop(intended.sender, None)
        if intended.nonce is not None:
            await self._ledger.return_nonce(self.network, intended.sender, intended.nonce)

    async def submit(self, intended: Intended) -> None:
        try:
            await self._chain.send(intended.raw, intended.transaction)
        except UnavailableError:
            # The bytes may be in a pool all the same; the chain will tell.
            return

    async def decide(self, entry: Entry, intended: Intended, *, timeout: float) -> Settled | Refused | None:
        checked = recall(entry.subject)
        signed = exact_evm_rules.read(checked.payment, checked.requirement)
        receipt = await self._chain.receipt(intended.transaction, timeout=timeout)
        if receipt is not None:
            return await self._judge(receipt, signed)
        used = await self._chain.call(signed.asset.address, exact_evm.authorization_state_call(signed.authorization))
        if used.succeeded and int.from_bytes(used.data, "big"):
            return await self._settled_by_another(signed)
        if await self._chain.now() > intended.last_valid + _EXPIRY_MARGIN_SECONDS:
            words = exact_evm_rules.WORDS["invalid_exact_evm_payload_authorization_valid_before"]
            return Refused("invalid_exact_evm_payload_authorization_valid_before", words)
        await self.submit(intended)
        return None

    async def _judge(self, receipt: EvmReceipt, signed: SignedAuthorization) -> Settled | Refused | None:
        if exact_evm.moved(receipt, signed):
            return Settled(receipt.transaction, receipt.block)
        if receipt.succeeded:
            return Refused(
                "invalid_exact_evm_transfer_event_mismatch",
                "the transaction succeeded without the transfer that it should have made",
                receipt.transaction,
            )
        elsewhere = await self._settled_by_another(signed)
        if elsewhere is not None:
            return elsewhere
        used = await self._chain.call(signed.asset.address, exact_evm.authorization_state_call(signed.authorization))
        if not used.succeeded:
            return None
        if int.from_bytes(used.data, "big"):
            reason = "invalid_exact_evm_nonce_already_used"
            return Refused(reason, exact_evm_rules.WORDS[reason], receipt.transaction)
        return Refused(
            "invalid_exact_evm_transaction_failed", "the transfer was reverted on chain", receipt.transaction
        )

    async def _settled_by_another(self, signed: SignedAuthorization) -> Settled | None:
        """The transaction of a stranger who submitted this authorization before us, if there is one (fault A11)."""
        first = max(0, await self._chain.block_number() - _LOG_WINDOW_BLOCKS)
        for transaction, _ in await self._chain.logs(signed.asset.address, signed.used_topics(), first):
            receipt = await self._chain.receipt(transaction, timeout=5)
            if receipt is not None and exact_evm.moved(receipt, signed):
                return Settled(receipt.transaction, receipt.block)
        return None

    async def _count(self, address: str) -> int:
        if address not in self._counts:
            self._counts[address] = await self._chain.transaction_count(address)
        return self._counts[address]


def _signed(checked: Checked) -> SignedAuthorization:
    return exact_evm_rules.read(checked.payment, checked.requirement)
