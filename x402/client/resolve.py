"""What became of payments whose outcome is not known: the chain is asked, never the seller (faults A23, B11, E01).

A payment is settled when the chain shows that its money moved, and given back only when the chain proves that it never
will: its signature is dead by the chain's own clock, and it was not used. Whatever lies between stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402.client.journal import Journal
from x402.client.presented import all_presented, witness_of
from x402.client.record import Record
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, RefusedError, UnavailableError, X402Error
from x402.evidence import Verdict
from x402.lifecycle import Event, UnlawfulEvent
from x402.ports import Chains
from x402.stages import Refused, Released, Settled, State

AT_ONCE = 16
"""How many payments are asked about at the same time."""
_PAID_OTHERWISE = (
    "post_settlement_transfer_not_confirmed",
    "invalid_exact_evm_transfer_event_mismatch",
    "invalid_upto_evm_transfer_event_mismatch",
)
"""What landed and moved something else than it should have: nothing that a machine gives back."""
_CANCELLED = ("invalid_exact_evm_nonce_already_used", "permit2_invalid_nonce")

CHAIN_ERRORS = (UnavailableError, MisconfiguredError, MalformedError, RefusedError, DeclinedError)
"""Why a chain can't be asked about a payment, or what was presented can't be read any more."""

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
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(record: Record) -> Finding:
        async with gate:
            return await resolve_one(journal, record, nodes(record))

    never = "its call ended before it was signed"
    found = [Finding(record, Released("never exposed"), never) for record in buried]
    return [*found, *await asyncio.gather(*(ask(record) for record in records))]


async def resolve_one(journal: Journal, record: Record, chains: Chains) -> Finding:
    """Ask the chain about one payment, and write down what it proves. Raises as `resolve`."""
    try:
        proof, words = await judge(record, chains)
    except CHAIN_ERRORS as error:
        return Finding(record, None, error.message, error)
    if proof is None:
        return Finding(record, None, words)
    return Finding(await asyncio.to_thread(_write, journal, record.pay_id, proof), proof, words)


async def judge(record: Record, chains: Chains) -> tuple[Proof | None, str]:
    """What the payment's own chain proves about it, and in words why. Raises one of `CHAIN_ERRORS`."""
    if record.state is State.HELD:
        return None, "a call is about to sign it"
    subjects = all_presented(record)
    witness = await witness_of(record.entry.subject.network, chains)
    verdicts = [await witness.judge(subject, since=record.entry.created_at) for subject in subjects]
    # They share a nonce, so one that was taken is proof that the others never will be.
    settled = next((verdict for verdict in verdicts if isinstance(verdict, Settled)), None)
    return _proof_of(settled if settled is not None else None if None in verdicts else verdicts[0])


def _proof_of(verdict: Verdict) -> tuple[Proof | None, str]:
    """A chain's verdict as what it means to the payer, whose signature may be used by anybody until it is dead."""
    if isinstance(verdict, Settled):
        return verdict, "the chain shows the transfer"
    if verdict is None:
        return None, "the seller may still take it, or this node does not show that it was taken; ask again later"
    return _dead(verdict)


def _dead(refused: Refused) -> tuple[Proof | None, str]:
    if refused.reason in _PAID_OTHERWISE:
        return None, f"its transaction {refused.transaction} landed and moved something else; look at it"
    if refused.reason in _CANCELLED:
        return Released("cancelled"), "its authorization was cancelled on chain"
    if refused.transaction:
        return Released("failed on chain"), f"its transaction {refused.transaction} failed"
    return Released("expired unused"), "it has expired by the chain's own clock, and the chain shows that it was unused"


def _write(journal: Journal, pay_id: str, proof: Proof) -> Record:
    """The row after the proof. One that another process has moved on meanwhile stays where that led."""
    if isinstance(proof, Settled):
        # It stays open if it was: the same call presents it again, for the answer that was paid for.
        return journal.conclude(pay_id, event=Event.SETTLE, stage=proof)
    with suppress(UnlawfulEvent):
        journal.release(pay_id, proof.reason)
    return journal.conclude(pay_id)
