"""Settled is not final: a transfer is read again until no reorganisation reaches it (fault A16).

    SETTLED ─▶ final on chain: FINAL
        └────▶ gone from the chain: REVERSED ─▶ landed again, and final: FINAL
                                        └────▶ provably never to land again: REFUSED

A reversal is told as the fact `settle.reversed`, which is for a person to see: what was served for it is a loss until
it lands again, and its own bytes are sent again for as long as they may.
"""

from __future__ import annotations

from x402.errors import UnavailableError
from x402.facilitator.rail import Rail
from x402.lifecycle import Entry, Event, Party, UnlawfulEvent
from x402.ports import Ledger
from x402.stages import Final, Refused, Reversed, Settled
from x402.telemetry import Telemetry


async def reread(rail: Rail, ledger: Ledger, telemetry: Telemetry, entry: Entry) -> Entry:
    """Ask the chain once about a settled or reversed payment; the entry as it is afterwards.

    A chain or a ledger that is away changes nothing: the next round asks again.
    """
    subject = entry.subject
    try:
        if isinstance(entry.stage, Settled):
            event, stage = await _reread_settled(rail, entry, entry.stage)
        elif isinstance(entry.stage, Reversed):
            event, stage = await _reread_reversed(rail, entry, entry.stage)
        else:
            return entry
        if event is None or stage is None:
            return entry
        after = await ledger.advance(Party.FACILITATOR, subject.pay_id, event, stage)
    except UnlawfulEvent:
        return await ledger.find(Party.FACILITATOR, subject.pay_id) or entry
    except UnavailableError:
        return entry
    telemetry.emit(
        _FACTS[event],
        network=subject.network,
        pay_id=subject.pay_id,
        amount=subject.amount,
        transaction=stage.transaction,
    )
    return after


_FACTS = {Event.FINALISE: "settle.final", Event.REORGANISE: "settle.reversed", Event.REFUSE: "settle.lost"}


async def _reread_settled(
    rail: Rail, entry: Entry, settled: Settled
) -> tuple[Event | None, Final | Reversed | Refused | None]:
    standing = await rail.standing(entry, settled)
    if standing is None:
        return None, None
    if standing.gone:
        return Event.REORGANISE, Reversed(settled.transaction)
    return (Event.FINALISE, Final(settled.transaction, settled.block)) if standing.final else (None, None)


async def _reread_reversed(
    rail: Rail, entry: Entry, reversed_: Reversed
) -> tuple[Event | None, Final | Reversed | Refused | None]:
    dead = await rail.restore(entry, reversed_)
    if dead is not None:
        return Event.REFUSE, dead
    standing = await rail.standing(entry, reversed_)
    if standing is not None and standing.final:
        settled = await rail.spent_by(entry.subject)
        if isinstance(settled, Settled):
            return Event.FINALISE, Final(settled.transaction, settled.block, settled.amount)
    return None, None
