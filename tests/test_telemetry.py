"""Facts reach everybody who wants to know, and nobody who fails changes anything. Faults A19, G09, I9."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop
from tests.payments import EvmPayer, with_payload
from x402.facilitator.settle import LocalFacilitator
from x402.ports.ledger import SqlLedger
from x402.telemetry import Fact, Telemetry
from x402.telemetry.logs import log_facts
from x402.telemetry.metrics import count_facts, exposition


def test_every_observer_is_told() -> None:
    first: list[Fact] = []
    second: list[Fact] = []
    Telemetry([first.append, second.append]).emit("payment.settled", network="n", amount=5)
    assert first == second == [Fact("payment.settled", {"network": "n", "amount": 5})]
    Telemetry().emit("nobody.listens")


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, TypeError, UnicodeError])
def test_A19_an_observer_that_fails_is_counted_and_silenced(error: type[Exception]) -> None:
    heard: list[Fact] = []

    def broken(_: Fact) -> None:
        raise error("canary")

    telemetry = Telemetry([broken, heard.append, broken])
    telemetry.emit("a")
    telemetry.emit("b")
    assert [fact.name for fact in heard] == ["a", "b"]
    assert telemetry.failures == 4


def test_metrics_are_counted_by_name_network_and_reason() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry([count_facts(registry)])
    for _ in range(3):
        telemetry.emit("settle.refused", network="n", reason="r", pay_id="never a label")
    telemetry.emit("verify.valid", network="n", duration_us=2_000)
    page, content_type = exposition(registry)
    text = page.decode()
    assert 'x402_facts_total{fact="settle.refused",network="n",reason="r"} 3.0' in text
    assert 'x402_seconds_sum{fact="verify.valid"} 0.002' in text
    assert 'x402_seconds_bucket{fact="verify.valid",le="0.0025"} 1.0' in text
    assert "never a label" not in text
    assert content_type.startswith("text/plain")
    assert telemetry.failures == 0


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("settle.settled", "info"),
        ("settle.refused", "warning"),
        ("settle.pending", "warning"),
        ("payment.reversed", "warning"),
    ],
)
def test_logs_warn_of_what_is_not_as_it_should_be(name: str, level: str) -> None:
    with capture_logs() as lines:
        Telemetry([log_facts()]).emit(name, network="n", amount=3)
    assert lines == [{"event": name, "log_level": level, "network": "n", "amount": 3}]


@pytest.mark.parametrize("name", ["verify.valid", "fees.spent", "signer.balance", "step.price", "gateway.pending"])
def test_what_is_told_again_and_again_is_counted_and_not_logged(name: str) -> None:
    with capture_logs() as lines:
        Telemetry([log_facts()]).emit(name, network="n")
    assert lines == []


async def _settle_some(world: EvmWorld, observers: list[Callable[[Fact], None]]) -> tuple[EvmShop, list[str]]:
    shop = await EvmShop.open(world)
    async with SqlLedger() as ledger:
        party = LocalFacilitator([shop.rail(ledger)], ledger, telemetry=Telemetry(observers))
        payment = shop.pay()
        bad = with_payload(shop.pay(), signature="0x" + "11" * 64 + "1b")
        await party.verify(payment, shop.offer)
        await party.verify(bad, shop.offer)
        receipts = [await party.settle(one, shop.offer) for one in (payment, bad, EvmPayer().pay(shop.offer), payment)]
    await shop.chain.aclose()
    secrets = [payment.payload["signature"], payment.payload["authorization"]["nonce"], shop.signer._key.secret.hex()]
    secrets += [json.dumps(payment.payload), bad.payload["signature"]]
    return shop, [str(receipt.outcome) for receipt in receipts] + secrets


async def test_I9_a_settlement_tells_its_story_without_secrets(evm_devnet: EvmWorld) -> None:
    facts: list[Fact] = []
    shop, told = await _settle_some(evm_devnet, [facts.append])
    outcomes, secrets = told[:4], told[4:]
    assert outcomes == ["settled", "refused", "refused", "settled"]
    names = [fact.name for fact in facts]
    assert names == ["verify.valid", "verify.refused", "settle.settled", "settle.refused", "settle.refused"]
    settled = facts[2].attributes
    assert (settled["amount"], settled["network"]) == (1000, shop.offer.network)
    assert facts[3].attributes["reason"] == "invalid_exact_evm_signature"
    said = "".join(f"{fact.name} {dict(fact.attributes)}" for fact in facts)
    # The identity of a payment holds its nonce, which is public on chain; signatures and keys are in no fact.
    for secret in (secrets[0], secrets[2], secrets[3], secrets[4]):
        assert secret not in said


async def test_A19_failing_observers_change_no_payment(evm_devnet: EvmWorld) -> None:
    def broken(_: Fact) -> None:
        raise RuntimeError("observer")

    _, told = await _settle_some(evm_devnet, [broken])
    assert told[:4] == ["settled", "refused", "refused", "settled"]
