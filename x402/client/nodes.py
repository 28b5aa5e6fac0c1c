"""Which chain's node is asked about a payment, and its connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from x402 import networks
from x402.client.choose import is_secure
from x402.client.record import Record
from x402.ports import Chains

NodeUrls = Mapping[str, str]
"""Node URLs by CAIP-2 network; `""` stands for every network of the family that is not named."""


def by_network(stated: str | Mapping[str, str] | None, default: str = "") -> NodeUrls:
    """Node URLs as a caller states them: one for all, or one per network; `default` when nothing is stated."""
    urls = default if stated is None else stated
    return {"": urls} if isinstance(urls, str) else dict(urls)


def is_local(record: Record) -> bool:
    """Whether the seller is on this machine, and so most likely on a devnet that public nodes know nothing of."""
    return is_secure("http", urlsplit(f"//{record.host}").hostname or "")


class Nodes:
    """The nodes that may be asked, opened when they are needed and closed at the end of an `async with` block.

    A network whose node is not named is asked at its public node, unless the seller is on this machine: a devnet bears
    the name of a public network.
    """

    def __init__(self, *, evm_rpc: NodeUrls, svm_rpc: NodeUrls) -> None:
        self._urls = {networks.EIP155: evm_rpc, networks.SOLANA: svm_rpc}
        self._opened: dict[str, tuple[Chains, Callable[[], Awaitable[None]]]] = {}

    def __call__(self, record: Record) -> Chains:
        """The chains that may be asked about a payment; none when no node is known for it."""
        # Imported where a chain is asked: a buyer who only pays never loads a node's library.
        from x402.ports.evm import RpcEvmChain
        from x402.ports.svm import RpcSvmChain

        network = networks.find(record.entry.subject.network)
        if network is None:
            return Chains()
        urls = self._urls[network.family]
        url = urls.get(network.id) or urls.get("") or ("" if is_local(record) else network.rpc_url)
        if not url:
            return Chains()
        if network.id not in self._opened:
            if network.family == networks.EIP155:
                evm = RpcEvmChain(url, network.chain_id)
                self._opened[network.id] = (Chains(evm={network.id: evm}), evm.aclose)
            else:
                svm = RpcSvmChain(url)
                self._opened[network.id] = (Chains(svm={network.id: svm}), svm.aclose)
        return self._opened[network.id][0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, close in self._opened.values():
            await close()
