"""`x402 wallet`: make a wallet file, and show the addresses of the one in use. Keys are never shown or typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from x402.cli.screen import AsJson, out, prose, write_json

app = typer.Typer(no_args_is_help=True, help="Make a wallet, or show the addresses of the one in use.")

DEFAULT_FILE = Path("~/.config/x402/wallet.toml")

_File = Annotated[Path | None, typer.Option("--file", "-f", help="The wallet file.")]


def new(
    file: _File = None,
    testnet_only: Annotated[
        bool, typer.Option("--testnet-only/--any-network", help="Whether this wallet refuses to pay real money.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Make a wallet with fresh keys for Base and Solana, in a file that only you may read.

    It pays on test networks only, unless you say --any-network.

    Example:

        x402 wallet new --file ~/.config/x402/wallet.toml
    """
    from x402.client.wallet import Wallet

    wallet = Wallet.new(testnet_only=testnet_only)
    path = wallet.save(file or DEFAULT_FILE)
    if as_json:
        write_json({"file": str(path), **_addresses(wallet)})
        return
    console = out()
    console.print("[bold green]✓[/] a new wallet, and the only copy of its keys, is in")
    console.print(f"  {path}", soft_wrap=True)
    _show(wallet)
    console.print("[bold]Next:[/]")
    console.print(f"  export X402_WALLET_FILE={path}", soft_wrap=True)


def show(file: _File = None, as_json: AsJson = False) -> None:
    """Show the addresses of the wallet in use: --file, or what the environment names. Keys stay where they are.

    Example:

        X402_WALLET_FILE=~/.config/x402/wallet.toml x402 wallet show
    """
    wallet = find(file)
    if as_json:
        write_json(_addresses(wallet))
        return
    _show(wallet)


def sign_in(
    url: Annotated[str, typer.Argument(metavar="URL", help="The gateway, such as https://api.example.com.")],
    chain: Annotated[str, typer.Option("--chain", help="The network by which you are known there.")] = "",
    file: _File = None,
    as_json: AsJson = False,
) -> None:
    """Print a sign-in of your wallet for one gateway: the value of the header SIGN-IN-WITH-X. Good for five minutes.

    Whoever has it is you there until then, so give it to that gateway alone. Nothing is paid.

    Example:

        x402 wallet sign-in https://api.example.com
    """
    import os
    import time

    from x402.client.identity import identity_of

    who = identity_of(find(file), chain)
    header = who.header(url, now=int(time.time()), entropy=os.urandom(16))
    if as_json:
        write_json({"account": who.account, "header": "SIGN-IN-WITH-X", "value": header})
        return
    typer.echo(header)


app.command("new", help=prose(new))(new)
app.command("sign-in", help=prose(sign_in))(sign_in)
app.command("show", help=prose(show))(show)


def find(file: Path | None = None) -> Any:
    """The wallet in use: the file that was named, else the environment's, else the default file.

    Raises `MisconfiguredError("no_wallet")` when there is none.
    """
    from x402.client.wallet import Wallet
    from x402.errors import MisconfiguredError

    if file is not None:
        return Wallet.from_file(file)
    try:
        return Wallet.from_env()
    except MisconfiguredError as error:
        default = DEFAULT_FILE.expanduser()
        if error.code != "no_wallet" or not default.exists():
            raise
        return Wallet.from_file(default)


def _addresses(wallet: Any) -> dict[str, Any]:
    return {"evm": wallet.evm_address, "svm": wallet.svm_address, "testnetOnly": wallet.testnet_only}


def _show(wallet: Any) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("  [dim]Base and other EVM networks[/]", wallet.evm_address or "[dim]no key[/]")
    table.add_row("  [dim]Solana[/]", wallet.svm_address or "[dim]no key[/]")
    table.add_row("  [dim]pays[/]", "on test networks only" if wallet.testnet_only else "on any network you allow")
    out().print(table)
