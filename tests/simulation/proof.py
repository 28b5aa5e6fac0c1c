"""The buyer's look at the chain before it signs again: work that blocks a thread while the world stands still.

The real client runs an event loop on a thread. Here it is an inner loop, on which every question is answered at once
from the world as it is at this moment; that the node is behind or away is still chance's to say.
"""

from __future__ import annotations

import asyncio

from tests.simulation.loop import SimulatedLoop
from x402.client.journal import Journal
from x402.client.record import Record
from x402.client.resolve import resolve_one
from x402.ports import Chains


def prove_frozen(journal: Journal, record: Record, chains: Chains) -> Record:
    """As `client.proof.Proof`: the row after the chain was asked."""
    outer = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    inner = SimulatedLoop()
    try:
        return inner.run_until_complete(resolve_one(journal, record, chains)).record
    finally:
        inner.close()
        asyncio._set_running_loop(outer)
