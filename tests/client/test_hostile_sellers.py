"""Every trick of `hostile`, on both chains: nothing is signed that the buyer would not have signed (faults B04-B13)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from x402 import networks
from x402.client.audit import audit
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.errors import X402Error

from .hostile import CONTROLS, PRICE, TRICKS, WALLET, Trick, World
from .seller import Chain, Clock, Journal, Seller

WORLDS = {"evm": World(networks.BASE_SEPOLIA), "svm": World(networks.SOLANA_DEVNET)}
LIMITS = Limits(per_day="0.20", per_payee="0.15")
AUDITED = replace(LIMITS, per_call="0.05")
CASES = [
    (kind, name, chain, known)
    for kind, tricks in TRICKS.items()
    for name, trick in tricks.items()
    for chain in WORLDS
    for known in (True, False)
    if known or not trick.swaps
]
URL = "https://seller.test/good"


def buyer(world: World, *, known: bool = True) -> X402Auth:
    """Somebody who pays on test networks; when `known`, this host has answered a payment before."""
    journal, policy = Journal(":memory:", clock=Clock()), Policy(max_per_call="0.05", mainnet=False)
    prove = Chain().into(journal)
    auth = X402Auth(WALLET, policy=policy, limits=LIMITS, journal=journal, clock=Clock(), prove=prove)
    if known:
        assert call(auth, CONTROLS["a header alone"].seller(world), "https://seller.test/before") == 200
    return auth


def call(auth: X402Auth, seller: Seller, url: str = URL) -> int:
    """One call, redirects followed; the status, or 0 when it ended in an error."""
    transport = httpx.MockTransport(seller)
    with suppress(X402Error, httpx.HTTPError), httpx.Client(transport=transport, auth=auth) as client:
        return client.get(url, follow_redirects=True).status_code
    return 0


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(TRICKS) >= 17
    assert all(len(tricks) >= 3 for tricks in TRICKS.values())


@pytest.mark.parametrize(("kind", "name", "chain", "known"), CASES)
def test_B10_nothing_is_spent_that_was_not_authorised(kind: str, name: str, chain: str, known: bool) -> None:
    world, trick = WORLDS[chain], TRICKS[kind][name]
    auth, seller = buyer(world, known=known), trick.seller(world)
    before = auth.journal.spent(86_400)
    for _ in range(3):
        call(auth, seller)
    signed = trick.signed * (3 if trick.delivers else 1)
    assert len(seller.signatures) == signed
    assert all(world.is_authorised(header) for header in seller.signatures)
    assert auth.journal.spent(86_400) - before == Decimal(PRICE * signed).scaleb(-6)
    assert audit(auth.journal.records(), AUDITED) == []
    # A payment is shown to the host that asked for it, and to nobody else (fault B05).
    assert {seen.url.split("/")[2] for seen in seller.seen if seen.payment} <= {"seller.test"}
    assert not [seen for seen in seller.seen if seen.payment and seen.url.startswith("http://")]


@pytest.mark.parametrize("chain", WORLDS)
@pytest.mark.parametrize("kind", TRICKS)
def test_B11_many_calls_to_a_trickster_cost_three_payments_at_most(kind: str, chain: str) -> None:
    world = WORLDS[chain]
    auth, trick = buyer(world), next(iter(TRICKS[kind].values()))
    seller = trick.seller(world)
    for number in range(20):
        call(auth, seller, f"{URL}/{number}")
    # Who delivers is paid until the budget for one payee ends, the payment before this included.
    assert len(seller.signatures) <= (14 if trick.delivers else 3)
    assert audit(auth.journal.records(), AUDITED) == []


@pytest.mark.parametrize("chain", WORLDS)
@pytest.mark.parametrize("control", CONTROLS)
def test_control_an_honest_seller_of_the_same_shape_is_paid(control: str, chain: str) -> None:
    world = WORLDS[chain]
    auth, seller = buyer(world), CONTROLS[control].seller(world)
    assert call(auth, seller) == 200
    [header] = seller.signatures
    assert world.is_authorised(header)


@pytest.mark.parametrize("chain", WORLDS)
class TestSlowRamp:
    """A price that creeps, and a sum that is split (fault B12)."""

    def spend(self, chain: str, hosts: int, step: int) -> X402Auth:
        world = WORLDS[chain]
        auth = buyer(world)
        for number in range(60):
            amount = str(min(50_000, 1_000 + step * number))
            trick = Trick(lambda world, amount=amount: world.asks(world.offer(amount=amount)))  # type: ignore[misc]
            call(auth, trick.seller(world), f"https://host{number % hosts}.test/{number}")
        return auth

    @pytest.mark.parametrize(("hosts", "step"), [(1, 1_000), (60, 0), (7, 500), (1, 49_000)])
    def test_B12_no_ramp_and_no_split_passes_the_budget(self, chain: str, hosts: int, step: int) -> None:
        auth = self.spend(chain, hosts, step)
        total = auth.journal.spent(86_400)
        assert audit(auth.journal.records(), AUDITED) == []
        # The control: what fits was spent.
        assert Decimal("0.06") < total <= Decimal("0.15")


@pytest.mark.parametrize("chain", WORLDS)
def test_E05_nothing_that_a_challenge_names_is_fetched(chain: str) -> None:
    """Inner addresses in every place where a challenge may hold a URL: only the host that was asked is asked."""
    world = WORLDS[chain]
    inner = "http://169.254.169.254/latest/meta-data/"
    offer = world.offer(extra={"url": inner, "facilitator": inner, "rpcUrl": inner, "$ref": inner})
    members: dict[str, Any] = {
        "resource": {"url": inner, "iconUrl": inner},
        "extensions": {"bazaar": {"schema": {"$ref": inner}}},
    }
    trick = Trick(lambda world: world.asks(offer, error=inner, **members), signed=1)
    auth, seller = buyer(world), trick.seller(world)
    assert call(auth, seller) == 200
    assert {seen.url for seen in seller.seen} == {URL}


@pytest.mark.parametrize("chain", WORLDS)
def test_B04_on_first_use_the_first_payee_is_taken_and_then_no_other(chain: str) -> None:
    world = WORLDS[chain]
    journal = Journal(":memory:", clock=Clock())
    auth = X402Auth(WALLET, journal=journal, clock=Clock(), prove=Chain().into(journal))
    honest = CONTROLS["a header alone"].seller(world)
    assert call(auth, honest) == 200
    swapped = TRICKS["payee change"]["to the thief"].seller(world)
    assert call(auth, swapped) == 0
    assert swapped.signatures == set()
