"""Our half of the interop town: facilitators, the demo model, gateways and a paywall, all on one event loop."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from tests.interop.five_lines import seller
from x402.devnet.town_parties import Parties
from x402.devnet.town_services import facilitator_app, gateway_app, model_app
from x402.devnet.town_serving import App, listen, serving
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import create_app, unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner
from x402.networks import BASE_SEPOLIA, get
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.settings import FacilitatorSettings
from x402.telemetry import Telemetry

PATIENCE_SECONDS = 1.0
"""How long the facilitator of the 503 cells waits for its node before it says that it does not know yet."""


class Services:
    """Ours as others meet them: each on a port of its own, over HTTP and JSON-RPC, gone when the block ends."""

    def __init__(self, parties: Parties, evm_rpc: str, svm_rpc: str) -> None:
        self._parties, self._evm_rpc, self._svm_rpc = parties, evm_rpc, svm_rpc
        self._exit = AsyncExitStack()
        self._telemetry = Telemetry(())
        self._directory = Path()
        self.model = ""

    async def __aenter__(self) -> Self:
        self._directory = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="x402-interop-")))
        self.model = await self._serve(model_app(0.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    @property
    def url(self) -> str:
        """Where the demo model is."""
        return self.model

    async def facilitator(self) -> str:
        """The URL of a facilitator for both chains."""
        ledger = await self._ledger("facilitator")
        return await self._serve(facilitator_app(self._parties, self._evm_rpc, self._svm_rpc, ledger, self._telemetry))

    async def hasty_facilitator(self, signer: EvmSigner) -> str:
        """The URL of a facilitator for the EVM that answers "pending" when the chain takes its time."""
        ledger = await self._ledger("hasty-facilitator")
        chain = RpcEvmChain(self._evm_rpc, get(BASE_SEPOLIA).chain_id)
        rail = EvmRail(BASE_SEPOLIA, chain, [signer], unix_now)
        local = LocalFacilitator([rail], ledger, settle_timeout_seconds=PATIENCE_SECONDS)
        return await self._serve(create_app(FacilitatorSettings.model_construct(), facilitator=local))

    async def gateway(self, name: str, facilitator: str) -> str:
        """The URL of a gateway that sells the demo model and settles through `facilitator`."""
        ledger = await self._ledger(name)
        listener = listen()
        own_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = gateway_app(self._parties, own_url, facilitator, self.model, ledger, self._telemetry)
        return await self._exit.enter_async_context(serving(app, listener))

    async def paywall(self, facilitator: str) -> str:
        """The URL of the five-line seller."""
        app = seller(self._parties.pay_to, facilitator, self._directory / "paywall.sqlite")
        return await self._serve(app)

    async def _ledger(self, name: str) -> SqlLedger:
        return await self._exit.enter_async_context(SqlLedger(f"sqlite:///{self._directory / name}.sqlite"))

    async def _serve(self, app: App) -> str:
        return await self._exit.enter_async_context(serving(app, listen()))
