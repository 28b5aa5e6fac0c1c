"""When the first token of a stream comes: free, and paid in each way, on the demo's devnet in this process."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import coincurve
import httpx

from benching.wire import Request, ask
from tests.payments import EvmPayer, evm_requirement
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import Journal
from x402.devnet.model import ECHO, FREE
from x402.devnet.town import Town
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.settings import ClientSettings
from x402.wire.strict import dump_json

ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Say something short."}],
    "stream": True,
    "max_tokens": 32,
}
FLOWS: dict[str, dict[str, Any]] = {
    "upfront-base": {"policy": Policy(networks=(BASE_SEPOLIA,), schemes=("exact",), mainnet=False)},
    "upfront-solana": {"policy": Policy(networks=(SOLANA_DEVNET,), mainnet=False)},
    "upto": {"policy": Policy(networks=(BASE_SEPOLIA,), schemes=("upto",), mainnet=False)},
    "balance": {"policy": Policy(networks=(BASE_SEPOLIA,), schemes=("exact",), mainnet=False), "sign_in": True},
}
"""By name: how the client pays. The first call of each is not counted: it learns the seller's prices."""
_THINKING_SECONDS = 0.01
"""How long the model thinks before each token, so that the later ones don't take their time from the first."""
_REST_SECONDS = 0.15
"""How long the town rests after a call: the chain is in this process, and settles the call before meanwhile."""


async def first_tokens(count: int) -> dict[str, list[float]]:
    """Seconds to the first byte of the answer, by flow; and those of a verify."""
    samples: dict[str, list[float]] = {}
    async with Town(model_delay_seconds=_THINKING_SECONDS) as town:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as plain:
            await _first(plain, town.urls.chat, FREE)
            samples["free"] = [await _first(plain, town.urls.chat, FREE) for _ in range(count)]
        samples["verify"] = [await _verify(town) for _ in range(count)]
        for flow, options in FLOWS.items():
            auth = X402Auth(
                town.parties.buyer,
                limits=Limits(per_call="10", per_day="1000"),
                journal=Journal(":memory:", clock=lambda: int(time.time())),
                svm_rpc=town.urls.svm_rpc,
                evm_rpc=town.urls.evm_rpc,
                settings=ClientSettings.model_construct(),
                **options,
            )
            async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=60) as paying:
                if options.get("sign_in"):
                    # The money that the streams are paid from.
                    filled = await paying.post(f"{town.urls.chat}/session/deposit", json={"amount": "5.00"})
                    filled.raise_for_status()
                await _first(paying, town.urls.chat, ECHO)
                samples[flow] = [await _first(paying, town.urls.chat, ECHO) for _ in range(count)]
    return samples


async def _verify(town: Town) -> float:
    """Seconds that the facilitator takes for one verify, alone."""
    payer = EvmPayer(coincurve.PrivateKey.from_hex(town.parties.buyer_keys[0].removeprefix("0x")))
    offer = evm_requirement(pay_to=town.parties.pay_to[BASE_SEPOLIA])
    asked = {
        "x402Version": 2,
        "paymentPayload": payer.pay(offer).as_json(),
        "paymentRequirements": offer.as_json(),
    }
    reply = await ask(town.urls.facilitator, Request("POST", "/verify", dump_json(asked).encode()))
    if reply.json().get("isValid") is not True:
        raise RuntimeError(f"a payment that holds was refused: {reply.body[:200]!r}")
    return reply.seconds


async def _first(client: httpx.AsyncClient, base: str, model: str) -> float:
    begun = time.perf_counter()
    async with client.stream("POST", f"{base}/chat/completions", json={**ASK, "model": model}) as reply:
        reply.raise_for_status()
        first = 0.0
        async for _ in reply.aiter_bytes():
            first = first or time.perf_counter() - begun
    await asyncio.sleep(_REST_SECONDS)
    return first
