"""A facilitator under load for a long time: its memory must stay flat, and its sums exact."""

from __future__ import annotations

from benching.facilitating import settle_load
from benching.figures import OURS, Figure, tell
from benching.stage import CONTENDERS, Chain, facilitator, memory_mb

STEP = 2000
AT_ONCE = 128


def soak(chain: Chain, *, payments: int) -> list[Figure]:
    """Memory in megabytes after `payments` settlements, and how much it grew in the second half."""
    with facilitator(CONTENDERS[0], chain, chain.url) as running:
        samples = [memory_mb(running.pid)]
        settled = 0
        while settled < payments:
            done = settle_load(running, chain, min(STEP, payments - settled), AT_ONCE)
            settled += STEP
            samples.append(memory_mb(running.pid))
            tell(f"{settled} payments: {samples[-1]:.1f} MB, {done.rate:.0f}/s, {done.notes['money']}")
    middle = samples[len(samples) // 2]
    notes = {"payments": payments, "fresh": round(samples[0], 1), "second_half": round(samples[-1] - middle, 1)}
    return [Figure("memory", OURS, samples[-1], "MB", notes)]
