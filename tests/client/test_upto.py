"""Paying for what was used: the client's side of scheme upto, on the real chain (faults B16, B13, B11)."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop, Meddled, facilitator
from tests.payments import evm_asset, upto_requirement
from x402.billing import Metered
from x402.client import allowance
from x402.client.allowance import Account, Allowance
from x402.client.approval import UNLIMITED, approve, units_of
from x402.client.auth import X402Auth
from x402.client.body import Arrival
from x402.client.budget import Limits
from x402.client.choose import Buyer, Policy, choose
from x402.client.flow import receipt_of
from x402.client.record import Finding
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, UnavailableError, UnpaidError
from x402.facilitator.approval_relay import ApprovalRelay
from x402.facilitator.service import unix_now
from x402.facilitator.signer import EvmSigner
from x402.gateway.inference.meter import receipt_comment
from x402.gateway.paywall import Paywall
from x402.networks import BASE, BASE_SEPOLIA, get
from x402.ports.evm import RpcEvmChain
from x402.ports.grant_book import SqlGrants
from x402.ports.ledger import SqlLedger
from x402.schemes import approval_sponsoring, gas_sponsoring
from x402.settings import ClientSettings
from x402.stages import Settled, State
from x402.wire.challenge import Challenge, Requirement
from x402.wire.facilitation import Supported
from x402.wire.receipt import Receipt

MAXIMUM = 10_000
PAYER = "0x" + "aa" * 20
KEY = (BASE_SEPOLIA, evm_asset().address)


@dataclass
class Counter:
    """A buyer before a metered shop, on one devnet."""

    shop: EvmShop
    ledger: SqlLedger
    wallet: Wallet
    app: Any
    url: str

    def auth(self, **options: Any) -> X402Auth:
        given: dict[str, Any] = {
            "journal": ":memory:", "evm_rpc": self.url, "policy": Policy(schemes=("upto", "exact")),
        }  # fmt: skip
        return X402Auth(self.wallet, **(given | options))

    @asynccontextmanager
    async def client(self, auth: X402Auth) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        mounts = {self.url: httpx.AsyncHTTPTransport()}
        async with httpx.AsyncClient(transport=transport, mounts=mounts, base_url="http://localhost", auth=auth) as it:
            yield it


@pytest.fixture
async def counter(evm_devnet: EvmWorld) -> AsyncIterator[Counter]:
    shop = await EvmShop.open(evm_devnet)
    wallet = Wallet(evm=shop.payer.key.to_hex(), testnet_only=True)
    app = FastAPI()

    app.state.started, app.state.gate = asyncio.Event(), asyncio.Event()

    @app.get("/note")
    async def note(request: Request, units: int = 0, slow: bool = False) -> JSONResponse:
        request.scope["x402"].metered = Metered(model="m", charged=units)
        if slow:
            app.state.started.set()
            await app.state.gate.wait()
        return JSONResponse({"note": "yes"})

    @app.get("/story")
    async def story(request: Request, units: int = 0) -> StreamingResponse:
        sale = request.scope["x402"]

        async def told() -> AsyncIterator[str]:
            yield 'data: {"text": "once"}\n\n'
            sale.metered = Metered(model="m", charged=units)
            yield f": {receipt_comment(await sale.settle(), {})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")

    async with SqlLedger("sqlite://") as ledger, SqlLedger("sqlite://") as books:
        app.add_middleware(
            Paywall,
            routes={"GET /note": "$0.01", "GET /story": "$0.01"},
            pay_to={BASE_SEPOLIA: shop.offer.pay_to},
            facilitator=facilitator([shop.rail(books)], books),
            ledger=ledger,
            schemes=("exact", "upto"),
            answer_keys=[secrets.token_bytes(32)],
        )
        yield Counter(shop, ledger, wallet, app, evm_devnet.url)
    await shop.chain.aclose()


async def test_B16_a_wallet_without_gas_pays_what_it_used(counter: Counter) -> None:
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=300")
        assert response.status_code == 200, response.text
        receipt = receipt_of(response)
        assert receipt is not None
        assert (receipt.amount, await counter.shop.received()) == ("300", 300)
        (record,) = auth.journal.records()
        assert isinstance(record.entry.stage, Settled)
        assert (record.entry.amount, record.entry.subject.amount, record.usd) == (300, MAXIMUM, Decimal("0.01"))
        # The first permit is used up, so the next payment brings another.
        assert (await client.get("/note?units=200")).status_code == 200
        assert await counter.shop.received() == 500


async def test_an_allowance_that_is_there_needs_no_permit(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth()
    async with counter.client(auth) as client:
        assert (await client.get("/note?units=7")).status_code == 200
    (record,) = auth.journal.records()
    sent = record.header
    assert "upto" in record.entry.subject.record["scheme"]
    assert gas_sponsoring.EXTENSION not in sent
    assert await counter.shop.received() == 7


async def test_B11_a_maximum_counts_whole_until_the_chain_shows_what_was_taken(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth(limits=Limits(per_day="0.015"))
    async with counter.client(auth) as client:
        assert (await client.get("/note?units=300")).status_code == 200
        assert auth.journal.spent(86_400) == Decimal("0.01")
        # A second maximum does not fit beside the first; the chain shows that only a part of that was taken.
        assert (await client.get("/note?units=400")).status_code == 200
        (first, second) = auth.journal.records()
        assert first.check is not None
        assert first.check.finding is Finding.CONFIRMED
        assert (first.usd, second.usd) == (Decimal("0.0003"), Decimal("0.01"))
        assert auth.journal.spent(86_400) == Decimal("0.0103")
    silent = replace(auth.terms, confirm=lambda: 0)
    auth.terms = silent
    async with counter.client(auth) as client:
        with pytest.raises(DeclinedError, match="limit"):
            await client.get("/note?units=500")


async def test_B16_a_receipt_that_names_less_than_was_taken_is_found_out(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=900")
    receipt = receipt_of(response)
    assert receipt is not None
    (record,) = auth.journal.records()
    lie = receipt.model_copy(update={"amount": "1"})
    with auth.journal._transaction() as db:
        db.execute("UPDATE payments SET stage = ?", (f'{{"transaction": "{receipt.transaction}", "amount": 1}}',))
    auth.journal.conclude(record.pay_id, receipt=lie)
    assert auth.terms.confirm() == 1
    (found,) = auth.journal.records()
    assert found.check is not None
    assert found.check.finding is Finding.DISPUTED
    assert (found.entry.amount, found.usd) == (900, Decimal("0.0009"))


async def test_what_used_nothing_stays_reserved_until_it_is_dead(counter: Counter) -> None:
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=0")
        receipt = receipt_of(response)
        assert receipt is not None
        assert (receipt.success, receipt.transaction, receipt.amount) == (True, "", "0")
    (record,) = auth.journal.records()
    assert (record.state, record.open) == (State.EXPOSED, False)
    assert await counter.shop.sent() == 0


async def test_two_calls_at_once_of_a_wallet_without_allowance_are_both_paid(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit of each pays for one alone, so the second call waits, and signs what the first has made of date."""
    state, waits = counter.app.state, []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        state.gate.set()
        await first

    auth = counter.auth()
    async with counter.client(auth) as client:
        first = asyncio.create_task(client.get("/note?units=300&slow=true"))
        await state.started.wait()
        monkeypatch.setattr("x402.client.auth.anyio.sleep", sleep)
        second = await client.get("/note?units=200")
        assert second.status_code == 200, second.text
        assert (await first).status_code == 200
    assert (waits, await counter.shop.received(), await counter.shop.sent()) == ([2], 500, 2)
    headers = [json.loads(base64.b64decode(record.header)) for record in auth.journal.records()]
    nonces = [sent["extensions"][gas_sponsoring.EXTENSION]["info"]["nonce"] for sent in headers]
    assert nonces == ["0", "1"]
    assert [record.state for record in auth.journal.records()] == [State.SETTLED] * 2


async def test_who_has_no_patience_is_told_what_to_do(counter: Counter) -> None:
    auth = counter.auth()
    auth.terms = replace(auth.terms, patience_seconds=0)
    async with counter.client(auth) as client:
        first = asyncio.create_task(client.get("/note?units=300&slow=true"))
        await counter.app.state.started.wait()
        with pytest.raises(UnpaidError, match="x402 approve") as refused:
            await client.get("/note?units=200")
        assert refused.value.code == "over_committed"
        counter.app.state.gate.set()
        assert (await first).status_code == 200
    assert await counter.shop.received() == 300


async def test_A10_the_receipt_in_a_stream_closes_its_payment(counter: Counter) -> None:
    """Whoever reads it, and with whatever program: nothing is left for `x402 resolve`."""
    heard: list[Receipt] = []
    auth = counter.auth(on_receipt=heard.append)
    async with counter.client(auth) as client, client.stream("GET", "/story?units=300") as response:
        assert receipt_of(response) is None
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                break
    (record,) = auth.journal.records()
    assert (record.state, record.entry.amount, record.open) == (State.SETTLED, 300, False)
    assert [receipt.amount for receipt in heard] == ["300"]
    assert auth.journal.unresolved() == []
    assert await counter.shop.received() == 300


@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 40, 1000])
def test_a_receipt_is_found_wherever_the_chunks_break(size: int) -> None:
    found: list[str] = []
    body = b'data: {"a": ": x402-receipt no"}\n\n: x402-receipt e30=\n\ndata: [DONE]\n\n'
    for text in (
        body,
        b": x402-receipt e30=\n" + body[:20],
        body.replace(b"e30=", b"A" * 20_000),
        b": x402-receipt e3",
    ):
        arrival = Arrival(*[lambda: None] * 3, late=found.append)
        for start in range(0, len(text), size):
            arrival.see(text[start : start + size])
        arrival.end(exhausted=True)
    assert [one for one in found if len(one) < 20_000] == ["e30=", "e30="]


async def test_without_a_node_exact_is_paid(counter: Counter) -> None:
    auth = counter.auth(evm_rpc="")
    async with counter.client(auth) as client:
        response = await client.get("/note?units=1")
    assert response.status_code == 200
    (record,) = auth.journal.records()
    assert "scheme" not in record.entry.subject.record
    assert await counter.shop.received() == MAXIMUM


@pytest.fixture
async def sponsored(evm_devnet: EvmWorld) -> AsyncIterator[Counter]:
    """A shop whose facilitator sends approvals, and takes no EIP-2612 permits: what a token without them leaves."""
    shop, purse = await EvmShop.open(evm_devnet), EvmSigner(secrets.token_hex(32))
    await evm_devnet.fund(purse.address, 0, 10**16)
    wallet, app = Wallet(evm=shop.payer.key.to_hex(), testnet_only=True), FastAPI()

    @app.get("/note")
    async def note(request: Request, units: int = 0) -> JSONResponse:
        request.scope["x402"].metered = Metered(model="m", charged=units)
        return JSONResponse({"note": "yes"})

    async with SqlLedger("sqlite://") as ledger, SqlLedger("sqlite://") as books:
        relay = ApprovalRelay(BASE_SEPOLIA, shop.chain, SqlGrants(books), purse, unix_now)
        party = facilitator([shop.rail(books, relay=relay)], books)

        async def supported() -> Supported:
            """Tokens that are pinned all have permits, so the facilitator has to lack them."""
            told = await party.supported()
            return told.model_copy(update={"extensions": (approval_sponsoring.EXTENSION,)})

        app.add_middleware(
            Paywall,
            routes={"GET /note": "$0.01"},
            pay_to={BASE_SEPOLIA: shop.offer.pay_to},
            facilitator=Meddled(party, supported=supported),
            ledger=ledger,
            schemes=("upto",),
            answer_keys=[secrets.token_bytes(32)],
        )
        yield Counter(shop, ledger, wallet, app, evm_devnet.url)
    await shop.chain.aclose()


async def test_an_approval_is_signed_where_no_permit_is_taken(sponsored: Counter) -> None:
    auth = sponsored.auth(policy=Policy(schemes=("upto", "exact"), approvals=True))
    async with sponsored.client(auth) as client:
        response = await client.get("/note?units=300")
        assert response.status_code == 200, response.text
        assert await sponsored.shop.received() == 300
        # The approval holds for the next one, which brings none.
        assert (await client.get("/note?units=200")).status_code == 200
    second, first = sorted((record.header for record in auth.journal.records()), key=len)
    (sent, not_sent) = (json.loads(base64.b64decode(header))["extensions"] for header in (first, second))
    assert approval_sponsoring.is_signed(sent)
    assert not gas_sponsoring.is_signed(sent)
    assert not approval_sponsoring.is_signed(not_sent)
    assert await sponsored.shop.received() == 500


async def test_no_approval_is_signed_unless_it_is_wanted(sponsored: Counter) -> None:
    async with sponsored.client(sponsored.auth()) as client:
        with pytest.raises(DeclinedError) as refused:
            await client.get("/note?units=300")
    assert refused.value.code == "permit2_allowance_required"
    assert await sponsored.shop.received() == 0
    wanted = ClientSettings.read(sign_approvals=True, journal=":memory:")
    assert X402Auth(sponsored.wallet, settings=wanted).terms.policy.approvals is True
    assert X402Auth(sponsored.wallet, settings=wanted, policy=Policy(approvals=False)).terms.policy.approvals is False


def test_a_node_that_says_gas_is_dear_costs_no_more_than_the_cap() -> None:
    assert Account(0, 10**15, 10**15).fees == (allowance.FEE_MAX, allowance.FEE_MAX)
    assert Account(0, 10**6, 10**5).fees == (2 * 10**6, 10**5)


def buyer(**members: Any) -> Buyer:
    return Buyer({"eip155": PAYER}, "shop.test", secure=True, **members)


def offers(*schemes: str, **members: Any) -> Challenge:
    made = []
    for scheme in schemes:
        offer = upto_requirement("0x" + "fa" * 20, "0x" + "5e" * 20, MAXIMUM, **members)
        exact = offer.model_copy(update={"scheme": "exact", "extra": {"name": "USDC", "version": "2"}})
        made.append(exact if scheme == "exact" else offer)
    return Challenge(accepts=tuple(made))


def chosen(challenge: Challenge, who: Buyer, *schemes: str) -> Requirement:
    return choose(challenge, who, Policy(schemes=schemes or ("exact", "upto"))).requirement


def test_the_scheme_is_chosen_by_price_then_by_preference() -> None:
    rich = buyer(allowances={KEY: Allowance(UNLIMITED)})
    both = offers("exact", "upto")
    assert chosen(both, rich).scheme == "exact"
    assert chosen(both, rich, "upto", "exact").scheme == "upto"
    assert chosen(both, rich, "exact").scheme == "exact"
    cheaper = Challenge(accepts=(both.accepts[0], both.accepts[1].model_copy(update={"amount": 9})))
    assert chosen(cheaper, rich).scheme == "upto"
    # What is taken before the answer is the less protective way, whatever is preferred.
    upfront = both.accepts[0].model_copy(update={"extra": {**both.accepts[0].extra, "paymentFlow": "upfront"}})
    assert chosen(Challenge(accepts=(upfront, both.accepts[1])), rich).scheme == "upto"


@pytest.mark.parametrize(
    ("who", "code"),
    [
        (buyer(), "permit2_allowance_unknown"),
        (buyer(allowances={KEY: Allowance(MAXIMUM - 1)}), "permit2_allowance_required"),
        (buyer(allowances={KEY: Allowance(0, None)}, sponsored=True), "permit2_allowance_required"),
        (buyer(allowances={KEY: Allowance(0, 3)}, sponsored=True), ""),
        (buyer(allowances={KEY: Allowance(0, None, Account(0, 1, 1))}), ""),
        (buyer(allowances={KEY: Allowance(MAXIMUM)}), ""),
        (buyer(allowances={KEY: Allowance(UNLIMITED)}, cap=Decimal("0.001")), "price_above_limit"),
    ],
)
def test_an_offer_is_taken_only_when_the_chain_would(who: Buyer, code: str) -> None:
    try:
        found = chosen(offers("upto"), who).scheme
    except DeclinedError as error:
        found = error.code
    assert found == (code or "upto")


def test_who_has_not_approved_is_told_how() -> None:
    with pytest.raises(DeclinedError, match="x402 approve --network base-sepolia"):
        chosen(offers("upto"), buyer(allowances={KEY: Allowance(0)}))


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"assetTransferMethod": "eip3009"}, "unsupported_transfer_method"),
        ({"facilitatorAddress": "nobody"}, "unpayable_offer"),
        ({"facilitatorAddress": None}, "unpayable_offer"),
        ({"name": "Fake"}, "eip712_domain_mismatch"),
        ({"paymentFlow": "escrow"}, "unknown_payment_flow"),
    ],
)
def test_B04_an_offer_that_is_none_is_declined(extra: dict[str, Any], code: str) -> None:
    good = offers("upto").accepts[0]
    bad = good.model_copy(update={"extra": {**good.extra, **extra}})
    with pytest.raises(DeclinedError) as refused:
        chosen(Challenge(accepts=(bad,)), buyer(allowances={KEY: Allowance(UNLIMITED)}))
    assert refused.value.code == code


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"[1]", b'[{"id":0,"result":"0x"}]', b'[{"id":0,"error":{}}]', b"[" * 3000]
)
def test_a_node_that_says_nothing_knows_no_allowance(body: bytes) -> None:
    assert allowance.read_answer(200, body) is None
    assert allowance.read_answer(500, b'[{"id":0,"result":"0x' + b"0" * 64 + b'"}]') is None


async def test_approve_is_sent_once(evm_devnet: EvmWorld) -> None:
    network, wallet = get(BASE_SEPOLIA), Wallet.new(testnet_only=True)
    chain = RpcEvmChain(evm_devnet.url, network.chain_id)
    with pytest.raises(UnavailableError):
        await approve(wallet, chain, network, UNLIMITED, mainnet=False)
    await evm_devnet.fund(wallet.evm_address, 0, 10**18)
    done = await approve(wallet, chain, network, units_of("25", network), mainnet=False)
    assert (done.before, done.now, bool(done.transaction)) == (0, 25_000_000, True)
    again = await approve(wallet, chain, network, units_of("25", network), mainnet=False)
    assert (again.now, again.transaction) == (25_000_000, "")
    with pytest.raises(DeclinedError):
        await approve(wallet, chain, get(BASE), 1, mainnet=True)
    await chain.aclose()
