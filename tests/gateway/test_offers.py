"""Offers at fixed prices are remembered: for as long as the facilitator says the same, and never for another price."""

from __future__ import annotations

from decimal import Decimal

import pytest

from x402.errors import MalformedError
from x402.gateway.offers import Offers, identity_of
from x402.gateway.terms import Flow, Seller, Terms, asset_on
from x402.networks import BASE_SEPOLIA
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind, Supported
from x402.wire.payment import Payment

PAY_TO = "0x" + "11" * 20


class Fickle:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.extra: dict[str, str] = {"note": "one"}

    async def supported(self) -> Supported:
        return Supported(kinds=(Kind(scheme="exact", network=BASE_SEPOLIA, extra=dict(self.extra)),))


async def offer(offers: Offers, terms: Terms) -> Requirement:
    return (await offers.requirements(terms, request_digest=""))[0]


async def test_an_offer_is_composed_once_and_anew_when_the_facilitator_says_something_else() -> None:
    bank = Fickle()
    offers = Offers(bank, Seller(pay_to={BASE_SEPOLIA: PAY_TO}), clock=lambda: 1)
    first = await offer(offers, Terms(price="$0.01"))
    assert await offer(offers, Terms(price="$0.01")) is first
    bank.extra = {"note": "two"}
    assert (await offer(offers, Terms(price="$0.01"))).extra["note"] == "one"
    offers.kinds.forget()
    assert (await offer(offers, Terms(price="$0.01"))).extra["note"] == "two"


async def test_remembered_offers_never_mix_prices_or_flows() -> None:
    offers = Offers(Fickle(), Seller(pay_to={BASE_SEPOLIA: PAY_TO}), clock=lambda: 1)
    for _ in range(2):
        for number in range(1, 600):
            assert (await offer(offers, Terms(price=Decimal(number) / 1000))).amount == number * 1000
        assert (await offer(offers, Terms(price="$1", flow=Flow.UPFRONT))).extra["paymentFlow"] == "upfront"
        assert "paymentFlow" not in (await offer(offers, Terms(price="$1", flow=Flow.AUTHORIZATION))).extra
        assert (await offer(offers, Terms(price=1))).amount == (await offer(offers, Terms(price="1"))).amount == 10**6


async def test_a_network_without_an_asset_for_the_scheme_exact_is_named_and_never_a_crash() -> None:
    """A generator that ends inside a coroutine would be a RuntimeError, which nobody expects."""
    with pytest.raises(MalformedError, match="MegaETH") as nothing:
        asset_on("eip155:4326")
    assert nothing.value.code == "invalid_network"
    with pytest.raises(MalformedError, match="MegaETH"):
        identity_of(Payment(version=1, scheme="exact", network="megaeth", payload={"signature": "0x"}))
