"""How fast a facilitator verifies and settles on Solana: a real SVM behind JSON-RPC, ours and the Python SDK's."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from solders.keypair import Keypair

from benching.figures import OURS, Figure, median_ms, quantile
from benching.stage import Running, cpu_seconds, free_port, pid_of, posts, program, wait_for
from benching.wire import Load, Reply, drive
from tests.chains import SvmWorld
from tests.interop.launch import Peer, running
from tests.payments import SvmPayer, svm_requirement
from x402.wire.challenge import Requirement
from x402.wire.strict import dump_json

PAYERS = 8
AT_ONCE = 64
PRICE_UNITS = 1000


def _good(reply: Reply) -> bool:
    told = reply.json() if reply.status == 200 else {}
    return told.get("isValid") is True or told.get("success") is True


class Cluster:
    """The devnet, in a thread of its own, with payers and a fee payer who have what they need."""

    def __init__(self) -> None:
        self.world = SvmWorld()
        self.payers = [SvmPayer() for _ in range(PAYERS)]
        self.fee_payer, self.seller = Keypair(), str(Keypair().pubkey())

    def __enter__(self) -> Cluster:
        self.world.__enter__()
        for payer in self.payers:
            self.world.now(self.world.devnet.fund(payer.address, 10**12, 0))
        self.world.now(self.world.devnet.fund(str(self.fee_payer.pubkey()), 0, 10**12))
        self.world.now(self.world.devnet.create_usdc_account(self.seller))
        return self

    def __exit__(self, *_: object) -> None:
        self.world.__exit__(None, None, None)

    def cpu_seconds(self) -> float:
        """Processor time that the devnet has used."""

        async def used() -> float:
            return time.thread_time()

        return self.world.now(used())

    def bodies(self, count: int) -> list[bytes]:
        """So many distinct payments, under a fresh blockhash."""
        offer = svm_requirement(self.seller, str(self.fee_payer.pubkey()), PRICE_UNITS)
        recent = self.world.now(_blockhash(self.world))
        return [_body(self.payers[number % PAYERS], offer, recent) for number in range(count)]


async def _blockhash(world: SvmWorld) -> str:
    from x402.ports.svm import RpcSvmChain

    chain = RpcSvmChain(world.url)
    try:
        return (await chain.blockhash()).hash
    finally:
        await chain.aclose()


def _body(payer: SvmPayer, offer: Requirement, recent: str) -> bytes:
    payment = payer.pay(offer, recent)
    asked = {"x402Version": 2, "paymentPayload": payment.as_json(), "paymentRequirements": offer.as_json()}
    return dump_json(asked).encode()


@contextmanager
def _facilitator(who: str, cluster: Cluster) -> Iterator[Running]:
    key = str(cluster.fee_payer)
    if who != OURS:
        with running(Peer.PYTHON_FACILITATOR, {"SVM_PRIVATE_KEY": key, "SVM_RPC_URL": cluster.world.url}) as url:
            yield Running(url, pid_of(url), 0.0)
        return
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as folder:
        environment = {
            "X402_FACILITATOR_SVM_PRIVATE_KEY": key,
            "X402_SVM_RPC_URL": cluster.world.url,
            "X402_LEDGER": f"sqlite:///{folder}/facilitator.sqlite",
            "X402_SVM_FEES_PER_DAY": "1000000",
        }
        port = free_port()
        with program(["-m", "x402", "facilitator", "--port", str(port)], environment, announces=False):
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/supported")
            yield Running(url, pid_of(url), 0.0)


def solana(*, count: int, peers: bool) -> list[Figure]:
    """Verifies and settlements a second."""
    figures = []
    with Cluster() as cluster:
        for who in (OURS, "python-threads") if peers else (OURS,):
            with _facilitator(who, cluster) as third:
                _drive(third, "/verify", cluster.bodies(16), 4)
                figures.append(_measure("solana-verify", who, third, cluster, count))
                # The SDK confirms by a poll each second, one payment a thread: fewer of its payments tell as much.
                figures.append(_measure("solana-settle", who, third, cluster, count if who == OURS else min(count, 64)))
    return figures


def _measure(row: str, who: str, third: Running, cluster: Cluster, count: int) -> Figure:
    """The rate, and what one payment takes of the facilitator's processor time and of the devnet's."""
    bodies = cluster.bodies(count)
    own, devnet = cpu_seconds(third.pid), cluster.cpu_seconds()
    load = _drive(third, "/" + row.partition("-")[2], bodies)
    own, devnet = cpu_seconds(third.pid) - own, cluster.cpu_seconds() - devnet
    samples = [reply.seconds for reply in load.replies] or [0.0]
    good = load.count(_good)
    notes = {
        "good": f"{good}/{count}", "p50_ms": round(median_ms(samples), 1),
        "p99_ms": round(quantile(samples, 0.99) * 1000, 1), "at_once": AT_ONCE,
        "cpu_ms": round(own * 1000 / count, 3), "devnet_cpu_ms": round(devnet * 1000 / count, 3),
    }  # fmt: skip
    return Figure(row, who, good / load.seconds, "/s", notes)


def _drive(third: Running, path: str, bodies: Sequence[bytes], at_once: int = AT_ONCE) -> Load:
    return asyncio.run(drive(third.url, posts(path, list(bodies)), at_once))
