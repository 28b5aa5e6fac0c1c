"""What a client pays in time before a payment leaves: reading the challenge, building and signing, encoding."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable

from benching.figures import OURS, Figure
from benching.stage import ROOT
from tests.interop.install import install_python, install_typescript
from tests.payments import evm_requirement
from x402.client.choose import Buyer, Policy, choose
from x402.client.draft import draft
from x402.client.wallet import Wallet
from x402.wire.challenge import Challenge, Resource, read_challenge
from x402.wire.headers import PAYMENT_REQUIRED

PEERS = ROOT / "scripts" / "benching" / "peers"


def microseconds(work: Callable[[], object], seconds: float) -> float:
    """The median time of one call, among those of so many seconds."""
    for _ in range(20):
        work()
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(samples) < 50:
        begun = time.perf_counter()
        work()
        samples.append(time.perf_counter() - begun)
    return statistics.median(samples) * 1e6


def challenge() -> Challenge:
    """One offer on Base Sepolia, as any seller makes it."""
    offer = evm_requirement(amount=1000)
    return Challenge(accepts=(offer,), resource=Resource(url="https://seller.example/report"))


def ours(seconds: float) -> list[Figure]:
    """Our client's steps, each by the function that it runs, for so long."""
    asked, wallet = challenge(), Wallet.new(testnet_only=True)
    header = asked.as_header()
    buyer = Buyer(addresses={"eip155": wallet.evm_address}, host="seller.example", secure=True)
    policy = Policy()

    def read() -> object:
        return read_challenge([(PAYMENT_REQUIRED, header)])

    def build() -> object:
        chosen = choose(asked, buyer, policy)
        return draft(
            chosen, asked, wallet, now=int(time.time()), lifetime_seconds=300, entropy=secrets.token_bytes(32)
        ).sign()

    payment = draft(
        choose(asked, buyer, policy), asked, wallet,
        now=int(time.time()), lifetime_seconds=300, entropy=secrets.token_bytes(32),
    ).sign()  # fmt: skip
    return [
        Figure("client-read", OURS, microseconds(read, seconds), "us"),
        Figure("client-sign", OURS, microseconds(build, seconds), "us"),
        Figure("client-encode", OURS, microseconds(payment.as_header, seconds), "us"),
    ]


def peers() -> list[Figure]:
    """The same steps of the official SDKs, each in its own environment."""
    asked = json.dumps(challenge().as_json())
    python = [str(install_python()), "-E", "-s", str(PEERS / "client_cost.py")]
    typescript = install_typescript(PEERS / "client_cost.mjs")
    node = [*typescript.node, str(typescript.directory / "client_cost.mjs")]
    found = []
    for who, command in (("python", python), ("typescript", node)):
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, timeout=300)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        found += [Figure(row, who, told[row], "us") for row in ("client-read", "client-sign", "client-encode")]
    return found
