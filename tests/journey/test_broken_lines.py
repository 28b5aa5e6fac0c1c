"""The facilitator dies, or its line to the node does, at the worst moment: what the payer sees, and where the money is.

A real `x402 facilitator`, real chains behind a line that can be cut, and a paid route in this process. However a
payment's first sending ends, the same payment sent again once all is well is served, the money has moved exactly once,
and nothing is jammed for the next payer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from solders.keypair import Keypair

from tests.chains import EvmWorld, SvmWorld
from tests.live.line import EVERYTHING, LineWorld, Rule
from tests.live.nursery import Child, Nursery
from tests.live.village import free_ports
from tests.payments import EvmPayer, SvmPayer
from x402 import Paywall
from x402.facilitator.signer import EvmSigner
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.svm import RpcSvmChain
from x402.wire.challenge import Challenge, read_challenge
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt, read_receipt

PRICE = 1000
SETTLE_SECONDS = 1
SEND = {BASE_SEPOLIA: "eth_sendRawTransaction", SOLANA_DEVNET: "sendTransaction"}
LOOK = {BASE_SEPOLIA: "eth_getTransactionReceipt", SOLANA_DEVNET: "getSignatureStatuses"}


class Service:
    """`x402 facilitator` as a process, which comes back at the same address with the same ledger."""

    def __init__(self, nursery: Nursery, folder: Path, lines: Mapping[str, LineWorld]) -> None:
        self._nursery = nursery
        self._log = folder / "facilitator.log"
        self.evm_key, self.svm_key = secrets.token_hex(32), Keypair()
        self._port = free_ports()[0]
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {
            "X402_FACILITATOR_EVM_PRIVATE_KEY": self.evm_key,
            "X402_FACILITATOR_SVM_PRIVATE_KEY": str(self.svm_key),
            "X402_EVM_RPC_URL": lines[BASE_SEPOLIA].url,
            "X402_SVM_RPC_URL": lines[SOLANA_DEVNET].url,
            "X402_LEDGER": f"sqlite:///{folder / 'facilitator.sqlite'}",
            "X402_SETTLE_TIMEOUT_SECONDS": str(SETTLE_SECONDS),
            "X402_RECONCILE_SECONDS": "1",
        }
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        arguments = ["facilitator", "--port", str(self._port)]
        self._child = self._nursery.start("facilitator", "x402.cli", arguments, self._environment, self._log)
        for _ in range(1000):
            with suppress(httpx.TransportError):
                if (await self.get("/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.02)
        pytest.fail(f"the facilitator is not ready: {self._log.read_text()}")

    def kill(self) -> None:
        """SIGKILL, which leaves no time for anything."""
        assert self._child is not None
        assert self._nursery.kill(self._child) is None, "it had ended by itself"
        self._child = None

    async def get(self, path: str) -> httpx.Response:
        """One request to it."""
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"{self.url}{path}")


@dataclass
class Trade:
    """A paid route, a rich payer, and all that stands between them and one chain."""

    network: str
    service: Service
    line: LineWorld
    world: EvmWorld | SvmWorld
    seller: str
    payer: EvmPayer | SvmPayer
    http: httpx.AsyncClient
    runs: list[str] = field(default_factory=list)

    async def rules(self, *, send: Rule | None = None, look: Rule | None = None) -> None:
        """What the line does with a transaction that is sent, and with the look whether it has landed."""
        told = {SEND[self.network]: send, LOOK[self.network]: look}
        await self.line.obey({method: rule for method, rule in told.items() if rule})

    async def signed(self) -> Payment:
        """A payment of what the shop asks."""
        response = await self.http.get("/report")
        challenge = read_challenge(response.headers.multi_items(), response.content)
        assert isinstance(challenge, Challenge), response.text
        (offer,) = [offer for offer in challenge.accepts if offer.network == self.network]
        if isinstance(self.payer, EvmPayer):
            return self.payer.pay(offer)
        chain = RpcSvmChain(self.world.url)
        try:
            return self.payer.pay(offer, (await chain.blockhash()).hash)
        finally:
            await chain.aclose()

    async def send(self, payment: Payment) -> httpx.Response:
        """Present a payment."""
        return await self.http.get("/report", headers={payment.header_name: payment.as_header()})

    async def send_until_known(self, payment: Payment) -> httpx.Response:
        """Present a payment as clients do: again while it is pending, a few times."""
        for _ in range(5):
            response = await self.send(payment)
            if not is_pending(response):
                break
        return response

    async def moved(self) -> int:
        """How many prices the seller has received."""
        units = await self.world.usdc(self.seller)
        assert units % PRICE == 0
        return units // PRICE

    async def until_paid(self) -> None:
        """Wait until a block has carried the first price to the seller."""
        for _ in range(400):
            if await self.moved() == 1:
                return
            await asyncio.sleep(0.05)
        pytest.fail("the payment never landed")

    async def until_asked(self, method: str) -> None:
        """Wait until the facilitator has asked its node this since the line was last given rules."""
        await self.until(lambda: method in self.line.devnet.asked)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for a few seconds at most."""
        for _ in range(2000):
            if holds():
                return
            await asyncio.sleep(0.005)
        pytest.fail("it never came to pass")

    async def is_whole_again(self, payment: Payment) -> None:
        """All is well: the payment is served once, whatever became of it before, and so is the next one."""
        again = await self.send_until_known(payment)
        assert again.status_code == 200, again.text
        assert receipt_of(again).success
        assert await self.moved() == 1
        fresh = await self.send(await self.signed())
        assert fresh.status_code == 200, fresh.text
        assert await self.moved() == 2
        assert (await self.send(payment)).content == again.content
        assert len(set(self.runs)) == 2, "each payment has had its answer made once"


def receipt_of(response: httpx.Response) -> Receipt:
    """The receipt of a response, which must have one."""
    receipt = read_receipt(response.headers.multi_items())
    assert receipt is not None, response.text
    return receipt


def is_pending(response: httpx.Response) -> bool:
    """Whether it says that nothing is known yet, which is never a new price (fault A09)."""
    return response.status_code == 503 and receipt_of(response).error_reason == "settlement_pending"


@pytest.fixture(scope="module")
def lines(evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> Iterator[Mapping[str, LineWorld]]:
    with LineWorld(evm_devnet.url) as evm, LineWorld(svm_devnet.url) as svm:
        yield {BASE_SEPOLIA: evm, SOLANA_DEVNET: svm}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, evm_devnet: EvmWorld, svm_devnet: SvmWorld, lines: Any
) -> Iterator[Service]:
    with Nursery() as nursery:
        service = Service(nursery, tmp_path_factory.mktemp("lines"), lines)
        evm_devnet.now(evm_devnet.devnet.fund(EvmSigner(service.evm_key).address, 0, 10**18))
        svm_devnet.now(svm_devnet.devnet.fund(str(service.svm_key.pubkey()), 0, 10**10))
        asyncio.run(service.start())
        yield service


@pytest.fixture(params=[BASE_SEPOLIA, SOLANA_DEVNET], ids=["evm", "svm"])
async def trade(
    request: pytest.FixtureRequest, evm_devnet: EvmWorld, svm_devnet: SvmWorld, lines: Any, service: Service,
    tmp_path: Path,
) -> AsyncIterator[Trade]:  # fmt: skip
    network: str = request.param
    world: EvmWorld | SvmWorld = evm_devnet
    payer: EvmPayer | SvmPayer = EvmPayer()
    seller = EvmPayer().address
    if network == SOLANA_DEVNET:
        world, payer, seller = svm_devnet, SvmPayer(), SvmPayer().address
        await svm_devnet.open_usdc_account(seller)
    await world.fund(payer.address, 10 * PRICE)
    app = FastAPI()
    ledger = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    paywall = Paywall(
        app, routes={"GET /report": "$0.001"}, pay_to={network: seller}, facilitator=service.url, ledger=ledger
    )
    http = httpx.AsyncClient(transport=httpx.ASGITransport(paywall), base_url="http://shop.test", timeout=30)
    trade = Trade(network, service, lines[network], world, seller, payer, http)

    @app.get("/report")
    async def report() -> dict[str, str]:
        trade.runs.append(secrets.token_hex(8))
        return {"report": trade.runs[-1]}

    async with http:
        yield trade
        await trade.rules()
        await paywall.stop()


async def test_control_a_whole_line_serves_at_once_and_the_same_again(trade: Trade) -> None:
    payment = await trade.signed()
    first, *others = await asyncio.gather(*(trade.send(payment) for _ in range(20)))
    assert {(each.status_code, each.content) for each in (first, *others)} == {(200, first.content)}
    assert (len(trade.runs), await trade.moved()) == (1, 1)
    await trade.is_whole_again(payment)


async def test_A06_A22_killed_after_the_send_and_before_the_answer(trade: Trade) -> None:
    payment = await trade.signed()
    await trade.rules(look="hang")
    asking = asyncio.create_task(trade.send(payment))
    await trade.until_asked(LOOK[trade.network])
    await trade.until_paid()
    trade.service.kill()
    assert is_pending(await asking)
    await trade.rules()
    await trade.service.start()
    await trade.is_whole_again(payment)


async def test_A09_the_node_took_the_transaction_and_its_answer_was_lost(trade: Trade) -> None:
    payment = await trade.signed()
    await trade.rules(send="swallow")
    first = await trade.send(payment)
    assert (first.status_code, await trade.moved()) == (200, 1), first.text
    await trade.rules()
    await trade.is_whole_again(payment)


async def test_A10_nobody_can_say_whether_it_landed(trade: Trade) -> None:
    payment = await trade.signed()
    await trade.rules(look="error")
    first = await trade.send(payment)
    assert is_pending(first), first.text
    assert (bool(receipt_of(first).transaction), await trade.moved()) == (True, 1)
    await trade.rules()
    await trade.is_whole_again(payment)


async def test_A09_D02_the_transaction_never_reached_the_node(trade: Trade) -> None:
    payment = await trade.signed()
    await trade.rules(send="drop")
    first = await trade.send(payment)
    assert is_pending(first), first.text
    assert (bool(receipt_of(first).transaction), await trade.moved()) == (True, 0)
    await trade.rules()
    await trade.is_whole_again(payment)


async def test_E01_A18_the_node_freezes_and_the_payer_hangs_up(trade: Trade) -> None:
    payment = await trade.signed()
    await trade.rules(send="swallow", look="hang")
    asking = asyncio.create_task(trade.send(payment))
    await trade.until_asked(SEND[trade.network])
    await trade.line.obey({EVERYTHING: "hang"})
    asking.cancel()
    assert (await asyncio.wait_for(trade.service.get("/supported"), 1)).status_code == 200
    await trade.rules()
    await trade.is_whole_again(payment)
