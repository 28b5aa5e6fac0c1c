"""The control group: official clients pay official sellers through official facilitators on our devnets.

What is red here is the rig, the devnet or the peers; what is green here and red in the matrix is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.interop.conftest import Chains, Party
from tests.interop.launch import Exchange, Peer, PeerError, ask, running
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

# The first run on a machine installs the peers, which takes minutes.
pytestmark = pytest.mark.timeout(900)

PRICE = "$0.0017"
PRICE_ATOMIC = 1700
QUESTION = {"model": "weather", "messages": [{"role": "user", "content": "Grüße aus 東京?"}]}
NETWORKS = pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
CLIENTS = pytest.mark.parametrize("client", [Peer.PYTHON_CLIENT, Peer.FETCH_CLIENT])
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module", params=[Peer.PYTHON_FACILITATOR, Peer.EXPRESS_FACILITATOR])
def facilitator(request: pytest.FixtureRequest, chains: Chains, third_party: Party) -> Iterator[str]:
    keys = {"EVM_PRIVATE_KEY": third_party.evm_key, "SVM_PRIVATE_KEY": third_party.svm_key}
    with running(request.param, chains.urls | keys) as url:
        yield url


@pytest.fixture(scope="module", params=[Peer.PYTHON_SERVER, Peer.EXPRESS_SERVER])
def shop(request: pytest.FixtureRequest, facilitator: str, seller: Party) -> Iterator[str]:
    with running(request.param, _offers(seller) | {"FACILITATOR_URL": facilitator}) as url:
        yield url


@NETWORKS
@CLIENTS
def test_official_parts_pay_each_other(
    client: Peer, network: str, shop: str, chains: Chains, buyer: Party, seller: Party
) -> None:
    before = chains.usdc(buyer, network), chains.usdc(seller, network)

    target = {"TARGET_URL": f"{shop}/both", "METHOD": "POST", "BODY": json.dumps(QUESTION), "NETWORK": network}
    verdict = ask(client, target | _wallets(buyer) | chains.urls)

    assert verdict.reason == ""
    assert json.loads(verdict.body)["echo"] == QUESTION
    assert verdict.exchanges == (
        Exchange(402, (), "Payment required"),
        Exchange(200, ("payment-signature",), None),
    )
    assert verdict.receipt is not None
    assert verdict.receipt["success"] is True
    assert verdict.receipt["network"] == network
    assert verdict.receipt["payer"] == buyer.address(network)
    after = chains.usdc(buyer, network), chains.usdc(seller, network)
    assert after == (before[0] - PRICE_ATOMIC, before[1] + PRICE_ATOMIC)


@NETWORKS
def test_a_poor_buyer_is_told_why(network: str, shop: str, chains: Chains, seller: Party) -> None:
    before = chains.usdc(seller, network)
    path = "evm" if network == BASE_SEPOLIA else "svm"
    target = {"TARGET_URL": f"{shop}/{path}", "NETWORK": network}

    verdict = ask(Peer.PYTHON_CLIENT, target | _wallets(Party.named("pauper")) | chains.urls)

    assert not verdict.ok
    assert [exchange.status for exchange in verdict.exchanges] == [402, 402]
    assert "insufficient" in verdict.reason or "simulation_failed" in verdict.reason
    assert chains.usdc(seller, network) == before


def test_a_client_without_an_acceptable_offer_says_so_and_pays_nothing(shop: str, buyer: Party) -> None:
    target = {"TARGET_URL": f"{shop}/evm", "NETWORK": SOLANA_DEVNET}
    for client in (Peer.PYTHON_CLIENT, Peer.FETCH_CLIENT):
        verdict = ask(client, target | _wallets(buyer))
        assert "filtered out by policies" in verdict.reason
        assert [exchange.status for exchange in verdict.exchanges] == [402]


def test_a_seller_whose_facilitator_lacks_a_chain_does_not_start(third_party: Party, seller: Party) -> None:
    only_evm = {"EVM_PRIVATE_KEY": third_party.evm_key, "EVM_RPC_URL": UNREACHABLE}
    with running(Peer.PYTHON_FACILITATOR, only_evm) as facilitator:
        for server in (Peer.PYTHON_SERVER, Peer.EXPRESS_SERVER):
            with (
                pytest.raises(PeerError, match="does not support scheme"),
                running(server, _offers(seller) | {"FACILITATOR_URL": facilitator}),
            ):
                pytest.fail("the seller started")


def _offers(seller: Party) -> dict[str, str]:
    return {"EVM_PAY_TO": seller.evm_address, "SVM_PAY_TO": seller.svm_address, "PRICE": PRICE}


def _wallets(buyer: Party) -> dict[str, str]:
    return {"EVM_PRIVATE_KEY": buyer.evm_key, "SVM_PRIVATE_KEY": buyer.svm_key}
