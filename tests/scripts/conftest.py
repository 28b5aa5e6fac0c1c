"""A facilitator and a seller on the local devnet, for the scripts that people run against test networks."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from solders.keypair import Keypair
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.chains import EvmWorld, SvmWorld
from x402.devnet.town_serving import listen, serving
from x402.facilitator.service import create_app
from x402.facilitator.signer import EvmSigner
from x402.gateway.paywall import Paywall
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.schemes.eip712 import checksum
from x402.settings import FacilitatorSettings

GAS_WEI, GAS_LAMPORTS = 10**18, 10**9


@dataclass(frozen=True)
class Street:
    """Where the nodes, the facilitator and a shop are that sells `/report` for a cent."""

    evm_rpc: str
    svm_rpc: str
    facilitator: str
    shop: str
    seller_evm: str
    seller_svm: str
    facilitator_keys: dict[str, str]

    @property
    def nodes(self) -> list[str]:
        """The options that name both nodes."""
        return ["--evm-rpc", self.evm_rpc, "--svm-rpc", self.svm_rpc]


async def report(request: Request) -> PlainTextResponse:
    return PlainTextResponse("all is well")


@pytest.fixture(scope="session")
def street(evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> Iterator[Street]:
    evm_key, pair, seller = secrets.token_hex(32), Keypair(), Keypair()
    seller_evm = checksum("0x" + secrets.token_hex(20))
    evm_devnet.now(evm_devnet.devnet.fund(EvmSigner(evm_key).address, 0, GAS_WEI))
    svm_devnet.now(svm_devnet.devnet.fund(str(pair.pubkey()), 0, GAS_LAMPORTS))
    svm_devnet.now(svm_devnet.devnet.create_usdc_account(str(seller.pubkey())))
    keys = {"X402_FACILITATOR_EVM_PRIVATE_KEY": evm_key, "X402_FACILITATOR_SVM_PRIVATE_KEY": str(pair)}
    settings = FacilitatorSettings.read(
        evm_private_key=evm_key,
        svm_private_key=str(pair),
        evm_rpc_url=evm_devnet.url,
        svm_rpc_url=svm_devnet.url,
        ledger="sqlite://",
    )
    services = AsyncExitStack()

    async def open_shop() -> tuple[str, str]:
        facilitator = await services.enter_async_context(serving(create_app(settings), listen()))
        shop = Paywall(
            Starlette(routes=[Route("/report", report), Route("/free", report)]),
            routes={"GET /report": "$0.01"},
            pay_to={BASE_SEPOLIA: seller_evm, SOLANA_DEVNET: str(seller.pubkey())},
            facilitator=facilitator,
        )
        return facilitator, await services.enter_async_context(serving(shop, listen()))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="street")
    thread.start()
    try:
        facilitator, shop = asyncio.run_coroutine_threadsafe(open_shop(), loop).result(30)
        yield Street(evm_devnet.url, svm_devnet.url, facilitator, shop, seller_evm, str(seller.pubkey()), keys)
    finally:
        asyncio.run_coroutine_threadsafe(services.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
