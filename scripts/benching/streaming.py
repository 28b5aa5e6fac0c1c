"""When the first token of a stream comes: free, and paid in each way.

Model, gateway, facilitator and chain are processes of their own, as they are anywhere else, so that none of them waits
for another's turn on one loop. The client is this process, and so is the chain of Solana, which only its own flow asks.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benching.solana import Cluster
from benching.stage import CONTENDERS, Chain, facilitator, free_port, program, verification, wait_for
from benching.wire import Request, ask
from x402.client.allowance import asked_of, question, read_answer
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Buyer, Policy, choose
from x402.client.draft import ENTROPY_BYTES, draft
from x402.client.journal import Journal
from x402.client.wallet import Wallet
from x402.devnet.model import ECHO, FREE
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.settings import ClientSettings
from x402.wire.challenge import Challenge, read_challenge

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
"""How long everybody rests after a call, so that it is settled before the next."""
_MODEL = """
[[models]]
name = "{name}"
context_length = 8192
default_output_tokens = 256
[models.pricing]
unit = "per_1m"
prompt = {prompt}
completion = {completion}
[models.params]
model = "{name}"
api_base = "{url}/v1"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where streams are sold, who verifies, and where the chains are."""

    chat: str
    facilitator: str
    evm_rpc: str
    svm_rpc: str


@contextmanager
def place(chain: Chain, cluster: Cluster) -> Iterator[Place]:
    """The parties, each a process; their settlements go to these chains."""
    solana = {"X402_FACILITATOR_SVM_PRIVATE_KEY": str(cluster.fee_payer), "X402_SVM_RPC_URL": cluster.world.url}
    with (
        tempfile.TemporaryDirectory(prefix="x402-bench-") as folder,
        program(["-m", "benching.thinker", str(_THINKING_SECONDS)]) as model,
        facilitator(CONTENDERS[0], chain, chain.url, solana) as third,
    ):
        prices = Path(folder) / "prices.toml"
        models = (
            _MODEL.format(name=ECHO, prompt="0.5", completion="1.5", url=model),
            _MODEL.format(name=FREE, prompt=0, completion=0, url=model),
        )
        prices.write_text('version = "bench-1"\n' + "".join(models))
        environment = {
            "X402_PRICES": str(prices),
            "X402_GATEWAY_LEDGER": f"sqlite:///{folder}/gateway.sqlite",
            "X402_FACILITATOR_URL": third.url,
            "X402_EVM_PAY_TO": chain.pay_to,
            "X402_SVM_PAY_TO": cluster.seller,
            "X402_EVM_RPC_URL": chain.url,
            "X402_SVM_RPC_URL": cluster.world.url,
        }
        port = free_port()
        with program(["-m", "x402", "gateway", "--port", str(port)], environment, announces=False):
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/ready")
            yield Place(f"{url}/api/v1", third.url, chain.url, cluster.world.url)


def first_tokens(chain: Chain, count: int) -> dict[str, list[float]]:
    """Seconds to the first byte of the answer, by flow; and those of a verify."""
    with Cluster() as cluster, place(chain, cluster) as shop:
        wallet = Wallet(evm=chain.payers[0].key.to_hex(), svm=str(cluster.payers[0].keypair), testnet_only=True)
        return asyncio.run(_first_tokens(shop, wallet, count))


async def _first_tokens(shop: Place, wallet: Wallet, count: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as plain:
        await _first(plain, shop.chat, FREE)
        samples["free"] = [await _first(plain, shop.chat, FREE) for _ in range(count)]
        samples["verify"] = [await _verify(shop, body) for body in await _unsettled(plain, shop, wallet, count)]
    for flow, options in FLOWS.items():
        auth = X402Auth(
            wallet,
            limits=Limits(per_call="10", per_day="1000"),
            journal=Journal(":memory:", clock=lambda: int(time.time())),
            svm_rpc=shop.svm_rpc,
            evm_rpc=shop.evm_rpc,
            settings=ClientSettings.model_construct(),
            **options,
        )
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=60) as paying:
            if options.get("sign_in"):
                # The money that the streams are paid from.
                filled = await paying.post(f"{shop.chat}/session/deposit", json={"amount": "5.00"})
                filled.raise_for_status()
            await _first(paying, shop.chat, ECHO)
            samples[flow] = [await _first(paying, shop.chat, ECHO) for _ in range(count)]
    return samples


async def _unsettled(http: httpx.AsyncClient, shop: Place, wallet: Wallet, count: int) -> list[bytes]:
    """Bodies for /verify: so many payments of scheme `upto` for such a stream, as a client makes them."""
    reply = await http.post(f"{shop.chat}/chat/completions", json={**ASK, "model": ECHO})
    challenge = read_challenge(list(reply.headers.items()), reply.content)
    if not isinstance(challenge, Challenge) or (offer := asked_of(challenge)) is None:
        raise RuntimeError("the gateway offers no stream for what it turns out to cost")
    answer = await http.post(
        shop.evm_rpc, content=question(offer, wallet.evm_address), headers={"content-type": "application/json"}
    )
    known = read_answer(answer.status_code, answer.content)
    if known is None:
        raise RuntimeError("the node does not say what Permit2 may move")
    buyer = Buyer(
        {"eip155": wallet.evm_address}, "seller", True, allowances={(offer.network, offer.asset): known}, sponsored=True
    )
    choice = choose(challenge, buyer, FLOWS["upto"]["policy"])
    payments = (
        draft(
            choice, challenge, wallet, now=int(time.time()), lifetime_seconds=300,
            entropy=secrets.token_bytes(ENTROPY_BYTES), allowances=buyer.allowances,
        ).sign()
        for _ in range(count)
    )  # fmt: skip
    return [verification(payment, choice.requirement) for payment in payments]


async def _verify(shop: Place, body: bytes) -> float:
    """Seconds that the facilitator takes for one verify, alone."""
    reply = await ask(shop.facilitator, Request("POST", "/verify", body))
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
