"""`x402 approve`: let Permit2 move the wallet's tokens, so that it can pay for what it uses (scheme upto)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x402.cli import wallet
from x402.cli.screen import AsJson, out, write_json


def approve(
    network: Annotated[str, typer.Option("--network", "-n", help="Where: base, base-sepolia, or a CAIP-2 id.")] = (
        "base-sepolia"
    ),
    amount: Annotated[str, typer.Option("--amount", help="US dollars, or unlimited.")] = "unlimited",
    rpc_url: Annotated[str, typer.Option("--rpc-url", help="The node to ask; the environment's by default.")] = "",
    mainnet: Annotated[bool, typer.Option("--mainnet", help="Allow a network where money is real.")] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The wallet file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Allow Permit2 to move the wallet's USDC: once per network, in one transaction that costs a little gas.

    Payments of scheme upto draw on it; each needs the wallet's signature all the same, and can take no more than was
    signed. Sellers that sponsor the allowance don't need it.

    Example:

        x402 approve --network base-sepolia --amount 25
    """
    import asyncio

    from x402 import networks
    from x402.client.approval import Approval, units_of
    from x402.client.approval import approve as allow
    from x402.errors import MisconfiguredError
    from x402.money import Amount
    from x402.ports.evm import RpcEvmChain
    from x402.settings import ClientSettings

    known = networks.get(networks.to_caip2(network))
    if known.family != networks.EIP155:
        raise MisconfiguredError(
            "invalid_network", f"{known.title} has no Permit2: scheme upto is paid on EVM networks"
        )
    url = rpc_url or ClientSettings.read().evm_rpc_url or known.rpc_url
    if not url:
        raise MisconfiguredError("no_rpc", f"name a node of {known.title}: --rpc-url, or X402_EVM_RPC_URL")

    async def run() -> Approval:
        chain = RpcEvmChain(url, known.chain_id)
        try:
            return await allow(wallet.find(file), chain, known, units_of(amount, known), mainnet=mainnet)
        finally:
            await chain.aclose()

    done = asyncio.run(run())
    if as_json:
        write_json(
            {"network": done.network, "owner": done.owner, "before": str(done.before), "allowed": str(done.now),
             "transaction": done.transaction}
        )  # fmt: skip
        return
    words = "all of it" if done.now > known.usd.largest // 2 else str(Amount(done.now, known.usd))
    made = f"in transaction {done.transaction}" if done.transaction else "already, so nothing was sent"
    out().print(f"[bold green]✓[/] Permit2 may move {words} of {done.owner} on {known.title}, {made}", soft_wrap=True)
