"""After a crash, and ever after: every payment that the chain has not decided is asked about until it has.

A row in INTENDED means that bytes may be on their way. Absence is no verdict: a payment is refused only when the
chain proves that it can never land (faults A06, A22, E01). The service runs `run` once before it is ready, then
`watch` for as long as it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from x402.errors import MalformedError, RefusedError, UnavailableError
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Outcome, Party
from x402.stages import Reversed, Settled, State

ME = Party.FACILITATOR
_AT_ONCE = 64
_LEASE_SECONDS = 10
_REREAD_SECONDS = 10
"""How often a settled payment is read again while a fork could take it back and its bytes could be sent again."""
_PATIENT_SECONDS = 120
"""How often it is after that, until it is final."""
_UNDECIDED = frozenset({State.INTENDED, State.REVERSED})


async def run(facilitator: LocalFacilitator, *, timeout_seconds: float = 1.0) -> int:
    """Ask the chain once about every payment that is open, or settled and not final. Returns how many are still open.

    Raises `UnavailableError` when the ledger can't be read: then nothing is known, and nobody is ready.
    """
    undecided: list[Entry] = []
    while entries := await facilitator.ledger.take_open(ME, _LEASE_SECONDS, _AT_ONCE, states=_UNDECIDED):
        asked = await asyncio.gather(*(_is_decided(facilitator, entry, timeout_seconds) for entry in entries))
        undecided += [entry for entry, decided in zip(entries, asked, strict=True) if not decided]
    for entry in undecided:
        # Whoever comes next may ask again at once.
        await facilitator.ledger.end_lease(ME, entry.subject.pay_id)
    for rail in facilitator.rails.values():
        with suppress(UnavailableError):
            await rail.heal(facilitator.ledger)
    while entries := await facilitator.ledger.take_open(ME, _REREAD_SECONDS, _AT_ONCE, states={State.SETTLED}):
        await asyncio.gather(*(_reread(facilitator, entry) for entry in entries))
    return len(undecided)


async def _is_decided(facilitator: LocalFacilitator, entry: Entry, timeout_seconds: float) -> bool:
    """Whether the chain, asked once more, has decided a payment."""
    if isinstance(entry.stage, Reversed):
        await _reread(facilitator, entry)
        return False
    try:
        receipt = await facilitator.reconcile(entry.subject.pay_id, timeout=timeout_seconds)
    except (RefusedError, MalformedError):
        # A row that can't be read any more, such as one of a network that was removed, stays open alone.
        return False
    return receipt is not None and receipt.outcome is not Outcome.PENDING


async def _reread(facilitator: LocalFacilitator, entry: Entry) -> None:
    with suppress(RefusedError, MalformedError):
        await facilitator.reread(entry)
    rail = facilitator.rails.get(entry.subject.network)
    if isinstance(entry.stage, Settled) and (rail is None or not rail.may_land(entry)):
        # What a fork took back could not be sent again any more, so there is no hurry to notice it.
        await facilitator.ledger.lease(ME, entry.subject.pay_id, _PATIENT_SECONDS)


async def watch(
    facilitator: LocalFacilitator, pause: Callable[[], Awaitable[None]], *, timeout_seconds: float = 1.0
) -> None:
    """Run for ever, one `pause()` between two rounds. A ledger or chain that is away is asked again next round."""
    while True:
        await pause()
        try:
            await run(facilitator, timeout_seconds=timeout_seconds)
        except UnavailableError:
            continue
