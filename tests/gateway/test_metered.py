"""Sales that are charged by what they used: scheme upto at the gateway (faults B16, G03, G04, A08, A18, A22)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from x402.billing import Metered
from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway import metered
from x402.gateway.metered import AHEAD
from x402.gateway.policy import Policy
from x402.gateway.recording import BrokenOff
from x402.gateway.terms import Seller, Terms
from x402.lifecycle import Entry, Party
from x402.schemes.gas_sponsoring import EXTENSION
from x402.schemes.memory import recall
from x402.stages import Delivered, Released, State
from x402.wire.receipt import Receipt, read_receipt

PIECES, EACH, MAXIMUM = 30, 100, 10_000
UPTO = {"schemes": ("exact", "upto")}


def used(units: int) -> Metered:
    return Metered(model="m", charged=units)


@pytest.fixture
def story(shop: Any) -> Any:
    """A stream of `PIECES` pieces, each of which costs `EACH`; `shop.runs` tells what happened to it."""

    @shop.app.get("/story")
    async def story(request: Request, fails_after: int = PIECES, units: int = EACH) -> StreamingResponse:
        sale = request.scope["x402"]
        sale.metered = used(0)

        async def body() -> AsyncIterator[bytes]:
            try:
                for index in range(PIECES):
                    if index == fails_after:
                        raise UnavailableError("upstream_failed", "the upstream broke off")
                    sale.metered = used((index + 1) * units)
                    yield f"data: {index}\n\n".encode()
                receipt = await sale.settle()
                yield f": receipt {json.dumps(receipt.as_json())}\n\n".encode()
                yield b"data: [DONE]\n\n"
            finally:
                shop.runs.append("closed")

        return StreamingResponse(body(), media_type="text/event-stream")

    return {"GET /story": "$0.01"}


@pytest.fixture
def note(shop: Any) -> Any:
    """A plain answer that costs what the query says."""

    @shop.app.get("/note")
    async def note(request: Request, units: int = -1, status: int = 200) -> JSONResponse:
        shop.runs.append("note")
        if units >= 0:
            request.scope["x402"].metered = used(units)
        return JSONResponse({"note": len(shop.runs)}, status)

    return {"GET /note": "$0.01"}


async def settled_down(shop: Any) -> None:
    for _ in range(400):
        if not shop.paywall.till._tasks:
            return
        await asyncio.sleep(0.005)
    pytest.fail("a sale is still at work")


async def rows(shop: Any) -> list[Entry]:
    """Every row of the gateway whose payment the bank has heard of, settled or not."""
    found = [await shop.ledger.find(Party.GATEWAY, pay_id) for pay_id in shop.bank.payees]
    return [row for row in found if row is not None]


async def drive(shop: Any, path: str, headers: dict[str, str], *, hang_up_after: int | None = None) -> bytes:
    """One request at the ASGI door, whose client may go away in the midst of the answer."""
    target, _, query = path.partition("?")
    asked, gone = False, asyncio.Event()
    got: list[bytes] = []

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] != "http.response.body" or not message["body"]:
            if hang_up_after == 0:
                gone.set()
                await asyncio.Event().wait()
            return
        got.append(message["body"])
        if len(got) == hang_up_after:
            gone.set()
            await asyncio.Event().wait()

    raw = [(name.lower().encode(), value.encode()) for name, value in {"host": "shop.test", **headers}.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": target, "raw_path": target.encode(), "query_string": query.encode(), "headers": raw,
        "server": ("shop.test", 80), "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    await shop.paywall(scope, receive, send)
    return b"".join(got)


async def paid(shop: Any, path: str) -> dict[str, str]:
    headers: dict[str, str] = shop.payer.pay(await shop.challenge(path), scheme="upto")
    return headers


async def test_upto_is_offered_beside_exact_where_the_facilitator_settles_it(shop: Any, town: Any, note: Any) -> None:
    shop.open(note, **UPTO)
    challenge = await shop.challenge("/note")
    assert [(offer.scheme, offer.network) for offer in challenge.accepts] == [
        ("exact", town.EVM),
        ("upto", town.EVM),
        ("exact", town.SVM),
    ]
    offer = challenge.accepts[1]
    assert offer.amount == MAXIMUM
    assert offer.extra == {
        "facilitatorAddress": town.SETTLER, "assetTransferMethod": "permit2", "name": "USDC", "version": "2",
    }  # fmt: skip
    assert challenge.extensions[EXTENSION]["info"]["version"] == "1"


async def test_upto_is_offered_only_where_the_seller_wants_it(shop: Any, note: Any) -> None:
    shop.open(note)
    plain = await shop.challenge("/note")
    assert {offer.scheme for offer in plain.accepts} == {"exact"}
    assert EXTENSION not in plain.extensions


async def test_a_route_says_in_which_schemes_it_is_sold(shop: Any, note: Any) -> None:
    shop.open({"GET /note": Terms(price="$0.01", schemes=("upto",))})
    assert [offer.scheme for offer in (await shop.challenge("/note")).accepts] == ["upto"]
    with pytest.raises(MisconfiguredError, match="no scheme"):
        Terms(price="$0.01", schemes=("escrow",))
    with pytest.raises(MisconfiguredError, match="one scheme at least"):
        Seller(pay_to={"base-sepolia": "0x" + "5e" * 20}, schemes=())


@pytest.mark.parametrize("units", [1, 377, MAXIMUM])
async def test_B16_a_plain_answer_costs_what_it_used(shop: Any, town: Any, note: Any, units: int) -> None:
    client = shop.open(note, **UPTO)
    headers = await paid(shop, f"/note?units={units}")
    response = await client.get(f"/note?units={units}", headers=headers)
    assert response.status_code == 200, response.text
    receipt = town.receipt_of(response)
    assert (receipt.success, receipt.amount, bool(receipt.transaction)) == (True, str(units), True)
    assert list(shop.bank.payees.values()) == [(town.SELLER_EVM, units)]
    again = await client.get(f"/note?units={units}", headers=headers)
    assert (again.content, town.receipt_of(again)) == (response.content, receipt)
    assert (shop.runs, shop.bank.asked.count("settle")) == (["note"], 1)
    (row,) = await rows(shop)
    assert isinstance(row.stage, Delivered)
    assert (row.amount, row.subject.amount) == (units, MAXIMUM)


async def test_B16_what_used_nothing_is_given_away(shop: Any, town: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    headers = await paid(shop, "/note?units=0")
    response = await client.get("/note?units=0", headers=headers)
    receipt = town.receipt_of(response)
    assert (receipt.success, receipt.amount, receipt.transaction) == (True, "0", "")
    again = await client.get("/note?units=0", headers=headers)
    assert (again.content, town.receipt_of(again)) == (response.content, receipt)
    assert (shop.runs, "settle" in shop.bank.asked) == (["note"], False)
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_a_handler_that_meters_nothing_sells_at_the_maximum(shop: Any, town: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    response = await client.get("/note", headers=await paid(shop, "/note"))
    assert town.receipt_of(response).amount == str(MAXIMUM)


async def test_B16_more_than_was_signed_is_never_taken(shop: Any, town: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    path = f"/note?units={MAXIMUM + 1}"
    response = await client.get(path, headers=await paid(shop, path))
    assert town.receipt_of(response).amount == str(MAXIMUM)
    assert list(shop.bank.payees.values()) == [(town.SELLER_EVM, MAXIMUM)]


async def test_an_error_costs_nothing_and_the_same_payment_may_ask_again(shop: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    headers = await paid(shop, "/note?status=500")
    response = await client.get("/note?status=500", headers=headers)
    assert response.status_code == 500
    assert (await shop.entry()).state is State.CLAIMED
    assert "settle" not in shop.bank.asked


async def test_a_stream_is_played_at_once_and_ends_with_its_receipt(shop: Any, town: Any, story: Any) -> None:
    client = shop.open(story, **UPTO)
    response = await client.get("/story", headers=await paid(shop, "/story"))
    assert read_receipt(response.headers.multi_items()) is None
    text = response.text
    assert [int(line[6:]) for line in text.splitlines() if line[6:].isdigit()] == list(range(PIECES))
    told = json.loads(next(line for line in text.splitlines() if line.startswith(": receipt"))[len(": receipt ") :])
    assert (told["success"], told["amount"]) == (True, str(PIECES * EACH))
    assert list(shop.bank.payees.values()) == [(town.SELLER_EVM, PIECES * EACH)]
    (row,) = await rows(shop)
    assert isinstance(row.stage, Delivered)
    assert (await client.get("/story", headers=town.Payer.header(recall(row.subject).payment))).text == text


@pytest.mark.parametrize("k", [0, 1, 2, AHEAD, PIECES - 1, PIECES])
async def test_A18_a_hang_up_is_charged_for_the_pieces_that_were_read(shop: Any, story: Any, k: int) -> None:
    shop.open(story, **UPTO)
    headers = await paid(shop, "/story")
    await drive(shop, "/story", headers, hang_up_after=k)
    await settled_down(shop)
    assert [units for _, units in shop.bank.payees.values()] == ([k * EACH] if k else [])
    assert shop.bank.asked.count("settle") == (1 if k else 0)
    assert shop.runs == ["closed"]
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


async def test_A18_control_a_reader_that_stays_is_charged_for_everything(shop: Any, story: Any) -> None:
    shop.open(story, **UPTO)
    body = await drive(shop, "/story", await paid(shop, "/story"))
    await settled_down(shop)
    assert body.endswith(b"data: [DONE]\n\n")
    assert [units for _, units in shop.bank.payees.values()] == [PIECES * EACH]


async def test_a_slow_reader_keeps_the_upstream_from_running_ahead(shop: Any, story: Any) -> None:
    shop.open(story, **UPTO)
    headers = await paid(shop, "/story")
    task = asyncio.create_task(drive(shop, "/story", headers, hang_up_after=2))
    await task
    await settled_down(shop)
    assert shop.runs == ["closed"]


@pytest.mark.parametrize("k", [0, 1, 7])
async def test_G04_an_upstream_that_dies_is_charged_for_what_it_gave(shop: Any, story: Any, k: int) -> None:
    shop.open(story, **UPTO)
    path = f"/story?fails_after={k}"
    with pytest.raises(BrokenOff):
        await drive(shop, path, await paid(shop, path))
    await settled_down(shop)
    assert [units for _, units in shop.bank.payees.values()] == ([k * EACH] if k else [])


async def test_G03_a_stream_is_cut_where_no_more_is_authorised(shop: Any, story: Any) -> None:
    shop.open(story, **UPTO)
    path = "/story?units=1000"
    with pytest.raises(BrokenOff):
        await drive(shop, path, await paid(shop, path))
    await settled_down(shop)
    assert [units for _, units in shop.bank.payees.values()] == [MAXIMUM]


async def test_A22_what_was_written_down_before_a_crash_is_settled_and_no_more(
    shop: Any, story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "METER_SECONDS", 0)
    shop.open(story, **UPTO)
    headers = await paid(shop, "/story")
    reading = asyncio.create_task(drive(shop, "/story", headers, hang_up_after=None))
    tick = asyncio.get_running_loop().time
    patience_ends = tick() + 20
    while tick() < patience_ends:
        found = await shop.ledger.unresolved(Party.GATEWAY)
        if found and found[0].due and found[0].due >= 3 * EACH:
            break
        await asyncio.sleep(0)
    for task in list(shop.paywall.till._tasks):
        task.cancel()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    # What was being written when the process died is written.
    await shop.ledger.ping()
    (left,) = await shop.ledger.unresolved(Party.GATEWAY)
    assert left.state is State.SERVED
    assert await shop.paywall.till.reconcile() == 0
    assert [units for _, units in shop.bank.payees.values()] == [left.due]
    row = await shop.ledger.find(Party.GATEWAY, left.subject.pay_id)
    assert (row.state, row.amount) == (State.DELIVERED, left.due)
    gone = await drive(shop, "/story", headers)
    assert b"answer_gone" in gone


async def test_A22_a_claim_that_was_never_metered_is_given_back_when_it_is_dead(shop: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    await client.get("/note?status=500", headers=await paid(shop, "/note?status=500"))
    entry = await shop.entry()
    assert await shop.paywall.till.reconcile() == 0
    assert (await shop.entry()).state is State.CLAIMED
    shop.now += 1000
    assert await shop.paywall.till.reconcile() == 0
    after = await shop.ledger.find(Party.GATEWAY, entry.subject.pay_id)
    assert isinstance(after.stage, Released)
    assert "settle" not in shop.bank.asked


@pytest.mark.parametrize("balance", [MAXIMUM, 2 * MAXIMUM - 1])
async def test_A08_the_maximum_is_reserved_whatever_is_used(shop: Any, note: Any, balance: int) -> None:
    client = shop.open(note, **UPTO)
    shop.bank.balances[shop.payer.address] = balance
    first = await client.get("/note?status=500", headers=await paid(shop, "/note?status=500"))
    assert first.status_code == 500
    second = await client.get("/note?units=1", headers=await paid(shop, "/note?units=1"))
    assert (second.status_code, second.json()["code"]) == (402, "over_committed")
    # It passes by itself once the first is settled, or needs a larger allowance.
    assert second.headers["retry-after"] == "2"
    assert "x402 approve" in second.text


async def test_A08_what_is_unsettled_stays_within_the_operators_limit(shop: Any, note: Any) -> None:
    client = shop.open(note, policy=Policy(max_unsettled=Decimal("0.015")), **UPTO)
    await client.get("/note?status=500", headers=await paid(shop, "/note?status=500"))
    second = await client.get("/note?units=1", headers=await paid(shop, "/note?units=1"))
    assert (second.status_code, second.json()["error"]["code"]) == (503, "too_much_unsettled")


async def test_D11_who_has_failed_before_pays_first_or_not_at_all(shop: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    shop.bank.script = [lambda _, truth: Receipt.refused("permit2_invalid_nonce", "used", truth.network, proven=True)]
    failed = await client.get("/note?units=5", headers=await paid(shop, "/note?units=5"))
    assert failed.status_code == 402
    again = await client.get("/note?units=6", headers=await paid(shop, "/note?units=6"))
    assert (again.status_code, again.json()["code"]) == (402, "prepayment_required")
    exact = shop.payer.pay(await shop.challenge("/note?units=6"))
    assert (await client.get("/note?units=6", headers=exact)).status_code == 200


async def test_B16_a_facilitator_that_names_another_amount_is_not_believed(shop: Any, note: Any) -> None:
    shop.bank.in_process = False
    client = shop.open(note, **UPTO)
    shop.bank.script.append(lambda _, truth: truth.model_copy(update={"amount": str(MAXIMUM)}))
    response = await client.get("/note?units=5", headers=await paid(shop, "/note?units=5"))
    assert response.status_code == 503
    assert (await shop.entry()).state is State.SETTLING


async def test_a_settlement_that_is_not_decided_ends_the_stream_all_the_same(shop: Any, story: Any) -> None:
    client = shop.open(story, **UPTO)
    shop.bank.script.append(lambda _, truth: Receipt.pending("0x" + "11" * 32, truth.network, truth.payer))
    response = await client.get("/story", headers=await paid(shop, "/story"))
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"errorReason": "settlement_pending"' in response.text
    assert (await shop.entry()).state is State.SETTLING
    assert await shop.paywall.till.reconcile() == 0
    assert [units for _, units in shop.bank.payees.values()] == [PIECES * EACH]


async def test_a_stream_that_outlives_its_payment_is_cut_and_paid(shop: Any) -> None:
    """A17: what is not settled in time is never paid."""

    @shop.app.get("/slow")
    async def slow(request: Request) -> StreamingResponse:
        sale = request.scope["x402"]

        async def body() -> AsyncIterator[bytes]:
            sale.metered = used(50)
            yield b"data: 1\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(body(), media_type="text/event-stream")

    shop.open({"GET /slow": "$0.01"}, **UPTO)
    headers = shop.payer.pay(await shop.challenge("/slow"), scheme="upto", lifetime=20)
    with pytest.raises(BrokenOff):
        await drive(shop, "/slow", headers)
    await settled_down(shop)
    assert [units for _, units in shop.bank.payees.values()] == [50]


async def test_a_payment_that_names_a_strange_facilitator_is_refused(shop: Any, town: Any, note: Any) -> None:
    client = shop.open(note, **UPTO)
    challenge = await shop.challenge("/note")
    offer = challenge.accepts[1]
    strange = offer.model_copy(update={"extra": offer.extra | {"facilitatorAddress": town.SELLER_EVM}})
    headers = shop.payer.header(shop.payer.payment(strange, challenge))
    response = await client.get("/note", headers=headers)
    assert (response.status_code, response.json()["code"]) == (402, "invalid_payment_requirements")
