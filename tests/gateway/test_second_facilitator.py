"""A facilitator that fails costs no sale: new offers name another, and no payment ever goes to two (fault E13)."""

from __future__ import annotations

from typing import Any

import pytest
from solders.keypair import Keypair

from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.facilitator.remote import RemoteFacilitator
from x402.gateway.facilitators import FAILURES_IN_A_ROW, REFUSALS_IN_A_ROW, REST_SECONDS
from x402.settings import GatewaySettings
from x402.stages import State
from x402.telemetry import Fact, Telemetry
from x402.wire.facilitation import Kind, Supported, Verification
from x402.wire.receipt import Receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICED = {"GET /report": "$0.01"}


class Two:
    """Two facilitators over one chain, each with a fee payer of its own."""

    def __init__(self, shop: Any, town: Any) -> None:
        self.a, self.b = shop.bank, town.Bank(moved=shop.bank.moved)
        self.facts: list[Fact] = []
        for seed, name, bank in ((9, "a", self.a), (10, "b", self.b)):
            bank.name = name
            payer = str(Keypair.from_seed(bytes([seed] * 32)).pubkey())
            bank.kinds = Supported(
                kinds=(
                    Kind(version=2, scheme="exact", network=EVM),
                    Kind(version=2, scheme="exact", network=SVM, extra={"feePayer": payer}),
                ),
                signers={"solana:*": [payer]},
            )
        self.healthy = self.a.kinds

    def break_a(self, how: str) -> None:
        self.a.kinds = UnavailableError("facilitator_unavailable", "away") if how == "hangs" else self.healthy
        error = UnavailableError("facilitator_unavailable", "no answer in time")
        junk = MalformedError("invalid_verification", "HTML")
        refusal = Verification.invalid("invalid_payload", "a new version of mine")
        verdicts = {"hangs": error, "junk": junk, "refuses": refusal}
        self.a.verdicts = [verdicts[how]] * 50 if how in verdicts else []


@pytest.fixture
def two(shop: Any, town: Any) -> Two:
    return Two(shop, town)


def fee_payer(challenge: Any) -> str:
    offer = next(offer for offer in challenge.accepts if offer.network == SVM)
    return str(offer.extra["feePayer"])


@pytest.mark.parametrize("how", ["hangs", "junk", "refuses"])
async def test_E13_new_offers_name_another_within_seconds(shop: Any, two: Two, how: str) -> None:
    client = shop.open(PRICED, facilitator=[two.a, two.b], telemetry=Telemetry([two.facts.append]))
    challenge = await shop.challenge()
    payer_a = fee_payer(challenge)
    two.break_a(how)
    statuses = []
    for _ in range(REFUSALS_IN_A_ROW):
        response = await client.get("/report", headers=shop.payer.pay(await shop.challenge()))
        statuses.append(response.status_code)
        if statuses[-1] == 200:
            break
    # Whoever hangs or talks junk costs not even the one payment that noticed; who refuses is left after a few.
    assert statuses == ([402] * REFUSALS_IN_A_ROW if how == "refuses" else [200])
    moved_on = await shop.challenge()
    assert fee_payer(moved_on) != payer_a
    paid = await client.get("/report", headers=shop.payer.pay(moved_on, SVM))
    assert paid.status_code == 200
    assert "settle" not in two.a.asked
    assert "facilitator.unavailable" in [fact.name for fact in two.facts]
    assert ("sale.refusals_high" in [fact.name for fact in two.facts]) == (how == "refuses")
    # Healed, it is back as soon as its rest is over.
    two.a.kinds, two.a.verdicts = two.healthy, []
    shop.now += REST_SECONDS + 30
    back = await shop.challenge()
    assert fee_payer(back) == payer_a
    assert (await client.get("/report", headers=shop.payer.pay(back, SVM, now=shop.now))).status_code == 200
    assert two.a.asked.count("settle") == 1


async def test_E13_verify_yes_settle_no_is_noticed(shop: Any, two: Two) -> None:
    client = shop.open(PRICED, facilitator=[two.a, two.b], flow="upfront")
    payer_a = fee_payer(await shop.challenge())

    def fails(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.refused("transaction_failed", "no gas", truth.network, truth.payer, proven=True)

    two.a.script = [fails] * 50
    for _ in range(FAILURES_IN_A_ROW):
        response = await client.get("/report", headers=shop.payer.pay(await shop.challenge(), SVM))
        assert response.status_code == 402
    moved_on = await shop.challenge()
    assert fee_payer(moved_on) != payer_a
    assert (await client.get("/report", headers=shop.payer.pay(moved_on, SVM))).status_code == 200


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_E13_no_payment_ever_goes_to_two(shop: Any, two: Two, network: str) -> None:
    """Once it was handed to one, it stays there, however long that one is away, and over restarts."""
    client = shop.open(PRICED, facilitator=[two.a, two.b])
    header = shop.payer.pay(await shop.challenge(), network)

    def lost(pay_id: str, truth: Receipt) -> Receipt:
        raise UnavailableError("facilitator_unavailable", "away")

    two.a.script = [lost] * 4
    two.break_a("hangs")
    two.a.verdicts = []
    for _ in range(2):
        assert (await client.get("/report", headers=header)).status_code == 503
    assert (await shop.entry()).state is State.SETTLING
    await shop.paywall.till.reconcile()
    assert "settle" not in two.b.asked
    two.a.script = []
    assert (await client.get("/report", headers=header)).status_code == 200
    assert "settle" not in two.b.asked


async def test_E13_an_offer_that_is_bound_to_one_is_verified_by_that_one(shop: Any, two: Two) -> None:
    client = shop.open(PRICED, facilitator=[two.a, two.b])
    header = shop.payer.pay(await shop.challenge(), SVM)
    two.break_a("hangs")
    assert (await client.get("/report", headers=header)).status_code == 503
    assert two.b.asked.count("verify") == 0
    two.a.verdicts, two.a.kinds = [], two.healthy
    assert (await client.get("/report", headers=header)).status_code == 200


async def test_E13_when_all_are_away_the_answer_is_503(shop: Any, two: Two) -> None:
    client = shop.open(PRICED, facilitator=[two.a, two.b])
    header = shop.payer.pay(await shop.challenge())
    away = UnavailableError("facilitator_unavailable", "away")
    two.a.verdicts, two.b.verdicts = [away] * 2, [away] * 2
    for _ in range(2):
        response = await client.get("/report", headers=header)
        assert (response.status_code, shop.runs) == (503, [])
    assert (await client.get("/report", headers=header)).status_code == 200


def test_facilitators_are_named_without_secrets(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = RemoteFacilitator("https://user:secret@facilitator.example:8443/x402/?key=secret")
    assert one.name == "https://facilitator.example:8443/x402/"
    with pytest.raises(MisconfiguredError, match="one name"):
        shop.open(facilitator=["https://a.example", "https://a.example/"])
    with pytest.raises(MisconfiguredError, match="facilitator"):
        shop.open(facilitator=[])
    monkeypatch.setenv("X402_FACILITATOR_URL", "https://a.example, https://b.example")
    assert GatewaySettings.read().facilitator_urls == ("https://a.example", "https://b.example")
    shop.open()
