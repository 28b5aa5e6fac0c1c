"""Everybody whom the interop cells need: both chains, funded parties, our services, and the official peers.

What takes time to start is started when the first cell asks for it, and shared by all that follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from eth_account import Account
from solders.keypair import Keypair

from tests.chains import Elsewhere, EvmWorld, SvmWorld
from tests.interop.cells import Cell, Facilitator, Server
from tests.interop.launch import Peer, running
from tests.interop.services import Services
from x402.client.wallet import Wallet
from x402.devnet.town_parties import Parties
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

BUYER_USDC = 10_000_000_000
FUEL_WEI = 10**19
FUEL_LAMPORTS = 10_000_000_000
RENT_LAMPORTS = 10_000_000
OFFICIAL_PRICE = "$0.0017"
"""What the official sellers ask for anything."""

_FACILITATORS = {
    Facilitator.PYTHON: Peer.PYTHON_FACILITATOR,
    Facilitator.TYPESCRIPT: Peer.EXPRESS_FACILITATOR,
}
_SERVERS = {Server.FASTAPI: Peer.PYTHON_SERVER, Server.EXPRESS: Peer.EXPRESS_SERVER}


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

    @property
    def wallet(self) -> Wallet:
        """The keys as our client holds them."""
        return Wallet(evm=self.evm_key, svm=self.svm_key, testnet_only=True)

    @property
    def keys(self) -> dict[str, str]:
        """The keys under the names that the peers read."""
        return {"EVM_PRIVATE_KEY": self.evm_key, "SVM_PRIVATE_KEY": self.svm_key}


class Town:
    """The world of the cells as a context manager, over two chains that run already. For use from one thread."""

    def __init__(self, evm: EvmWorld, svm: SvmWorld) -> None:
        self._evm, self._svm = evm, svm
        self._exit = ExitStack()
        self._urls: dict[object, str] = {}
        self.buyer = Party.named("buyer")
        self.seller = Party.named("seller")
        self.third_parties = {who: Party.named(f"facilitator {who}") for who in Facilitator}
        """Who pays the fees of each facilitator. None of them ever holds USDC."""
        ours = self.third_parties[Facilitator.OURS]
        parties = Parties(
            buyer=self.buyer.wallet,
            seller=self.seller.wallet,
            evm_signer=EvmSigner(ours.evm_key),
            svm_signer=SvmSigner(ours.svm_key),
            buyer_keys=(self.buyer.evm_key, self.buyer.svm_key),
            seller_keys=(self.seller.evm_key, self.seller.svm_key),
        )
        self._services = Elsewhere(Services(parties, evm.url, svm.url))

    def __enter__(self) -> Self:
        self._fund(self.buyer, usdc=BUYER_USDC, lamports=RENT_LAMPORTS)
        for party in self.third_parties.values():
            self._fund(party, wei=FUEL_WEI, lamports=FUEL_LAMPORTS)
        self._svm.now(self._svm.devnet.create_usdc_account(self.seller.svm_address))
        self._exit.enter_context(self._services)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def nodes(self) -> dict[str, str]:
        """The RPC endpoints under the names that the peers read."""
        return {"EVM_RPC_URL": self._evm.url, "SVM_RPC_URL": self._svm.url}

    @property
    def offers(self) -> dict[str, str]:
        """What the official sellers ask for and where it goes, under the names that they read."""
        return {
            "EVM_PAY_TO": self.seller.evm_address,
            "SVM_PAY_TO": self.seller.svm_address,
            "PRICE": OFFICIAL_PRICE,
        }

    def usdc(self, party: Party, network: str) -> int:
        """Atomic USDC that `party` holds on `network`."""
        if network == BASE_SEPOLIA:
            return self._evm.now(self._evm.devnet.usdc_balance(party.evm_address))
        assert network == SOLANA_DEVNET
        return self._svm.now(self._svm.devnet.usdc_balance(party.svm_address))

    def landed(self, transaction: str, network: str) -> bool:
        """Whether the chain knows a transaction, and knows that it did not fail."""
        if network == BASE_SEPOLIA:
            receipt = self._evm.now(self._evm.devnet.request("eth_getTransactionReceipt", transaction))
            return receipt is not None and receipt["status"] == "0x1"
        question = {"jsonrpc": "2.0", "id": 1, "method": "getSignatureStatuses", "params": [[transaction]]}
        answer = httpx.post(self._svm.url, json=question, trust_env=False).json()
        status = answer["result"]["value"][0]
        return status is not None and status["err"] is None

    def facilitator(self, who: Facilitator) -> str:
        """The URL of a facilitator. Raises `PeerError` or `InstallError` for a peer that does not start."""
        if who not in self._urls:
            self._urls[who] = self._start_facilitator(who)
        return self._urls[who]

    def server(self, cell: Cell) -> str:
        """The base URL of the cell's seller, settling through the cell's facilitator. Raises as `facilitator` does."""
        gateway = cell.server not in (*_SERVERS, Server.PAYWALL)
        place = (Server.GATEWAY if gateway else cell.server, cell.facilitator)
        if place not in self._urls:
            self._urls[place] = self._start_server(cell, self.facilitator(cell.facilitator))
        return self._urls[place]

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """No transaction is mined on the EVM within the block, unless `resume` is called."""
        self._evm.now(self._evm.devnet.request("evm_setAutomine", False))
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        """Mine again, what has waited first."""
        self._evm.now(self._evm.devnet.request("evm_setAutomine", True))

    def _start_facilitator(self, who: Facilitator) -> str:
        if who is Facilitator.OURS:
            return self._services.now(self._services.devnet.facilitator())
        party = self.third_parties[who]
        if who is Facilitator.OURS_STALLED:
            return self._services.now(self._services.devnet.hasty_facilitator(EvmSigner(party.evm_key)))
        return self._peer(_FACILITATORS[who], party.keys | self.nodes)

    def _start_server(self, cell: Cell, facilitator: str) -> str:
        if cell.server is Server.PAYWALL:
            return self._services.now(self._services.devnet.paywall(facilitator))
        if cell.server in _SERVERS:
            return self._peer(_SERVERS[cell.server], self.offers | {"FACILITATOR_URL": facilitator})
        return self._services.now(self._services.devnet.gateway(f"gateway-{cell.facilitator.name}", facilitator))

    def _peer(self, peer: Peer, environment: Mapping[str, str]) -> str:
        return self._exit.enter_context(running(peer, environment))

    def _fund(self, party: Party, *, usdc: int = 0, wei: int = 0, lamports: int = 0) -> None:
        self._evm.now(self._evm.devnet.fund(party.evm_address, usdc, wei))
        self._svm.now(self._svm.devnet.fund(party.svm_address, usdc, lamports))
