"""Who spends much pays less, whichever way it pays, by steps that stand in the signed quote. Aimo row 78."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.gateway.test_pay_ahead import CHAT, Buyer, chat
from x402 import networks, signed_quote
from x402.billing import Metered, PaidBy
from x402.discount import Discount, Step, percent_at
from x402.errors import MalformedError
from x402.gateway.accounts.promotions import Promotions, parse_steps
from x402.gateway.policy import Policy
from x402.lifecycle import Party
from x402.ports.accounts import BillFilter
from x402.price import ModelPrice, PriceList, PriceUnit, Rate
from x402.quote import Order, Quote, Usage, quote
from x402.settings import GatewaySettings
from x402.signed_token import content_of, seal
from x402.stages import State

EVM, SVM = networks.BASE_SEPOLIA, networks.SOLANA_DEVNET
KEY = b"a key for quotes"
STEPS = (Step(0, Decimal(5)), Step(1, Decimal("12.5")))
"""Five percent for everybody, and more for everybody who has bought once."""
STATED = "0=5,0.000001=12.5"


def policy(text: str) -> Policy:
    return Policy(promotions=Promotions(discounts=parse_steps(text, "X")))


def settings(discounts: str = STATED, **members: Any) -> GatewaySettings:
    return GatewaySettings.model_construct(discounts=discounts, **members)


def quoted(discounts: tuple[Step, ...] = STEPS) -> Quote:
    prompt, completion = (Rate.of(text, PriceUnit.PER_1M) for text in ("0.6", "2.4"))
    price = ModelPrice(model="demo", prompt=prompt, completion=completion)
    return replace(quote(Order("demo", 1000, 500), PriceList("v1", (price,), Decimal(3))), discounts=discounts)


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_row_078_who_spends_much_is_credited_more_of_what_it_paid(metered: Any, network: str, flow: str) -> None:
    metered.fee = 10
    client = metered.open(flow=flow, policy=policy("0.01=10"))
    for _ in range(3):
        assert (await client.post("/text", headers=await metered.pay(network))).status_code == 200
    bills = sorted(await metered.book.bills(BillFilter()), key=lambda bill: bill.credited)
    assert [(bill.metered.charged, bill.metered.fee, bill.credited) for bill in bills] == [
        (7000, 700, 3000), (7000, 700, 3000), (6300, 630, 3700),
    ]  # fmt: skip
    assert (await metered.balance(network)).units == 9700
    assert {bill.paid_by for bill in bills} == {PaidBy.EXACT}


async def test_row_078_who_spends_much_pays_less_up_to_the_maximum(metered: Any) -> None:
    client = metered.open(schemes=("upto",), policy=policy("0.01=10"))
    for _ in range(3):
        challenge = await metered.shop.challenge("/text", "POST")
        header = metered.shop.payer.pay(challenge, scheme="upto", now=metered.shop.now)
        assert (await client.post("/text", headers=header)).status_code == 200
    bills = await metered.book.bills(BillFilter())
    assert sorted(bill.metered.charged for bill in bills) == [6300, 7000, 7000]
    assert sorted(units for _, units in metered.shop.bank.payees.values()) == [6300, 7000, 7000]
    assert (await metered.balance()).units == 0, "what moved is what was due"


async def test_row_078_a_fixed_price_is_discounted_and_a_stranger_pays_all_of_it(metered: Any) -> None:
    metered.shop.open({"GET /report": "$0.01"}, accounts=True, policy=policy("0.01=50"))
    for network in (EVM, EVM, SVM):
        header = metered.shop.payer.pay(await metered.shop.challenge(), network)
        assert (await metered.shop.client.get("/report", headers=header)).status_code == 200
    assert ((await metered.balance()).units, (await metered.balance(SVM)).units) == (5000, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("network", "scheme"), [(EVM, "exact"), (SVM, "exact"), (EVM, "upto")])
async def test_row_078_the_buyer_recomputes_the_discount_from_quote_and_receipt(
    make: Callable[..., httpx.AsyncClient], shop: Any, town: Any, network: str, scheme: str, stream: bool
) -> None:
    client = make(settings=settings(schemes=("upto", "exact")))
    spent = 0
    for percent in ("5", "12.5"):
        challenge = town.challenge_of(await client.post(CHAT, json=chat(stream=stream)))
        offer = next(one for one in challenge.accepts if (one.network, one.scheme) == (network, scheme))
        said = signed_quote.peek(offer.extra["quote"]).quote
        assert said.discounts == STEPS
        assert offer.amount == said.bound, "the bound is anybody's"
        reply = await client.post(
            CHAT, json=chat(stream=stream), headers=shop.payer.pay(challenge, network, scheme=scheme)
        )
        charge = _charge(town, reply)
        assert charge["discount"] == {"spent": str(spent), "percent": percent}
        usage = Usage(charge["usage"]["prompt_tokens"], charge["usage"]["completion_tokens"])
        actual = said.actual(usage, spent=int(charge["discount"]["spent"])).total
        assert (charge["actual"], charge["unused"]) == (str(actual), str(said.bound - actual))
        assert actual < said.actual(usage).total + 1
        spent += actual
    assert shop.bank.asked.count("settle") == 2


def _charge(town: Any, reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    if not reply.headers["content-type"].startswith("text/event-stream"):
        charge: dict[str, Any] = town.receipt_of(reply).extra["charge"]
        return charge
    comment = next(line for line in reply.text.splitlines() if line.startswith(": x402-receipt "))
    read: dict[str, Any] = json.loads(town.base64.b64decode(comment.removeprefix(": x402-receipt ")))
    told: dict[str, Any] = read["extra"]["charge"]
    return told


async def test_row_078_paying_ahead_stays_one_request_and_brings_the_steps_that_were_announced(
    make: Callable[..., httpx.AsyncClient], shop: Any
) -> None:
    key: dict[str, Any] = {"quote_key": SecretStr("a long enough key for quotes")}
    buyer = Buyer(shop)
    async with buyer.at(make(settings=settings(**key))) as client:
        for round_trips in (2, 1):
            assert (await client.post(CHAT, json=chat())).status_code == 200
            assert buyer.requests() == round_trips
    # The operator gives nothing any more, and what was announced still holds.
    async with buyer.at(make(settings=settings("", **key))) as client:
        reply = await client.post(CHAT, json=chat())
        assert (reply.status_code, buyer.requests()) == (200, 1)
    bills = await shop.gateway.state.paywall.members.book.bills(BillFilter())
    first, *others = sorted((bill.metered.charged for bill in bills), reverse=True)
    assert first > others[0] == others[1]
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_row_078_what_a_process_promised_before_it_died_is_what_the_next_one_bills(
    metered: Any, flow: str
) -> None:
    """The settlement's answer is lost: the payment is taken up by a process whose operator gives nothing any more."""
    client = metered.open(flow=flow, policy=policy("0=10"))
    header = await metered.pay()

    def lost(pay_id: str, truth: Any) -> Any:
        metered.shop.bank.move(pay_id, truth)
        raise ConnectionError("lost")

    metered.shop.bank.script = [lost]
    assert (await client.post("/text", headers=header)).status_code == 503
    metered.shop.now += 60
    client = metered.open(flow=flow, policy=policy("" if flow == "authorization" else "0=10"))
    assert (await client.post("/text", headers=header)).status_code == 200
    (bill,) = await metered.book.bills(BillFilter())
    assert (bill.metered.charged, bill.credited) == (6300, 3700)
    entry = await metered.shop.ledger.find(Party.GATEWAY, bill.bill_id)
    assert entry.state is State.DELIVERED


@given(st.integers(0, 10**12), st.integers(0, 10**10), st.decimals(0, 100, places=3))
def test_row_078_a_metered_answer_and_its_bill_lose_the_same(charged: int, spent: int, percent: Decimal) -> None:
    discount = Discount(spent, percent)
    assert Discount.of(json.loads(json.dumps(discount.as_json()))) == discount
    assert 0 <= discount.off(charged) <= charged
    assert discount.off(charged) <= Decimal(charged) * percent / 100


@given(
    st.lists(st.tuples(st.integers(0, 2**50), st.decimals(0, 100, places=2)), max_size=20, unique_by=lambda one: one[0])
)
def test_row_078_steps_ride_in_the_token_as_they_are(pairs: list[tuple[int, Decimal]]) -> None:
    steps = tuple(Step(units, percent) for units, percent in sorted(pairs))
    made = quoted(steps)
    token = signed_quote.sign(made, key=KEY, request_digest="a" * 64, issued_at=1, ttl_seconds=9)
    assert signed_quote.peek(token).quote == made
    assert signed_quote.read(token, keys=[KEY], now=2, request_digest="a" * 64) == made
    assert made.actual(Usage(10, 10), spent=2**51).total <= quoted(()).actual(Usage(10, 10)).total


@pytest.mark.parametrize(
    "steps",
    [[], [[5, "1"], [5, "2"]], [[9, "1"], [3, "2"]], [[0, "101"]], [[-1, "1"]], [[0, "-1"]], [[0, "1e1"]],
     [["0", "1"]], "5", [[0]], [[number, "1"] for number in range(21)]],
)  # fmt: skip
def test_steps_that_make_no_sense_are_no_quote(steps: Any) -> None:
    token = signed_quote.sign(quoted(()), key=KEY, request_digest="a" * 64, issued_at=1, ttl_seconds=9)
    content = content_of(token.partition(".")[0], code="x") | {"discounts": steps}
    forged = seal(content, key=KEY, purpose=signed_quote._PURPOSE)
    with pytest.raises(MalformedError):
        signed_quote.peek(forged)


def test_row_078_the_discount_goes_by_the_highest_step_that_is_reached() -> None:
    made = quoted()
    whole = quoted(()).actual(Usage(1000, 500)).total
    assert [made.actual(Usage(1000, 500), spent=spent).total for spent in (0, 1)] == [
        whole - whole * 5 // 100, whole - whole * 125 // 1000,
    ]  # fmt: skip
    assert percent_at((Step(10, Decimal(1)),), 9) == 0


async def test_deposits_and_answers_for_nothing_have_no_discount(metered: Any) -> None:
    metered.used = lambda chunks: Metered(model="m", complete=True)
    client = metered.open(policy=policy("0=50"))
    assert (await client.post("/text", headers=await metered.pay())).status_code == 200
    await asyncio.sleep(0)
    (bill,) = await metered.book.bills(BillFilter())
    assert (bill.metered.charged, bill.credited) == (0, 10_000)
