"""What a Solana cluster proves about a payment: token balances for a yes, the death of its blockhash for a no.

The transaction's id is the fee payer's signature. Who does not know it finds the transaction all the same, among those
of the account that it spends from: it carries the payer's signature, and no other transaction can.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature

from x402 import networks
from x402.chain import SvmAccount, SvmTransaction
from x402.errors import UnavailableError
from x402.evidence import Standing, Verdict
from x402.lifecycle import Subject
from x402.money import Asset
from x402.ports import SvmChain
from x402.schemes import exact_svm_layout, exact_svm_reasons, exact_svm_rules, exact_svm_settlement
from x402.schemes.exact_svm_layout import SignedTransfer
from x402.schemes.exact_svm_subject import ANY_FEE
from x402.schemes.memory import recall
from x402.stages import Refused, Settled

_CLOCK = "SysvarC1ock11111111111111111111111111111111"
_CLOCK_TIME_AT = 32
_AMOUNT_AT = 64
_LIFETIME_SECONDS = 300
"""A blockhash serves 150 blocks, 60 to 90 seconds; this much after the signature it is dead by any clock."""
_SKEW_SECONDS = 600
"""How far the clock may have been off of whoever says since when; only where it is looked for depends on it."""
_KEPT_SECONDS = 6 * 3600
"""What every node that lists transactions at all still has of them."""
_EXPIRY_MARGIN_BLOCKS = 32
_PAGE = 1000
_PAGES_MAX = 20
_FINAL_DEPTH = 32
_KEPT = 1024
"""How many payments are kept in mind, the newest: more than are ever on their way at once."""


class SvmWitness:
    """Implements `evidence.Witness`."""

    def __init__(self, network: str, chain: SvmChain) -> None:
        self.network = network
        self._chain = chain
        self._fees: dict[str, int] = {}
        self._expected: dict[str, tuple[Subject, SignedTransfer]] = {}

    def expect(self, subject: Subject, signed: SignedTransfer) -> None:
        """Keep in mind of which transfer this very subject was made, so that it isn't read from its record again."""
        self._expected[subject.pay_id] = subject, signed
        _forget_oldest(self._expected)

    def fee_of(self, transaction: str) -> int:
        """Lamports that a transaction took which was judged a moment ago; 0 for any other. It never changes, on
        whatever fork the transaction lands, so nobody needs to ask for it again."""
        return self._fees.get(transaction, 0)

    async def judge(
        self,
        subject: Subject,
        transactions: Sequence[str] = (),
        *,
        last_valid: int = 0,
        since: int = 0,
        timeout: float = 0.0,
    ) -> Verdict:
        """By the status of its transaction; without an id, by the transactions of the account that it spends from.

        `last_valid` is the block height above which its blockhash is dead; without it, `since` tells its age.
        """
        expected = self._expected.pop(subject.pay_id, None)
        signed = expected[1] if expected is not None and expected[0] is subject else transfer_of(subject)
        # Whoever names a transaction of somebody else, however much that pays, has said nothing about this payment.
        transaction = next((one for one in transactions if exact_svm_settlement.is_id_of(one, signed)), "")
        if not transaction:
            return await self._judge_unknown(signed, since)
        status = await self._chain.status(transaction, timeout=timeout)
        if status is None:
            if not last_valid or await self._chain.block_height() <= last_valid + _EXPIRY_MARGIN_BLOCKS:
                return None
            # Asked once more after the height: what is absent now was and will be.
            if await self._chain.status(transaction, timeout=1.0) is not None:
                return None
            return _EXPIRED
        if status.error is not None:
            reason, message = exact_svm_settlement.explain(status.error, landed=True)
            return Refused(reason, message, transaction)
        landed = await self._chain.transaction(transaction)
        if landed is None:
            return None
        self._fees[transaction] = landed.fee
        _forget_oldest(self._fees)
        return judge_landed(landed, signed)

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        signed = transfer_of(subject)
        landed, _ = await self._search(signed, since, await self._time())
        return None if landed is None else judge_landed(landed, signed)

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        # The final slot is asked for first: what is absent afterwards, though its slot was final, is on no fork.
        final = await self._chain.finalized()
        status = await self._chain.status(settled.transaction, timeout=0)
        if status is not None:
            if status.error is not None:
                # It landed in vain in the fork that won: the transfer is gone, the more so when that is final (A14).
                return Standing(0)
            return Standing(_FINAL_DEPTH, final=True) if status.confirmation == "finalized" else Standing(1)
        if final <= settled.block + _EXPIRY_MARGIN_BLOCKS:
            return None
        return Standing(0) if await self._chain.transaction(settled.transaction) is None else None

    async def balance(self, owner: str, asset: str) -> int:
        return await balance_of(self._chain, self.network, asset, owner)

    async def _judge_unknown(self, signed: SignedTransfer, since: int) -> Verdict:
        # Whether it is dead is asked before it is looked for: what is absent afterwards was and will be.
        now, valid = await asyncio.gather(self._time(), self._chain.is_blockhash_valid(signed.transfer.blockhash))
        landed, searched = await self._search(signed, since, now)
        if landed is not None:
            return judge_landed(landed, signed)
        dead = not valid and since and now > since + _LIFETIME_SECONDS
        return _EXPIRED if dead and searched else None

    async def _search(self, signed: SignedTransfer, since: int, now: int) -> tuple[SvmTransaction | None, bool]:
        """The transaction that carries the payer's signature; and whether, if there is none, every place was
        searched."""
        ours, before = str(Signature(signed.payer_signature)), ""
        # Memos that a node may spell otherwise, and a node that shows none, tell nothing about which transaction it is.
        memos = [memo.decode() for memo in signed.transfer.memos if memo.isalnum()]
        searched = now < since + _KEPT_SECONDS
        for _ in range(_PAGES_MAX):
            page = await self._chain.signatures_of(signed.transfer.source, limit=_PAGE, before=before)
            for one in page:
                if one.time is not None and one.time < since - _SKEW_SECONDS:
                    return None, True
                if one.memo and not all(memo in one.memo for memo in memos):
                    continue
                landed = await self._chain.transaction(one.signature)
                if landed is None:
                    raise UnavailableError("rpc_unavailable", "the node lists a transaction that it does not show")
                if ours in landed.signatures:
                    return landed, True
            if len(page) < _PAGE:
                return None, searched
            before = page[-1].signature
        return None, False

    async def _time(self) -> int:
        """The cluster's unix time, from its clock account."""
        (account,) = await self._chain.accounts([_CLOCK])
        if account is None or len(account.data) < _CLOCK_TIME_AT + 8:
            raise UnavailableError("rpc_unavailable", "the node does not show the cluster's clock")
        return int(struct.unpack_from("<q", account.data, _CLOCK_TIME_AT)[0])


def _forget_oldest(kept: dict[str, Any]) -> None:
    if len(kept) > _KEPT:
        del kept[next(iter(kept))]


def transfer_of(subject: Subject) -> SignedTransfer:
    """The signed transfer that a remembered payment consists of, whatever keys and limits there are now.

    Raises `RefusedError` or `MalformedError` when it can't be read any more.
    """
    facilitation = recall(subject)
    requirement = facilitation.requirement
    managed = frozenset({str(requirement.extra.get("feePayer", ""))})
    return exact_svm_rules.check(facilitation.payment, requirement, managed=managed, limits=ANY_FEE)


def pinned(network: str, mint: str) -> Asset:
    """A known asset. Raises `UnavailableError` for any other: nothing can be said about it."""
    known = networks.get(network).asset(mint)
    if known is None:
        raise UnavailableError("unknown_asset", f"{mint} on {network} is not a known asset")
    return known


async def balance_of(chain: SvmChain, network: str, mint: str, owner: str) -> int:
    """What an owner's associated account holds of a token, in atomic units. Raises `UnavailableError`."""
    token = exact_svm_layout.token_account(owner, mint, pinned(network, mint).token_program)
    (account,) = await chain.accounts([token])
    return held(account, mint)


def held(account: SvmAccount | None, mint: str) -> int:
    """The atomic balance of a token account as the chain shows it; 0 when it is none of this mint."""
    if account is None or len(account.data) < _AMOUNT_AT + 8 or str(Pubkey(account.data[:32])) != mint:
        return 0
    return int.from_bytes(account.data[_AMOUNT_AT : _AMOUNT_AT + 8], "little")


_EXPIRED = Refused(exact_svm_reasons.FAILED, "the transaction's blockhash expired before it landed")


def judge_landed(landed: SvmTransaction, signed: SignedTransfer) -> Settled | Refused:
    """What a landed transaction proves about the transfer that it carries: it will not land a second time."""
    if exact_svm_settlement.moved(landed, signed.transfer):
        return Settled(landed.signature, landed.slot)
    if landed.error is not None:
        # A message that landed, even in vain, never lands again.
        reason, message = exact_svm_settlement.explain(landed.error, landed=True)
        return Refused(reason, message, landed.signature)
    return Refused(
        "post_settlement_transfer_not_confirmed",
        "the transaction succeeded without the transfer that it should have made",
        landed.signature,
    )
