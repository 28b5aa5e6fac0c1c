"""Both chains for a session of interop tests, on an event loop and a thread of their own."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from eth_account import Account
from solders.keypair import Keypair

from x402.devnet.evm import EvmDevnet
from x402.devnet.svm import SvmDevnet
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

BUYER_USDC = 10_000_000_000
FACILITATOR_WEI = 10**19
FACILITATOR_LAMPORTS = 10_000_000_000
RENT_LAMPORTS = 10_000_000
CALL_SECONDS_MAX = 30

T = TypeVar("T")


@dataclass(frozen=True)
class Party:
    """Somebody with a wallet on each chain; the keys are derived from the name and worth nothing."""

    evm_key: str
    evm_address: str
    svm_key: str
    svm_address: str

    @classmethod
    def named(cls, name: str) -> Party:
        """The party of that name, the same in every run."""
        seed = hashlib.sha256(f"x402 interop {name}".encode()).digest()
        pair = Keypair.from_seed(seed)
        return cls("0x" + seed.hex(), str(Account.from_key(seed).address), str(pair), str(pair.pubkey()))

    def address(self, network: str) -> str:
        """The party's address on a CAIP-2 network."""
        return self.evm_address if network == BASE_SEPOLIA else self.svm_address


class Chains:
    """The EVM and the Solana devnet, to be used from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="interop chains")
        self._running = AsyncExitStack()
        self._evm = EvmDevnet("py-evm")
        self._svm = SvmDevnet()

    def start(self) -> None:
        """Starts both; their URLs answer from here on."""
        self._thread.start()
        self._on_loop(self._running.enter_async_context(self._evm))
        self._on_loop(self._running.enter_async_context(self._svm))

    def stop(self) -> None:
        """Ends both and the thread; both chains are gone."""
        self._on_loop(self._running.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def urls(self) -> dict[str, str]:
        """The RPC endpoints under the names that the peers read."""
        return {"EVM_RPC_URL": self._evm.url, "SVM_RPC_URL": self._svm.url}

    def fund(self, party: Party, *, usdc: int = 0, wei: int = 0, lamports: int = 0) -> None:
        """Gives `usdc` atomic units on each chain, and what fees are paid with."""
        self._on_loop(self._evm.fund(party.evm_address, usdc, wei))
        self._on_loop(self._svm.fund(party.svm_address, usdc, lamports))

    def open_usdc_account(self, party: Party) -> None:
        """Gives `party` an empty USDC account on Solana, without which nobody can pay it there."""
        self._on_loop(self._svm.create_usdc_account(party.svm_address))

    def usdc(self, party: Party, network: str) -> int:
        """Atomic USDC that `party` holds on `network`."""
        if network == BASE_SEPOLIA:
            return self._on_loop(self._evm.usdc_balance(party.evm_address))
        assert network == SOLANA_DEVNET
        return self._on_loop(self._svm.usdc_balance(party.svm_address))

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS_MAX)


@pytest.fixture(scope="session")
def buyer() -> Party:
    return Party.named("buyer")


@pytest.fixture(scope="session")
def seller() -> Party:
    return Party.named("seller")


@pytest.fixture(scope="session")
def third_party() -> Party:
    """Whose facilitator it is: it pays the fees on both chains."""
    return Party.named("third party")


@pytest.fixture(scope="session")
def chains(buyer: Party, seller: Party, third_party: Party) -> Iterator[Chains]:
    """Both chains, with a rich buyer, a third party that can pay fees and a seller that has nothing yet."""
    both = Chains()
    try:
        both.start()
        both.fund(buyer, usdc=BUYER_USDC, lamports=RENT_LAMPORTS)
        both.fund(third_party, wei=FACILITATOR_WEI, lamports=FACILITATOR_LAMPORTS)
        both.open_usdc_account(seller)
        yield both
    finally:
        both.stop()
