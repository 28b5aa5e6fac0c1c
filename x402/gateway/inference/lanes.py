"""How many requests are at work at one provider, and who is next when it is full (aimo row 74)."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping
from itertools import count

from x402.gateway.inference.catalogue import Upstream
from x402.gateway.inference.price_rules import Tier
from x402.gateway.inference.upstream import UpstreamFailed

WAITING_PER_PLACE = 16
"""How many may wait for one place; beyond that another provider is asked."""


_RANKS: Mapping[Tier, int] = {Tier.PRIORITY: 0, Tier.DEFAULT: 1, Tier.FLEX: 2}


class Lane:
    """The places at one provider, given out by tier and then by order of arrival."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._busy = 0
        self._numbers = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def enter(self, tier: Tier) -> None:
        """Wait for a place. Raises `UpstreamFailed` when too many wait already."""
        if self._busy < self.places and not self._waiting:
            self._busy += 1
            return
        if len(self._waiting) >= self.places * WAITING_PER_PLACE:
            raise UpstreamFailed("too many requests wait for it", busy=True)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (_RANKS[tier], next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back; the next in line has it at once."""
        self._busy -= 1
        while self._waiting and self._busy < self.places:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self._busy += 1
                turn.set_result(None)


class Lanes:
    """The lanes of all providers that have a limit."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], Lane] = {}

    async def enter(self, upstream: Upstream, tier: Tier) -> Callable[[], None]:
        """Wait for a place, and get what gives it back; call that once. Raises `UpstreamFailed` when it is too full."""
        if upstream.concurrency is None:
            return _nothing
        lane = self._lanes.setdefault((upstream.api_base, upstream.model), Lane(upstream.concurrency))
        lane.places = upstream.concurrency
        await lane.enter(tier)
        return lane.leave


def _nothing() -> None:
    pass
