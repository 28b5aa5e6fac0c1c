"""Anybody is killed at any moment, and no coin is lost: `scripts/killtest` in small, and its verdict's own tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.live.books import Exposure, Nonces, Row
from tests.live.chain_facts import Moved, Signed
from tests.live.customer import CallRecord
from tests.live.databases import database
from tests.live.kills import Plan, run
from tests.live.verdict import Facts, figures, judge
from tests.live.village import Size
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.stages import State

KILLS = 6


@pytest.mark.parametrize(("engine", "replicas"), [("sqlite", 1), ("postgres", 2)])
def test_A06_A22_D02_whoever_is_killed_no_coin_is_lost(engine: str, replicas: int, tmp_path: Path) -> None:
    """Six real kills under load; `scripts/killtest --kills 300 --ledger both` is the same at length."""
    with database(engine, tmp_path) as ledgers:
        size = Size(gateways=replicas, facilitators=replicas, customers=2)
        plan = Plan(KILLS, seed=3, rps=10, pace_seconds=0.8, size=size, ledgers=ledgers, engine="py-evm")
        report = run(plan, tmp_path)
    assert report.wrong == []
    assert report.kills.total() == KILLS
    assert report.hits.total() >= 1, "a kill that meets nobody at work proves nothing"
    assert report.figures is not None
    assert report.figures.calls == report.figures.answered + report.figures.reserved
    assert report.figures.answered == report.figures.transfers > 0


def healthy() -> Facts:
    """Two calls, one on each chain, as they should be."""
    evm, svm = f"{BASE_SEPOLIA}:0xusdc:0xpayer:0x01", f"{SOLANA_DEVNET}:aa"
    return Facts(
        moved=[Moved(evm, BASE_SEPOLIA, 100, "0xAB"), Moved(svm, SOLANA_DEVNET, 70, "sig")],
        received={BASE_SEPOLIA: 100, SOLANA_DEVNET: 70},
        gateway=[
            Row(evm, BASE_SEPOLIA, 100, State.DELIVERED, "0xab"),
            Row(svm, SOLANA_DEVNET, 70, State.SETTLED, "sig"),
            Row("never", BASE_SEPOLIA, 5, State.RELEASED, ""),
        ],
        facilitator=[
            Row(evm, BASE_SEPOLIA, 100, State.FINAL, "0xab"),
            Row(svm, SOLANA_DEVNET, 70, State.SETTLED, "sig"),
            Row("no", BASE_SEPOLIA, 5, State.REFUSED, ""),
        ],
        journals=[
            Exposure(evm, BASE_SEPOLIA, 100, State.SETTLED, "one"),
            Exposure(svm, SOLANA_DEVNET, 70, State.SETTLED, "two"),
            Exposure("never", BASE_SEPOLIA, 5, State.REFUSED, "two"),
        ],
        calls=[CallRecord("c/0", "one", answers=2), CallRecord("c/1", "two", answers=1, failures=["cut"])],
        signed=[Signed("0xsigner", 4, 4), Signed("0xidle", 0, 0)],
        nonces=[Nonces("0xsigner", 4, frozenset({2, 3})), Nonces("0xidle", 0, frozenset())],
        audits={"gateway": "", "facilitator": ""},
    )


def test_control_healthy_facts_are_acquitted() -> None:
    assert judge(healthy()) == []
    counted = figures(healthy())
    assert (counted.calls, counted.answered, counted.transfers) == (2, 2, 2)
    assert counted.units == {BASE_SEPOLIA: 100, SOLANA_DEVNET: 70}
    wrong = (counted.difference, counted.doubled, counted.paid_not_served, counted.served_not_paid, counted.open)
    assert wrong == (0, 0, 0, 0, 0)


def test_control_a_payment_that_died_unused_is_told_apart() -> None:
    good = healthy()
    dead = Exposure("dead", SOLANA_DEVNET, 70, State.REFUSED, "three")
    facts = replace(good, journals=[*good.journals, dead], calls=[*good.calls, CallRecord("c/2", "three")])
    assert judge(facts) == []
    assert (figures(facts).reserved, figures(healthy()).reserved) == (1, 0)
    alive = replace(facts, journals=[*good.journals, replace(dead, network=BASE_SEPOLIA)])
    assert any("neither paid nor served" in one for one in judge(alive))


def broken() -> list[tuple[str, Facts]]:
    """What must be seen, and facts in which it happens."""
    good = healthy()
    evm, svm = good.moved
    stranger = Moved(f"{BASE_SEPOLIA}:0xusdc:0xpayer:0x99", BASE_SEPOLIA, 100, "0xcd")
    again = Exposure(stranger.pay_id, BASE_SEPOLIA, 100, State.SETTLED, "one")
    unit = replace(good.gateway[0], units=101)
    return [
        ("the seller's balance grew by 101", replace(good, received={BASE_SEPOLIA: 101, SOLANA_DEVNET: 70})),
        ("paid twice", replace(good, moved=[evm, svm, evm])),
        ("cost two payments: c/0", replace(good, moved=[evm, svm, stranger], journals=[*good.journals, again])),
        ("moved and in no journal", replace(good, moved=[evm, svm, stranger])),
        ("moved and not in the gateway's book", replace(good, gateway=good.gateway[1:])),
        ("moved and not in the facilitator's book", replace(good, facilitator=good.facilitator[1:])),
        ("moved and not in the client's book", replace(good, journals=good.journals[1:])),
        ("another amount in the gateway's book", replace(good, gateway=[unit, *good.gateway[1:]])),
        ("another transaction in the gateway's book", replace(good, moved=[replace(evm, transaction="0xcd"), svm])),
        ("never moved", replace(good, moved=[svm])),
        ("served and not paid: c/0", replace(good, moved=[svm])),
        ("paid and not served after a retry: c/1", replace(good, calls=[good.calls[0], CallRecord("c/1", "two")])),
        ("neither paid nor served", replace(good, calls=[*good.calls, CallRecord("c/2", "three")])),
        ("a wrong answer: c/0", replace(good, calls=[CallRecord("c/0", "one", 1, wrong="x"), good.calls[1]])),
        ("still open at the gateway", replace(good, gateway=[replace(good.gateway[0], state=State.SETTLING)])),
        ("still open at the facil", replace(good, facilitator=[replace(good.facilitator[0], state=State.INTENDED)])),
        ("wait in the pool: 1", replace(good, signed=[Signed("0xsigner", 4, 5)])),
        ("a gap in the nonces", replace(good, nonces=[Nonces("0xsigner", 5, frozenset())])),
        ("nonces are held", replace(good, nonces=[Nonces("0xsigner", 4, frozenset({3, 4}))])),
        ("the audit of the gateway ledger: I5", replace(good, audits={"gateway": "I5"})),
    ]


@pytest.mark.parametrize(("words", "facts"), broken(), ids=[words for words, _ in broken()])
def test_control_the_verdict_sees_each_wrong(words: str, facts: Facts) -> None:
    assert any(words in one for one in judge(facts)), judge(facts)
