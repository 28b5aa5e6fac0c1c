"""The nodes that an audit of the books asks, named ones or else the public ones, and the wallets that it looks at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from x402 import networks
from x402.errors import MalformedError, MisconfiguredError
from x402.evidence.books import Account, Books, EvmIncome, IncomeReader, SvmIncome
from x402.evidence.holdings import Cover, Debts
from x402.ports.audit import Audit, Violation
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger_reading import read_ledger
from x402.ports.svm import RpcSvmChain
from x402.schemes.eip712 import parse_address
from x402.schemes.exact_svm_layout import parse_key
from x402.settings import FacilitatorSettings


@asynccontextmanager
async def readers_of(
    wanted: Collection[str], stated: Sequence[str], *, everywhere: bool
) -> AsyncIterator[Mapping[str, IncomeReader]]:
    """Readers by network, of those `wanted` that have a node: stated as `NETWORK=URL`, or any with `everywhere`.

    Raises `MalformedError` for what names no node, `MisconfiguredError` for a node of another chain (fault D14), and
    `UnavailableError` when one can't be reached.
    """
    nodes = _stated(stated)
    if everywhere:
        nodes = _configured(wanted) | nodes
    async with AsyncExitStack() as stack:
        readers: dict[str, IncomeReader] = {}
        for network in sorted(wanted & nodes.keys()):
            if network.startswith(networks.EIP155 + ":"):
                chain = RpcEvmChain(nodes[network], networks.get(network).chain_id)
                stack.push_async_callback(chain.aclose)
                await chain.check_chain_id()
                readers[network] = EvmIncome(network, chain)
            else:
                cluster = RpcSvmChain(nodes[network])
                stack.push_async_callback(cluster.aclose)
                await cluster.check_cluster(network)
                readers[network] = SvmIncome(network, cluster)
        yield readers


@dataclass(frozen=True, slots=True)
class Compared:
    """What the chains say: each payee's income, and whether what is owed is there."""

    accounts: Sequence[Account] = ()
    covers: Sequence[Cover] = ()

    @property
    def violations(self) -> list[Violation]:
        """Everything that only a defect, or a seller who owes more than he has, explains."""
        wrong = [one for account in self.accounts for one in account.violations]
        return wrong + [one for cover in self.covers for one in cover.violations]

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return {"chain": [asdict(one) for one in self.accounts], "cover": [asdict(one) for one in self.covers]}


async def compare(
    ledger: str,
    books: Books,
    audit: Callable[[], Audit],
    stated: Sequence[str],
    *,
    wallets: Mapping[str, Sequence[str]],
    everywhere: bool,
) -> tuple[Audit, Compared]:
    """A ledger against the chains of `readers_of`, which raises what this does. `audit` reads the ledger into `books`
    and judges it by itself; `wallets` are the seller's own beside those that he is paid at."""

    def debts() -> Debts:
        with read_ledger(ledger) as snapshot:
            return Debts().read(snapshot.payments(), snapshot.accounts())

    with read_ledger(ledger) as snapshot:
        paid_on = {str(row.constants["network"]) for row in snapshot.payments()}
    async with readers_of(paid_on | debts().networks, stated, everywhere=everywhere) as readers:
        # The chain is marked before the ledger is read, so that nothing paid meanwhile looks unaccounted for.
        for reader in readers.values():
            await reader.mark()
        found = audit()
        accounts, covers = await books.compare(readers), await debts().compare(readers, wallets)
        if any(cover.short for cover in covers):
            # A gateway at work may have paid out between the look at its ledger and that at its wallet.
            covers = await debts().compare(readers, wallets)
        return found, Compared(accounts, covers)


def wallets_of(stated: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Wallets stated as `NETWORK=ADDRESS`, by network. Raises `MalformedError("invalid_address")`."""
    wallets: defaultdict[str, list[str]] = defaultdict(list)
    for one in stated:
        name, _, address = one.partition("=")
        known = networks.find(name)
        if known is None:
            raise MalformedError("invalid_address", "--wallet takes NETWORK=ADDRESS, such as base=0x8ba1…")
        read = parse_address(address) if known.family == networks.EIP155 else str(parse_key(address, "--wallet"))
        wallets[known.id].append(read)
    return wallets


def _stated(stated: Sequence[str]) -> dict[str, str]:
    nodes: dict[str, str] = {}
    for one in stated:
        name, equals, url = one.partition("=")
        known = networks.find(name)
        if not equals or known is None or not url.startswith(("http://", "https://")):
            raise MalformedError("invalid_node", "--rpc-url takes NETWORK=URL, such as eip155:8453=https://node.test")
        nodes[known.id] = url
    return nodes


def _configured(wanted: Collection[str]) -> dict[str, str]:
    settings = FacilitatorSettings.read()
    given = {
        known.id: url
        for name, url in (
            (settings.evm_network, settings.evm_rpc_url),
            (settings.svm_network, settings.svm_rpc_url),
        )
        if url and (known := networks.find(name)) is not None
    }
    nodes: dict[str, str] = {}
    for network in wanted:
        known = networks.find(network)
        url = given.get(network) or (known.rpc_url if known is not None else "")
        if not url:
            raise MisconfiguredError("no_rpc", f"{network} has no public node; name one with --rpc-url")
        nodes[network] = url
    return nodes
