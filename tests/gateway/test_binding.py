"""What was paid for, to whom, on which terms (faults B01-B03, B18, B19, F14, K6)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from fastapi import Response

from x402.gateway.paywall import PaidRequest, Terms
from x402.lifecycle import Party
from x402.quote import ModelPrice, Order, PriceList, PriceUnit, Rate, quote
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Verification

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICED = {"GET /report": "$0.01"}


def at(rate: str, version: str = "1") -> PriceList:
    return PriceList(version, (ModelPrice(model="m", completion=Rate.of(rate, PriceUnit.PER_1M)),))


async def test_B01_a_payment_for_one_resource_buys_no_other(shop: Any) -> None:
    for name in ("cheap", "same", "dear"):
        shop.app.add_api_route(f"/{name}", lambda: {"served": "yes"}, methods=["GET"])
    client = shop.open({"GET /cheap": "$0.01", "GET /same": "$0.01", "GET /dear": "$1"})
    challenge = await shop.challenge("/cheap")
    header = shop.payer.pay(challenge)
    for path in ("/dear", "/same"):
        refused = await client.get(path, headers=header)
        assert refused.status_code == 402, path
    assert "verify" not in shop.bank.asked
    # It was not used up.
    assert (await client.get("/cheap", headers=header)).status_code == 200
    # And once used it buys nothing else, even without naming a resource.
    bare = shop.payer.payment(challenge.accepts[0], challenge).model_copy(update={"resource": None})
    assert (await client.get("/same", headers=shop.payer.header(bare))).status_code == 200
    assert (await client.get("/cheap", headers=shop.payer.header(bare))).status_code == 409


async def test_B01_query_and_body_are_part_of_the_request(shop: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge("/report?q=1"))
    assert (await client.get("/report?q=1", headers=header)).status_code == 200
    other = await client.get("/report?q=2", headers=header)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "payment_already_used")
    assert shop.runs == ["report 1"]


@pytest.fixture
def priced_by_body(shop: Any) -> Any:
    prices = {"list": at("1")}

    @shop.app.post("/chat")
    async def chat() -> dict[str, str]:
        return {"served": "yes"}

    def price(request: PaidRequest) -> Terms:
        order = Order("m", 0, request.json()["max_tokens"])
        return Terms(price=quote(order, prices["list"]))

    shop.open({"POST /chat": price}, quote_keys=[b"k" * 32])
    return prices


async def test_B02_a_small_quote_buys_no_large_request(shop: Any, town: Any, priced_by_body: Any) -> None:
    challenge = await shop.challenge("/chat", "POST", json={"max_tokens": 10})
    header = shop.payer.pay(challenge)
    large = await shop.client.post("/chat", json={"max_tokens": 100_000}, headers=header)
    assert large.status_code == 402
    fresh = town.challenge_of(large)
    assert fresh.error == "quote_request_mismatch"
    assert fresh.accepts[0].amount == 100_000
    assert (await shop.client.post("/chat", json={"max_tokens": 10}, headers=header)).status_code == 200


async def test_K6_a_quote_is_kept_when_the_price_list_changes(shop: Any, town: Any, priced_by_body: Any) -> None:
    challenge = await shop.challenge("/chat", "POST", json={"max_tokens": 1000})
    header = shop.payer.pay(challenge)
    priced_by_body["list"] = at("5", "2")
    assert (await shop.client.post("/chat", json={"max_tokens": 1000}, headers=header)).status_code == 200
    # Not for ever: after its time the new price is asked.
    late = shop.payer.pay(challenge)
    shop.now += 301
    response = await shop.client.post("/chat", json={"max_tokens": 1000}, headers=late)
    assert response.status_code == 402
    assert town.challenge_of(response).error == "quote_expired"
    assert town.challenge_of(response).accepts[0].amount == 5_000


async def test_quotes_are_ours_or_nothing(shop: Any, town: Any, priced_by_body: Any) -> None:
    challenge = await shop.challenge("/chat", "POST", json={"max_tokens": 1000})
    offer = challenge.accepts[0]
    token = offer.extra["quote"]
    forged = ("A" if token[5] != "A" else "B").join((token[:5], token[6:]))
    for changed, reason in ((forged, "invalid_quote"), (None, "quote_required"), (7, "quote_required")):
        altered = offer.model_copy(update={"extra": {**offer.extra, "quote": changed}})
        header = shop.payer.header(shop.payer.payment(altered, challenge))
        response = await shop.client.post("/chat", json={"max_tokens": 1000}, headers=header)
        assert response.status_code == 402
        assert town.challenge_of(response).error == reason
    assert "verify" not in shop.bank.asked


def mutants(offer: Requirement) -> list[tuple[str, Requirement]]:
    """The offer with one member changed at a time."""
    other = "0x" + "11" * 20 if offer.network == EVM else "9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin"
    changes: list[tuple[str, dict[str, Any]]] = [
        ("dearer", {"amount": offer.amount + 1}),
        ("cheaper", {"amount": offer.amount - 1}),
        ("payTo", {"pay_to": other}),
        ("longer", {"max_timeout_seconds": offer.max_timeout_seconds + 1}),
        ("shorter", {"max_timeout_seconds": offer.max_timeout_seconds - 1}),
        ("flow", {"extra": {**offer.extra, "paymentFlow": "upfront"}}),
        ("escrow", {"extra": {**offer.extra, "paymentFlow": "escrow"}}),
    ]
    for name in offer.extra:
        changes.append((f"without {name}", {"extra": {key: offer.extra[key] for key in offer.extra if key != name}}))
        changes.append((f"other {name}", {"extra": {**offer.extra, name: other}}))
    return [(name, offer.model_copy(update=update)) for name, update in changes]


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_B03_no_member_of_an_offer_is_the_clients_to_choose(shop: Any, town: Any, network: str) -> None:
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    offer = next(one for one in challenge.accepts if one.network == network)
    payload = shop.payer.payload(offer)
    for name, altered in mutants(offer):
        payment = shop.payer.payment(offer, challenge).model_copy(update={"accepted": altered, "payload": payload})
        response = await client.get("/report", headers=shop.payer.header(payment))
        assert response.status_code == 402, name
        assert town.challenge_of(response).error == "invalid_payment_requirements", name
    assert "verify" not in shop.bank.asked
    honest = shop.payer.payment(offer, challenge).model_copy(update={"payload": payload})
    assert (await client.get("/report", headers=shop.payer.header(honest))).status_code == 200


@pytest.mark.parametrize(
    "network", ["eip155:8453", "eip155:1", "base", "nowhere", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"]
)
async def test_B03_other_networks_are_refused(shop: Any, network: str) -> None:
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    payment = shop.payer.payment(challenge.accepts[0], challenge)
    altered = challenge.accepts[0].model_copy(update={"network": network})
    for scheme in ("exact", "upto"):
        moved = payment.model_copy(update={"accepted": altered.model_copy(update={"scheme": scheme})})
        assert (await client.get("/report", headers=shop.payer.header(moved))).status_code == 402
    assert "verify" not in shop.bank.asked


@pytest.mark.parametrize("signed", [{"amount": 1}, {"amount": 10_001}, {"pay_to": "0x" + "11" * 20}])
async def test_B03_what_the_signature_says_must_be_what_is_asked(shop: Any, signed: dict[str, Any]) -> None:
    """A facilitator that waves everything through makes no cent of one unit, nor takes more than the offer says."""
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    other = challenge.accepts[0].model_copy(update=signed)
    payment = shop.payer.payment(challenge.accepts[0], challenge)
    payment = payment.model_copy(update={"payload": shop.payer.payload(other)})
    shop.bank.verdicts = [Verification.valid(shop.payer.address)]
    response = await client.get("/report", headers=shop.payer.header(payment))
    assert (response.status_code, response.json()["error"]) == (402, "invalid_payment_requirements")
    assert shop.runs == []
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_dynamic_hints_may_differ(shop: Any) -> None:
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    offer = next(one for one in challenge.accepts if one.network == SVM)
    hinted = offer.model_copy(
        update={"extra": {**offer.extra, "recentBlockhash": "x", "lastValidBlockHeight": "12", "memoHint": "mine"}}
    )
    response = await client.get("/report", headers=shop.payer.header(shop.payer.payment(hinted, challenge)))
    assert response.status_code == 200


@pytest.mark.parametrize("name", ["Settlement-Overrides", "settlement-overrides"])
@pytest.mark.parametrize("value", ["0", "-1", '{"amount":"1000000000"}'])
async def test_B18_headers_about_money_are_never_a_handlers(shop: Any, town: Any, name: str, value: str) -> None:
    @shop.app.get("/reflect")
    async def reflect() -> Response:
        return Response("ok", headers={name: value, "X-402-Note": "{}", "PAYMENT-RESPONSE": "forged", "X-Own": "kept"})

    client = shop.open({"GET /reflect": "$0.01"})
    response = await client.get("/reflect", headers=shop.payer.pay(await shop.challenge("/reflect")))
    assert response.status_code == 200
    assert name.lower() not in response.headers
    assert "x402-note" not in response.headers
    assert response.headers["x-own"] == "kept"
    assert town.receipt_of(response).success
    assert shop.bank.moved


async def test_B19_the_resource_is_never_named_by_the_request(shop: Any) -> None:
    shop.open(PRICED, public_url="https://shop.example/base/")
    evil = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "ftp",
        "Forwarded": "host=evil",
    }
    challenge = await shop.challenge(headers=evil)
    assert challenge.resource is not None
    assert challenge.resource.url == "https://shop.example/base/report"
    assert [offer.pay_to for offer in challenge.accepts] == [offer.pay_to for offer in (await shop.challenge()).accepts]


async def test_B19_without_a_public_url_the_socket_is_named(shop: Any) -> None:
    shop.open(PRICED)
    challenge = await shop.challenge("/report?prompt=secret", headers={"Host": "evil.example"})
    assert challenge.resource is not None
    # G06: the query may hold what is nobody else's business.
    assert challenge.resource.url == "http://shop.test/report"


@pytest.mark.parametrize("public_url", ["", "http://shop.test"])
async def test_a_resource_url_may_differ_by_its_trailing_slash_only(shop: Any, public_url: str) -> None:
    client = shop.open(PRICED, public_url=public_url)
    challenge = await shop.challenge()
    assert challenge.resource is not None
    for url, status in (
        (challenge.resource.url + "/", 200),
        (challenge.resource.url + "?x=1", 402),
        ("http://shop.test/", 402),
        ("http://other.test/report", 402 if public_url else 200),
    ):
        payment = shop.payer.payment(challenge.accepts[0], challenge)
        named = payment.model_copy(update={"resource": challenge.resource.model_copy(update={"url": url})})
        assert (await client.get("/report", headers=shop.payer.header(named))).status_code == status, url


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_F14_one_payment_over_both_versions_is_one_sale(shop: Any, network: str) -> None:
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    offer = next(one for one in challenge.accepts if one.network == network)
    new = shop.payer.payment(offer, challenge)
    old = new.model_copy(update={"version": 1, "accepted": None, "resource": None})
    first = await client.get("/report", headers=shop.payer.header(old))
    second = await client.get("/report", headers=shop.payer.header(new))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert shop.runs == ["report "]
    assert len(shop.bank.moved) == 1


async def test_prices_are_exact_in_other_decimals(shop: Any) -> None:
    shop.open({"GET /report": Decimal("0.000001")})
    assert (await shop.challenge()).accepts[0].amount == 1
