"""Defects that are planted to see whether the simulator sees them: what it can't see, it proves nothing about."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.simulation.faults import Fate, Weather, storm
from tests.simulation.parties import Cast
from tests.simulation.run import Recipe, play
from tests.simulation.scenarios import Scenario
from x402.client.budget import Limits
from x402.client.journal import Journal
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.evm_sender import EvmSender
from x402.facilitator.settle import LocalFacilitator
from x402.gateway.metered import Counted
from x402.gateway.sale import PaidRequest
from x402.schemes import exact_evm
from x402.stages import Refused
from x402.wire.receipt import Receipt

SEEDS = 60


def first_violation(weather: Weather, scenario: Scenario) -> str:
    """What breaks first among the seeds, `""` when nothing does."""
    for seed in range(SEEDS):
        broken = play(Recipe(scenario, seed, weather)).broken
        if broken:
            return broken[0]
    return ""


def test_a_refusal_on_timeout_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault A09: no receipt in time is called a failure."""
    real = EvmRail.decide

    async def decide(self: EvmRail, *arguments: Any, **named: Any) -> Any:
        return await real(self, *arguments, **named) or Refused("timeout", "no receipt in time")

    monkeypatch.setattr(EvmRail, "decide", decide)
    assert first_violation(storm(2.0, ends_at=40.0), Scenario(witness=False))[:2] in ("I4", "I6", "I1", "L2")


def test_serving_before_settling_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault A01: the answer leaves on a facilitator's word, and no money moves."""

    async def settle(self: LocalFacilitator, payment: Any, requirement: Any, **_: Any) -> Receipt:
        return Receipt.settled("0x" + "11" * 32, requirement.network, None)

    monkeypatch.setattr(LocalFacilitator, "settle", settle)
    assert first_violation(Weather(), Scenario()).startswith("I3")


def test_a_forgotten_journal_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault A23: whoever forgets what was exposed signs again."""
    monkeypatch.setattr(Journal, "recall", lambda *_: None)
    found = first_violation(storm(2.0, ends_at=40.0), Scenario(budget=20, holds=20))
    assert found.startswith("I6")


def test_a_budget_that_is_not_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault B12."""
    monkeypatch.setattr(Limits, "check", lambda *_: None)
    assert first_violation(Weather(), Scenario(purchases=3, budget=1)).startswith("I6")


def test_a_receipt_that_is_believed_without_a_transfer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults A14, A15: the transaction was included, and nothing moved."""
    monkeypatch.setattr(exact_evm, "moved", lambda *_: True)
    assert first_violation(Weather(cancel=1.0, ends_at=30.0), Scenario()) != ""


def test_a_gap_among_nonces_that_nobody_fills_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault D02: bytes that never reached a block hold their nonce for ever."""

    async def count_only(sender: EvmSender, address: str, _: Any) -> None:
        sender._counts[address] = await sender._chain.transaction_count(address)

    monkeypatch.setattr(EvmSender, "_mend", count_only)
    forgetful = Weather({"send": ((Fate.VANISHES, 0.6), (Fate.LOST, 0.2))}, ends_at=40.0, drain=0.3, cancel=0.3)
    assert first_violation(forgetful, Scenario(timeout_seconds=20, purchases=3)).startswith("I8")


def test_one_payment_for_two_requests_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults A07, B01: somebody presents a payment that was seen on its way for something else."""
    monkeypatch.setattr(PaidRequest, "digest", "any")
    assert first_violation(Weather(thief=1.0, ends_at=30.0), Scenario()).startswith("I2")


def test_a_reader_who_pays_for_what_he_never_got_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults A18, G03: a slow reader hangs up in mid stream, and is charged for all that was made by then."""
    slow = Recipe(Scenario(scheme="upto", pieces=6, seconds=0.01), 0, Weather({"http": ((Fate.SLOW, 1.0),)}, 40.0))

    def hangs_up(cast: Cast) -> None:
        def sent(_: Any, message: MutableMapping[str, Any]) -> None:
            if b"piece 1" in message.get("body", b"") and cast.world.lives["client"].alive:
                cast.world.later(0.5, lambda: cast.world.kill(cast.world.lives["client"]))

        cast.network.on_sent.append(sent)

    honest = play(slow, arrange=hangs_up)
    assert (honest.broken, honest.paid) == ([], 1)
    monkeypatch.setattr(Counted, "read", Counted.due)
    assert play(slow, arrange=hangs_up).broken[0].startswith("B16")


def test_control_thieves_get_nothing() -> None:
    for seed in range(8):
        result = play(Recipe(Scenario(), seed, Weather(thief=1.0, ends_at=30.0)))
        assert result.broken == []
        assert result.injected["thief"] == 1
        assert result.served == 1
