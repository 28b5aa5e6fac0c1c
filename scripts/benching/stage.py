"""Who takes part: a chain, payers with money, and facilitators and sellers of ours and of the official SDKs."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import coincurve
import httpx

from benching.figures import OURS
from benching.wire import Request
from tests.chains import Elsewhere
from tests.interop.install import install_anvil
from tests.interop.launch import Peer, running
from tests.payments import EvmPayer, evm_requirement
from x402.devnet.evm import EvmDevnet
from x402.schemes import eip712
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment
from x402.wire.strict import dump_json

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
PAYERS = 16
PAYER_USDC = 10**12
FUEL_WEI = 10**21
PRICE_UNITS = 1000
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
_READY = re.compile(r"(?:ready|at) (http://[0-9.]+:\d+)")


def key_of(name: str) -> coincurve.PrivateKey:
    """A key that is worth nothing, the same in every run."""
    return coincurve.PrivateKey(eip712.keccak(f"x402 bench {name}".encode()))


class Chain:
    """A real EVM, anvil with the devnet's world, and sixteen payers who can pay for everything that is measured."""

    def __init__(self) -> None:
        self._world = Elsewhere(EvmDevnet(engine="anvil"))
        self.payers = [EvmPayer(key_of(f"payer {number}")) for number in range(PAYERS)]
        self.pay_to = EvmPayer(key_of("seller")).address
        self.signer = key_of("facilitator")
        self.signer_address = eip712.address_of(self.signer.public_key)
        self._turn = 0

    def __enter__(self) -> Chain:
        install_anvil()
        self._world.__enter__()
        self._world.now(self._world.devnet.fund(self.signer_address, 0, FUEL_WEI))
        for payer in self.payers:
            self._world.now(self._world.devnet.fund(payer.address, PAYER_USDC, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._world.__exit__(None, None, None)

    @property
    def url(self) -> str:
        """Where JSON-RPC is answered."""
        return self._world.url

    def ask(self, method: str, *params: Any) -> Any:
        """One JSON-RPC method."""
        return self._world.now(self._world.devnet.request(method, *params))

    def received(self) -> int:
        """Atomic USDC that the seller holds."""
        return self._world.now(self._world.devnet.usdc_balance(self.pay_to))

    def height(self) -> int:
        """The latest block."""
        return int(self.ask("eth_blockNumber"), 16)

    def sent(self, since: int) -> tuple[int, int, int]:
        """Transactions of the facilitator in the blocks after `since`: how many, how many failed, and their gas."""
        mine = [
            receipt
            for block in range(since + 1, self.height() + 1)
            for receipt in self.ask("eth_getBlockReceipts", hex(block))
            if receipt["from"].lower() == self.signer_address.lower()
        ]
        failed = sum(receipt["status"] == "0x0" for receipt in mine)
        return len(mine), failed, sum(int(receipt["gasUsed"], 16) for receipt in mine)

    @contextmanager
    def blocks_every(self, seconds: int) -> Iterator[None]:
        """Blocks come by the clock, as on a real chain, and not with each transaction."""
        self.ask("evm_setAutomine", False)
        self.ask("evm_setIntervalMining", seconds)
        try:
            yield
        finally:
            self.ask("evm_setIntervalMining", 0)
            self.ask("evm_setAutomine", True)

    def offer(self) -> Requirement:
        """What the seller asks."""
        return evm_requirement(pay_to=self.pay_to, amount=PRICE_UNITS)

    def bodies(self, count: int) -> list[bytes]:
        """Bodies for /verify or /settle: so many distinct payments that hold, the payers in turn."""
        offer = self.offer()
        return [verification(self._next().pay(offer), offer) for _ in range(count)]

    def payments(self, offer: Requirement, count: int) -> list[Payment]:
        """So many distinct payments of an offer."""
        return [self._next().pay(offer) for _ in range(count)]

    def _next(self) -> EvmPayer:
        self._turn += 1
        return self.payers[self._turn % PAYERS]


def verification(payment: Payment, offer: Requirement) -> bytes:
    """The body of a request that a payment for an offer be verified, or settled."""
    asked = {"x402Version": 2, "paymentPayload": payment.as_json(), "paymentRequirements": offer.as_json()}
    return dump_json(asked).encode()


def posts(path: str, bodies: Sequence[bytes]) -> list[Request]:
    """A request for each body."""
    return [Request("POST", path, body) for body in bodies]


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who can be measured: `who` is `ours`, `python-…` or `typescript`; `peer` the program of a peer."""

    who: str
    facilitator: Peer | None = None
    seller: Peer | None = None


CONTENDERS = (
    Contender(OURS),
    Contender("python-threads", Peer.PYTHON_FACILITATOR, Peer.PYTHON_SERVER),
    Contender("python-async", Peer.PYTHON_ASYNC_FACILITATOR),
    Contender("typescript", Peer.EXPRESS_FACILITATOR, Peer.EXPRESS_SERVER),
)
"""The Python SDK runs with coincurve, which it does not bring itself: its better half."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service at work, and how long it took until it answered."""

    url: str
    pid: int
    ready_seconds: float


def facilitator_settings(chain: Chain, node: str, folder: str) -> dict[str, str]:
    """What our facilitator is told: one key, the node at `node`, and a new ledger in `folder`."""
    return {
        "X402_FACILITATOR_EVM_PRIVATE_KEY": "0x" + chain.signer.to_hex(),
        "X402_EVM_RPC_URL": node,
        "X402_LEDGER": f"sqlite:///{folder}/facilitator.sqlite",
        "X402_EVM_FEES_PER_DAY": "1000000",
    }


@contextmanager
def facilitator(
    contender: Contender, chain: Chain, node: str, more: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """A contender's facilitator with one key, on the node at `node`; ours with `more` variables."""
    begun = time.perf_counter()
    if contender.facilitator is not None:
        environment = {"EVM_PRIVATE_KEY": "0x" + chain.signer.to_hex(), "EVM_RPC_URL": node}
        with running(contender.facilitator, environment) as url:
            wait_for(f"{url}/supported")
            yield Running(url, pid_of(url), time.perf_counter() - begun)
        return
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as folder, ExitStack() as stack:
        environment = {**facilitator_settings(chain, node, folder), **(more or {})}
        port = free_port()
        stack.enter_context(program(["-m", "x402", "facilitator", "--port", str(port)], environment, announces=False))
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/supported")
        yield Running(url, pid_of(url), time.perf_counter() - begun)


@contextmanager
def program(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, *, announces: bool = True
) -> Iterator[str]:
    """A Python program of ours for the length of the block; yields the URL that it announces, if it does."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    inherited |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            env=inherited | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if announces else log,
            stderr=log,
            start_new_session=True,
            bufsize=0,
        )
        try:
            yield _announced(child, log) if announces else ""
        finally:
            _end(child)


def _drain(pipe: IO[bytes]) -> None:
    with suppress(OSError, ValueError):
        while pipe.read(65_536):
            pass


def _announced(child: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if selector.select(timeout=READY_SECONDS):
            found = _READY.search(child.stdout.readline().decode(errors="replace"))
            if found:
                # What it tells from now on is read by nobody else, and a full pipe would hold it up for ever.
                threading.Thread(target=_drain, args=(child.stdout,), daemon=True).start()
                return found[1]
    log.seek(0)
    raise RuntimeError(f"a program did not get ready: {log.read().decode(errors='replace')[-1000:]}")


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            os.killpg(child.pid, number)
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                continue
    if child.stdout is not None:
        child.stdout.close()


def wait_for(url: str) -> None:
    """Wait until a URL answers 200. Raises `RuntimeError` after a minute."""
    deadline = time.monotonic() + READY_SECONDS
    with httpx.Client(trust_env=False, timeout=READY_SECONDS) as http:
        while time.monotonic() < deadline:
            try:
                if http.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.01)
    raise RuntimeError(f"{url} did not answer")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pid_of(url: str) -> int:
    """A process that listens at a URL of this machine; 0 where the system does not tell."""
    return next(iter(pids_of(url)), 0)


def pids_of(url: str) -> list[int]:
    """Every process that listens at a URL of this machine, as far as the system tells."""
    found = []
    port = int(url.rpartition(":")[2])
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                links = {os.readlink(link) for link in (process / "fd").iterdir()}
            except OSError:
                continue
            if any(f"socket:[{inode}]" in links for inode in inodes):
                found.append(int(process.name))
    except OSError:
        pass
    return found


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
