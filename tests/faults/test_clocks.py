"""Clocks that jump: durations are measured by one that can't, and the chain's time decides about payments (E09)."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.facilitator.world import BRIEF, EvmShop, SvmShop, facilitator
from tests.gateway.conftest import NOW, PAY_TO, Bank, Payer, Shop, challenge_of
from x402.facilitator import reconcile
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import unix_now
from x402.facilitator.svm_rail import SvmRail
from x402.gateway.paywall import Paywall
from x402.gateway.terms import Flow
from x402.lifecycle import Outcome, Party
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.wire.receipt import Receipt

ROOT = Path(__file__).parents[2]
HOUR = 3600
MAY_READ_THE_WALL_CLOCK = {
    "x402/facilitator/service.py", "x402/gateway/app.py", "x402/gateway/paywall.py", "x402/ports/ledger.py",
    "x402/client/auth.py", "x402/client/journal.py", "x402/client/sign_in.py",
}  # fmt: skip


class Jumping:
    """A clock that goes wrong by `by` seconds at its call number `at`, and stays wrong until it is set right."""

    def __init__(self, now: Callable[[], int], at: int, by: int) -> None:
        self.now, self.at, self.by, self.calls = now, at, by, 0

    def __call__(self) -> int:
        self.calls += 1
        return self.now() + (self.by if self.calls > self.at else 0)

    def set_right(self) -> None:
        self.by = 0


@pytest.mark.parametrize("by", [-HOUR, HOUR])
@pytest.mark.parametrize("at", range(5))
async def test_E09_a_facilitator_whose_clock_jumps_moves_the_money_once_or_not_at_all(
    evm: EvmShop, svm: SvmShop, at: int, by: int
) -> None:
    clock = Jumping(unix_now, at, by)
    async with SqlLedger(clock=clock) as ledger:
        rails: list[Any] = [
            EvmRail(BASE_SEPOLIA, evm.chain, [evm.signer], clock),
            SvmRail(SOLANA_DEVNET, svm.chain, [svm.signer], clock),
        ]
        party = facilitator(rails, ledger, BRIEF)
        for shop, payment in ((evm, evm.pay()), (svm, await svm.pay())):
            first = await party.settle(payment, shop.offer)
            moved = await shop.received()
            assert (first.outcome is Outcome.REFUSED) <= (moved == 0)
            assert first.success <= (moved == 1000)
            await reconcile.run(party, timeout_seconds=BRIEF)
            clock.set_right()
            # The control: with a clock that is right again, the same payment settles or was settled, once.
            for _ in range(3):
                last = await party.settle(payment, shop.offer)
            assert last.success
            assert await shop.received() == 1000
            clock.by, clock.calls = by, 0
        assert await evm.sent() == 1


def opened(shop: Shop, clock: Callable[[], int], flow: str = "authorization") -> httpx.AsyncClient:
    """The shop with a clock of its own, as after a restart."""
    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]:
        shop.runs.append("report")
        return {"report": f"secret {len(shop.runs)}"}

    shop.paywall = Paywall(
        app,
        routes={"GET /report": "$0.01"},
        flow=Flow(flow),
        pay_to=PAY_TO,
        facilitator=shop.bank,
        ledger=shop.ledger,
        clock=clock,
    )
    shop.client = httpx.AsyncClient(transport=httpx.ASGITransport(shop.paywall), base_url="http://shop.test")
    return shop.client


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A gateway's shop; its bank keeps the chain's time."""
    async with SqlLedger("sqlite://", clock=lambda: NOW) as memory:
        shop = Shop(FastAPI(), Bank(), memory, Payer())
        yield shop
        await shop.paywall.till.drain(5)


@pytest.mark.parametrize("by", [-HOUR, HOUR])
@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_E09_a_gateway_whose_clock_jumps_keeps_no_money_without_an_answer(shop: Shop, flow: str, by: int) -> None:
    """Once at every reading of the clock, until a whole sale reads it no more."""
    at = 0
    while True:
        clock = Jumping(lambda: shop.now, at, by)
        client = opened(shop, clock, flow)
        before = len(shop.bank.moved)
        header = shop.payer.pay(await shop.challenge(), now=shop.now)
        first = await client.get("/report", headers=header)
        assert first.status_code in (200, 402, 503)
        await shop.paywall.till.reconcile()
        clock.set_right()
        last = await client.get("/report", headers=header)
        moved = len(shop.bank.moved) - before
        assert moved == (200 in (first.status_code, last.status_code)), last.text
        # Time that runs ahead may end the life of a payment, or the retention of an answer that was delivered.
        assert last.status_code == 200 or by == HOUR
        if (first.status_code, last.status_code) == (200, 200):
            assert first.content == last.content
        if clock.calls <= at:
            break
        at += 1
    assert at > 0
    # The control: the last round never saw the jump.
    assert first.status_code == 200


async def test_E09_a_settlement_that_is_open_is_never_released_by_a_clock(shop: Shop) -> None:
    clock = Jumping(lambda: shop.now, 10**9, 10 * HOUR)
    client = opened(shop, clock)
    header = shop.payer.pay(challenge_of(await client.get("/report")), now=shop.now)

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.pending(truth.transaction, truth.network, truth.payer)

    shop.bank.script = [lost, lost]
    assert (await client.get("/report", headers=header)).status_code == 503
    clock.at = 0
    await shop.paywall.till.reconcile()
    (entry,) = await shop.ledger.unresolved(Party.GATEWAY)
    assert entry.state == "settling"
    clock.set_right()
    assert (await client.get("/report", headers=header)).status_code == 200


def readings(path: Path) -> list[str]:
    """Calls of a module that read the wall clock."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [text for call in calls if (text := ast.unparse(call.func)) in ("time.time", "datetime.now", "time.time_ns")]


def test_E09_the_wall_clock_is_read_at_the_edge_only() -> None:
    """Everything else is given the time, or measures durations by a clock that only goes forward."""
    rooms = [path for path in (ROOT / "x402").rglob("*.py") if path.parts[-2] not in ("cli", "devnet", "evm", "svm")]
    reading = {str(path.relative_to(ROOT)) for path in rooms if readings(path)}
    assert reading <= MAY_READ_THE_WALL_CLOCK
    assert "x402/facilitator/service.py" in reading


async def test_control_a_clock_that_does_not_jump(evm: EvmShop, ledger: SqlLedger) -> None:
    clock = Jumping(unix_now, 10**9, HOUR)
    party = facilitator([EvmRail(BASE_SEPOLIA, evm.chain, [evm.signer], clock)], ledger)
    assert (await party.settle(evm.pay(), evm.offer)).success
    assert clock.calls > 0
