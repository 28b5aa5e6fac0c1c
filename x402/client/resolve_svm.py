"""What became of a Solana payment: looked for among the transactions of the account that it spends from.

The transaction's id is the fee payer's signature, which the client never sees; but the payer's own signature is in it
as well, and no other transaction can carry that one.
"""

from __future__ import annotations

import asyncio
import struct

from solders.signature import Signature

from x402.chain import SvmAccount, SvmTransaction
from x402.client.record import Record
from x402.errors import MalformedError, UnavailableError
from x402.ports import SvmChain
from x402.schemes import exact_svm, exact_svm_layout
from x402.schemes.exact_svm import SignedTransfer
from x402.schemes.subject import ANY_FEE
from x402.stages import Released, Settled
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

_CLOCK = "SysvarC1ock11111111111111111111111111111111"
_CLOCK_TIME_AT = 32
_LIFETIME_SECONDS = 300
"""A blockhash serves 150 blocks, 60 to 90 seconds; this much after the signature it is dead by any clock."""
_SKEW_SECONDS = 600
"""How far our clock may have been off when the payment was signed; only where it is looked for depends on it."""
_KEPT_SECONDS = 6 * 3600
"""What every node that lists transactions at all still has of them."""
_PAGE = 1000
_PAGES_MAX = 20


def read(payment: Payment, record: Record) -> SignedTransfer:
    """The signed transfer that was presented for `record`.

    Raises `RefusedError` or `MalformedError` when the journal holds another payment than it says.
    """
    subject = record.entry.subject
    fee_payer = str(exact_svm_layout.decode(payment.payload).message.account_keys[0])
    offer = Requirement(
        scheme=payment.scheme,
        network=subject.network,
        amount=subject.amount,
        asset=subject.asset,
        pay_to=subject.payee,
        max_timeout_seconds=_LIFETIME_SECONDS,
        extra={"feePayer": fee_payer},
    )
    signed = exact_svm.check(payment, offer, managed=frozenset({fee_payer}), limits=ANY_FEE)
    if exact_svm.pay_id(signed.transfer, subject.network) != subject.pay_id:
        raise MalformedError("invalid_payload", "the journal holds another payment than it says")
    return signed


async def judge(record: Record, signed: SignedTransfer, chain: SvmChain) -> tuple[Settled | Released | None, str]:
    """What the cluster proves about a payment, and in words why."""
    # Whether it is dead is asked before it is looked for: what is absent afterwards was and will be.
    clock, valid = await asyncio.gather(chain.accounts([_CLOCK]), chain.is_blockhash_valid(signed.transfer.blockhash))
    now, created = _time(clock[0]), record.entry.created_at
    landed, searched = await _search(record, signed, chain, now)
    if landed is not None:
        return _judge_landed(landed, signed)
    if valid or now <= created + _LIFETIME_SECONDS:
        left = max(1, created + _LIFETIME_SECONDS - now + 1)
        return None, f"the seller may still take it; ask again in {left} s"
    if not searched:
        return None, "the node's list of transactions does not reach back to when it was signed; ask another node"
    return Released("expired unused"), "its blockhash has expired, and it is in no block"


def _judge_landed(landed: SvmTransaction, signed: SignedTransfer) -> tuple[Settled | Released | None, str]:
    if exact_svm.moved(landed, signed.transfer):
        return Settled(landed.signature, landed.slot), "the chain shows the transfer"
    if landed.error is not None:
        # A message that landed, even in vain, never lands again.
        return Released("failed on chain"), f"its transaction {landed.signature} failed"
    return None, f"its transaction {landed.signature} landed and paid the seller another amount; look at it"


async def _search(
    record: Record, signed: SignedTransfer, chain: SvmChain, now: int
) -> tuple[SvmTransaction | None, bool]:
    """The transaction that carries the payer's signature; and whether, if there is none, every place was searched."""
    ours, before = str(Signature(signed.payer_signature)), ""
    # Memos that a node may spell otherwise, and a node that shows none, tell nothing about which transaction it is.
    memos = [memo.decode() for memo in signed.transfer.memos if memo.isalnum()]
    created = record.entry.created_at
    searched = now < created + _KEPT_SECONDS
    for _ in range(_PAGES_MAX):
        page = await chain.signatures_of(signed.transfer.source, limit=_PAGE, before=before)
        for one in page:
            if one.time is not None and one.time < created - _SKEW_SECONDS:
                return None, True
            if one.memo and not all(memo in one.memo for memo in memos):
                continue
            landed = await chain.transaction(one.signature)
            if landed is None:
                raise UnavailableError("rpc_unavailable", "the node lists a transaction that it does not show")
            if ours in landed.signatures:
                return landed, True
        if len(page) < _PAGE:
            return None, searched
        before = page[-1].signature
    return None, False


def _time(account: SvmAccount | None) -> int:
    """The cluster's unix time, from its clock account."""
    if account is None or len(account.data) < _CLOCK_TIME_AT + 8:
        raise UnavailableError("rpc_unavailable", "the node does not show the cluster's clock")
    return int(struct.unpack_from("<q", account.data, _CLOCK_TIME_AT)[0])
