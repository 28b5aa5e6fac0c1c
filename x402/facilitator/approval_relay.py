"""Sends a payer's approval of Permit2 for it, with gas of ours where the payer has none (protocol page §2.6).

    plan ─▶ budgets ─▶ book: OPEN ─▶ funding ─▶ approval ─▶ book: USED, or LOST ─▶ the settlement, like any other
                       (durable first)  └─ never left: VOID

Nothing binds the two transactions together, so a payer can take the gas and use it otherwise. What that costs is
bounded before anything is sent: the gas of one approval, by a cap and by what gas costs now; a payer is given it a few
times in its life, and never again after it was lost; each gift counts in the budgets of payer, caller and day; and the
key that gives has no other use, so that it can't lose more than it holds (faults C06-C09, D15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402.chain import EvmFees
from x402.errors import Mender, RefusedError, UnavailableError
from x402.facilitator.signer import EvmSigner
from x402.ports import Clock, EvmChain, NotSent
from x402.ports.grants import Grant, GrantBook, GrantState, NoMoreGas, may_have_more
from x402.schemes import approval_sponsoring
from x402.schemes.approval_sponsoring import GAS_MAX, SignedApproval
from x402.schemes.eip712 import address_word, keccak, uint256
from x402.schemes.eip1559 import EvmTransaction, read_transaction
from x402.schemes.evm_payment import EvmPayment
from x402.wire.payment import Payment

_TRANSFER_GAS = 21_000
_TRANSFER = keccak(b"transfer(address,uint256)")[:4]
_FEE_TIMES_MAX = 10
"""How many times of what gas costs now an approval may offer."""
_BID_TIMES = 4
"""What our own transaction offers, so that it is not left behind; it is charged what gas costs all the same."""


@dataclass(frozen=True, slots=True)
class ApprovalLimits:
    """What a payer is given: `wei` for one approval at most, gas `times` in its life. An approval that no block has
    taken after `patience` seconds counts as lost."""

    wei: int = 10**14
    times: int = 2
    patience: int = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """An approval that can be sponsored; implements `rail.Preparation`. `wei` is what its payer lacks, `grant` what
    was begun for it before."""

    relay: ApprovalRelay
    approval: SignedApproval
    wei: int = 0
    cost: int = 0
    grant: Grant | None = None

    @property
    def name(self) -> str:
        return f"{self.approval.asset.network}:approval:{self.approval.name}"

    async def carry_out(self, *, timeout: float) -> bool:
        return await self.relay.carry_out(self, timeout)


class ApprovalRelay:
    """One network's. `signer` gives the gas and does nothing else; `data_fee` is what a rollup charges for the data of
    one transaction, in wei."""

    def __init__(
        self,
        network: str,
        chain: EvmChain,
        book: GrantBook,
        signer: EvmSigner,
        clock: Clock,
        *,
        limits: ApprovalLimits | None = None,
        data_fee: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self.network = network
        self.limits = limits or ApprovalLimits()
        self.address = signer.address
        self.data_fee = data_fee or _nothing
        self._chain = chain
        self._book = book
        self._signer = signer
        self._clock = clock

    async def balance(self) -> int:
        """What there is to give, in wei."""
        return await self._chain.balance(self.address)

    async def plan(self, payment: Payment, signed: EvmPayment, *, settling: bool) -> Plan | None:
        """How the approval that came with a payment is brought about; None when none came with it.

        Raises `RefusedError` for what is not sponsored, and `UnavailableError` while a node does not show an approval
        that is in a block already.
        """
        asset, payer = signed.asset, signed.payer
        approval = approval_sponsoring.read(
            payment.extensions, asset, payer, signed.amount, chain_id=self._chain.chain_id
        )
        if approval is None:
            return None
        known = await self._book.of_payer(self.network, payer)
        begun = next((one for one in known if one.state is GrantState.OPEN or one.approval == approval.name), None)
        if begun is None:
            return await self._new(approval, signed, known)
        if begun.state in (GrantState.LOST, GrantState.VOID) or begun.asset != asset.address:
            raise _lost()
        if begun.state is GrantState.USED:
            if not settling:
                raise RefusedError(
                    "permit2_allowance_required", "the approval that came along is used up",
                    mender=Mender.PAYER,
                )  # fmt: skip
            raise UnavailableError("rpc_unavailable", "the node does not show the payer's approval yet")
        return Plan(self, approval, grant=begun)

    async def carry_out(self, plan: Plan, timeout: float) -> bool:
        """Have the approval in a block; whether this call began it, so that what it costs is its to book.

        Raises `RefusedError` when the approval will not come, `UnavailableError` while nobody knows: asking again goes
        on where this has stopped.
        """
        grant, begun = plan.grant, False
        if grant is None:
            grant, begun = await self._begin(plan)
        # Two transactions follow each other.
        state = await self._drive(grant, timeout / 2)
        if state in (GrantState.LOST, GrantState.VOID):
            raise _lost()
        if state is GrantState.OPEN:
            raise UnavailableError("approval_pending", "the payer's approval of Permit2 is on its way")
        return begun

    async def resume(self) -> None:
        """Go on with what a crash, or a node that was away, has left open."""
        for grant in await self._book.open_ones(self.network):
            with suppress(UnavailableError):
                await self._drive(grant, 0)

    async def _new(self, approval: SignedApproval, signed: EvmPayment, known: Sequence[Grant]) -> Plan:
        """By one round trip to the chain: the account is plain, the transaction is its next, and it would succeed, as
        would a transfer of the amount; and what gas is missing."""
        chain, payer, token, call = self._chain, signed.payer, approval.asset.address, approval.transaction
        move = _TRANSFER + address_word(signed.payee) + uint256(signed.amount)
        (code, count, held), (approves, moves), fees, data_fee = await asyncio.gather(
            asyncio.gather(chain.code(payer), chain.transaction_count(payer), chain.balance(payer)),
            asyncio.gather(
                chain.call(token, call.data, sender=payer, gas=call.gas), chain.call(token, move, sender=payer)
            ),
            chain.fees(),
            self.data_fee(),
        )
        if code:
            # Code decides what becomes of coins that it is given, and may send transactions of its own.
            raise _unsponsored(f"{payer} is an account with code")
        if call.nonce != count:
            raise RefusedError(
                "erc20_approval_tx_wrong_nonce",
                f"the transaction has nonce {call.nonce}, the account's next is {count}",
            )
        self._check_fees(call, fees)
        if not approves.succeeded:
            raise RefusedError("erc20_approval_tx_failed", "the token refuses the approval")
        if not moves.succeeded:
            raise RefusedError(
                "permit2_insufficient_balance", "the payer can't transfer so much of this token", mender=Mender.PAYER
            )
        wei = max(0, approval.cost + data_fee - held)
        if not wei:
            return Plan(self, approval)
        if wei > self.limits.wei:
            raise _dear(call)
        if not may_have_more(known, self.limits.times):
            raise _unsponsored(f"{payer} was given gas before")
        cost = wei + _TRANSFER_GAS * _BID_TIMES * fees.max_fee + data_fee
        if await self.balance() < cost:
            raise RefusedError(
                "erc20_approval_insufficient_eth_for_gas", "there is no gas left to give", mender=Mender.FACILITATOR
            )
        return Plan(self, approval, wei, cost)

    def _check_fees(self, call: EvmTransaction, fees: EvmFees) -> None:
        base = (fees.max_fee - fees.priority_fee) // 2
        dear = call.max_fee > _FEE_TIMES_MAX * fees.max_fee or call.gas * call.max_fee > self.limits.wei
        if dear or call.gas > GAS_MAX:
            raise _dear(call)
        if call.max_fee < base or call.priority_fee > call.max_fee:
            raise RefusedError("erc20_approval_tx_wrong_fees", f"{call.max_fee} wei for gas is less than {base} now")

    async def _begin(self, plan: Plan) -> tuple[Grant, bool]:
        """Write down what is promised, signed and whole, before anything of it leaves."""
        approval, fees = plan.approval, await self._chain.fees()
        count = await self._chain.transaction_count(self.address) if plan.wei else 0

        def draw(nonce: int) -> Grant:
            funding, raw = self._funding(approval.payer, plan.wei, nonce, fees) if plan.wei else ("", b"")
            return Grant(
                network=self.network, approval=approval.name, payer=approval.payer, asset=approval.asset.address,
                approval_raw=approval.signed.raw, approval_nonce=approval.transaction.nonce,
                wei=plan.wei, sender=self.address, nonce=nonce if plan.wei else None, funding=funding, funding_raw=raw,
                created_at=self._clock(),
            )  # fmt: skip

        payer, most = approval.payer, self.limits.times
        try:
            return await self._book.begin(self.network, payer, approval.name, self.address, count, most, draw)
        except NoMoreGas as error:
            raise _unsponsored(str(error)) from error

    def _funding(self, payer: str, wei: int, nonce: int, fees: EvmFees) -> tuple[str, bytes]:
        highest, tip = _BID_TIMES * fees.max_fee, 2 * fees.priority_fee
        gift = EvmTransaction(self._chain.chain_id, nonce, payer, _TRANSFER_GAS, highest, min(tip, highest), value=wei)
        return self._signer.sign_transaction(gift)

    async def _drive(self, grant: Grant, timeout: float) -> GrantState:
        """What has become of a grant, after everything was done for it that can be done now. Every step asks the chain,
        so that it may be taken again, by anybody, after anything."""
        state, is_late = await self._seen(grant), self._clock() >= grant.created_at + self.limits.patience
        if state is GrantState.OPEN:
            state = await self._fund(grant, timeout, is_late=is_late)
            if state is GrantState.USED:
                state = await self._approve(grant, timeout)
                if state is GrantState.OPEN and is_late:
                    state = GrantState.LOST
        if state is not GrantState.OPEN:
            await self._book.finish(grant, state)
        return state

    async def _seen(self, grant: Grant, timeout: float = 0) -> GrantState:
        """By the approval's receipt; OPEN without one."""
        receipt = await self._chain.receipt(grant.approval, timeout=timeout)
        if receipt is None:
            return GrantState.OPEN
        return GrantState.USED if receipt.succeeded else GrantState.LOST

    async def _fund(self, grant: Grant, timeout: float, *, is_late: bool) -> GrantState:
        """USED when the gas has arrived, or none was missing; VOID when it is not on its way and won't be any more."""
        if not grant.funding or grant.nonce is None:
            return GrantState.USED
        receipt = await self._chain.receipt(grant.funding, timeout=0)
        if receipt is None:
            if is_late and not await self._chain.knows(grant.funding):
                # What is sent now is not given up in the same breath, so nothing is.
                return GrantState.VOID
            try:
                await self._chain.send(grant.funding_raw, grant.funding)
            except NotSent:
                replaced = await self._is_replaced(grant.sender, grant.nonce, grant.funding)
                return GrantState.VOID if replaced else GrantState.OPEN
            receipt = await self._chain.receipt(grant.funding, timeout=timeout)
        if receipt is None:
            return GrantState.OPEN
        return GrantState.USED if receipt.succeeded else GrantState.LOST

    async def _approve(self, grant: Grant, timeout: float) -> GrantState:
        try:
            await self._chain.send(grant.approval_raw, grant.approval)
        except NotSent:
            call = read_transaction(grant.approval_raw).transaction
            gone = await self._chain.balance(grant.payer) < call.gas * call.max_fee
            if not gone and not await self._is_replaced(grant.payer, grant.approval_nonce, grant.approval):
                return GrantState.OPEN
            seen = await self._seen(grant)
            return GrantState.LOST if seen is GrantState.OPEN else seen
        seen = await self._seen(grant, timeout)
        if seen is GrantState.OPEN and await self._is_replaced(grant.payer, grant.approval_nonce, grant.approval):
            return GrantState.LOST
        return seen

    async def _is_replaced(self, account: str, nonce: int, transaction: str) -> bool:
        """Whether another transaction of the account has taken this one's place."""
        if await self._chain.transaction_count(account) <= nonce:
            return False
        return not await self._chain.knows(transaction)


async def _nothing() -> int:
    return 0


def _dear(call: EvmTransaction) -> RefusedError:
    return RefusedError(
        "erc20_approval_tx_wrong_fees", f"gas {call.gas} at {call.max_fee} wei is more than is given for an approval"
    )


def _unsponsored(words: str) -> RefusedError:
    return RefusedError(
        "erc20_approval_not_sponsored", f"{words}: approve Permit2 yourself, with x402 approve", mender=Mender.PAYER
    )


def _lost() -> RefusedError:
    return RefusedError(
        "erc20_approval_tx_failed", "the approval that came with the payment did not come into a block",
        mender=Mender.PAYER,
    )  # fmt: skip
