"""What the chain proves about one payment, asked in the midst of a call before it is paid for anew (fault A23)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from x402.client.journal import Journal
from x402.client.nodes import Nodes, NodeUrls
from x402.client.nodes import by_network as by_network
from x402.client.record import Record
from x402.client.resolve import resolve_one

_SECONDS = 15.0
"""How long a call waits for the chain; without its word nothing is signed anew."""


class Proof:
    """Asks the chain what became of a payment, and writes down what it proves. Call it on a thread: it blocks.

    Returns the row as it then is; a node that does not answer proves nothing, and the row stays as it was. Raises
    `UnavailableError("journal_unavailable")`.
    """

    def __init__(self, journal: Journal, *, evm_rpc: NodeUrls, svm_rpc: NodeUrls) -> None:
        self._journal = journal
        self._open: Callable[[], Nodes] = lambda: Nodes(evm_rpc=evm_rpc, svm_rpc=svm_rpc)

    def __call__(self, record: Record) -> Record:
        # A thread of its own, because the caller's may be running an event loop already.
        with ThreadPoolExecutor(1, thread_name_prefix="x402-proof") as thread:
            return thread.submit(asyncio.run, self._ask(record)).result()

    async def _ask(self, record: Record) -> Record:
        try:
            async with asyncio.timeout(_SECONDS), self._open() as nodes:
                return (await resolve_one(self._journal, record, nodes(record))).record
        except TimeoutError:
            return record
