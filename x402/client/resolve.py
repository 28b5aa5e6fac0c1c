"""What became of payments whose outcome is not known: the chain is asked, never the seller (faults A23, B11, E01).

A payment is settled when the chain shows that its money moved, and given back only when the chain proves that it never
will: its signature is dead by the chain's own clock, and it was not used. Whatever lies between stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402 import networks
from x402.client.journal import Journal
from x402.client.record import Record
from x402.client.resolve_svm import judge as judge_svm
from x402.client.resolve_svm import read as read_transfer
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, RefusedError, UnavailableError, X402Error
from x402.lifecycle import Event, UnlawfulEvent
from x402.ports import Chains, EvmChain
from x402.schemes import exact_evm
from x402.schemes.exact_evm import SignedAuthorization
from x402.stages import Released, Settled, State
from x402.wire.payment import Payment, read_payment

_AT_ONCE = 16
_WORD = 32
_EXPIRY_MARGIN_SECONDS = 120
"""How long after `validBefore` an unused authorization is dead for good, whatever node of a pool answers."""
_CLOCK_MARGIN_SECONDS = 600
"""How far our clock may have been behind when a payment was signed; only where it is looked for depends on it."""
_LOG_WINDOW_BLOCKS = 2_000
_LOG_WINDOWS_MAX = 64
_LOOKUP_SECONDS = 5.0

Proof = Settled | Released


@dataclass(frozen=True, slots=True)
class Finding:
    """One payment after the chain was asked.

    `record` is the row as it is now, `proof` what the chain proves, None when nothing; `words` say why, and `error` is
    set when the chain could not be asked.
    """

    record: Record
    proof: Proof | None
    words: str
    error: X402Error | None = None


Nodes = Callable[[Record], Chains]
"""The chains that may be asked about a payment."""


async def resolve(journal: Journal, nodes: Nodes) -> Sequence[Finding]:
    """Ask the chains about every unresolved payment and write down what they prove; oldest first.

    A chain that can't be asked, or that is another one than the payment's, is a finding with an `error`. Raises
    `UnavailableError("journal_unavailable")` when nothing can be written down.
    """
    buried = await asyncio.to_thread(journal.bury)
    records = await asyncio.to_thread(journal.unresolved)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(record: Record) -> Finding:
        async with gate:
            return await resolve_one(journal, record, nodes(record))

    never = "its call ended before it was signed"
    found = [Finding(record, Released("never exposed"), never) for record in buried]
    return [*found, *await asyncio.gather(*(ask(record) for record in records))]


async def judge(record: Record, chains: Chains) -> tuple[Proof | None, str]:
    """What the payment's own chain proves about it, and in words why.

    Raises `UnavailableError` when the chain can't be asked, `MisconfiguredError("wrong_chain")` when the node serves
    another one, `MalformedError`, `RefusedError` or `DeclinedError` when what was presented can't be read any more.
    """
    if record.state is State.HELD:
        return None, "a call is about to sign it"
    network = networks.get(record.entry.subject.network)
    evm, svm = chains.evm.get(network.id), chains.svm.get(network.id)
    if evm is not None:
        signed = _read_authorization(record)
        await evm.check_chain_id()
        return await _judge_evm(record, signed, evm)
    if svm is not None:
        transfer = read_transfer(_presented(record), record)
        await svm.check_cluster(network.id)
        return await judge_svm(record, transfer, svm)
    raise UnavailableError("no_node", f"no node of {network.title} is known that could tell")


async def resolve_one(journal: Journal, record: Record, chains: Chains) -> Finding:
    """Ask the chain about one payment, and write down what it proves. Raises as `resolve`."""
    try:
        proof, words = await judge(record, chains)
    except (UnavailableError, MisconfiguredError, MalformedError, RefusedError, DeclinedError) as error:
        return Finding(record, None, error.message, error)
    if proof is None:
        return Finding(record, None, words)
    return Finding(await asyncio.to_thread(_write, journal, record.pay_id, proof), proof, words)


def _write(journal: Journal, pay_id: str, proof: Proof) -> Record:
    """The row after the proof. One that another process has moved on meanwhile stays where that led."""
    if isinstance(proof, Settled):
        # It stays open if it was: the same call presents it again, for the answer that was paid for.
        return journal.conclude(pay_id, event=Event.SETTLE, stage=proof)
    with suppress(UnlawfulEvent):
        journal.release(pay_id, proof.reason)
    return journal.conclude(pay_id)


def _presented(record: Record) -> Payment:
    payment = read_payment([(record.header_name, record.header)])
    if payment is None:
        raise MalformedError("invalid_payload", "the journal holds no payment in this row")
    return payment


def _read_authorization(record: Record) -> SignedAuthorization:
    subject = record.entry.subject
    asset = networks.get(subject.network).asset(subject.asset)
    if asset is None:
        raise DeclinedError("unknown_asset", f"{subject.asset} on {subject.network} is not a known asset")
    signed = exact_evm.read_payload(_presented(record).payload, asset)
    if signed.pay_id != subject.pay_id:
        raise MalformedError("invalid_payload", "the journal holds another payment than it says")
    return signed


async def _judge_evm(record: Record, signed: SignedAuthorization, chain: EvmChain) -> tuple[Proof | None, str]:
    """By the token's own memory of the nonce, which no node prunes. All three questions travel together."""
    auth = signed.authorization
    state, now, height = await asyncio.gather(
        chain.call(signed.asset.address, exact_evm.authorization_state_call(auth)),
        chain.now(),
        chain.block_number(),
    )
    if not state.succeeded or len(state.data) != _WORD:
        return None, "the node does not say whether the authorization was used"
    if int.from_bytes(state.data, "big"):
        return await _spender(record, signed, chain, height)
    left = auth.valid_before + _EXPIRY_MARGIN_SECONDS - now
    if left >= 0:
        return None, f"the seller may still take it; ask again in {left + 1} s"
    return Released("expired unused"), f"its authorization expired {now - auth.valid_before} s ago by the chain's clock"


async def _spender(
    record: Record, signed: SignedAuthorization, chain: EvmChain, height: int
) -> tuple[Proof | None, str]:
    """The transaction that used the authorization, whoever sent it, among the blocks of its lifetime."""
    auth, asset = signed.authorization, signed.asset.address
    first, last = await asyncio.gather(
        _block_at(chain, record.entry.created_at - _CLOCK_MARGIN_SECONDS, height),
        _block_at(chain, auth.valid_before + 1, height),
    )
    for start in range(first, min(last, first + _LOG_WINDOWS_MAX * _LOG_WINDOW_BLOCKS) + 1, _LOG_WINDOW_BLOCKS):
        end = min(start + _LOG_WINDOW_BLOCKS - 1, last)
        used, cancelled = await asyncio.gather(
            chain.logs(asset, signed.used_topics(), start, end),
            chain.logs(asset, signed.canceled_topics(), start, end),
        )
        for transaction, _ in used:
            receipt = await chain.receipt(transaction, timeout=_LOOKUP_SECONDS)
            if receipt is not None and exact_evm.moved(receipt, signed):
                return Settled(receipt.transaction, receipt.block), "the chain shows the transfer"
        if cancelled:
            return Released("cancelled"), "its authorization was cancelled on chain"
    return None, "its authorization was used, and the node does not show by which transaction; ask another node"


async def _block_at(chain: EvmChain, second: int, height: int) -> int:
    """The first block at or after a unix second; `height` when there is none yet."""
    low, high = 0, height
    while low < high:
        middle = (low + high) // 2
        if await chain.time_of(middle) < second:
            low = middle + 1
        else:
            high = middle
    return low
