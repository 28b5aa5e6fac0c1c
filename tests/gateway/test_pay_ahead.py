"""Payments that go with the first request: priced by the buyer itself, from what the seller has announced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from x402 import tariff
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.journal import Journal
from x402.client.wallet import Wallet
from x402.devnet.model import ECHO
from x402.errors import DeclinedError, MalformedError, RefusedError, UnpaidError
from x402.lifecycle import Party
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.price import ModelPrice, PriceList, PriceUnit, Rate
from x402.quote import Order, quote
from x402.settings import ClientSettings
from x402.stages import State
from x402.tariff import EXTENSION, Tariff

KEY, OTHER_KEY = b"a key for quotes", b"another key for them"
NETWORKS = (BASE_SEPOLIA, SOLANA_DEVNET)
CHAT = "/api/v1/chat/completions"


class Buyer:
    """A paying client in front of an app, which counts what it sends."""

    def __init__(self, shop: Any, network: str = BASE_SEPOLIA, **options: Any) -> None:
        payer = shop.payer
        self.journal = Journal(":memory:", clock=lambda: shop.now)
        wallet = Wallet(evm="0x" + payer.key.to_hex(), svm=str(payer.keypair), testnet_only=True)
        if network == BASE_SEPOLIA:
            wallet = Wallet(evm="0x" + payer.key.to_hex(), testnet_only=True)
        else:
            wallet = Wallet(svm=str(payer.keypair), testnet_only=True)
        self.auth = X402Auth(
            wallet, journal=self.journal, clock=lambda: shop.now, prove=lambda record: record,
            settings=ClientSettings.model_construct(), **options,
        )  # fmt: skip
        self.sent: list[httpx.Request] = []

    @asynccontextmanager
    async def at(self, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
        async def count(request: httpx.Request) -> None:
            self.sent.append(request)

        class Node(httpx.AsyncBaseTransport):
            """The shop, and a Solana node that knows one thing."""

            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                if request.url.host != client.base_url.host:
                    value = {"value": {"blockhash": "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"}}
                    return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": value})
                return await client._transport.handle_async_request(request)

        hooks: Any = {"request": [count]}
        async with httpx.AsyncClient(
            transport=Node(), base_url=client.base_url, auth=self.auth, event_hooks=hooks
        ) as paying:
            yield paying

    def requests(self) -> int:
        """How many requests went to the seller since the last such question."""
        found = sum(request.url.host.endswith(".test") for request in self.sent)
        self.sent.clear()
        return found


def chat(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50} | members


def reports(shop: Any, price: str, key: bytes = KEY) -> httpx.AsyncClient:
    """The shop that sells one report at this price, as after a restart."""
    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]:
        shop.runs.append("report")
        return {"report": f"secret {len(shop.runs)}"}

    opened: httpx.AsyncClient = shop.open({"GET /report": price}, app, quote_keys=[key])
    return opened


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_second_call_is_one_request(make: Callable[..., Any], shop: Any, network: str, stream: bool) -> None:
    buyer = Buyer(shop, network)
    async with buyer.at(make()) as client:
        for round_trips, words in ((2, "hello"), (1, "something longer"), (1, "x" * 500)):
            content = [{"role": "user", "content": words}]
            reply = await client.post(CHAT, json=chat(messages=content, stream=stream))
            assert reply.status_code == 200, reply.text
            assert words.split()[0] in reply.text
            assert buyer.requests() == round_trips
    paid = [record.entry.subject.amount for record in buyer.journal.history()]
    assert len(set(paid)) == 3, "each was priced by its own words"
    assert shop.bank.asked.count("settle") == 3
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_a_fixed_price_is_announced_as_well(shop: Any) -> None:
    buyer = Buyer(shop)
    async with buyer.at(shop.open({"GET /report": "$0.01"})) as client:
        for round_trips in (2, 1, 1):
            assert (await client.get("/report", params={"q": str(len(shop.runs))})).status_code == 200
            assert buyer.requests() == round_trips
    assert len(shop.runs) == 3


async def test_what_was_announced_holds_until_it_expires(shop: Any) -> None:
    """A seller that raises its price serves at the old one for as long as it has promised."""
    buyer = Buyer(shop)
    async with buyer.at(reports(shop, "$0.01")) as client:
        await client.get("/report")
    dearer = reports(shop, "$0.02")
    async with buyer.at(dearer) as client:
        buyer.requests()
        assert (await client.get("/report?2")).status_code == 200
        assert buyer.requests() == 1
        shop.now += 300
        assert (await client.get("/report?3")).status_code == 200
        assert buyer.requests() == 2
    assert [record.usd for record in reversed(buyer.journal.history())] == [
        Decimal(cents).scaleb(-2) for cents in (1, 1, 2)
    ]


@pytest.mark.parametrize(("before", "after"), [("$0.01", "$0.02"), ("$0.02", "$0.01")])
async def test_other_terms_cost_one_402_and_no_second_payment(shop: Any, before: str, after: str) -> None:
    """The seller has forgotten its keys: what it announced is nobody's word. The nonce stays, so one of both pays."""
    buyer = Buyer(shop)
    async with buyer.at(reports(shop, before)) as client:
        await client.get("/report")
    async with buyer.at(reports(shop, after, OTHER_KEY)) as client:
        buyer.requests()
        assert (await client.get("/report?2")).status_code == 200
        assert buyer.requests() == 2
        assert (await client.get("/report?3")).status_code == 200
        assert buyer.requests() == 1
    latest = buyer.journal.history()
    assert len(latest) == 3, "what was signed over is the same payment"
    assert len(shop.bank.moved) == len(shop.runs) == 3
    assert latest[1].usd == max(Decimal(before[1:]), Decimal(after[1:])), "either of both could have been taken"


async def test_B12_what_replaces_a_payment_must_fit_the_budget(shop: Any) -> None:
    buyer = Buyer(shop, limits=Limits(per_day="0.025"))
    async with buyer.at(reports(shop, "$0.01")) as client:
        await client.get("/report")
    async with buyer.at(reports(shop, "$0.02", OTHER_KEY)) as client:
        with pytest.raises(DeclinedError, match="budget"):
            await client.get("/report?2")
    assert len(shop.runs) == 1
    exposed = [record for record in buyer.journal.history() if record.state is not State.SETTLED]
    assert [record.usd for record in exposed] == [Decimal("0.01")]


async def test_solana_has_no_nonce_to_share_so_nothing_is_signed_anew(shop: Any) -> None:
    buyer = Buyer(shop, SOLANA_DEVNET)
    async with buyer.at(reports(shop, "$0.01")) as client:
        await client.get("/report")
    async with buyer.at(reports(shop, "$0.02", OTHER_KEY)) as client:
        with pytest.raises(UnpaidError, match="invalid_tariff"):
            await client.get("/report?2")
    assert len(buyer.journal.history()) == 2
    assert len(shop.bank.moved) == 1


async def test_caps_and_budgets_see_no_difference(make: Callable[..., Any], shop: Any) -> None:
    buyer = Buyer(shop, limits=Limits(per_call="0.001"))
    async with buyer.at(make()) as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        buyer.requests()
        with pytest.raises(DeclinedError, match="limit"):
            await client.post(CHAT, json=chat(max_tokens=1_000_000 // 2, n=4))
    assert len(buyer.journal.history()) == 1
    assert not any("payment-signature" in request.headers for request in buyer.sent), "nothing was signed for it"


async def test_a_request_that_cannot_run_is_not_paid_ahead_twice(make: Callable[..., Any], shop: Any) -> None:
    buyer = Buyer(shop)
    async with buyer.at(make()) as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        for _ in range(3):
            assert (await client.post(CHAT, json=chat(temperature=7))).status_code == 400
    assert len(shop.bank.moved) == 1
    # One was shown with the first of them, and is shown again to whoever asks the same again.
    assert len({request.headers.get("payment-signature") for request in buyer.sent} - {None}) == 2


async def test_nothing_is_paid_ahead_where_nothing_is_announced(shop: Any) -> None:
    prices = {"GET /report": lambda request: "$0.01"}
    buyer = Buyer(shop)
    async with buyer.at(shop.open(prices)) as client:
        for _ in range(2):
            buyer.requests()
            await client.get(f"/report?{len(shop.runs)}")
            assert buyer.requests() == 2


async def test_a_buyer_may_want_to_be_asked(shop: Any) -> None:
    buyer = Buyer(shop, pay_ahead=False)
    async with buyer.at(shop.open({"GET /report": "$0.01"})) as client:
        for _ in range(2):
            buyer.requests()
            await client.get(f"/report?{len(shop.runs)}")
            assert buyer.requests() == 2


async def test_B02_a_price_announced_for_one_route_buys_on_no_other(shop: Any, town: Any) -> None:
    client = shop.open({"GET /report": "$0.50", "GET /free": "$0.001"}, quote_keys=[KEY])
    cheap = await shop.challenge("/free")
    dear = await shop.challenge("/report")
    token = cheap.extensions[EXTENSION]["info"]["tariff"]
    offer = dear.accepts[0]
    stolen = offer.model_copy(update={"amount": 1000, "extra": {**offer.extra, "tariff": token}})
    header = shop.payer.header(shop.payer.payment(stolen, dear))
    refused = await client.get("/report", headers=header)
    assert refused.status_code == 402
    assert town.challenge_of(refused).error == "tariff_mismatch"
    assert shop.runs == []


RATES = st.decimals(min_value=0, max_value=1000, places=6, allow_nan=False)
COUNTS = st.integers(min_value=1, max_value=10**6)


@given(RATES, RATES, RATES, COUNTS, COUNTS, COUNTS, st.integers(0, 3), st.integers(0, 20))
def test_a_tariff_quotes_what_its_list_quotes(
    prompt: Decimal, completion: Decimal, each: Decimal, tokens: int, output: int, context: int, images: int, fee: int
) -> None:
    model = ModelPrice(
        model="a/b", prompt=Rate(prompt, PriceUnit.PER_1M), completion=Rate(completion, PriceUnit.PER_1K),
        image=Rate(each, PriceUnit.EACH), context_length=context,
    )  # fmt: skip
    prices = PriceList("v1", (model,), Decimal(fee))
    order = Order("a/b", tokens, output, 2, images)
    token = tariff.sign(Tariff(route="POST /x", expires_at=100, prices=prices), key=KEY)
    read = tariff.read(token, keys=[b"an older key, too", KEY], now=99, route="POST /x")
    assert read == tariff.peek(token)
    assert read.quote(order) == quote(order, prices)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"now": 100}, RefusedError),
        ({"route": "GET /x"}, RefusedError),
        ({"keys": [OTHER_KEY]}, MalformedError),
    ],
)
def test_a_tariff_holds_for_its_route_and_time_alone(change: dict[str, Any], error: type[Exception]) -> None:
    token = tariff.sign(Tariff(route="POST /x", expires_at=100, flat=Decimal("0.01")), key=KEY)
    asked: dict[str, Any] = {"keys": [KEY], "now": 99, "route": "POST /x"}
    assert tariff.read(token, **asked).flat == Decimal("0.01")
    with pytest.raises(error):
        tariff.read(token, **(asked | change))
    spoilt = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
    with pytest.raises(MalformedError):
        tariff.read(spoilt, **asked)


async def test_B02_a_cheap_wish_does_not_buy_a_dear_one(make: Callable[..., Any], shop: Any, town: Any) -> None:
    """The tariff of a request with wishes of its own is no tariff for one without them."""
    client = make()
    wishing = await client.post(CHAT, json=chat(provider={"sort": "price"}))
    plain = town.challenge_of(await client.post(CHAT, json=chat()))
    token = town.challenge_of(wishing).extensions[EXTENSION]["info"]["tariff"]
    offer = plain.accepts[0]
    extra = {name: value for name, value in offer.extra.items() if name != "quote"}
    stolen = offer.model_copy(update={"extra": {**extra, "tariff": token}})
    refused = await client.post(CHAT, json=chat(), headers=shop.payer.header(shop.payer.payment(stolen, plain)))
    assert refused.status_code == 402
    assert town.challenge_of(refused).error == "tariff_mismatch"
    own = plain.extensions[EXTENSION]["info"]["tariff"]
    honest = offer.model_copy(update={"extra": {**extra, "tariff": own}})
    paid = await client.post(CHAT, json=chat(), headers=shop.payer.header(shop.payer.payment(honest, plain)))
    assert paid.status_code == 200, paid.text
