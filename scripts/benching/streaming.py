"""When the first token of a stream comes: free, and paid in each way, on the demo's devnet in this process."""

from __future__ import annotations

import time
from typing import Any

import httpx

from x402.client.budget import Limits
from x402.client.journal import Journal
from x402.devnet.model import FREE, STORY
from x402.devnet.town import Town
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Say something short."}],
    "stream": True,
    "max_tokens": 32,
}


async def first_tokens(count: int) -> dict[str, list[float]]:
    """Seconds to the first byte of the answer, by flow. A paid call's first answer is a 402, which is counted in."""
    samples: dict[str, list[float]] = {}
    async with Town() as town:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as plain:
            samples["free"] = [await _first(plain, town.urls.chat, FREE) for _ in range(count)]
        for flow, network in (("upfront-base", BASE_SEPOLIA), ("upfront-solana", SOLANA_DEVNET)):
            journal = Journal(":memory:", clock=lambda: int(time.time()))
            auth = town.client_auth(journal, network=network, limits=Limits(per_call="1", per_day="1000"))
            async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=60) as paying:
                await _first(paying, town.urls.chat, STORY)
                samples[flow] = [await _first(paying, town.urls.chat, STORY) for _ in range(count)]
    return samples


async def _first(client: httpx.AsyncClient, base: str, model: str) -> float:
    begun = time.perf_counter()
    async with client.stream("POST", f"{base}/chat/completions", json={**ASK, "model": model}) as reply:
        reply.raise_for_status()
        first = 0.0
        async for _ in reply.aiter_bytes():
            first = first or time.perf_counter() - begun
    return first
