"""A facilitator that is not ours: what it says after it was handed a payment is weighed (faults A09, A10, E12)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.gateway.chain_view import View, nodes_of
from x402.confirmation import parse_confirmations
from x402.gateway.belief import BLOCKHASH_SECONDS, EXPIRY_MARGIN_SECONDS, NEVER_SENT
from x402.gateway.policy import Policy
from x402.stages import State
from x402.telemetry import Fact, Telemetry
from x402.wire.receipt import Receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICED = {"GET /report": "$0.01"}
DEAR = {"GET /report": "$2"}


def failed_after_broadcast(shop: Any, reason: str = "unexpected_settle_error") -> Any:
    """The money moves, and the facilitator answers like the official Python one after any exception behind the
    broadcast: no transaction, and a reason that sounds final."""

    def script(pay_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(pay_id, truth)
        return Receipt.refused(reason, "something went wrong", truth.network, truth.payer)

    return script


def refused(reason: str, **how: Any) -> Any:
    """Nothing moves."""

    def script(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.refused(reason, "no", truth.network, truth.payer, **how)

    return script


@pytest.fixture
def foreign(shop: Any) -> Any:
    """The shop with a facilitator in another house."""
    shop.bank.in_process = False
    return shop


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_A09_a_failure_after_the_broadcast_is_settled_when_the_chain_shows_it(
    foreign: Any, flow: str, network: str
) -> None:
    client = foreign.open(PRICED, flow=flow, nodes=nodes_of(View(foreign.bank, network)))
    header = foreign.payer.pay(await foreign.challenge(), network)
    foreign.bank.script = [failed_after_broadcast(foreign)]
    response = await client.get("/report", headers=header)
    assert (response.status_code, response.json()) == (200, {"report": "secret 1"})
    assert foreign.bank.asked.count("settle") == 1


@pytest.mark.parametrize(
    "reason",
    [
        "unexpected_settle_error",
        "transaction_failed",
        "invalid_exact_evm_nonce_already_used",
        "invalid_exact_evm_insufficient_balance",
        "insufficient_funds",
        "invalid_exact_evm_payload_signature",
        "duplicate_settlement",
        "unsupported_scheme",
    ],
)
@pytest.mark.parametrize("witnessed", [True, False])
async def test_A10_a_refusal_that_proves_nothing_is_503_and_never_a_new_402(
    foreign: Any, town: Any, reason: str, witnessed: bool
) -> None:
    view = View(foreign.bank, EVM)
    client = foreign.open(PRICED, nodes=nodes_of(view) if witnessed else None)
    header = foreign.payer.pay(await foreign.challenge())
    view.away = True
    foreign.bank.script = [failed_after_broadcast(foreign, reason), refused("invalid_exact_evm_nonce_already_used")]
    for _ in range(2):
        response = await client.get("/report", headers=header)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "settlement_pending")
        assert response.headers["retry-after"] == "2"
        assert "payment-required" not in response.headers
    assert (await foreign.entry()).state is State.SETTLING
    # Control: once the chain can be asked, or the facilitator finds its own transaction, the very same is served.
    view.away = False
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}
    assert len(foreign.bank.moved) == 1
    assert foreign.runs == ["report "]


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_A09_terms_that_never_change_prove_a_refusal(foreign: Any, network: str) -> None:
    client = foreign.open(PRICED)
    challenge = await foreign.challenge()
    for reason in sorted(NEVER_SENT[network.partition(":")[0]]):
        foreign.bank.script = [refused(reason)]
        response = await client.get("/report", headers=foreign.payer.pay(challenge, network))
        assert (response.status_code, response.json()["error"]) == (402, reason)


async def test_A09_our_own_facilitator_elsewhere_says_what_it_has_proved(foreign: Any) -> None:
    client = foreign.open(PRICED)
    challenge = await foreign.challenge()
    foreign.bank.script = [refused("insufficient_funds", proven=True)]
    response = await client.get("/report", headers=foreign.payer.pay(challenge))
    assert (response.status_code, response.json()["error"]) == (402, "insufficient_funds")


async def test_A09_a_proof_of_death_by_the_chain_is_a_refusal(foreign: Any) -> None:
    view = View(foreign.bank, EVM)
    client = foreign.open(PRICED, nodes=nodes_of(view))
    header = foreign.payer.pay(await foreign.challenge())
    foreign.bank.script = [refused("transaction_failed")]
    assert (await client.get("/report", headers=header)).status_code == 503
    view.dead.add((await foreign.entry()).subject.pay_id)
    assert await foreign.paywall.till.reconcile() == 0
    assert (await client.get("/report", headers=header)).status_code == 402
    assert foreign.bank.moved == {}


@pytest.mark.parametrize(("network", "life"), [(EVM, 300 + EXPIRY_MARGIN_SECONDS), (SVM, BLOCKHASH_SECONDS)])
async def test_A09_without_a_witness_a_refusal_counts_once_the_payment_is_dead(
    foreign: Any, network: str, life: int
) -> None:
    client = foreign.open(PRICED)
    header = foreign.payer.pay(await foreign.challenge(), network)
    foreign.bank.script = [refused("transaction_failed")] * 3
    assert (await client.get("/report", headers=header)).status_code == 503
    foreign.now += life - 1
    assert (await client.get("/report", headers=header)).status_code == 503
    foreign.now += 1
    assert (await client.get("/report", headers=header)).status_code == 402


async def test_A09_with_a_witness_only_the_chain_buries_a_payment(foreign: Any) -> None:
    """However old it is: the facilitator may have settled it, and the node that would show it is away."""
    view = View(foreign.bank, EVM)
    client = foreign.open(PRICED, nodes=nodes_of(view))
    header = foreign.payer.pay(await foreign.challenge())
    view.away = True
    foreign.bank.script = [failed_after_broadcast(foreign), *[refused("insufficient_funds")] * 2]
    assert (await client.get("/report", headers=header)).status_code == 503
    foreign.now += 100_000
    assert (await client.get("/report", headers=header)).status_code == 503
    assert await foreign.paywall.till.reconcile() == 1
    view.away = False
    assert (await client.get("/report", headers=header)).status_code == 200


async def test_E12_a_dear_success_that_no_block_shows_is_withheld(foreign: Any) -> None:
    facts: list[Fact] = []
    view = View(foreign.bank, EVM)
    telemetry = Telemetry([facts.append])
    client = foreign.open(DEAR, nodes=nodes_of(view), telemetry=telemetry)
    header = foreign.payer.pay(await foreign.challenge())

    def lie(pay_id: str, truth: Receipt) -> Receipt:
        return truth

    foreign.bank.script = [lie, lie]
    response = await client.get("/report", headers=header)
    assert response.status_code == 503
    assert b"secret" not in response.content
    assert "sale.facilitator_unproven" in [fact.name for fact in facts]
    # Proven dead, it was a lie.
    second = foreign.payer.pay(await foreign.challenge())

    def lie_and_die(pay_id: str, truth: Receipt) -> Receipt:
        view.dead.add(pay_id)
        return truth

    foreign.bank.script = [lie_and_die]
    assert (await client.get("/report", headers=second)).status_code == 402
    assert "sale.facilitator_lied" in [fact.name for fact in facts]
    # Control: an honest success, of the same price, is served.
    foreign.bank.script = []
    honest = foreign.payer.pay(await foreign.challenge())
    assert (await client.get("/report", headers=honest)).status_code == 200


@pytest.mark.parametrize(("percent", "served"), [(0, 200), (100, 503)])
async def test_E12_cheap_successes_are_looked_up_by_sample(foreign: Any, percent: int, served: int) -> None:
    view = View(foreign.bank, EVM)
    policy = Policy(check_above=Decimal("0.02"), check_percent=percent)
    client = foreign.open(PRICED, nodes=nodes_of(view), policy=policy)
    foreign.bank.script = [lambda pay_id, truth: truth]
    header = foreign.payer.pay(await foreign.challenge())
    assert (await client.get("/report", headers=header)).status_code == served
    assert view.asked == (percent == 100)


async def test_control_a_facilitator_in_this_process_is_believed(shop: Any) -> None:
    view = View(shop.bank, EVM)
    client = shop.open(DEAR, nodes=nodes_of(view))
    shop.bank.script = [refused("insufficient_funds", proven=True)]
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 402
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200
    assert view.asked == 0


async def test_A11_what_our_own_facilitator_could_not_settle_now_stays_open(shop: Any) -> None:
    """Its payer was poor for a moment, and anybody may submit it while it lives: never 402 before it is dead."""
    client, header = shop.open(DEAR), shop.payer.pay(await shop.challenge())
    shop.bank.script = [refused("invalid_exact_evm_insufficient_balance")]
    poor = await client.get("/report", headers=header)
    assert (poor.status_code, poor.json()["error"]["code"]) == (503, "settlement_pending")
    assert (await client.get("/report", headers=header)).status_code == 200
    assert len(shop.bank.moved) == 1


async def test_A16_our_own_look_waits_for_as_many_blocks_as_the_amount_asks_for(foreign: Any) -> None:
    view = View(foreign.bank, EVM)
    policy = Policy(confirmations={"eip155": parse_confirmations("0=1,2=3")})
    client = foreign.open(DEAR, nodes=nodes_of(view), policy=policy)
    header = foreign.payer.pay(await foreign.challenge())
    foreign.bank.script = [failed_after_broadcast(foreign)]
    for view.depth in (1, 2):
        response = await client.get("/report", headers=header)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "settlement_pending")
    view.depth = 3
    assert (await client.get("/report", headers=header)).status_code == 200
