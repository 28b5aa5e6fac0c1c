"""A relay of approvals on a node that does what it is told, and one payer's payments."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.nodes import EvmNode
from tests.payments import EvmPayer, evm_asset, upto_requirement
from x402.chain import EvmReceipt
from x402.errors import RefusedError, UnavailableError
from x402.facilitator.approval_relay import ApprovalLimits, ApprovalRelay, Plan
from x402.facilitator.signer import EvmSigner
from x402.networks import BASE_SEPOLIA
from x402.ports import NotSent
from x402.ports.grant_book import SqlGrants
from x402.ports.grants import Grant, GrantState
from x402.ports.ledger import SqlLedger
from x402.schemes import approval_sponsoring, eip712
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.evm_payment import EvmPayment
from x402.schemes.evm_scheme import evm_scheme
from x402.wire.payment import Payment

GAS_COST = 70_000 * 100
"""What the client's approval may cost, at the node's bid."""
GIFT_COST = 21_000 * 4 * 100
"""What it may cost to give that."""
SECOND = 1_800_000_000
OPEN, USED, LOST = GrantState.OPEN, GrantState.USED, GrantState.LOST


@dataclass
class Node(EvmNode):
    """A node that takes transactions, and says which of them are in a block."""

    counts: dict[str, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    takes: dict[str, bool | None] = field(default_factory=dict)
    """By hash: whether it succeeds in a block as soon as it is sent; None for a refusal."""

    async def transaction_count(self, address: str) -> int:
        await super().transaction_count(address)
        return self.counts.get(address, 0)

    async def knows(self, transaction: str) -> bool:
        await super().knows(transaction)
        return transaction in self.known

    async def send(self, raw: bytes, transaction: str) -> None:
        await super().send(raw, transaction)
        succeeds = self.takes.get(transaction, False)
        if succeeds is None:
            raise NotSent("insufficient funds", ours=True)
        if transaction in self.takes:
            self.land(transaction, succeeded=succeeds)

    def land(self, transaction: str, *, succeeded: bool = True) -> None:
        self.receipts[transaction] = EvmReceipt(transaction, succeeded, 7, ())

    @property
    def sent(self) -> list[str]:
        return [transaction for _, transaction in self.heard("send")]


class Desk:
    """A relay on a node of its own, and one payer's payments."""

    def __init__(self, ledger: SqlLedger, limits: ApprovalLimits | None = None) -> None:
        self.node, self.book, self.purse = Node(), SqlGrants(ledger), EvmSigner(secrets.token_hex(32))
        self.now, self.payer, self.asset = SECOND, EvmPayer(), evm_asset()
        self.node.wei[self.purse.address] = 10**18
        self.offer = upto_requirement(EvmPayer().address)
        self.relay = ApprovalRelay(BASE_SEPOLIA, self.node, self.book, self.purse, lambda: self.now, limits=limits)

    def call(self, **changed: Any) -> EvmTransaction:
        return replace(approval_sponsoring.unsigned_approval(self.asset, 84532, 0, 100, 10), **changed)

    def name_of(self, **changed: Any) -> str:
        """The hash of such an approval of the payer's."""
        return self.call(**changed).sign_with(lambda digest: eip712.sign(self.payer.key, digest))[0]

    def read(self, payment: Payment) -> EvmPayment:
        return evm_scheme("upto").read(payment, self.offer)

    async def plan(self, *, settling: bool = False, **changed: Any) -> Plan:
        payment = self.payer.pay_approved(self.offer, self.call(**changed))
        plan = await self.relay.plan(payment, self.read(payment), settling=settling)
        assert plan is not None
        return plan

    async def refused(self, *, settling: bool = False, **changed: Any) -> RefusedError:
        with pytest.raises(RefusedError) as refusal:
            await self.plan(settling=settling, **changed)
        return refusal.value

    async def grant(self, state: GrantState = OPEN, *, gas: bool = True, seconds: int = 0, **changed: Any) -> Grant:
        """An approval that was begun so many seconds ago."""
        call = self.call(**changed)
        name, raw = call.sign_with(lambda digest: eip712.sign(self.payer.key, digest))
        gift = EvmTransaction(84532, 5, self.payer.address, 21_000, 400, 20, value=GAS_COST)
        funding, funding_raw = self.purse.sign_transaction(gift) if gas else ("", b"")
        drawn = Grant(
            network=BASE_SEPOLIA, approval=name, payer=self.payer.address, asset=self.asset.address, approval_raw=raw,
            approval_nonce=call.nonce, wei=GAS_COST if gas else 0, sender=self.purse.address,
            nonce=5 if gas else None, funding=funding, funding_raw=funding_raw, created_at=self.now - seconds,
        )  # fmt: skip
        begun, new = await self.book.begin(
            BASE_SEPOLIA, self.payer.address, name, self.purse.address, 5, 99, lambda _: drawn
        )
        assert new
        if state is not OPEN:
            await self.book.finish(begun, state)
        return begun

    async def carry_out(self, plan: Plan, timeout: float = 8) -> tuple[bool | str, list[GrantState]]:
        """Whether it was begun just now, or the code of what was raised; and how the payer's grants stand."""
        try:
            told: bool | str = await plan.carry_out(timeout=timeout)
        except (RefusedError, UnavailableError) as error:
            told = error.code
        grants = await self.book.of_payer(BASE_SEPOLIA, self.payer.address)
        return told, [grant.state for grant in grants]

    async def drive(self, grant: Grant) -> tuple[bool | str, list[GrantState]]:
        """Go on with what was begun."""
        plan = await self.plan(settling=True)
        assert plan.grant == grant
        self.node.asked.clear()
        return await self.carry_out(plan)
