"""What the chain proves about one payment, asked in the midst of a call before it is paid for anew (fault A23)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from x402.client.journal import Journal
from x402.client.nodes import Nodes, NodeUrls
from x402.client.nodes import by_network as by_network
from x402.client.receipts import check
from x402.client.record import Record
from x402.client.resolve import resolve_one
from x402.client.verdict import is_metered
from x402.stages import Settled, State

_AT_MOST = 500
_SECONDS = 15.0
"""How long a call waits for the chain; without its word nothing is signed anew."""


class Proof:
    """Asks the chain what became of a payment, and writes down what it proves. Call it on a thread: it blocks.

    `clock` gives unix seconds. Returns the row as it then is; a node that does not answer proves nothing, and the row
    stays as it was. Raises `UnavailableError("journal_unavailable")`.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        evm_rpc: NodeUrls,
        svm_rpc: NodeUrls,
        clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._open: Callable[[], Nodes] = lambda: Nodes(evm_rpc=evm_rpc, svm_rpc=svm_rpc)

    def __call__(self, record: Record) -> Record:
        # A thread of its own, because the caller's may be running an event loop already.
        with ThreadPoolExecutor(1, thread_name_prefix="x402-proof") as thread:
            return thread.submit(asyncio.run, self._ask(record)).result()

    def confirm(self) -> int:
        """Look on chain for what was taken of payments that were signed as a maximum, and book it: how many were found.

        Blocks like a call. A node that does not answer finds nothing.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="x402-proof") as thread:
            return thread.submit(asyncio.run, self._look()).result()

    async def _look(self) -> int:
        signed = [one for one in self._journal.history(_AT_MOST) if is_metered(one.entry.subject) and not one.check]
        settled = [one for one in signed if isinstance(one.entry.stage, Settled)]
        dead = [one for one in signed if one.state is State.EXPOSED and not one.alive(self._clock())]
        try:
            async with asyncio.timeout(_SECONDS), self._open() as nodes:
                checked = await check(self._journal, settled, nodes, self._clock)
                freed = [await resolve_one(self._journal, one, nodes(one)) for one in dead]
        except TimeoutError:
            return 0
        return sum(one.record.check is not None for one in checked) + sum(one.proof is not None for one in freed)

    async def _ask(self, record: Record) -> Record:
        try:
            async with asyncio.timeout(_SECONDS), self._open() as nodes:
                return (await resolve_one(self._journal, record, nodes(record))).record
        except TimeoutError:
            return record
