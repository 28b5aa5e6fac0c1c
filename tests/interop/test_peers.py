"""The control group: official parts among themselves on our devnets, and how they say no.

What is red here is the rig, the devnet or the peers; what is green here and red in the matrix is ours.
"""

from __future__ import annotations

import pytest

from tests.interop.cells import CONTROL, Cell, Client, Facilitator, Server
from tests.interop.launch import Peer, PeerError, ask, running
from tests.interop.matrix import run
from tests.interop.town import Party, Town
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

# The first run on a machine installs the peers, which takes minutes.
pytestmark = pytest.mark.timeout(900)

UNREACHABLE = "http://127.0.0.1:9"
EXPRESS = Cell(Client.PYTHON, Server.EXPRESS, Facilitator.PYTHON, BASE_SEPOLIA)
"""The cell whose seller and facilitator the tests of refusals share with the control group."""


@pytest.mark.parametrize("cell", CONTROL, ids=lambda cell: cell.name)
def test_official_parts_pay_each_other(cell: Cell, town: Town) -> None:
    assert run(cell, town).reason == ""


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
def test_a_poor_buyer_is_told_why(network: str, town: Town) -> None:
    pauper = Party.named("pauper")
    before = town.usdc(town.seller, network)
    path = "evm" if network == BASE_SEPOLIA else "svm"
    target = {"TARGET_URL": f"{town.server(EXPRESS)}/{path}", "NETWORK": network}

    verdict = ask(Peer.PYTHON_CLIENT, target | pauper.keys | town.nodes)

    assert not verdict.ok
    assert [exchange.status for exchange in verdict.exchanges] == [402, 402]
    assert "insufficient" in verdict.reason or "simulation_failed" in verdict.reason
    assert town.usdc(town.seller, network) == before


@pytest.mark.parametrize("client", [Peer.PYTHON_CLIENT, Peer.FETCH_CLIENT])
def test_a_client_without_an_acceptable_offer_says_so_and_pays_nothing(client: Peer, town: Town) -> None:
    target = {"TARGET_URL": f"{town.server(EXPRESS)}/evm", "NETWORK": SOLANA_DEVNET}
    verdict = ask(client, target | town.buyer.keys)
    assert "filtered out by policies" in verdict.reason
    assert [exchange.status for exchange in verdict.exchanges] == [402]


def test_a_seller_whose_facilitator_lacks_a_chain_does_not_start(town: Town) -> None:
    only_evm = {"EVM_PRIVATE_KEY": Party.named("third party").evm_key, "EVM_RPC_URL": UNREACHABLE}
    with running(Peer.PYTHON_FACILITATOR, only_evm) as facilitator:
        for server in (Peer.PYTHON_SERVER, Peer.EXPRESS_SERVER):
            with (
                pytest.raises(PeerError, match="does not support scheme"),
                running(server, town.offers | {"FACILITATOR_URL": facilitator}),
            ):
                pytest.fail("the seller started")
