"""Several gateways on one ledger, and the same request while it is at work (faults A04, A18, A22, E11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

from tests.gateway.waiting import until
from x402.gateway.paywall import Paywall
from x402.gateway.policy import Policy
from x402.gateway.terms import Flow
from x402.lifecycle import Party
from x402.ports.ledger import SqlLedger
from x402.stages import State
from x402.wire.facilitation import Verification

PRICED = {"GET /slow": "$0.01"}


class Replica:
    """One gateway process: its own connection to the ledger's file, its own app and paywall."""

    def __init__(self, shop: Any, town: Any, path: Any, **options: Any) -> None:
        self.now = town.NOW
        self.ledger = SqlLedger(f"sqlite:///{path}", clock=lambda: self.now)
        self.app = FastAPI()
        self.runs = 0
        self.started, self.go_on = asyncio.Event(), asyncio.Event()

        @self.app.get("/slow")
        async def slow() -> PlainTextResponse:
            self.runs += 1
            self.started.set()
            await self.go_on.wait()
            return PlainTextResponse("secret")

        self.paywall = Paywall(
            self.app,
            routes=PRICED,
            pay_to=town.PAY_TO,
            facilitator=shop.bank,
            ledger=self.ledger,
            answer_keys=[b"one key for all replicas"],
            clock=lambda: self.now,
            **options,
        )
        transport = httpx.ASGITransport(self.paywall)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://shop.test")


@pytest.fixture
async def pair(shop: Any, town: Any, tmp_path: Any) -> AsyncIterator[tuple[Replica, Replica]]:
    shop.open()
    replicas = Replica(shop, town, tmp_path / "gateway.sqlite"), Replica(shop, town, tmp_path / "gateway.sqlite")
    for replica in replicas:
        await replica.ledger.start()
    yield replicas
    for replica in replicas:
        replica.go_on.set()
        await replica.paywall.till.drain(2)
        await replica.ledger.close()


async def header_of(shop: Any, town: Any, replica: Replica) -> dict[str, str]:
    header: dict[str, str] = shop.payer.pay(town.challenge_of(await replica.client.get("/slow")))
    return header


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A04_one_payment_at_two_replicas_is_one_sale(shop: Any, town: Any, pair: Any, flow: str) -> None:
    one, other = pair
    for replica in pair:
        replica.paywall.counter._flow = Flow(flow)
    header = await header_of(shop, town, one)
    first = asyncio.create_task(one.client.get("/slow", headers=header))
    await one.started.wait()
    busy = await other.client.get("/slow", headers=header)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "payment_in_progress")
    assert busy.headers["retry-after"] == "1"
    # Reconciling elsewhere leaves it alone as well.
    await other.paywall.till.reconcile()
    assert other.paywall.till.reconciler.held_elsewhere == 1
    one.go_on.set()
    assert (await first).text == "secret"
    # As soon as it is over, any replica replays it.
    assert (await other.client.get("/slow", headers=header)).text == "secret"
    assert (one.runs, other.runs, len(shop.bank.moved)) == (1, 0, 1)


async def test_A22_a_dead_replicas_lease_ends_and_the_payment_goes_on(shop: Any, town: Any, pair: Any) -> None:
    one, other = pair
    header = await header_of(shop, town, one)
    call = asyncio.create_task(one.client.get("/slow", headers=header))
    await one.started.wait()
    # The process is gone: nothing of it runs, renews or tidies up any more.
    one.paywall.till.register.leases.stop()
    (task,) = one.paywall.till._tasks
    one.paywall.till.register.leases._held.clear()
    task.cancel()
    call.cancel()
    await asyncio.gather(task, call, return_exceptions=True)
    assert (await other.client.get("/slow", headers=header)).status_code == 409
    other.now += other.paywall.till.register.policy.lease_seconds
    other.go_on.set()
    assert (await other.client.get("/slow", headers=header)).text == "secret"
    assert (len(shop.bank.moved), other.runs) == (1, 1)
    assert await other.ledger.totals(Party.GATEWAY, State.DELIVERED) != {}


async def test_a_lease_is_renewed_while_its_handler_runs(shop: Any, town: Any, pair: Any) -> None:
    one, _ = pair
    leases = one.paywall.till.register.leases
    leases.seconds = 0.06
    header = await header_of(shop, town, one)
    renewed = []

    async def lease(party: Party, pay_id: str, seconds: int) -> bool:
        renewed.append(pay_id)
        return True

    one.ledger.lease = lease
    call = asyncio.create_task(one.client.get("/slow", headers=header))
    await one.started.wait()
    await until(lambda: len(renewed) >= 3)
    one.go_on.set()
    assert (await call).text == "secret"
    assert leases._beating is None, "nothing is renewed when nothing is at work"


@pytest.mark.parametrize("left", [False, True])
async def test_A18_the_same_request_joins_the_stream_from_its_first_byte(shop: Any, left: bool) -> None:
    """Also when its first client has hung up: everybody gets the same bytes, and the handler runs once."""
    steps = [asyncio.Event() for _ in range(3)]

    @shop.app.get("/stream")
    async def stream() -> StreamingResponse:
        shop.runs.append("stream")

        async def body() -> AsyncIterator[bytes]:
            for index, step in enumerate(steps):
                yield f"<{index}>".encode()
                await step.wait()

        return StreamingResponse(body(), headers={"X-Run": str(len(shop.runs))})

    client = shop.open({"GET /stream": "$0.01"}, flow="upfront")
    header = shop.payer.pay(await shop.challenge("/stream"))
    first = asyncio.create_task(client.get("/stream", headers=header))
    await until(lambda: shop.runs)
    steps[0].set()
    if left:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(client.get("/stream", headers=header))
    await asyncio.sleep(0.01)
    # Another request with the same payment joins nothing.
    assert (await client.get("/stream?other", headers=header)).status_code == 409
    for step in steps:
        step.set()
    replies = [await second] if left else [await first, await second]
    replies.append(await client.get("/stream", headers=header))
    assert {reply.content for reply in replies} == {b"<0><1><2>"}
    assert len({reply.headers["payment-response"] for reply in replies}) == 1
    assert {reply.headers["x-run"] for reply in replies} == {"1"}
    assert shop.runs == ["stream"]
    assert shop.bank.asked.count("settle") == 1


async def test_A13_nobody_joins_with_another_signature(shop: Any) -> None:
    go_on = asyncio.Event()

    @shop.app.get("/slow")
    async def slow() -> PlainTextResponse:
        shop.runs.append("slow")
        await go_on.wait()
        return PlainTextResponse("secret")

    client = shop.open(PRICED)
    challenge = await shop.challenge("/slow")
    payment = shop.payer.payment(next(iter(challenge.accepts)), challenge)
    call = asyncio.create_task(client.get("/slow", headers=shop.payer.header(payment)))
    await until(lambda: shop.runs)
    forged = {**payment.payload, "signature": "0x" + "11" * 64 + "1b"}
    thief = shop.payer.header(payment.model_copy(update={"payload": forged}))
    assert (await client.get("/slow", headers=thief)).status_code == 409
    go_on.set()
    assert (await call).text == "secret"


async def test_a_failure_is_told_to_all_who_joined(shop: Any) -> None:
    go_on = asyncio.Event()

    @shop.app.get("/slow")
    async def slow() -> PlainTextResponse:
        shop.runs.append("slow")
        await go_on.wait()
        return PlainTextResponse("no", 503)

    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge("/slow"))
    calls = [asyncio.create_task(client.get("/slow", headers=header)) for _ in range(5)]
    await until(lambda: shop.runs)
    go_on.set()
    assert {(await call).status_code for call in calls} == {503}
    assert shop.runs == ["slow"]


async def test_a_reader_that_joins_an_answer_too_long_to_keep_is_sent_away(shop: Any) -> None:
    go_on = asyncio.Event()

    @shop.app.get("/huge")
    async def huge() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 1000
            shop.runs.append("huge")
            await go_on.wait()
            yield b"end"

        return StreamingResponse(body())

    client = shop.open({"GET /huge": "$0.01"}, flow="upfront")
    shop.paywall.till._answer_limit = 10_000
    header = shop.payer.pay(await shop.challenge("/huge"))
    first = asyncio.create_task(client.get("/huge", headers=header))
    await until(lambda: shop.runs)
    assert (await client.get("/huge", headers=header)).status_code == 409
    go_on.set()
    assert len((await first).content) == 50_003


def test_a_lease_of_nothing_is_refused() -> None:
    with pytest.raises(Exception, match="lease_seconds"):
        Policy(lease_seconds=1)


async def test_A04_A09_what_another_replica_sells_while_it_is_looked_at_is_never_refused(
    pair: tuple[Replica, Replica], shop: Any, town: Any
) -> None:
    """A chain calls the payment used by then, and a 402 would have it paid for twice."""
    late, quick = pair
    quick.go_on.set()
    header, verify = await header_of(shop, town, late), shop.bank.verify
    sold: list[httpx.Response] = []

    async def meanwhile(payment: Any, requirement: Any) -> Any:
        if sold:
            return await verify(payment, requirement)
        sold.append(httpx.Response(100))
        sold[0] = await quick.client.get("/slow", headers=header)
        return Verification.invalid("invalid_exact_evm_nonce_already_used", "used", shop.payer.address)

    shop.bank.verify = meanwhile
    answer = await late.client.get("/slow", headers=header)
    assert (answer.status_code, answer.content) == (sold[0].status_code, sold[0].content) == (200, b"secret")
    assert (late.runs, quick.runs, len(shop.bank.moved)) == (0, 1, 1)
    # Control: what nobody has claimed is refused as before.
    shop.bank.verdicts = [Verification.invalid("invalid_exact_evm_nonce_already_used", "used", shop.payer.address)]
    refused = await late.client.get("/slow", headers=await header_of(shop, town, late))
    assert refused.status_code == 402
