"""Everybody as a process of their own: gateways, facilitators and customers around one oracle that stays alive.

The gateways and facilitators are the programs that people run, `x402 gateway` and `x402 facilitator`, configured by
nothing but their environment, on ports that they keep when they are started again.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from solders.keypair import Keypair

from tests.interop.install import cache_directory
from tests.live import customer
from tests.live.nursery import Child, Nursery
from x402.client.wallet import Wallet
from x402.facilitator.signer import EvmSigner
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

NETWORKS = (BASE_SEPOLIA, SOLANA_DEVNET)
READY_SECONDS = 40.0
USDC_EACH = 500_000_000
FUEL_WEI, FUEL_LAMPORTS = 10**19, 10**11
PORTS = range(20_000, 32_000)
"""Below what the system gives to connections, so that a port is still free when its owner comes back."""
ANVIL = cache_directory() / "anvil" / "node_modules" / ".bin"
"""Where the tests keep anvil when npm has brought it."""
PRICES = """
version = "live-1"
[[models]]
name = "{model}"
context_length = 8192
[models.pricing]
unit = "per_1m"
prompt = 0.5
completion = 1.5
[models.params]
model = "{model}"
api_base = "{upstream}/v1"
"""


class VillageError(RuntimeError):
    """A process did not get ready; the message ends with what it printed last."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many of each. `evm_signers` are the keys that every facilitator holds."""

    gateways: int = 1
    facilitators: int = 1
    customers: int = 2
    evm_signers: int = 3


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the oracle answers, and which EVM it runs."""

    evm: str
    svm: str
    model: str
    engine: str


class Village:
    """A context manager that brings up the oracle; the others are started and killed one by one, by name.

    `ledgers` are the URLs of the gateways' ledger and of the facilitators'; SQLite files in `folder` without it.
    Everything that anybody writes is in `folder`, logs included.
    """

    def __init__(
        self, folder: Path, size: Size, *, ledgers: Mapping[str, str] | None = None, engine: str = "auto",
        reconcile_seconds: int = 2,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.size = size
        self.ledgers = dict(ledgers or _files(folder))
        self._engine = engine
        self._reconcile_seconds = reconcile_seconds
        self._stack = ExitStack()
        self.children: dict[str, Child] = {}
        """Who runs now, by name."""
        self._evm_keys = [secrets.token_hex(32) for _ in range(size.evm_signers)]
        self.signers = [EvmSigner(key).address for key in self._evm_keys]
        self._svm_signer = Keypair()
        self.seller = Wallet.new(testnet_only=True)
        self._quote_key = secrets.token_hex(16)
        self.gateways = [f"gateway-{number}" for number in range(size.gateways)]
        self.facilitators = [f"facilitator-{number}" for number in range(size.facilitators)]
        self.customers = [f"customer-{number}" for number in range(size.customers)]
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.environ.get("PATH", "").startswith(str(ANVIL)) and (ANVIL / "anvil").exists():
            os.environ["PATH"] = f"{ANVIL}{os.pathsep}{os.environ.get('PATH', '')}"
        self.nursery = self._stack.enter_context(Nursery())
        fund = dict.fromkeys(self.signers, (0, FUEL_WEI))
        fund[str(self._svm_signer.pubkey())] = (0, FUEL_LAMPORTS)
        fund[self.seller.address(SOLANA_DEVNET)] = (0, FUEL_LAMPORTS)
        for name in self.customers:
            wallet = Wallet.new(testnet_only=True)
            (self.folder / name).mkdir()
            wallet.save(self.folder / name / "wallet.toml")
            fund[wallet.address(self.network_of(name))] = (USDC_EACH, 0 if self._on_evm(name) else FUEL_LAMPORTS)
        self.urls = self._start_oracle(fund)
        (self.folder / "prices.toml").write_text(PRICES.format(model=customer.MODEL, upstream=self.urls.model))
        self._ports = dict(zip([*self.gateways, *self.facilitators], free_ports(), strict=False))

    def _start_oracle(self, fund: Mapping[str, tuple[int, int]]) -> Urls:
        file = self.folder / "oracle.json"
        environment = {"ORACLE_FILE": str(file), "ORACLE_FUND": json.dumps(fund), "ORACLE_ENGINE": self._engine}
        child = self.nursery.start("oracle", "tests.live.oracle", [], environment | self._path(), self.log_of("oracle"))
        deadline = time.monotonic() + READY_SECONDS
        while not file.exists():
            self._still(child, deadline)
            time.sleep(0.02)
        return Urls(**json.loads(file.read_text()))

    def _path(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)}

    def start(self, name: str, *, mode: str = "trade", rate: float = 1.0) -> None:
        """Start somebody; `mode` (`trade`, `retry`, `resolve`) and `rate` (calls a second) are for customers."""
        role = name.partition("-")[0]
        if role == "customer":
            environment = self._customer(name, rate)
            entry, arguments = ("x402.cli", [mode]) if mode == "resolve" else ("tests.live.customer", [mode])
        else:
            environment = self._gateway(name) if role == "gateway" else self._facilitator()
            entry, arguments = "x402.cli", [role, "--port", str(self._ports[name])]
        self.children[name] = self.nursery.start(name, entry, arguments, environment | self._path(), self.log_of(name))

    def kill(self, name: str) -> int | None:
        """SIGKILL, which leaves no time for anything; the status when it had already ended by itself."""
        return self.nursery.kill(self.children.pop(name))

    def wait_ready(self, names: Sequence[str], path: str = "/ready") -> None:
        """Wait until these services say that they are ready, or at least alive. Raises `VillageError`."""
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(trust_env=False, timeout=READY_SECONDS) as http:
            for name in names:
                while not _answers(http, f"{self.url_of(name)}{path}"):
                    self._still(self.children[name], deadline)
                    time.sleep(0.02)

    def wait_ended(self, name: str, seconds: float) -> int:
        """Wait until somebody ends by itself; the exit status. Raises `VillageError` when it does not."""
        deadline = time.monotonic() + seconds
        child = self.children[name]
        while (status := self.nursery.ended(child)) is None:
            if time.monotonic() > deadline:
                raise VillageError(f"{name} is still at work after {seconds:g} s{_tail(child.log)}")
            time.sleep(0.02)
        del self.children[name]
        return status

    def url_of(self, name: str) -> str:
        """Where a gateway or facilitator listens, whether it runs or not."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def log_of(self, name: str) -> Path:
        """What somebody printed, over all its lives."""
        return self.folder / f"{name}.log"

    def network_of(self, name: str) -> str:
        """On which chain (CAIP-2) a customer pays: every other one on each."""
        return NETWORKS[int(name.rpartition("-")[2]) % 2]

    def _on_evm(self, name: str) -> bool:
        return self.network_of(name) == BASE_SEPOLIA

    def _gateway(self, name: str) -> dict[str, str]:
        # Replicas of a gateway ask replicas of the facilitator, each its own one first.
        own = int(name.rpartition("-")[2]) % len(self.facilitators)
        ours = self.facilitators[own:] + self.facilitators[:own]
        return {
            "X402_EVM_PAY_TO": self.seller.address(BASE_SEPOLIA),
            "X402_SVM_PAY_TO": self.seller.address(SOLANA_DEVNET),
            "X402_FACILITATOR_URL": ",".join(self.url_of(facilitator) for facilitator in ours),
            "X402_PRICES": str(self.folder / "prices.toml"),
            "X402_GATEWAY_LEDGER": self.ledgers["gateway"],
            "X402_QUOTE_KEY": self._quote_key,
            "X402_PUBLIC_URL": customer.SHOP,
            # The oracle knows each payment by its authorization and its amount; `upto` has neither.
            "X402_SCHEMES": "exact",
        }

    def _facilitator(self) -> dict[str, str]:
        return {
            "X402_FACILITATOR_EVM_PRIVATE_KEY": ",".join(self._evm_keys),
            "X402_FACILITATOR_SVM_PRIVATE_KEY": str(self._svm_signer),
            "X402_EVM_RPC_URL": self.urls.evm,
            "X402_SVM_RPC_URL": self.urls.svm,
            "X402_LEDGER": self.ledgers["facilitator"],
            "X402_RECONCILE_SECONDS": str(self._reconcile_seconds),
        }

    def _customer(self, name: str, rate: float) -> dict[str, str]:
        return {
            "CUSTOMER_FOLDER": str(self.folder / name),
            "CUSTOMER_NETWORK": self.network_of(name),
            "CUSTOMER_GATEWAYS": ",".join(self.url_of(gateway) for gateway in self.gateways),
            "CUSTOMER_RATE": str(rate),
            "X402_JOURNAL": str(self.folder / name / customer.JOURNAL),
            "X402_EVM_RPC_URL": self.urls.evm,
            "X402_SVM_RPC_URL": self.urls.svm,
        }

    def _still(self, child: Child, deadline: float) -> None:
        status = self.nursery.ended(child)
        if status is not None:
            raise VillageError(f"{child.name} ended with status {status}{_tail(child.log)}")
        if time.monotonic() > deadline:
            raise VillageError(f"{child.name} was not ready in {READY_SECONDS:g} s{_tail(child.log)}")


def _files(folder: Path) -> dict[str, str]:
    return {party: f"sqlite:///{folder / party}.sqlite" for party in ("gateway", "facilitator")}


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == 200
    except httpx.TransportError:
        return False


def free_ports() -> list[int]:
    """Some ports at which nobody listens, in no order."""
    found: list[int] = []
    for port in random.sample(PORTS, 64):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found


def _tail(log: Path) -> str:
    lines: list[str] = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "".join(f"\n    {line}" for line in lines[-15:])
