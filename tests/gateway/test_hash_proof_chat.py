"""A chat completion paid by a transfer before it was asked for, through the whole gateway, on both real chains.

It is priced by its tokens, metered, credited, billed and audited as any other (aimo §2.2, dialect 2).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.evidence.test_books import audited
from tests.facilitator.world import EvmShop, SvmShop, facilitator
from tests.gateway.transfers import EvmBuyer, SvmBuyer
from x402.devnet.model import STORY, demo_catalogue
from x402.devnet.model import create_app as create_model
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter
from x402.ports.ledger import SqlLedger
from x402.quote import request_digest
from x402.settings import GatewaySettings
from x402.wire.challenge import Challenge, parse_challenge
from x402.wire.headers import decode_header
from x402.wire.receipt import Receipt, read_receipt

PATH = "/api/v1/chat/completions"
FAMILIES = pytest.mark.parametrize("family", ["evm", "svm"])
MORE = 700
"""What is paid beyond the price, in atomic USDC."""


@dataclass
class Counterpart:
    """The whole gateway, and two buyers who transfer before they ask."""

    file: Path
    client: httpx.AsyncClient
    shops: tuple[EvmShop, SvmShop]
    buyers: dict[str, Any]
    book: SqlAccounts

    def account(self, family: str) -> str:
        evm, svm = self.buyers["evm"].payer.address, self.buyers["svm"].keypair.pubkey()
        return f"{BASE_SEPOLIA}:{evm}" if family == "evm" else f"{SOLANA_DEVNET}:{svm}"

    async def challenge(self, body: bytes) -> Challenge:
        unpaid = await self.client.post(PATH, content=body)
        assert unpaid.status_code == 402, unpaid.text
        return parse_challenge(decode_header(unpaid.headers["payment-required"], code="x"))

    async def price(self, body: bytes, family: str) -> int:
        network = BASE_SEPOLIA if family == "evm" else SOLANA_DEVNET
        return next(one.amount for one in (await self.challenge(body)).accepts if one.network == network)

    async def present(self, family: str, transaction: str, body: bytes, *, bound_to: bytes = b"") -> httpx.Response:
        digest = request_digest("POST", PATH, bound_to or body)
        return await self.client.post(
            PATH, content=body, headers=self.buyers[family].headers(transaction, request=digest)
        )


def chat(**members: Any) -> bytes:
    messages = [{"role": "user", "content": "Tell me a story"}]
    return json.dumps({"model": STORY, "messages": messages, "max_tokens": 40, **members}).encode()


def receipt_of(response: httpx.Response) -> Receipt:
    receipt = read_receipt(response.headers.multi_items())
    assert receipt is not None, response.headers
    return receipt


@pytest.fixture
async def gateway(evm_devnet: EvmWorld, svm_devnet: SvmWorld, tmp_path: Path) -> AsyncIterator[Counterpart]:
    evm, svm = await EvmShop.open(evm_devnet), await SvmShop.open(svm_devnet)
    buyers: dict[str, Any] = {"evm": EvmBuyer(evm), "svm": SvmBuyer(svm)}
    for buyer in buyers.values():
        await buyer.open()
    settings = GatewaySettings.model_construct(
        evm_network=BASE_SEPOLIA, svm_network=SOLANA_DEVNET, evm_rpc_url=evm_devnet.url, svm_rpc_url=svm_devnet.url,
        hash_proof=True,
    )  # fmt: skip
    file = tmp_path / "gateway.sqlite"
    async with SqlLedger(f"sqlite:///{file}") as ledger, SqlLedger("sqlite://") as memory:
        upstream = httpx.AsyncClient(transport=httpx.ASGITransport(create_model()))
        app = create_app(
            settings,
            catalogue=demo_catalogue("http://model.test/v1"),
            facilitator=facilitator([evm.rail(memory), svm.rail()], memory),
            pay_to={BASE_SEPOLIA: evm.offer.pay_to, SOLANA_DEVNET: svm.offer.pay_to},
            ledger=ledger,
            public_url="https://gateway.example",
            upstream=UpstreamClient(upstream),
            clock=lambda: int(time.time()),
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            yield Counterpart(file, client, (evm, svm), buyers, SqlAccounts(ledger))
        await app.state.paywall.stop()
        await upstream.aclose()
    await evm.chain.aclose()
    await svm.chain.aclose()


@FAMILIES
@pytest.mark.parametrize("stream", [False, True])
async def test_a_transfer_buys_a_chat_and_what_it_did_not_use_is_credited(
    gateway: Counterpart, family: str, stream: bool
) -> None:
    body = chat(stream=stream)
    paid = await gateway.price(body, family) + MORE
    transaction = await gateway.buyers[family].transfer(paid)
    answer = await gateway.present(family, transaction, body)
    assert answer.status_code == 200, answer.text
    assert receipt_of(answer).transaction == transaction
    told = answer.text if stream else answer.json()["choices"][0]["message"]["content"]
    assert len(told) > 20
    (bill,) = await gateway.book.bills(BillFilter())
    assert (bill.account, bill.transaction, bill.metered.model) == (gateway.account(family), transaction, STORY)
    assert 0 < bill.metered.charged < paid - MORE, "it is metered, and never above the price"
    assert (await gateway.book.balance(bill.account)).units == bill.credited == paid - bill.metered.charged
    # The very same request is the very same answer, and another one buys nothing more.
    again = await gateway.present(family, transaction, body)
    assert (again.status_code, again.content) == (200, answer.content)
    other = await gateway.present(family, transaction, chat(stream=stream, max_tokens=41))
    assert other.status_code == 409
    assert len(await gateway.book.bills(BillFilter())) == 1
    # Chain, ledger and accounts agree, and what is owed lies in the seller's wallet.
    code, found = await asyncio.to_thread(audited, str(gateway.file), *gateway.shops)
    assert (code, found["violations"]) == (0, [])
    assert [(one["owed_units"], one["held_units"]) for one in found["cover"]] == [(bill.credited, paid)]


@FAMILIES
async def test_B02_a_transfer_for_one_chat_is_worth_nothing_for_another(gateway: Counterpart, family: str) -> None:
    body, dear = chat(), chat(max_tokens=41)
    transaction = await gateway.buyers[family].transfer(await gateway.price(dear, family))
    taken = await gateway.present(family, transaction, dear, bound_to=body)
    assert (taken.status_code, taken.json()["error"]) == (402, "unbound_transfer")
    assert await gateway.book.bills(BillFilter()) == []
    control = await gateway.present(family, transaction, dear)
    assert control.status_code == 200


@FAMILIES
async def test_B03_a_transfer_below_the_price_of_its_tokens_buys_nothing(gateway: Counterpart, family: str) -> None:
    body = chat()
    transaction = await gateway.buyers[family].transfer(await gateway.price(body, family) - 1)
    low = await gateway.present(family, transaction, body)
    assert (low.status_code, low.json()["error"]) == (402, "invalid_payment_amount")
    # It is enough for a shorter answer, which its payer may ask for instead.
    short = chat(max_tokens=5)
    assert (await gateway.present(family, transaction, short)).status_code == 200
