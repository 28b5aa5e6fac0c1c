"""How fast a facilitator verifies and settles on Base, what it asks of the node, and what a payment costs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from benching.figures import Figure, median_ms, middle, quantile
from benching.stage import PRICE_UNITS, Chain, Contender, Running, cpu_seconds, facilitator, posts, program
from benching.wire import Load, Reply, drive

AT_ONCE = 32
RPC_DELAY_MS = 20


def _valid(reply: Reply) -> bool:
    return reply.status == 200 and reply.json().get("isValid") is True


def _settled(reply: Reply) -> bool:
    return reply.status == 200 and reply.json().get("success") is True


def _load(running: Running, path: str, bodies: list[bytes], at_once: int) -> Load:
    return asyncio.run(drive(running.url, posts(path, bodies), at_once))


def _times(load: Load) -> dict[str, float]:
    samples = [reply.seconds for reply in load.replies] or [0.0]
    return {"p50_ms": round(median_ms(samples), 2), "p99_ms": round(quantile(samples, 0.99) * 1000, 2)}


def verify(contender: Contender, chain: Chain, *, count: int, rounds: int, at_once: int = AT_ONCE) -> list[Figure]:
    """Verifies a second at `at_once`, and the processor time of one."""
    found = []
    with facilitator(contender, chain, chain.url) as running:
        _load(running, "/verify", chain.bodies(64), 8)
        for _ in range(rounds):
            before = cpu_seconds(running.pid)
            load = _load(running, "/verify", chain.bodies(count), at_once)
            spent = (cpu_seconds(running.pid) - before) * 1000 / count
            notes = {**_times(load), "valid": f"{load.count(_valid)}/{count}", "cpu_ms": round(spent, 3)}
            found.append(Figure("verify", contender.who, load.count(_valid) / load.seconds, "/s", notes))
    return [middle(found)]


def verify_far(
    contender: Contender, chain: Chain, *, count: int, at_once: int, calls: bool, delay_ms: int = RPC_DELAY_MS
) -> list[Figure]:
    """Verifies a second where the node takes 20 ms for each answer; with `calls` also the requests of a verify."""
    with meddled(chain) as (node, told), facilitator(contender, chain, node) as running:
        _load(running, "/verify", chain.bodies(32), 8)
        figures = []
        if calls:
            told("/count")
            _load(running, "/verify", chain.bodies(20), 1)
            figures.append(Figure("verify-requests", contender.who, told("/count")["requests"] / 20, "requests"))
            _load(running, "/verify", chain.bodies(128), AT_ONCE)
            shared = told("/count")["requests"] / 128
            figures.append(Figure("verify-requests-shared", contender.who, shared, "requests"))
            _load(running, "/verify", [spoilt(body) for body in chain.bodies(20)], 4)
            offline = told("/count")["requests"] / 20
            figures.append(Figure("verify-requests-offline", contender.who, offline, "requests"))
        told(f"/delay/{delay_ms}")
        load = _load(running, "/verify", chain.bodies(count), at_once)
        notes = {**_times(load), "valid": f"{load.count(_valid)}/{count}", "at_once": at_once}
        return [*figures, Figure("verify-far", contender.who, load.count(_valid) / load.seconds, "/s", notes)]


def settle(
    running: Running, contender: Contender, chain: Chain, *, count: int, at_once: int = AT_ONCE, row: str = "settle"
) -> list[Figure]:
    """Settlements a second where each transaction gets a block at once; gas a payment beside a lone one's."""
    lone = settle_load(running, chain, 4, 1)
    done = settle_load(running, chain, count, at_once)
    figures = [_figure(row, contender, done, count)]
    if lone.gas_each and done.gas_each:
        figures.append(Figure(f"{row}-gas", contender.who, done.gas_each / lone.gas_each, "of one each", done.notes))
    return figures


def settle_by_clock(running: Running, contender: Contender, chain: Chain, *, count: int, at_once: int) -> list[Figure]:
    """Settlements a second where a block comes once a second."""
    settle_load(running, chain, 2, 1)
    with chain.blocks_every(1):
        done = settle_load(running, chain, count, at_once)
    worst = done.notes.get("p99_ms", 0.0)
    return [
        _figure("settle-blocks", contender, done, count),
        Figure("settle-blocks-p99", contender.who, worst / 1000, "blocks", done.notes),
    ]


def race(running: Running, contender: Contender, chain: Chain, *, copies: int = 20) -> list[Figure]:
    """One payment settled many times at once: equal successes, transactions, and those that failed."""
    since, body = chain.height(), chain.bodies(1)[0]
    load = _load(running, "/settle", [body] * copies, copies)
    transactions = Counter(reply.json()["transaction"] for reply in load.replies if _settled(reply))
    sent, failed, _ = chain.sent(since)
    notes = {"successes": load.count(_settled), "transactions": sent, "reverted": failed}
    alike = max(transactions.values(), default=0)
    return [
        Figure("race", contender.who, alike, "equal successes", notes),
        Figure("race-transactions", contender.who, sent, "transactions", notes),
    ]


def spoilt(body: bytes) -> bytes:
    """The same with another amount authorized than was signed: wrong, as any machine without a node can tell."""
    asked = json.loads(body)
    asked["paymentPayload"]["payload"]["authorization"]["value"] = str(PRICE_UNITS + 1)
    return json.dumps(asked).encode()


class Settlements:
    """A load of settlements: what was said, and what the chain says."""

    def __init__(self, load: Load, moved: int, sent: tuple[int, int, int]) -> None:
        self.load = load
        self.good = load.count(_settled)
        self.rate = self.good / load.seconds
        self.gas_each = sent[2] / self.good if self.good else 0.0
        reasons = Counter(_reason(reply) for reply in load.replies if not _settled(reply))
        self.notes: dict[str, Any] = {
            **_times(load),
            "transactions": sent[0],
            "reverted": sent[1],
            "gas_each": round(self.gas_each),
            "money": "exact" if moved == self.good * PRICE_UNITS else f"moved {moved // PRICE_UNITS}, told {self.good}",
        }
        if reasons or load.failures:
            self.notes["refused"] = dict(reasons.most_common(3))
            self.notes["broken"] = dict(Counter(load.failures).most_common(3))


def _reason(reply: Reply) -> str:
    try:
        return str(reply.json().get("errorReason") or reply.status)
    except json.JSONDecodeError:
        return str(reply.status)


def settle_load(running: Running, chain: Chain, count: int, at_once: int) -> Settlements:
    """Settle so many payments, and compare what is said with the chain."""
    bodies = chain.bodies(count)
    since, before = chain.height(), chain.received()
    load = _load(running, "/settle", bodies, at_once)
    return Settlements(load, chain.received() - before, chain.sent(since))


def _figure(row: str, contender: Contender, done: Settlements, count: int) -> Figure:
    notes = {"settled": f"{done.good}/{count}", **done.notes}
    return Figure(row, contender.who, done.rate, "/s", notes)


@contextmanager
def meddled(chain: Chain) -> Iterator[tuple[str, Any]]:
    """The chain's node behind a proxy that counts: its URL, and a function that asks the proxy."""
    with program(["-m", "benching.meddler", chain.url]) as url, httpx.Client(trust_env=False) as http:
        yield url, lambda path: http.get(url + path).json()
