"""The paywall from outside: what a client sees, in both flows, both dialects and on both chains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient

from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.paywall import FREE, PaidRequest, Paywall, Sale, Terms, paid
from x402.gateway.problem import ApiProblem
from x402.lifecycle import Party
from x402.stages import State
from x402.telemetry import Fact, Telemetry
from x402.wire.challenge import read_challenge
from x402.wire.facilitation import Kind, Supported, Verification
from x402.wire.receipt import read_receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
PRICED = {"GET /report": "$0.01"}


async def test_free_routes_pass_by(shop: Any) -> None:
    client = shop.open(PRICED)
    response = await client.get("/free")
    assert response.status_code == 200
    assert "payment-required" not in response.headers


async def test_one_402_serves_both_versions(shop: Any, town: Any) -> None:
    client = shop.open(PRICED, public_url="https://shop.example")
    response = await client.get("/report")
    assert response.status_code == 402
    challenge = town.challenge_of(response)
    assert challenge.error == "PAYMENT-SIGNATURE header is required"
    assert challenge.resource.url == "https://shop.example/report"
    assert [offer.network for offer in challenge.accepts] == [EVM, SVM]
    evm, svm = challenge.accepts
    assert (evm.amount, evm.pay_to, evm.max_timeout_seconds) == (10_000, town.SELLER_EVM, 300)
    # K7: the facilitator adds to extra and never replaces what is pinned.
    assert evm.extra == {"name": "USDC", "version": "2", "features": {"a": 1}}
    assert svm.extra["feePayer"] == town.FEE_PAYER
    body = response.json()
    assert body["x402Version"] == 1
    assert body["error"] == "X-PAYMENT header is required"
    assert [offer["network"] for offer in body["accepts"]] == ["base-sepolia", "solana-devnet"]
    assert body["accepts"][0]["maxAmountRequired"] == "10000"
    assert body["accepts"][0]["resource"] == "https://shop.example/report"
    assert shop.runs == []


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_a_payment_buys_one_answer_and_the_same_again(
    shop: Any, town: Any, network: str, version: int, flow: str
) -> None:
    client = shop.open(PRICED, flow=flow)
    challenge = await shop.challenge()
    assert all(offer.extra.get("paymentFlow") == (flow if flow == "upfront" else None) for offer in challenge.accepts)
    header = shop.payer.pay(challenge, network, version=version)
    first = await client.get("/report", headers=header)
    assert first.status_code == 200, first.text
    assert first.json() == {"report": "secret 1"}
    name = "x-payment-response" if version == 1 else "payment-response"
    assert name in first.headers
    receipt = town.receipt_of(first)
    assert receipt.success
    assert receipt.network == network
    assert [receipt.transaction] == list(shop.bank.moved.values())
    again = await client.get("/report", headers=header)
    assert (again.status_code, again.content, again.headers[name]) == (200, first.content, first.headers[name])
    assert shop.runs == ["report "]
    assert shop.bank.asked.count("settle") == 1
    assert await shop.ledger.totals(Party.GATEWAY, State.DELIVERED) == {
        (network, challenge.accepts[0 if network == EVM else 1].asset): 10_000
    }


async def test_handlers_learn_who_paid(shop: Any) -> None:

    seen: list[Any] = []

    @shop.app.get("/who")
    async def who(request: Request) -> dict[str, str]:
        sale = request.state.payment
        seen.append((sale.receipt, request.scope["x402"] is sale))
        sale.note(words=3)
        return {"payer": sale.payer, "amount": str(sale.amount)}

    client = shop.open({"GET /who": "$0.02"})
    response = await client.get("/who", headers=shop.payer.pay(await shop.challenge("/who")))
    assert response.json() == {"payer": shop.payer.address, "amount": "20000"}
    assert seen == [(None, True)]

    receipt = read_receipt(response.headers.multi_items())
    assert receipt is not None
    assert receipt.extra == {"words": 3}


async def test_prices_may_be_functions_of_the_request(shop: Any) -> None:

    @shop.app.post("/words")
    async def words() -> dict[str, str]:
        return {"done": "yes"}

    async def price(request: PaidRequest) -> Any:
        count = request.json()["count"]
        if count > 100:
            raise ApiProblem(400, "too_many_words", "at most 100 words")
        return FREE if count == 0 else Terms(price=f"0.00{count}", description="words")

    client = shop.open({"POST /words": price})
    challenge = await shop.challenge("/words", "POST", json={"count": 5})
    assert challenge.accepts[0].amount == 5_000
    assert challenge.resource.description == "words"
    assert (await client.post("/words", json={"count": 0})).json() == {"done": "yes"}
    refused = await client.post("/words", json={"count": 101})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_words")
    broken = await client.post("/words", content=b"{nonsense")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


async def test_a_route_may_carry_its_price_as_a_dependency(shop: Any) -> None:

    router = APIRouter()

    @router.get("/deep/{name}")
    async def deep(name: str, sale: Annotated[Sale, Depends(paid("$0.03"))]) -> dict[str, str]:
        return {"name": name, "payer": sale.payer}

    shop.app.include_router(router, prefix="/in")
    client = shop.open()
    challenge = await shop.challenge("/in/deep/a")
    assert challenge.accepts[0].amount == 30_000
    response = await client.get("/in/deep/a", headers=shop.payer.pay(challenge))
    assert response.json() == {"name": "a", "payer": shop.payer.address}


async def test_a_dependency_without_a_paywall_serves_nobody(shop: Any) -> None:

    @shop.app.get("/unguarded")
    async def unguarded(sale: Annotated[Sale, Depends(paid("$0.03"))]) -> dict[str, str]:
        return {"leaked": "yes"}

    transport = httpx.ASGITransport(shop.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        assert (await client.get("/unguarded")).status_code == 500
    shop.open(PRICED)


async def test_the_middleware_form_and_its_lifespan(shop: Any, tmp_path: Any) -> None:
    """A seller's five lines: the paywall opens its own ledger file and closes it."""

    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]:
        return {"report": "secret"}

    app.add_middleware(
        Paywall,
        routes={"GET /report": "$0.01"},
        pay_to={"base-sepolia": "0x" + "5e" * 20},
        facilitator=shop.bank,
        ledger=tmp_path / "gateway.sqlite",
    )
    with TestClient(app) as client:
        refused = client.get("/report")
        assert refused.status_code == 402

        challenge = read_challenge(refused.headers.multi_items(), refused.content)

        header = shop.payer.pay(challenge, now=int(time.time()))
        assert client.get("/report", headers=header).json() == {"report": "secret"}
    with TestClient(app) as client:
        assert client.get("/report", headers=header).json() == {"report": "secret"}
    assert (tmp_path / "gateway.sqlite").exists()
    shop.open(PRICED)


async def test_malformed_payments_are_400_and_never_absent(shop: Any) -> None:
    client = shop.open(PRICED)
    for value in ("nonsense!", "e30=", "bnVsbA==", "W10=", "eyJ4NDAyVmVyc2lvbiI6M30=", "A" * 20_000):
        response = await client.get("/report", headers={"PAYMENT-SIGNATURE": value})
        assert response.status_code == 400, value
        error = response.json()["error"]
        assert error["code"]
        assert error["message"]
        assert error["moneyMoved"] == "no"
    assert shop.runs == []


async def test_refusals_explain_themselves(shop: Any, town: Any) -> None:
    facts: list[Fact] = []
    client = shop.open(PRICED, telemetry=Telemetry([facts.append]))
    challenge = await shop.challenge()
    shop.bank.balances[shop.payer.address] = 0

    shop.bank.verdicts = [
        Verification.invalid("insufficient_funds", "the balance is 0"),
        Verification(is_valid=False),
    ]
    response = await client.get("/report", headers=shop.payer.pay(challenge))
    assert response.status_code == 402
    assert town.challenge_of(response).error == "insufficient_funds"
    body = response.json()
    assert body["error"] == "insufficient_funds"
    assert (body["message"], body["mender"], body["moneyMoved"]) == ("the balance is 0", "payer", "no")
    assert body["accepts"]
    # Whose facilitator gives no reason is told that much.
    body = (await client.get("/report", headers=shop.payer.pay(challenge))).json()
    assert (body["error"], body["message"]) == ("invalid_payment", "the payment is not valid: invalid_payment")
    refused = [fact.attributes["reason"] for fact in facts if fact.name == "sale.refused"]
    assert refused == ["insufficient_funds", "invalid_payment"]
    assert shop.runs == []


async def test_facilitator_out_of_reach_is_503_and_never_free(shop: Any) -> None:

    client = shop.open(PRICED)
    challenge = await shop.challenge()
    header = shop.payer.pay(challenge)
    shop.bank.verdicts = [UnavailableError("facilitator_unavailable", "no answer")]
    response = await client.get("/report", headers=header)
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert shop.runs == []
    assert (await client.get("/report", headers=header)).status_code == 200


async def test_nothing_supported_is_503_and_no_empty_challenge(shop: Any) -> None:

    shop.bank.kinds = Supported(kinds=(Kind(version=2, scheme="upto", network=EVM),))
    client = shop.open(PRICED)
    response = await client.get("/report")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "nothing_supported"


async def test_supported_is_asked_once_for_many_challenges(shop: Any) -> None:
    client = shop.open(PRICED)
    for _ in range(20):
        await client.get("/report")
    assert shop.bank.asked == ["supported"]
    shop.now += 60
    await client.get("/report")
    assert shop.bank.asked == ["supported", "supported"]

    shop.bank.kinds = UnavailableError("facilitator_unavailable", "away")
    shop.now += 60
    assert (await client.get("/report")).status_code == 402


@pytest.mark.parametrize(
    ("preferred", "first"), [("solana", SVM), ("base", EVM), ("solana-devnet", SVM), (EVM, EVM), ("eip155", EVM)]
)
async def test_the_preferred_network_comes_first(shop: Any, preferred: str, first: str) -> None:
    shop.open(PRICED)
    challenge = await shop.challenge(headers={"X-Preferred-Network": preferred})
    assert challenge.accepts[0].network == first
    assert len(challenge.accepts) == 2


async def test_large_bodies_are_413(shop: Any) -> None:
    @shop.app.post("/big")
    async def big() -> dict[str, str]:
        return {}

    client = shop.open({"POST /big": "$0.01"}, body_limit=1000)
    assert (await client.post("/big", content=b"x" * 1000)).status_code == 402
    assert (await client.post("/big", content=b"x" * 1001)).status_code == 413

    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 100

    response = await client.post("/big", content=chunks())
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_handlers_get_the_body_that_was_priced(shop: Any) -> None:

    @shop.app.post("/echo")
    async def echo(request: Request) -> dict[str, str]:
        return {"body": (await request.body()).decode()}

    client = shop.open({"POST /echo": "$0.01"})
    challenge = await shop.challenge("/echo", "POST", content=b"hello")
    response = await client.post("/echo", content=b"hello", headers=shop.payer.pay(challenge))
    assert json.loads(response.content) == {"body": "hello"}


@pytest.mark.parametrize(
    "options",
    [
        {"pay_to": "0x" + "5e" * 20},
        {"pay_to": {"nowhere": "0x" + "5e" * 20}},
        {"pay_to": {"base": "0x1234"}},
        {"pay_to": {"base": "0x" + "5e" * 20, "solana-devnet": "Dt1vEPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyT"}},
        {"pay_to": {"base": "0x" + "5e" * 20}, "network": "base-sepolia"},
        {"pay_to": {}},
    ],
)
async def test_contradicting_settings_are_refused_at_once(shop: Any, options: dict[str, Any]) -> None:

    with pytest.raises(MisconfiguredError):
        shop.open(PRICED, **options)
    shop.open(PRICED)


@pytest.mark.parametrize("price", ["$0", "$0.0000001", "1 EUR", Ellipsis])
async def test_bad_fixed_prices_are_refused_at_once(shop: Any, price: Any) -> None:

    with pytest.raises((MisconfiguredError, TypeError)):
        shop.open({"GET /report": price})
    shop.open(PRICED)


async def test_E02_what_was_opened_is_closed_where_a_later_part_does_not_start(tmp_path: Path) -> None:
    class Late:
        opened = 0

        async def open(self, _: Paywall) -> None:
            self.opened += 1
            if self.opened == 1:
                raise UnavailableError("ledger_unavailable", "not yet")

        async def run(self) -> None: ...

    async def app(*_: Any) -> None: ...

    paywall = Paywall(
        app, routes=PRICED, network="base-sepolia", pay_to="0x" + "11" * 20, facilitator="http://127.0.0.1:9",
        ledger=tmp_path / "shop.sqlite", companion=Late(),
    )  # fmt: skip
    ledger = paywall.till.register.ledger
    with pytest.raises(UnavailableError, match="not yet"):
        await paywall.start({})
    with pytest.raises(UnavailableError, match="is not open"):
        await ledger.ping()
    await paywall.start({})
    await ledger.ping()
    await paywall.stop()
