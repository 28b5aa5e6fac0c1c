"""How throughput bends: over concurrency, over the node's latency, and what a payment costs over the batch."""

from __future__ import annotations

from collections.abc import Sequence

from benching.facilitating import settle_load, verify, verify_far
from benching.figures import OURS, Figure, tell
from benching.stage import CONTENDERS, Chain, Contender, facilitator

CONCURRENCY = (1, 4, 16, 64)
DELAYS_MS = (0, 5, 20, 50)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def over_concurrency(contenders: Sequence[Contender], chain: Chain, *, count: int) -> list[Figure]:
    """Verifies a second for one to many at once."""
    figures = []
    for contender in contenders:
        for at_once in CONCURRENCY:
            tell(f"verify over concurrency: {contender.who}, {at_once}")
            [figure] = verify(contender, chain, count=count, rounds=1, at_once=at_once)
            figures.append(Figure("over-concurrency", contender.who, figure.value, "/s", {"at": at_once}))
    return figures


def over_latency(contenders: Sequence[Contender], chain: Chain, *, count: int) -> list[Figure]:
    """Verifies a second while the node takes its time, 64 at once."""
    figures = []
    for contender in contenders:
        for delay in DELAYS_MS:
            tell(f"verify over latency: {contender.who}, {delay} ms")
            [figure] = verify_far(contender, chain, count=count, at_once=64, calls=False, delay_ms=delay)
            figures.append(Figure("over-latency", contender.who, figure.value, "/s", {"at": delay}))
    return figures


def over_batches(chain: Chain) -> list[Figure]:
    """Gas of a payment when so many come at once, where a block comes once a second."""
    figures = []
    with facilitator(CONTENDERS[0], chain, chain.url) as running:
        settle_load(running, chain, 2, 1)
        with chain.blocks_every(1):
            for size in BATCHES:
                tell(f"gas over batches: {size}")
                done = settle_load(running, chain, size, size)
                notes = {"at": size, "transactions": done.notes["transactions"]}
                figures.append(Figure("gas", OURS, done.gas_each, "gas", notes))
    return figures
