"""After a crash, and ever after: every payment that the chain has not decided is asked about until it has.

A row in INTENDED means that bytes may be on their way. Absence is no verdict: a payment is refused only when the
chain proves that it can never land (faults A06, A22, E01). The service runs `run` once before it is ready, then
`watch` for as long as it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from x402.errors import MalformedError, RefusedError, UnavailableError
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Outcome, Party

_AT_ONCE = 64


async def run(facilitator: LocalFacilitator, *, timeout_seconds: float = 1.0) -> int:
    """Ask the chain about every open payment once. Returns how many are still open.

    Raises `UnavailableError` when the ledger can't be read: then nothing is known, and nobody is ready.
    """
    entries = await facilitator.ledger.unresolved(Party.FACILITATOR)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def resume_one(pay_id: str) -> bool:
        async with gate:
            try:
                receipt = await facilitator.reconcile(pay_id, timeout=timeout_seconds)
            except (RefusedError, MalformedError):
                # A row that can't be read any more, such as one of a network that was removed, stays open alone.
                return True
            return receipt is None or receipt.outcome is Outcome.PENDING

    return sum(await asyncio.gather(*(resume_one(entry.subject.pay_id) for entry in entries)))


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
