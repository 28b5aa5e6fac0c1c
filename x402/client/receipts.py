"""Whether a seller's receipt names a transaction that really made our transfer: asked afterwards, of the chain (B13).

No call waits for it, and nothing is taken back because of it: a forged receipt is marked, and shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from x402 import networks
from x402.client.journal import Journal
from x402.client.presented import presented, witness_of
from x402.client.record import Check, Finding, Record
from x402.client.resolve import AT_ONCE, CHAIN_ERRORS, Nodes
from x402.errors import X402Error
from x402.lifecycle import Subject
from x402.ports import Chains
from x402.stages import Refused, Settled

_EVM_ID = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_NOTHING = "the chain does not show yet what the receipt names; ask again later"


@dataclass(frozen=True, slots=True)
class Checked:
    """One receipt after the chain was asked: the row as it is now, what was found in words, and why the chain could
    not be asked. `record.check` holds the finding, None while there is none."""

    record: Record
    words: str
    error: X402Error | None = None


def unchecked(records: Sequence[Record]) -> Sequence[Record]:
    """The payments whose receipt claims a transfer that nobody has looked for on chain."""
    return [one for one in records if isinstance(one.entry.stage, Settled) and one.receipt and one.check is None]


async def check(journal: Journal, records: Sequence[Record], nodes: Nodes, now: Callable[[], int]) -> list[Checked]:
    """Look for the transfers of settled payments on their chains, and keep what is found with the payment.

    A chain that can't be asked is an `error`, and its receipts stay unchecked. Raises
    `UnavailableError("journal_unavailable")`.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(record: Record) -> Checked:
        async with gate:
            try:
                found = await compare(record, nodes(record))
            except CHAIN_ERRORS as error:
                return Checked(record, error.message, error)
            if found is None:
                return Checked(record, _NOTHING)
            finding, words, amount = found
            kept = Check(finding, words, now())
            return Checked(await asyncio.to_thread(journal.note, record.pay_id, kept, amount), kept.words)

    return list(await asyncio.gather(*(one(record) for record in records)))


async def compare(record: Record, chains: Chains) -> tuple[Finding, str, int | None] | None:
    """What the chain says of a settled payment's receipt, and how much it shows to have been taken of a maximum; None
    when it decides nothing. Raises `CHAIN_ERRORS`."""
    named = record.receipt.transaction if record.receipt is not None else ""
    subject, since = presented(record), record.entry.created_at
    witness = await witness_of(subject.network, chains)
    # On Solana any transaction that pays the seller as much looks right by its id; the payer's signature tells ours.
    ids = [named] if _EVM_ID.fullmatch(named) and subject.network.startswith(networks.EIP155) else []
    verdict = await witness.judge(subject, ids, since=since)
    if isinstance(verdict, Refused) and ids:
        verdict = await witness.judge(subject, since=since) or verdict
    if verdict is None:
        return None
    if isinstance(verdict, Refused):
        words = "the transaction that the receipt names did not make the transfer, nor did any other"
        return Finding.DISPUTED, words, None
    if not _same(verdict.transaction, named, subject):
        words = f"the money moved in {verdict.transaction}, which the receipt does not name"
        return Finding.DISPUTED, words, verdict.amount
    if verdict.amount not in (None, record.entry.amount):
        words = f"{verdict.amount} atomic units were taken, and the receipt says {record.entry.amount}"
        return Finding.DISPUTED, words, verdict.amount
    return Finding.CONFIRMED, "the transaction of the receipt made the transfer", verdict.amount


def _same(one: str, other: str, subject: Subject) -> bool:
    return one.lower() == other.lower() if subject.network.startswith(networks.EIP155) else one == other
