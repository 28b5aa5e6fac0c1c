"""Many at once over real processes that share one ledger; `scripts/races` plays the same at full size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.live.chain_facts import Chains
from tests.live.databases import database
from tests.live.races import Field, identical, over_commit, settles
from tests.live.village import Size, Village
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

GATEWAYS, FACILITATORS = 4, 3


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def village(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    """Four gateways on one ledger, three facilitators with three keys on another."""
    folder = tmp_path_factory.mktemp(request.param)
    size = Size(gateways=GATEWAYS, facilitators=FACILITATORS, customers=0)
    with database(request.param, folder) as ledgers, Village(folder, size, ledgers=ledgers, engine="py-evm") as village:
        services = [*village.facilitators, *village.gateways]
        for name in services:
            village.start(name)
        village.wait_ready(services)
        yield village


@pytest.fixture
async def played(village: Village) -> AsyncIterator[Field]:
    pay_to = {network: village.seller.address(network) for network in (BASE_SEPOLIA, SOLANA_DEVNET)}
    chains = Chains(village.urls.evm, village.urls.svm, pay_to)
    field = Field(village, chains)
    async with field.http:
        yield field
    chains.close()


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
@pytest.mark.parametrize("stream", [False, True])
async def test_A04_one_payment_sent_at_once_to_four_gateways_is_one_service(
    played: Field, network: str, stream: bool
) -> None:
    """Forty times: one answer by the model, one transfer, everybody else the same bytes or 409."""
    assert await identical(played, 40, network, stream=stream) == []


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
@pytest.mark.parametrize("affordable", [1, 3])
async def test_A08_a_balance_is_never_committed_twice(played: Field, network: str, affordable: int) -> None:
    """Fifty payments out of a balance for one, and for three: exactly so many are served, the rest are refused."""
    assert await over_commit(played, 50, network, affordable) == []


async def test_D01_E11_settlements_at_once_over_three_processes_share_three_keys(played: Field) -> None:
    """Sixty, some of them asked of two processes: all settle, each in one transaction, no nonce left out."""
    assert await settles(played, 60) == []


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
async def test_A06_after_everybody_was_killed_a_served_payment_gets_the_same_answer(
    played: Field, network: str
) -> None:
    """Seller and facilitator are killed and come back with the same disk: same bytes, no second service."""
    assert await identical(played, 4, network, stream=False, between=lambda: _kill_all(played.village)) == []


def _kill_all(village: Village) -> None:
    services = [*village.facilitators, *village.gateways]
    for name in services:
        assert village.kill(name) is None, f"{name} had ended by itself"
    for name in services:
        village.start(name)
    village.wait_ready(services)
