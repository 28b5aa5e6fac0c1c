"""What a payer may leave open: never more than it has, and nothing once it has failed (faults A08, A16, D11)."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from coincurve import PrivateKey
from fastapi.responses import Response

from tests.gateway.chain_view import View, nodes_of
from tests.gateway.waiting import slow_route, until
from x402.gateway import claim
from x402.gateway.policy import Policy
from x402.lifecycle import Party
from x402.stages import State
from x402.telemetry import Fact, Telemetry
from x402.wire.facilitation import Verification
from x402.wire.receipt import Receipt

EVM = "eip155:84532"
PRICED = {"GET /report": "$0.01"}
PRICE = 10_000


@pytest.fixture(autouse=True)
def seconds(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the next second gets it at once."""

    async def wait(units: int) -> None:
        shop.now += units

    monkeypatch.setattr(claim, "sleep", wait)


@pytest.fixture
def poor(shop: Any) -> Any:
    """A payer who can pay once, and a bank that takes the money."""
    shop.bank.balances[shop.payer.address] = PRICE

    async def settle(pay_id: str, truth: Receipt) -> Receipt:
        await asyncio.sleep(0)
        if truth.success and shop.bank.balances[shop.payer.address] >= PRICE:
            shop.bank.balances[shop.payer.address] -= PRICE
            shop.bank.move(pay_id, truth)
            return truth
        return Receipt.refused("insufficient_funds", "the balance is too low", truth.network, truth.payer, proven=True)

    shop.bank.script = [settle] * 100
    return shop


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
@pytest.mark.parametrize("known", ["verify", "witness", "nobody", "away"])
async def test_A08_over_commit_is_refused(poor: Any, flow: str, known: str) -> None:
    """Fifty authorizations at once over a balance that covers one."""
    view = View(poor.bank, EVM)
    view.away = known == "away"
    client = poor.open(PRICED, flow=flow, nodes=nodes_of(view) if known in ("witness", "away") else None)
    challenge = await poor.challenge()
    headers = [poor.payer.pay(challenge) for _ in range(50)]
    if known != "verify":
        poor.bank.verdicts = [Verification.valid(poor.payer.address)] * 50
    replies = await asyncio.gather(*(client.get("/report", headers=header) for header in headers))
    statuses = [reply.status_code for reply in replies]
    assert (statuses.count(200), statuses.count(402)) == (1, 49)
    assert {reply.json()["error"] for reply in replies if reply.status_code == 402} <= {
        "over_committed",
        "insufficient_funds",
    }
    # Where nobody knows a balance, one answer may be made in vain; it is never given away.
    assert len(poor.runs) <= (2 if known in ("nobody", "away") else 1)
    assert len(poor.bank.moved) == 1


async def test_A08_control_who_can_pay_for_all_gets_all(shop: Any) -> None:
    shop.bank.balances[shop.payer.address] = 20 * PRICE
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    headers = [shop.payer.pay(challenge) for _ in range(20)]
    replies = await asyncio.gather(*(client.get("/report", headers=header) for header in headers))
    assert [reply.status_code for reply in replies] == [200] * 20


async def test_A08_a_refusal_names_what_is_open_and_claims_nothing(poor: Any) -> None:
    started, go_on = slow_route(poor.app)
    client = poor.open({"GET /slow": "$0.01", **PRICED})
    first = asyncio.create_task(client.get("/slow", headers=poor.payer.pay(await poor.challenge("/slow"))))
    await until(started.is_set)
    header = poor.payer.pay(await poor.challenge())
    refused = await client.get("/report", headers=header)
    assert (refused.status_code, refused.json()["error"]) == (402, "over_committed")
    assert refused.json()["details"] == {"open": "10000", "balance": "10000", "amount": "10000"}
    assert "x402 approve" not in refused.text
    assert refused.headers["retry-after"] == "2"
    poor.bank.balances[poor.payer.address] = PRICE - 1
    never = await client.get("/report", headers=poor.payer.pay(await poor.challenge()))
    assert (never.json()["error"], never.headers.get("retry-after")) == ("over_committed", None)
    go_on.set()
    poor.bank.balances[poor.payer.address] = PRICE
    assert (await first).status_code == 200
    # Nothing was claimed, so with a new balance the very same payment is as good as any.
    poor.bank.balances[poor.payer.address] = 2 * PRICE
    poor.now += 1
    assert (await client.get("/report", headers=header)).status_code == 200


async def test_A08_who_has_something_open_and_a_balance_that_nobody_knows_pays_first(shop: Any) -> None:
    started, go_on = slow_route(shop.app)

    @shop.app.get("/quick")
    async def quick() -> Response:
        shop.runs.append(f"after {len(shop.bank.moved)} settlements")
        return Response(b"quick")

    client = shop.open({"GET /slow": "$0.01", "GET /quick": "$0.01"})
    shop.bank.verdicts = [Verification.valid(shop.payer.address)] * 2
    first = asyncio.create_task(client.get("/slow", headers=shop.payer.pay(await shop.challenge("/slow"))))
    await until(started.is_set)
    second = await client.get("/quick", headers=shop.payer.pay(await shop.challenge("/quick")))
    assert (second.status_code, shop.runs) == (200, ["after 1 settlements"])
    go_on.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("known", [True, False])
async def test_A08_what_all_payers_leave_open_is_capped(shop: Any, town: Any, known: bool) -> None:
    """Also for payers whose balance nobody knows: the limit is the operator's."""
    started, go_on, facts = asyncio.Event(), asyncio.Event(), list[Fact]()

    @shop.app.get("/slow")
    async def slow() -> Response:
        started.set()
        await go_on.wait()
        return Response(b"slow")

    policy, telemetry = Policy(max_unsettled=Decimal("0.015")), Telemetry([facts.append])
    client = shop.open({"GET /slow": "$0.01"}, policy=policy, telemetry=telemetry)
    challenge, other = await shop.challenge("/slow"), town.Payer(PrivateKey(bytes([8] * 32)))
    if not known:
        shop.bank.verdicts = [Verification.valid(shop.payer.address), Verification.valid(other.address)]
    first = asyncio.create_task(client.get("/slow", headers=shop.payer.pay(challenge)))
    await until(started.is_set)
    header = other.pay(challenge)
    full = await client.get("/slow", headers=header)
    assert [fact.attributes["reason"] for fact in facts if fact.name == "sale.no_room"] == ["total"]
    assert (full.status_code, full.json()["error"]["code"]) == (503, "too_much_unsettled")
    assert full.headers["retry-after"]
    go_on.set()
    assert (await first).status_code == 200
    assert (await client.get("/slow", headers=header)).status_code == 200


async def test_A16_D11_who_failed_before_is_settled_first(shop: Any) -> None:
    """The payer takes the money back between verify and settle: once it costs an answer that nobody got, and from then
    on nothing is made for this payer before it is paid."""
    client = shop.open(PRICED)

    def gone(pay_id: str, truth: Receipt) -> Receipt:
        return Receipt.refused("insufficient_funds", "the balance moved away", truth.network, truth.payer, proven=True)

    shop.bank.script = [gone] * 3
    for _ in range(3):
        response = await client.get("/report", headers=shop.payer.pay(await shop.challenge()))
        assert response.status_code == 402
    assert shop.runs == ["report "]
    assert await shop.ledger.totals(Party.GATEWAY, State.REFUSED) != {}
    # Control: it is still served once it pays, and another payer is served first.
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200


@pytest.mark.parametrize("extensions", [{}, {"eip2612GasSponsoring": {"info": {"signature": "nobody reads it here"}}}])
async def test_A08_a_balance_read_before_another_payment_settled_covers_no_second_one(
    poor: Any, monkeypatch: pytest.MonkeyPatch, extensions: dict[str, Any]
) -> None:
    """Between the look at the balance and the claim, the payer's only coin goes elsewhere; no words of its own let it
    be forgotten."""
    looked, go_on = asyncio.Event(), asyncio.Event()
    verify = poor.bank.verify
    slow: list[bool] = [True]

    async def verify_slowly(payment: Any, requirement: Any) -> Any:
        verdict = await verify(payment, requirement)
        if slow.pop() if slow else False:
            looked.set()
            await go_on.wait()
        return verdict

    client = poor.open(PRICED)
    challenge = await poor.challenge()
    monkeypatch.setattr(poor.bank, "verify", verify_slowly)
    offer = next(offer for offer in challenge.accepts if offer.network == EVM)
    payment = poor.payer.payment(offer, challenge).model_copy(update={"extensions": extensions})
    late = asyncio.create_task(client.get("/report", headers=poor.payer.header(payment)))
    await looked.wait()
    assert (await client.get("/report", headers=poor.payer.pay(challenge))).status_code == 200
    go_on.set()
    response = await late
    assert (response.status_code, response.json()["error"]) == (402, "over_committed")
    assert len(poor.runs) == 1


async def test_A08_control_who_pays_twice_in_one_second_gets_what_the_balance_covers(shop: Any) -> None:
    """The second balance that is read is the one after the first payment, which is counted against it all the same."""
    balances = shop.bank.balances
    balances[shop.payer.address] = 2 * PRICE

    async def settle(pay_id: str, truth: Receipt) -> Receipt:
        balances[shop.payer.address] -= PRICE
        shop.bank.move(pay_id, truth)
        return truth

    shop.bank.script = [settle] * 2
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    replies = [await client.get("/report", headers=shop.payer.pay(challenge)) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 402]


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A16_a_reorganisation_is_seen_told_and_remembered(shop: Any, flow: str) -> None:
    facts: list[Fact] = []
    view = View(shop.bank, EVM)
    client = shop.open(PRICED, flow=flow, nodes=nodes_of(view), telemetry=Telemetry([facts.append]))
    header = shop.payer.pay(await shop.challenge())
    assert (await client.get("/report", headers=header)).status_code == 200
    await shop.paywall.till.reconcile()
    # A node that is away, or that lags behind, proves nothing.
    (pay_id,) = shop.bank.moved
    view.away = True
    await shop.paywall.till.reconcile()
    assert await shop.ledger.totals(Party.GATEWAY, State.LOST) == {}
    view.away = False
    del shop.bank.moved[pay_id]
    await shop.paywall.till.reconcile()
    assert await shop.ledger.totals(Party.GATEWAY, State.LOST) != {}
    assert [fact.name for fact in facts].count("sale.reversed") == 1
    # It may land again, so its payer is told to wait, and to sign another one only when it never will.
    gone = await client.get("/report", headers=header)
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "settlement_pending")
    view.dead.add(pay_id)
    gone = await client.get("/report", headers=header)
    assert (gone.status_code, gone.json()["error"]) == (402, "payment_reversed")
    # Its payer is settled first from now on: what cannot be settled is not even made.
    made = len(shop.runs)
    shop.bank.script = [
        lambda _, truth: Receipt.refused("insufficient_funds", "gone", truth.network, truth.payer, proven=True)
    ]
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 402
    assert len(shop.runs) == made


async def test_A16_control_what_is_final_is_watched_no_more(shop: Any) -> None:
    view = View(shop.bank, EVM)
    client = shop.open(PRICED, nodes=nodes_of(view))
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200
    assert await shop.paywall.till.register.watch.look() == 1
    view.final = True
    assert await shop.paywall.till.register.watch.look() == 0
    assert await shop.ledger.totals(Party.GATEWAY, State.DELIVERED) != {}
