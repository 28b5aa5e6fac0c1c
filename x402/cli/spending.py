"""What every command that may pay is told: the seller, the wallet, and how much it may spend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from x402.client.budget import Limits
    from x402.client.choose import Policy

BaseUrl = Annotated[
    str, typer.Option("--base-url", envvar="X402_BASE_URL", help="The seller; ends before /chat/completions.")
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", "-n", help="Pay on this network only: base, solana, base-sepolia, solana-devnet …"),
]
Mainnet = Annotated[bool, typer.Option("--mainnet", help="Allow paying real money.")]
MaxHour = Annotated[str | None, typer.Option("--max-hour", help="The most that an hour may cost, in USD.")]
MaxDay = Annotated[str | None, typer.Option("--max-day", help="The most that a day may cost, in USD.")]
MaxHost = Annotated[str | None, typer.Option("--max-host", help="The most that this seller may get in a day.")]
MaxPayee = Annotated[str | None, typer.Option("--max-payee", help="The most that one address may get in a day.")]
WalletFile = Annotated[
    Path | None, typer.Option("--wallet", help="The wallet file; default: what the environment names.")
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile", envvar="X402_PROFILE", help="How the seller is spoken to: ours, devnet-key, devnet-x402, …"
    ),
]


def policy_of(most: str, network: list[str] | None, mainnet: bool) -> Policy:
    """What may be signed. Raises `DeclinedError("mainnet_refused")` for real money without `--mainnet`."""
    from x402 import networks
    from x402.client.choose import Policy
    from x402.errors import DeclinedError

    wanted = tuple(networks.get(name).id for name in network or ())
    for name in wanted:
        if not networks.get(name).testnet and not mainnet:
            raise DeclinedError("mainnet_refused", f"{networks.get(name).title} moves real money")
    return Policy(max_per_call=most, networks=wanted, mainnet=mainnet)


def limits_of(hour: str | None, day: str | None, host: str | None, payee: str | None) -> Limits:
    """The environment's limits, with those that were named here in their place."""
    from dataclasses import replace

    from x402.client.budget import Limits
    from x402.settings import ClientSettings

    named = {"per_hour": hour, "per_day": day, "per_host": host, "per_payee": payee}
    return replace(Limits.of(ClientSettings.read()), **{name: bound for name, bound in named.items() if bound})


def payer(profile: str, wallet: Path | None) -> dict[str, Any]:
    """What opens a seller: the wallet in use, or nothing but the environment's key where there is one and no wallet.

    Raises `MisconfiguredError("no_wallet")` when there is neither.
    """
    from x402.cli.wallet import find
    from x402.client.profile import profile as named
    from x402.errors import MisconfiguredError
    from x402.settings import ClientSettings

    if profile and named(profile).needs_key:
        return {}
    try:
        return {"wallet": find(wallet)}
    except MisconfiguredError as error:
        if error.code == "no_wallet" and ClientSettings.read().api_key:
            return {}
        raise


def who(wallet: Path | None, network: list[str] | None) -> Any:
    """Who signs in: the wallet in use, on the network that was named or where the environment says."""
    from x402.cli.wallet import find
    from x402.client.identity import identity_of

    return identity_of(find(wallet), network[0]) if network else True


def unpaid() -> Any:
    """An HTTP client that asks and never pays."""
    import httpx

    return httpx.Client(timeout=30)
