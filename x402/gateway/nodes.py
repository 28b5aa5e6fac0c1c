"""The seller's own look at the chains, where the operator names nodes: witnesses, and blockhashes for refunds.

A node is believed only once it has proved that it serves the network that it is asked about (fault D14).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from x402 import networks
from x402.errors import MisconfiguredError, UnavailableError
from x402.evidence import Standing, Verdict, Witness
from x402.evidence.evm import EvmWitness
from x402.evidence.svm import SvmWitness
from x402.evidence.transfers import EvmTransfers, SvmTransfers, Transfers
from x402.gateway.disbursement import Blockhash
from x402.lifecycle import Subject
from x402.ports.evm import RpcEvmChain
from x402.ports.svm import RpcSvmChain
from x402.stages import Settled


@dataclass(frozen=True, slots=True)
class Nodes:
    """What a seller can ask the chains, by CAIP-2 network. `open_nodes` makes it from URLs; close it in the end."""

    witnesses: Mapping[str, Witness] = field(default_factory=dict)
    blockhashes: Mapping[str, Blockhash] = field(default_factory=dict)
    transfers: Mapping[str, Transfers] = field(default_factory=dict)
    closing: Sequence[Callable[[], Awaitable[None]]] = ()

    async def aclose(self) -> None:
        """Close the connections."""
        for close in self.closing:
            await close()


def open_nodes(urls: Mapping[str, str]) -> Nodes:
    """Nodes by network (CAIP-2 or v1 name) and URL; an empty URL is none, and nothing is connected yet.

    Raises `MalformedError` for an unknown network.
    """
    nodes = [
        _svm_node(network.id, url) if network.family == networks.SOLANA else _evm_node(network, url)
        for network, url in ((networks.get(name), url) for name, url in urls.items() if url)
    ]
    return Nodes(
        {network: witness for node in nodes for network, witness in node.witnesses.items()},
        {network: blockhash for node in nodes for network, blockhash in node.blockhashes.items()},
        {network: transfers for node in nodes for network, transfers in node.transfers.items()},
        [close for node in nodes for close in node.closing],
    )


def _evm_node(network: networks.Network, url: str) -> Nodes:
    chain = RpcEvmChain(url, network.chain_id)
    witness = Proven(EvmWitness(network.id, chain), chain.check_chain_id)
    return Nodes({network.id: witness}, {}, {network.id: EvmTransfers(chain, witness.prove)}, [chain.aclose])


def _svm_node(network: str, url: str) -> Nodes:
    chain = RpcSvmChain(url)

    async def prove() -> None:
        await chain.check_cluster(network)

    async def blockhash() -> str:
        await witness.prove()
        return (await chain.blockhash()).hash

    witness = Proven(SvmWitness(network, chain), prove)
    transfers = SvmTransfers(chain, witness.prove)
    return Nodes({network: witness}, {network: blockhash}, {network: transfers}, [chain.aclose])


class Proven:
    """A witness that says nothing before its node has proved which network it serves; implements `Witness`."""

    def __init__(self, witness: Witness, check: Callable[[], Awaitable[None]]) -> None:
        self.network = witness.network
        self._witness = witness
        self._check = check
        self._is_proven = False

    async def prove(self) -> None:
        """Raise `UnavailableError` unless the node serves the network."""
        if self._is_proven:
            return
        try:
            await self._check()
        except MisconfiguredError as error:
            raise UnavailableError(error.code, error.message) from error
        self._is_proven = True

    async def judge(
        self,
        subject: Subject,
        transactions: Sequence[str] = (),
        *,
        last_valid: int = 0,
        since: int = 0,
        timeout: float = 0.0,
    ) -> Verdict:
        await self.prove()
        return await self._witness.judge(subject, transactions, last_valid=last_valid, since=since, timeout=timeout)

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        await self.prove()
        return await self._witness.spent_by(subject, since=since)

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        await self.prove()
        return await self._witness.standing(subject, settled)

    async def balance(self, owner: str, asset: str) -> int:
        await self.prove()
        return await self._witness.balance(owner, asset)
