"""A whole small world in one process: both chains, a faucet, the facilitator, the gateway and a demo model.

    async with Town() as town:
        print(town.urls.gateway, await town.balances())

Every service has its own port on loopback and talks to the others over HTTP and JSON-RPC, as it would anywhere else.
When the block ends, by whatever way, nothing is left: no port, no thread, no file.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from fastapi import FastAPI

from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import Journal
from x402.devnet.evm import EngineName, EvmDevnet
from x402.devnet.svm import SvmDevnet
from x402.devnet.town_books import Balances, Sums
from x402.devnet.town_parties import NETWORKS, Parties, Role
from x402.devnet.town_services import facilitator_app, gateway_app, model_app, purse_settings
from x402.devnet.town_serving import listen, serving
from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Party
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, get
from x402.ports.ledger import SqlLedger
from x402.settings import ClientSettings
from x402.stages import Settled, State
from x402.telemetry import Observer, Telemetry

READY_SECONDS = 15.0
BUYER_USDC = 25_000_000
FUEL_WEI = 10**18
FUEL_LAMPORTS = 2_000_000_000
WALLET_FILE = "wallet.toml"

_PAID = {
    Party.GATEWAY: (State.SETTLED, State.DELIVERED, State.OWED, State.CREDITED),
    Party.FACILITATOR: (State.SETTLED, State.FINAL),
}
"""States in which a party believes that the money moved."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on loopback; 0 takes any free one."""

    gateway: int = 0
    facilitator: int = 0
    model: int = 0
    evm: int = 0
    svm: int = 0


USUAL_PORTS = Ports(gateway=4021, facilitator=4022, model=4023, evm=8545, svm=8899)
"""Where people expect these services."""


@dataclass(frozen=True, slots=True)
class Urls:
    """Where everything is."""

    gateway: str
    facilitator: str
    model: str
    evm_rpc: str
    svm_rpc: str
    svm_ws: str

    @property
    def chat(self) -> str:
        """The base URL for OpenAI-compatible clients."""
        return f"{self.gateway}/api/v1"

    def as_json(self) -> dict[str, str]:
        """Names and URLs."""
        return {**asdict(self), "chat": self.chat}


class Town:
    """The world as an async context manager; `start` and `stop` for those who need them apart.

    `state` is a directory for the ledgers and the buyer's wallet file, which then stay when the town has gone; without
    it they live in a temporary directory. `observers` hear every fact of facilitator and gateway. `engine` chooses the
    EVM (`EvmDevnet`), `model_delay_seconds` is how slowly the demo model streams. The gateway holds the seller's
    keys, so that balances can be withdrawn and providers be paid, unless `pays_out` is false.

    Starting raises `UnavailableError` for a port that is taken and for a town that does not get ready in time,
    `MisconfiguredError("state_in_use")` for a directory with an earlier town's ledgers.
    """

    def __init__(
        self,
        *,
        ports: Ports | None = None,
        state: Path | None = None,
        observers: Sequence[Observer] = (),
        engine: EngineName = "auto",
        model_delay_seconds: float = 0.0,
        pays_out: bool = True,
    ) -> None:
        self._ports = ports or Ports()
        self._state = state
        self._delay = model_delay_seconds
        self._pays_out = pays_out
        self._telemetry = Telemetry(observers)
        self._exit = AsyncExitStack()
        self._urls: Urls | None = None
        self.evm = EvmDevnet(engine=engine)
        self.svm = SvmDevnet()
        self.parties = Parties.fresh()
        self.shop = FastAPI()
        """The gateway's app; `start` puts it together."""
        self.directory = Path()
        """Where ledgers and wallet file are; set by `start`."""

    @property
    def urls(self) -> Urls:
        """Where the services are. Raises `UnavailableError` when the town does not run."""
        if self._urls is None:
            raise UnavailableError("town_stopped", "the town does not run")
        return self._urls

    @property
    def wallet_file(self) -> Path:
        """The buyer's wallet, for `X402_WALLET_FILE`."""
        return self.directory / WALLET_FILE

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Bring everything up; when it returns, the first payment can be made."""
        self.directory = self._make_directory()
        await _together(self._start_evm(), self._start_svm())
        await _together(self._fund_evm(), self._fund_svm())
        self.parties.buyer.save(self.wallet_file)
        self.gateway_ledger = await self._ledger("gateway")
        self.facilitator_ledger = await self._ledger("facilitator")
        model = await self._serve(model_app(self._delay), self._ports.model)
        facilitator = await self._serve(
            facilitator_app(self.parties, self.evm.url, self.svm.url, self.facilitator_ledger, self._telemetry),
            self._ports.facilitator,
        )
        await _ready(facilitator)
        listener = listen(self._ports.gateway)
        own_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = purse_settings(self.parties, self.evm.url, self.svm.url) if self._pays_out else None
        self.shop = gateway_app(
            self.parties, own_url, facilitator, model, self.gateway_ledger, self._telemetry, settings=settings
        )
        gateway = await self._exit.enter_async_context(serving(self.shop, listener))
        await _ready(gateway)
        self._urls = Urls(gateway, facilitator, model, self.evm.url, self.svm.url, self.svm.ws_url)

    async def stop(self) -> None:
        """Take everything down, in the opposite order; harmless when it does not run."""
        self._urls = None
        await self._exit.aclose()

    def client_auth(self, journal: Journal, *, network: str = "", limits: Limits | None = None) -> X402Auth:
        """The buyer's `auth=` for an HTTP client, paying on one network (CAIP-2), or on any of the town's for `""`."""
        return X402Auth(
            self.parties.buyer,
            policy=Policy(networks=(network,) if network else (), mainnet=False),
            limits=limits or Limits(per_call="0.10", per_day="5"),
            journal=journal,
            svm_rpc=self.urls.svm_rpc,
            settings=ClientSettings.model_construct(),
        )

    async def balances(self) -> Balances:
        """What everybody holds now, read from the chains."""
        usdc: dict[tuple[Role, str], int] = {}
        fuel: dict[tuple[Role, str], int] = {}
        for role in Role:
            evm, svm = (self.parties.address(role, network) for network in NETWORKS)
            usdc[role, BASE_SEPOLIA] = await self.evm.usdc_balance(evm)
            usdc[role, SOLANA_DEVNET] = await self.svm.usdc_balance(svm)
            fuel[role, BASE_SEPOLIA] = await self.evm.eth_balance(evm)
            fuel[role, SOLANA_DEVNET] = await self.svm.lamports(svm)
        return Balances(usdc, fuel)

    async def sums(self, journal: Journal) -> Sums:
        """What the three memories say has been paid, by network."""
        client = dict.fromkeys(NETWORKS, 0)
        records = await asyncio.to_thread(journal.history, 1_000_000)
        for record in records:
            if record.state is State.SETTLED:
                client[record.entry.subject.network] += record.entry.subject.amount
        unresolved = {"client": len(await asyncio.to_thread(journal.unresolved))}
        for party, ledger in (
            (Party.GATEWAY, self.gateway_ledger),
            (Party.FACILITATOR, self.facilitator_ledger),
        ):
            # Settled is known, and only read again until no fork reaches it.
            known = await ledger.unresolved(party)
            unresolved[str(party)] = sum(not isinstance(entry.stage, Settled) for entry in known)
        return Sums(
            client,
            await _paid(self.gateway_ledger, Party.GATEWAY),
            await _paid(self.facilitator_ledger, Party.FACILITATOR),
            unresolved,
        )

    def _make_directory(self) -> Path:
        if self._state is None:
            directory = Path(tempfile.mkdtemp(prefix="x402-town-"))
            self._exit.callback(shutil.rmtree, directory, ignore_errors=True)
            return directory
        directory = self._state.expanduser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.glob("*.sqlite")) or (directory / WALLET_FILE).exists():
            raise MisconfiguredError(
                "state_in_use",
                f"{directory} holds the ledgers of an earlier town, whose chains are gone; choose an empty directory",
            )
        return directory

    async def _start_evm(self) -> None:
        # Stopping what does not run is harmless, so a start that is interrupted is undone like any other.
        self._exit.push_async_callback(self.evm.stop)
        try:
            await self.evm.start(self._ports.evm)
        except OSError as error:
            raise UnavailableError("port_taken", f"port {self._ports.evm} cannot be used: {error}") from None

    async def _start_svm(self) -> None:
        self._exit.push_async_callback(self.svm.stop)
        await self.svm.start(self._ports.svm)

    async def _fund_evm(self) -> None:
        parties = self.parties
        await self.evm.fund(parties.address(Role.FACILITATOR, BASE_SEPOLIA), 0, FUEL_WEI)
        await self.evm.fund(parties.address(Role.BUYER, BASE_SEPOLIA), BUYER_USDC, 0)

    async def _fund_svm(self) -> None:
        parties = self.parties
        await self.svm.fund(parties.address(Role.FACILITATOR, SOLANA_DEVNET), 0, FUEL_LAMPORTS)
        await self.svm.fund(parties.address(Role.BUYER, SOLANA_DEVNET), BUYER_USDC, 0)
        await self.svm.create_usdc_account(parties.address(Role.SELLER, SOLANA_DEVNET))

    async def _ledger(self, party: str) -> SqlLedger:
        return await self._exit.enter_async_context(SqlLedger(f"sqlite:///{self.directory / party}.sqlite"))

    async def _serve(self, app: object, port: int) -> str:
        return await self._exit.enter_async_context(serving(app, listen(port)))  # type: ignore[arg-type]


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Do several things at once; when it returns or raises, none of them is still going on."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _paid(ledger: SqlLedger, party: Party) -> dict[str, int]:
    sums = dict.fromkeys(NETWORKS, 0)
    for state in _PAID[party]:
        for (network, asset), units in (await ledger.totals(party, state)).items():
            if get(network).asset(asset) == get(network).usd:
                sums[network] = sums.get(network, 0) + units
    return sums


async def _ready(url: str) -> None:
    """Wait until a service says that it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    problems: object = "it does not answer"
    async with httpx.AsyncClient(trust_env=False, timeout=READY_SECONDS) as client:
        while time.monotonic() < deadline:
            response = await client.get(f"{url}/ready")
            if response.status_code == 200:
                return
            problems = response.text[:300]
            await asyncio.sleep(0.03)
    raise UnavailableError("town_not_ready", f"{url} did not get ready in {READY_SECONDS:.0f} s: {problems}")
