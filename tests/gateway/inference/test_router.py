"""Rows 70, 71 and 74, faults B17 and G05: failover and hedging inside one payment, and who waits for a place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from tests.gateway.inference.providers import HELLO, Providers, broken, chunk, events, said, stock
from x402.gateway.inference.chat_request import parse_chat
from x402.gateway.inference.lanes import WAITING_PER_PLACE, Lane
from x402.gateway.inference.price_rules import Tier
from x402.gateway.inference.router import Router
from x402.gateway.inference.selection import Wishes
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamClient, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.lifecycle import Party
from x402.stages import State

Make = Callable[..., httpx.AsyncClient]
REQUEST = parse_chat(b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
ORDER = {"order": ["a", "b"]}


async def whole(answer: UpstreamAnswer) -> bytes:
    try:
        return await answer.read()
    finally:
        await answer.close()


def router(providers: Providers, prices: dict[str, str], **options: Any) -> Router:
    catalogue = stock(prices, params=options.pop("params", ""))
    return Router(catalogue, UpstreamClient(providers.client()), dice=lambda below: 0, **options)


async def ask(asked: Router, **options: Any) -> bytes:
    return await asked.ask(asked.resolve("m"), REQUEST, 10, whole, **options)


async def paid(shop: Any, town: Any, client: httpx.AsyncClient, **members: Any) -> httpx.Response:
    body = {"model": "m", "messages": HELLO, "provider": ORDER, **members}
    challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
    return await client.post("/api/v1/chat/completions", json=body, headers=shop.payer.pay(challenge))


async def test_row_070_the_next_provider_is_asked_and_the_failed_one_is_out() -> None:
    providers = Providers({"a": broken(), "b": said("hello")})
    asked = router(providers, {"a": "1", "b": "2"})
    assert b"hello" in await ask(asked)
    assert providers.asked == ["a", "b"]
    assert await ask(asked)
    assert providers.asked == ["a", "b", "b"], "for half a minute nobody waits for it again"
    assert asked.listing()["data"][0]["providers"][0]["health"]["status"] == "outage"


async def test_row_070_when_nobody_answers_it_says_how_many_were_tried() -> None:
    providers = Providers({"a": broken(), "b": broken(500)})
    with pytest.raises(ApiProblem) as caught:
        await ask(router(providers, {"a": "1", "b": "2"}))
    assert (caught.value.status_code, caught.value.code, caught.value.details) == (
        503,
        "model_unavailable",
        {"tried": 2},
    )


async def test_row_070_no_fallbacks_means_none() -> None:
    providers = Providers({"a": broken(), "b": said("hello")})
    with pytest.raises(ApiProblem):
        await ask(router(providers, {"a": "1", "b": "2"}), wishes=Wishes(allow_fallbacks=False))
    assert providers.asked == ["a"]


@pytest.mark.parametrize(
    "beginning", [b'data: {"error": {"message": "overloaded"}}\n\n', b': warm\n\ndata: {"error": 1}\n\n']
)
async def test_G05_a_stream_that_begins_with_an_error_goes_to_the_next_under_one_payment(
    shop: Any, town: Any, make: Make, beginning: bytes
) -> None:
    providers = Providers({"a": lambda asked: events(beginning), "b": said("hello")})
    client = make(providers, catalogue=stock({"a": "1", "b": "1"}))
    answer = await paid(shop, town, client, stream=True)
    assert "hello" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert (providers.asked, len(shop.bank.moved)) == (["a", "b"], 1)


async def test_G05_a_stream_that_stops_after_its_first_words_is_nobody_elses(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": lambda asked: events(chunk("he")), "b": said("hello")})
    client = make(providers, catalogue=stock({"a": "1", "b": "1"}))
    answer = await paid(shop, town, client, stream=True)
    assert "[DONE]" not in answer.text
    assert providers.asked == ["a"], "what was begun by one is never ended by another"
    assert await shop.ledger.totals(Party.GATEWAY, State.OWED)
    again = await paid(shop, town, client, stream=True, provider={})
    assert "hello" in again.text, "and the next request goes round it"


async def test_B17_a_provider_that_reports_absurd_usage_charges_the_quote_at_most(
    shop: Any, town: Any, make: Make
) -> None:
    for words, usage in (("modest", 2), ("greedy", 10**9)):
        providers = Providers({"a": said(words, prompt=usage, completion=usage)})
        client = make(providers, catalogue=stock({"a": "1"}))
        answer = await paid(shop, town, client, provider={})
        charge = town.receipt_of(answer).extra["charge"]
        assert int(charge["actual"]) <= int(charge["quoted"])
        assert ("over" in charge) is (words == "greedy")


async def test_row_071_a_slow_provider_is_hedged_and_the_loser_cancelled() -> None:
    providers = Providers({"a": said("slow"), "b": said("fast")})
    asked = router(providers, {"a": "1", "b": "2"}, hedge_at=0.9)
    for _ in range(8):
        asked.health.answered("a:m", 0.01)
    providers.waits["a"] = asyncio.Event()
    assert b"fast" in await ask(asked)
    assert (providers.asked, providers.cancelled) == (["a", "b"], ["a"])


async def test_row_071_a_provider_in_its_usual_time_is_not_hedged() -> None:
    providers = Providers({"a": said("usual"), "b": said("never")})
    asked = router(providers, {"a": "1", "b": "2"}, hedge_at=0.9)
    for _ in range(8):
        asked.health.answered("a:m", 5.0)
    assert b"usual" in await ask(asked)
    assert providers.asked == ["a"]


async def test_G05_a_hedged_call_is_one_payment_and_one_answer(shop: Any, town: Any, make: Make) -> None:
    providers = Providers({"a": said("slow"), "b": said("fast")})
    providers.waits["a"] = asyncio.Event()
    client = make(providers, catalogue=stock({"a": "1", "b": "1"}))
    shop.gateway.state.router.hedge_at = 0.9
    for _ in range(8):
        shop.gateway.state.router.health.answered("a:m", 0.01)
    answer = await paid(shop, town, client)
    assert "fast" in answer.text
    assert (providers.asked, len(shop.bank.moved)) == (["a", "b"], 1)


async def test_a_race_whose_first_fails_goes_on_and_one_that_all_lose_says_so() -> None:
    providers = Providers({"a": broken(), "b": said("hello")})
    asked = router(providers, {"a": "1", "b": "2"}, hedge_at=0.9)
    assert b"hello" in await ask(asked)
    providers.answers["b"] = broken()
    with pytest.raises(ApiProblem):
        await ask(asked)


async def test_a_request_at_fault_ends_the_race() -> None:
    providers = Providers({"a": broken(422), "b": said("never")})
    with pytest.raises(ApiProblem) as caught:
        await ask(router(providers, {"a": "1", "b": "2"}, hedge_at=0.9))
    assert (caught.value.status_code, providers.asked) == (422, ["a"])


async def test_row_074_the_urgent_go_first_when_a_provider_is_full() -> None:
    lane, order = Lane(1), []
    await lane.enter(Tier.DEFAULT)

    async def wait(name: str, tier: Tier) -> None:
        await lane.enter(tier)
        order.append(name)
        lane.leave()

    waiting = [
        asyncio.create_task(wait(name, tier))
        for name, tier in (
            ("flex", Tier.FLEX),
            ("usual", Tier.DEFAULT),
            ("urgent", Tier.PRIORITY),
            ("late", Tier.DEFAULT),
        )
    ]
    await asyncio.sleep(0)
    lane.leave()
    await asyncio.gather(*waiting)
    assert order == ["urgent", "usual", "late", "flex"]


async def test_row_074_who_gives_up_waiting_blocks_nobody() -> None:
    lane = Lane(1)
    await lane.enter(Tier.DEFAULT)
    gone = asyncio.create_task(lane.enter(Tier.PRIORITY))
    next_one = asyncio.create_task(lane.enter(Tier.DEFAULT))
    await asyncio.sleep(0)
    gone.cancel()
    lane.leave()
    await next_one
    # And one that gives up in the very moment in which its turn has come hands it on.
    last = asyncio.create_task(lane.enter(Tier.DEFAULT))
    await asyncio.sleep(0)
    lane.leave()
    last.cancel()
    with pytest.raises(asyncio.CancelledError):
        await last
    await asyncio.wait_for(lane.enter(Tier.DEFAULT), 1)


async def test_a_full_queue_sends_the_next_elsewhere() -> None:
    lane = Lane(1)
    await lane.enter(Tier.DEFAULT)
    waiting = [asyncio.create_task(lane.enter(Tier.DEFAULT)) for _ in range(WAITING_PER_PLACE)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFailed) as caught:
        await lane.enter(Tier.PRIORITY)
    assert caught.value.busy
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_row_074_a_place_is_free_again_however_an_answer_ended() -> None:
    providers = Providers({"a": said("hello")})
    asked = router(providers, {"a": "1"}, params="concurrency = 1")

    async def refuse(answer: UpstreamAnswer) -> bytes:
        raise ApiProblem(502, "empty_completion", "nothing")

    async def forget(answer: UpstreamAnswer) -> None:
        return None

    with pytest.raises(ApiProblem):
        await asked.ask(asked.resolve("m"), REQUEST, 10, refuse)
    await asked.ask(asked.resolve("m"), REQUEST, 10, forget)
    providers.answers["a"] = lambda asked: JSONResponse({}, 500)
    with pytest.raises(ApiProblem):
        await ask(asked)
    providers.answers["a"] = said("again")
    assert b"again" in await asyncio.wait_for(ask(asked), 1)


async def test_row_068_the_wishes_of_a_request_reach_the_router_and_no_provider(
    shop: Any, town: Any, make: Make
) -> None:
    providers = Providers({"a": said("a"), "b": said("b")})
    client = make(providers, catalogue=stock({"a": "1", "b": "9"}))
    answer = await paid(shop, town, client, provider={"order": ["b"], "allow_fallbacks": False}, sort="throughput")
    assert answer.json()["choices"][0]["message"]["content"] == "b"
    assert not {"provider", "sort"} & providers.bodies[0].keys()
    refused = await client.post(
        "/api/v1/chat/completions", json={"model": "m", "messages": HELLO, "provider": {"order": ["zz"]}}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unknown_provider")


async def test_row_067_the_buyer_pays_the_price_of_who_serves(shop: Any, town: Any, make: Make) -> None:
    """The quote covers the dearest of those who may have to stand in; the charge is that of the one who did."""
    for first, rate in (("a", 1), ("b", 4)):
        providers = Providers({"a": said("hello", 1000, 500), "b": said("hello", 1000, 500)})
        client = make(providers, catalogue=stock({"a": "1", "b": "4"}))
        wishes = {"order": [first]}
        answer = await paid(shop, town, client, provider=wishes, messages=[{"role": "user", "content": "x" * 2000}])
        charge = town.receipt_of(answer).extra["charge"]
        assert int(charge["actual"]) == rate * 1500
        assert int(charge["quoted"]) > 4 * 1500


async def test_row_074_an_urgent_request_costs_what_the_rule_says(shop: Any, town: Any, make: Make) -> None:
    top = "priority_percent = 25\nflex_discount_percent = 50"
    amounts = {}
    for tier in ("priority", "default", "flex", "auto"):
        providers = Providers({"a": said("hello", 100, 100)})
        client = make(providers, catalogue=stock({"a": "8"}, top=top))
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 100}], "service_tier": tier}
        challenge = town.challenge_of(await client.post("/api/v1/chat/completions", json=body))
        answer = await client.post("/api/v1/chat/completions", json=body, headers=shop.payer.pay(challenge))
        amounts[tier] = int(town.receipt_of(answer).extra["charge"]["actual"])
        assert "service_tier" not in providers.bodies[0]
    assert amounts == {"priority": 2000, "default": 1600, "flex": 800, "auto": 1600}


class House:
    """Rules of an operator: one word is not spoken of, and one name means today's version."""

    def objection(self, members: Any) -> str:
        return "this house does not speak of that" if "forbidden" in str(members["messages"]) else ""

    def model(self, name: str) -> str:
        return "m" if name == "m-latest" else name


async def test_row_100_the_operators_own_rules_come_before_the_price(shop: Any, town: Any, make: Make) -> None:
    house, providers = House(), Providers({"a": said("hello")})
    client = make(providers, catalogue=stock({"a": "1"}), screen=house, pins=house)
    asked = {"model": "m-latest", "messages": [{"role": "user", "content": "the forbidden word"}]}
    refused = await client.post("/api/v1/chat/completions", json=asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_refused")
    answer = await paid(shop, town, client, model="m-latest", provider={})
    assert answer.status_code == 200
    assert providers.bodies[0]["model"] == "m"
    plain = make(providers, catalogue=stock({"a": "1"}))
    assert (await plain.post("/api/v1/chat/completions", json=asked | {"model": "m"})).status_code == 402
    assert (await plain.post("/api/v1/chat/completions", json=asked)).status_code == 404
