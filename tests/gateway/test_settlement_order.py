"""What leaves the seller, and when: settlement before answers (faults A01-A03, A20, A21)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from x402.errors import MalformedError, UnavailableError
from x402.gateway.flow import Till
from x402.gateway.problem import ApiProblem
from x402.gateway.register import Register
from x402.gateway.sale import Refusal, Sale, Sink
from x402.gateway.terms import Flow, Terms
from x402.lifecycle import Party
from x402.stages import State
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Verification
from x402.wire.receipt import Receipt, parse_receipt

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


PRICED = {"GET /report": "$0.01"}


def refusing(pay_id: str, truth: Receipt) -> Receipt:
    """A settlement that provably failed after a good verification."""
    return Receipt.refused("insufficient_funds", "the balance moved away", truth.network, truth.payer, proven=True)


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A01_nothing_of_the_answer_leaves_before_it_is_paid(shop: Any, town: Any, flow: str) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())
    shop.bank.script = [refusing]
    response = await client.get("/report", headers=header)
    assert response.status_code == 402
    assert b"secret" not in response.content
    assert town.receipt_of(response).error_reason == "insufficient_funds"
    assert town.challenge_of(response).accepts
    assert shop.runs == ([] if flow == "upfront" else ["report "])
    # A refused payment stays refused, whatever the bank would say now.
    again = await client.get("/report", headers=header)
    assert (again.status_code, again.json()["error"]) == (402, "insufficient_funds")
    # Positive control: another payment is served.
    assert (await client.get("/report", headers=shop.payer.pay(await shop.challenge()))).status_code == 200


async def test_A02_a_streaming_body_is_withheld_whole(shop: Any) -> None:
    started: list[str] = []

    @shop.app.get("/chunks")
    async def chunks() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for index in range(10):
                started.append(str(index))
                yield f"chunk-{index} ".encode()

        return StreamingResponse(body(), headers={"X-Handler": "secret"})

    client = shop.open({"GET /chunks": "$0.01"})
    shop.bank.script = [refusing]
    response = await client.get("/chunks", headers=shop.payer.pay(await shop.challenge("/chunks")))
    assert len(started) == 10
    assert response.status_code == 402
    assert b"chunk-" not in response.content
    assert "x-handler" not in response.headers
    served = await client.get("/chunks", headers=shop.payer.pay(await shop.challenge("/chunks")))
    assert served.content == b"".join(f"chunk-{index} ".encode() for index in range(10))
    assert served.headers["x-handler"] == "secret"


async def test_A02_a_file_by_path_cannot_pass_by_the_till(shop: Any, town: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("extensions"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    client = shop.open({"/file": "$0.01"}, app=app)
    assert (await client.get("/file", headers=shop.payer.pay(await shop.challenge("/file")))).status_code == 200
    assert seen == [{}]


async def test_A02_an_answer_without_an_end_is_no_answer(shop: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    shop.strict = False
    client = shop.open({"/half": "$0.01"}, app=app)
    response = await client.get("/half", headers=shop.payer.pay(await shop.challenge("/half")))
    assert response.status_code == 500
    assert b"half" not in response.content
    assert shop.bank.moved == {}


LIES: list[Any] = [
    {"success": False, "errorReason": "unexpected_settle_error"},
    {},
    {"success": "true", "transaction": "0xabc", "network": EVM},
    {"success": 1, "transaction": "0xabc", "network": EVM},
    {"success": True, "transaction": "", "network": EVM},
    {"success": True, "transaction": "0xabc", "network": SVM},
    {"success": True, "transaction": "0xabc", "network": ""},
    {"success": True, "transaction": "0xabc", "network": EVM, "payer": "0x" + "66" * 20},
    {"success": False, "transaction": "0xabc", "network": EVM},
    Receipt(success=True, transaction="", network=EVM),
    MalformedError("invalid_settlement", "HTML instead of JSON"),
    UnavailableError("facilitator_unavailable", "204"),
    TimeoutError("no answer"),
    KeyError("a defect of the facilitator"),
]


@pytest.mark.parametrize("lie", LIES, ids=str)
@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A03_only_a_whole_success_serves(shop: Any, flow: str, lie: Any) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())

    def tell(pay_id: str, truth: Receipt) -> Receipt:
        if isinstance(lie, Exception):
            raise lie
        return lie if isinstance(lie, Receipt) else parse_receipt(lie)

    shop.bank.script = [tell]
    response = await client.get("/report", headers=header)
    assert response.status_code in (402, 503)
    assert b"secret" not in response.content
    if response.status_code == 402:
        # Only a failure without a transaction may lead to a new challenge.
        assert lie == LIES[0]
    else:
        assert "payment-required" not in response.headers
        assert response.headers["retry-after"] == "2"
        assert response.json()["error"]["moneyMoved"] == "unknown"
        # Once the bank tells the truth, the same payment is served.
        assert (await client.get("/report", headers=header)).status_code == 200


async def test_A03_a_garbled_verification_is_no_permission(shop: Any) -> None:
    client = shop.open(PRICED)
    header = shop.payer.pay(await shop.challenge())
    shop.bank.verdicts = [MalformedError("invalid_verification", "isValid: a boolean is required")]
    assert (await client.get("/report", headers=header)).status_code == 503
    shop.bank.verdicts = [Verification(is_valid=False)]
    assert (await client.get("/report", headers=header)).status_code == 402
    assert shop.runs == []


@pytest.mark.parametrize("settled", [False, True])
async def test_A20_upfront_handlers_write_nothing_unpaid(shop: Any, settled: bool) -> None:
    rows: list[str] = []

    @shop.app.post("/order")
    async def order() -> dict[str, str]:
        rows.append("row")
        return {"ordered": "yes"}

    client = shop.open({"POST /order": Terms(price="$0.01", flow=Flow.UPFRONT)})
    challenge = await shop.challenge("/order", "POST")
    shop.bank.script = [] if settled else [refusing]
    response = await client.post("/order", headers=shop.payer.pay(challenge))
    assert (response.status_code, rows) == ((200, ["row"]) if settled else (402, []))


STATUSES = [200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 404, 429, 500, 503]


@pytest.mark.parametrize("status", STATUSES)
async def test_A21_what_is_charged_depends_on_the_status_alone(shop: Any, status: int) -> None:
    @shop.app.get("/any")
    async def answer() -> Response:
        if status in (301, 302, 307):
            return RedirectResponse("https://cdn.example/signed", status)
        return Response(b"" if status in (204, 304) else b"secret", status)

    client = shop.open({"GET /any": "$0.01"})
    challenge = await shop.challenge("/any")
    shop.bank.script = [refusing]
    unpaid = await client.get("/any", headers=shop.payer.pay(challenge))
    if status >= 400:
        assert unpaid.status_code == status
        assert shop.bank.asked.count("settle") == 0
        return
    assert unpaid.status_code == 402
    assert "location" not in unpaid.headers
    paid = await client.get("/any", headers=shop.payer.pay(challenge))
    assert paid.status_code == status
    assert len(shop.bank.moved) == 1
    assert ("location" in paid.headers) == (status in (301, 302, 307))


async def test_A21_an_exception_is_not_charged_and_the_payment_may_ask_again(shop: Any) -> None:
    fails = [True]

    @shop.app.get("/shaky")
    async def shaky() -> dict[str, str]:
        if fails.pop():
            fails.append(False)
            raise ValueError("boom")
        return {"ok": "yes"}

    shop.strict = False
    client = shop.open({"GET /shaky": "$0.01"})
    header = shop.payer.pay(await shop.challenge("/shaky"))
    assert (await client.get("/shaky", headers=header)).status_code == 500
    assert shop.bank.moved == {}
    fails[:] = [False]
    assert (await client.get("/shaky", headers=header)).json() == {"ok": "yes"}
    assert len(shop.bank.moved) == 1


@pytest.mark.parametrize("how", ["exception", "status", "silent"])
async def test_upfront_failures_are_owed_and_redelivered(shop: Any, town: Any, how: str) -> None:
    broken = [True]

    @shop.app.get("/work")
    async def work() -> Response:
        if broken[0]:
            if how == "exception":
                raise ValueError("boom")
            return JSONResponse({"no": "luck"}, 502 if how == "status" else 500)
        return JSONResponse({"work": "done"})

    client = shop.open({"GET /work": "$0.01"}, flow="upfront")
    header = shop.payer.pay(await shop.challenge("/work"))
    for _ in range(2):
        failed = await client.get("/work", headers=header)
        assert failed.status_code >= 500
        assert town.receipt_of(failed).success
    entry = await shop.entry()
    assert entry.state is State.OWED
    broken[0] = False
    served = await client.get("/work", headers=header)
    assert served.json() == {"work": "done"}
    assert len(shop.bank.moved) == 1
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_an_answer_that_breaks_off_is_owed(shop: Any) -> None:
    fails = [True]

    @shop.app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"one "
            if fails[0]:
                raise ValueError("upstream died")
            yield b"two"

        return StreamingResponse(body())

    client = shop.open({"GET /stream": "$0.01"}, flow="upfront")
    header = shop.payer.pay(await shop.challenge("/stream"))
    with pytest.raises(Exception, match="broken off"):
        await client.get("/stream", headers=header)
    assert (await shop.entry()).state is State.OWED
    fails[0] = False
    assert (await client.get("/stream", headers=header)).content == b"one two"
    assert (await client.get("/stream", headers=header)).content == b"one two"


async def test_handlers_that_hang_are_given_up(shop: Any) -> None:
    @shop.app.get("/hang")
    async def hang() -> dict[str, str]:
        await asyncio.sleep(60)
        return {}

    client = shop.open({"GET /hang": "$0.01"}, handler_timeout_seconds=0.05)
    response = await client.get("/hang", headers=shop.payer.pay(await shop.challenge("/hang")))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "handler_timeout")
    assert shop.bank.moved == {}


async def test_an_answer_too_long_to_withhold_is_not_sold(shop: Any) -> None:
    @shop.app.get("/huge")
    async def huge() -> StreamingResponse:
        return StreamingResponse(iter([b"x" * 5000] * 200))

    client = shop.open({"GET /huge": "$0.01"}, handler_timeout_seconds=5)
    shop.paywall.till._answer_limit = 1000
    response = await client.get("/huge", headers=shop.payer.pay(await shop.challenge("/huge")))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "answer_too_large")
    assert shop.bank.moved == {}


async def test_an_answer_too_long_to_keep_is_played_and_then_gone(shop: Any, town: Any) -> None:
    @shop.app.get("/huge")
    async def huge() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 5000

        return StreamingResponse(body())

    client = shop.open({"GET /huge": "$0.01"}, flow="upfront")
    shop.paywall.till._answer_limit = 100_000
    header = shop.payer.pay(await shop.challenge("/huge"))
    assert len((await client.get("/huge", headers=header)).content) == 1_000_000
    gone = await client.get("/huge", headers=header)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_gone")
    assert town.receipt_of(gone).success
    assert len(shop.bank.moved) == 1


async def test_one_handler_error_of_ours_reaches_the_client_as_it_is(shop: Any) -> None:
    till = Till(Register(shop.bank, shop.ledger, clock=lambda: shop.now))
    shop.open(PRICED)
    challenge = await shop.challenge()
    payment = shop.payer.payment(challenge.accepts[0], challenge)

    async def offer() -> Requirement:
        offer: Requirement = challenge.accepts[0]
        return offer

    async def handler(sale: Sale, sink: Sink) -> None:
        raise ApiProblem(502, "upstream_failed", "no model answered")

    with pytest.raises(Refusal) as caught:
        await till.take(payment, "a" * 64, offer, handler)
    assert isinstance(caught.value.error, ApiProblem)
    assert caught.value.error.status_code == 502
