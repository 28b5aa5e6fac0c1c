"""How fast a seller takes payments: its paywall alone, the whole way with a facilitator and a chain, and streams."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import httpx

from benching.figures import OURS, Figure, median_ms, middle, quantile
from benching.stage import (
    CONTENDERS,
    READY_SECONDS,
    Chain,
    Contender,
    cpu_seconds,
    facilitator,
    pids_of,
    program,
    wait_for,
)
from benching.wire import Load, Reply, Request, ask, drive
from tests.interop.launch import running
from x402.client.auth import X402Auth
from x402.client.journal import Journal
from x402.client.wallet import Wallet
from x402.settings import ClientSettings
from x402.wire.challenge import Challenge, read_challenge
from x402.wire.headers import PAYMENT_SIGNATURE
from x402.wire.payment import Payment

AT_ONCE = 16
PAID = Request("GET", "/evm")
WORKERS = max(2, os.cpu_count() or 1)


def _served(reply: Reply) -> bool:
    return reply.status == 200


@contextmanager
def seller(contender: Contender, chain: Chain, facilitator_url: str, workers: int = 1) -> Iterator[str]:
    """A contender's paid route `GET /evm`; ours with so many workers."""
    if contender.seller is not None:
        environment = {"FACILITATOR_URL": facilitator_url, "EVM_PAY_TO": chain.pay_to, "PRICE": "$0.001"}
        with running(contender.seller, environment) as url:
            yield url
        return
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as folder:
        ledger = f"sqlite:///{folder}/gateway.sqlite"
        with program(["-m", "benching.shop", facilitator_url, chain.pay_to, ledger, str(workers)]) as url:
            wait_for(f"{url}/free")
            deadline = time.monotonic() + READY_SECONDS
            while len(pids_of(url)) not in (0, workers) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield url


def paid_requests(url: str, chain: Chain, count: int) -> list[Request]:
    """The same request so many times, each with a payment of its own: what a client sends after its first challenge."""
    challenge = asyncio.run(_challenge(url))
    offer = challenge.accepts[0]
    return [_paid(payment, challenge) for payment in chain.payments(offer, count)]


async def _challenge(url: str) -> Challenge:
    reply = await ask(url, PAID)
    read = read_challenge(list(reply.headers.items()), reply.body)
    assert isinstance(read, Challenge)
    return read


def _paid(payment: Payment, challenge: Challenge) -> Request:
    whole = payment.model_copy(update={"resource": challenge.resource, "extensions": challenge.extensions})
    return Request(PAID.method, PAID.target, headers=((PAYMENT_SIGNATURE, whole.as_header()),))


def paywall(contender: Contender, chain: Chain, *, count: int, rounds: int, at_once: int = AT_ONCE) -> list[Figure]:
    """Paid requests a second where the facilitator says yes at once, and challenges a second. Each contender is one
    process; the notes tell what a worker for each processor does of ours, on one ledger."""
    figures = _paywall(contender, chain, count, rounds, at_once, 1)
    if contender.seller is None:
        several = _paywall(contender, chain, count, rounds, at_once, WORKERS)[0]
        figures[0] = replace(figures[0], notes={**figures[0].notes, f"with_{WORKERS}_workers": round(several.value)})
    return figures


def _paywall(contender: Contender, chain: Chain, count: int, rounds: int, at_once: int, workers: int) -> list[Figure]:
    found: list[Figure] = []
    with (
        program(["-m", "benching.yes", chain.signer_address]) as yes,
        seller(contender, chain, yes, workers) as url,
    ):
        pids = pids_of(url)
        _drive(url, paid_requests(url, chain, 32), 8)
        for _ in range(rounds):
            requests = paid_requests(url, chain, count)
            before = sum(map(cpu_seconds, pids))
            load = _drive(url, requests, at_once)
            spent = (sum(map(cpu_seconds, pids)) - before) * 1000 / count
            notes = {**_times(load), "served": f"{load.count(_served)}/{count}", "cpu_ms": round(spent, 3)}
            found.append(Figure("paywall", contender.who, load.count(_served) / load.seconds, "/s", notes))
        asked = _drive(url, [PAID] * count, at_once)
    challenges = asked.count(lambda reply: reply.status == 402) / asked.seconds
    return [middle(found), Figure("challenges", contender.who, challenges, "/s", _times(asked))]


def end_to_end(contender: Contender, chain: Chain, *, count: int) -> list[Figure]:
    """Paid requests a second with the contender's own facilitator on a real chain, alone and sixteen at once."""
    figures = []
    with facilitator(contender, chain, chain.url) as third, seller(contender, chain, third.url) as url:
        _drive(url, paid_requests(url, chain, 4), 1)
        for at_once in (1, AT_ONCE):
            load = _drive(url, paid_requests(url, chain, count), at_once)
            notes = {**_times(load), "served": f"{load.count(_served)}/{count}"}
            row = "end-to-end" if at_once > 1 else "end-to-end-alone"
            figures.append(Figure(row, contender.who, load.count(_served) / load.seconds, "/s", notes))
    return figures


def round_trips(chain: Chain) -> list[Figure]:
    """HTTP requests that our client needs for a paid call, after its first one, beside those for a free one."""
    wallet = Wallet(evm="0x" + chain.payers[0].key.to_hex(), testnet_only=True)
    journal = Journal(":memory:", clock=lambda: int(time.time()))
    sent: list[httpx.Request] = []
    with (
        program(["-m", "benching.yes", chain.signer_address]) as yes,
        seller(CONTENDERS[0], chain, yes) as url,
        httpx.Client(
            auth=X402Auth(wallet, journal=journal, settings=ClientSettings.model_construct()),
            event_hooks={"request": [sent.append]}, trust_env=False,
        ) as client,
    ):  # fmt: skip
        client.get(f"{url}/evm").raise_for_status()
        sent.clear()
        client.get(f"{url}/evm").raise_for_status()
    return [Figure("round-trips", OURS, len(sent) - 1, "requests")]


def streams(chain: Chain, *, count: int) -> list[Figure]:
    """How much later the first token of a paid stream comes than that of a free one, every party a process."""
    from benching.streaming import first_tokens

    samples = first_tokens(chain, count)
    free, verify = median_ms(samples.pop("free")), median_ms(samples.pop("verify"))
    figures = []
    for flow, seconds in samples.items():
        later = median_ms(seconds) - free
        notes = {"free_ms": round(free, 2), "p99_ms": round(quantile(seconds, 0.99) * 1000, 2)}
        if flow == "upto":
            # What is not known yet must be verified first; the goal is about what comes on top of that.
            notes["verify_ms"] = round(verify, 2)
            later -= verify
        figures.append(Figure(f"first-token-{flow}", OURS, later, "ms", notes))
    return figures


def _drive(url: str, requests: Sequence[Request], at_once: int) -> Load:
    return asyncio.run(drive(url, requests, at_once))


def _times(load: Load) -> dict[str, float]:
    samples = [reply.seconds for reply in load.replies] or [0.0]
    return {"p50_ms": round(median_ms(samples), 2), "p99_ms": round(quantile(samples, 0.99) * 1000, 2)}
