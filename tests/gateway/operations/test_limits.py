"""How often a gateway may be asked, and how many quotes may wait. AiMo rows 56, 57, 58; fault G06 about addresses."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.gateway.accounts.keychain import Hour, Wallets, asking, ring_on
from tests.redis import Redis
from x402.errors import MisconfiguredError
from x402.gateway.accounts.keys import KeyWish
from x402.gateway.envelope import Dialect, Envelope
from x402.gateway.operations.limits import Limits, Pace, Paced, tiers_of
from x402.gateway.operations.peers import client_of, household, networks_of
from x402.gateway.operations.turnstile import Turnstile
from x402.gateway.problem import ApiProblem
from x402.ports.ledger import SqlLedger
from x402.telemetry import Fact, Telemetry
from x402.wire.headers import PAYMENT_REQUIRED

STRANGER = "203.0.113.7"
PAYS = {"PAYMENT-SIGNATURE": "x"}


async def shop(scope: Any, receive: Any, send: Any) -> None:
    """Free at `/free`; elsewhere it wants a payment, whichever."""
    paid = any(name == b"payment-signature" for name, _ in scope["headers"]) or scope["path"] in ("/free", "/health")
    headers = [] if paid else [(PAYMENT_REQUIRED.lower().encode(), b"offers")]
    await send({"type": "http.response.start", "status": 200 if paid else 402, "headers": headers})
    await send({"type": "http.response.body", "body": b"goods" if paid else b"offers", "more_body": False})


def before(limits: Limits, peer: str = STRANGER, **options: Any) -> httpx.AsyncClient:
    door = Turnstile(shop, limits=limits, **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(door, client=(peer, 1)), base_url="http://shop.test")


async def test_row_056_every_answer_says_how_its_caller_stands() -> None:
    async with before(Limits(Pace(tiers={"free": 3}))) as client:
        answers = [await client.get(path) for path in ("/free", "/paid", "/free")]
        for left, answer in zip((2, 1, 0), answers, strict=True):
            assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("3", str(left))
            assert 0 <= int(answer.headers["x-ratelimit-reset"]) - time.time() <= 121
        refused = await client.get("/free")
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["moneyMoved"] == "no"
        paid = await client.get("/free", headers=PAYS)
        assert paid.json()["error"]["moneyMoved"] == "unknown", "an earlier try may have settled this payment"
        assert (await client.get("/health")).status_code == 200, "the control: probes are not counted"


async def test_row_056_a_refusal_has_the_shape_of_its_profile() -> None:
    limits = Limits(Pace(tiers={"free": 1}))
    async with before(limits, envelope=lambda target, _: Envelope(Dialect.LEGACY, "req_1")) as client:
        await client.get("/v1/models")
        assert (await client.get("/free")).json()["error"]["code"] == "rate_limit_exceeded"
        assert (await client.get("/free")).json()["success"] is False


async def test_row_057_a_key_has_its_tier_and_strangers_share_an_address() -> None:
    clock = Hour()
    async with SqlLedger("sqlite://", clock=clock) as ledger:
        ring = ring_on(ledger, clock)
        pro, _ = await ring.issue(KeyWish(tier="pro"), actor="test")
        plain, _ = await ring.issue(KeyWish(), actor="test")
        big, _ = await ring.issue(KeyWish(tier="enterprise"), actor="test")
        limits = Limits(Pace(tiers={"free": 2, "pro": 5, "enterprise": 0}))

        async def served(**headers: str) -> int:
            async with before(limits, keys=lambda: ring) as client:
                answers = [await client.get("/free", headers=headers) for _ in range(8)]
            return sum(answer.status_code == 200 for answer in answers)

        assert await served(authorization=f"Bearer {pro}") == 5
        assert await served(authorization=f"Bearer {plain}") == 2
        assert await served(authorization=f"Bearer {big}") == 8
        assert await served() == 2
        assert await served(authorization="Bearer made-up") == 0, "an unknown key is no way round the address"


async def test_row_057_a_wallet_is_counted_wherever_it_signs_in() -> None:
    limits = Limits(Pace(tiers={"free": 2}))
    paced = Paced(Wallets(), limits)
    request = asking(None, peer=STRANGER)
    named = type(request)(request.method, request.target, (("X-Account", "eip155:1:0xa"),), b"", peer=STRANGER)
    assert await paced.holder(request) is None
    assert [await paced.holder(named) is not None for _ in range(2)] == [True, True]
    with pytest.raises(ApiProblem, match="2 requests a minute"):
        await paced.holder(named)


async def test_row_058_an_address_has_so_many_quotes_open() -> None:
    async with before(Limits(Pace(tiers={"free": 0}, open_quotes=3))) as client:
        assert [(await client.get("/paid")).status_code for _ in range(5)] == [402, 402, 402, 429, 429]
        assert (await client.get("/paid")).json()["error"]["details"] == {"per": "quotes"}
        assert (await client.get("/paid", headers=PAYS)).status_code == 200
        assert [(await client.get("/paid")).status_code for _ in range(2)] == [402, 429]
        assert (await client.get("/free")).status_code == 200, "the control: what is free needs no quote"
    async with before(Limits(Pace(tiers={"free": 0}, open_quotes=3)), "203.0.113.8") as other:
        assert (await other.get("/paid")).status_code == 402


async def test_row_058_an_address_gets_so_many_quotes_an_hour() -> None:
    async with before(Limits(Pace(tiers={"free": 0}, open_quotes=0, quotes_per_hour=4))) as client:
        for _ in range(4):
            assert (await client.get("/paid")).status_code == 402
            assert (await client.get("/paid", headers=PAYS)).status_code == 200
        assert (await client.get("/paid")).status_code == 429


def test_row_058_the_documented_limits_are_the_defaults() -> None:
    assert (Pace().open_quotes, Pace().quotes_per_hour, Pace().tiers["free"], Pace().tiers["pro"]) == (
        10,
        100,
        100,
        1000,
    )


async def test_who_is_exempt_is_not_counted() -> None:
    pace = Pace(tiers={"free": 1}, open_quotes=1, exempt=networks_of("127.0.0.0/8, ::1", "X"))
    async with before(Limits(pace), "127.0.0.1") as client:
        assert [(await client.get("/paid")).status_code for _ in range(4)] == [402] * 4


async def test_replicas_share_their_counts_in_redis(redis: Redis) -> None:
    pace = Pace(tiers={"free": 3}, open_quotes=2)
    first, second = Limits(pace, store=redis.url), Limits(pace, store=redis.url)
    async with before(first) as one, before(second) as two:
        assert [(await client.get("/free")).status_code for client in (one, two, one, two)] == [200, 200, 200, 429]
    async with before(first, "203.0.113.9") as one, before(second, "203.0.113.9") as two:
        assert [(await client.get("/paid")).status_code for client in (one, two, one)] == [402, 402, 429]
    async with before(Limits(pace, store=redis.url), "203.0.113.9") as one:
        assert (await one.get("/paid", headers=PAYS)).status_code == 429, "three requests a minute, paid ones as well"


async def test_a_store_that_is_away_stops_no_sale(redis: Redis) -> None:
    told: list[Fact] = []
    limits = Limits(Pace(tiers={"free": 1}), store=redis.url, telemetry=Telemetry([told.append]))
    redis.stop()
    async with before(limits) as client:
        assert [(await client.get(path)).status_code for path in ("/free", "/free", "/paid")] == [200, 200, 402]
        assert (await client.get("/paid", headers=PAYS)).status_code == 200
    assert {fact.name for fact in told} == {"limits.unavailable"}


@pytest.mark.parametrize("wrong", ["free", "free=x", "pro=5", "free=-1"])
def test_tiers_that_say_nothing_are_refused(wrong: str) -> None:
    with pytest.raises(MisconfiguredError, match="X402_TIERS"):
        Pace(tiers=tiers_of(wrong))


def test_tiers_are_read() -> None:
    assert tiers_of("free=5, pro=7,enterprise=0") == {"free": 5, "pro": 7, "enterprise": 0}
    with pytest.raises(MisconfiguredError, match="X402_RATE_STORE"):
        Limits(store="mysql://x")


@pytest.mark.parametrize(
    ("connection", "forwarded", "client"),
    [
        ("203.0.113.1", ["198.51.100.1"], "203.0.113.1"),  # a stranger writes what it likes
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # what stands before it was the client's own
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["rubbish, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        ("", ["198.51.100.1"], ""),
    ],
)  # fmt: skip
def test_only_trusted_proxies_tell_whose_address_asks(connection: str, forwarded: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"client": (connection, 1) if connection else None, "headers": headers}
    assert client_of(scope, networks_of("10.0.0.0/8", "X402_TRUSTED_PROXIES")) == client


def test_a_household_is_counted_as_one() -> None:
    assert household("2001:db8::1") == household("2001:db8::ffff") == "2001:db8::/64"
    assert household("2001:db8:0:1::1") != household("2001:db8::1")
    assert household("::ffff:192.0.2.1") == "192.0.2.1"
