"""`x402 devnet up`: both chains, funded wallets, facilitator, gateway and a demo model, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x402.cli.screen import AsJson, out, prose, working

if TYPE_CHECKING:
    from x402.devnet.town import Town

app = typer.Typer(no_args_is_help=True, help="A whole world to try things in, offline, with play money.")


@app.callback()
def _devnet() -> None:
    pass


def up(
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep ledgers and wallet file in this empty directory.")
    ] = None,
    any_port: Annotated[bool, typer.Option("--any-port", help="Take free ports instead of the usual ones.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="The EVM: auto, py-evm or anvil.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Bring up both chains, a faucet, funded wallets, facilitator, gateway and a demo model; Ctrl-C ends it all.

    Prints URLs and the buyer's keys, which control nothing but play money on chains that end with the command.
    With --json it prints one line of JSON when everything is ready.

    Example:

        x402 devnet up --any-port --json
    """
    import asyncio

    from x402.errors import MalformedError

    if engine not in ("auto", "py-evm", "anvil"):
        raise MalformedError("unknown_engine", f"{engine!r} is no EVM engine: auto, py-evm or anvil")
    try:
        asyncio.run(_up(state, any_port, engine, as_json))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if not as_json:
            out().print("[dim]the town is gone; nothing is left of it[/]")


app.command("up", help=prose(up))(up)


async def _up(state: Path | None, any_port: bool, engine: str, as_json: bool) -> None:
    import asyncio

    stop_on_terminate()
    began = time.monotonic()
    async with AsyncExitStack() as running:
        with working("bringing up both chains, the facilitator, the gateway and a model", quiet=as_json):
            from x402.devnet.town import USUAL_PORTS, Ports, Town

            ports = Ports() if any_port else USUAL_PORTS
            town = await running.enter_async_context(Town(ports=ports, state=state, engine=engine))  # type: ignore[arg-type]
        seconds = time.monotonic() - began
        if as_json:
            shown = {"urls": town.urls.as_json(), "buyer": _buyer(town), "seller": town.parties.pay_to}
            typer.echo(json.dumps(shown | {"seconds": f"{seconds:.2f}"}))
        else:
            show(town, f"up in {seconds:.1f} s")
        await asyncio.Event().wait()


def stop_on_terminate() -> None:
    """Let SIGTERM end the running command as Ctrl-C does, so that nothing is left behind either way.

    A shell has what a script starts in the background ignore SIGINT; who sends it all the same means it.
    """
    import asyncio

    task = asyncio.current_task()
    if task is not None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGINT, task.cancel)


def show(town: Town, words: str) -> None:
    """Print where everything is, and what to type in another terminal."""
    from rich.table import Table

    console = out()
    urls = town.urls
    console.print(f"[bold green]✓[/] [bold]the town is {words}[/]  [dim]play money on real chains; Ctrl-C ends it[/]")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for row in (
        ("  gateway", f"{urls.gateway}/api/v1", "sells the demo model"),
        ("  facilitator", urls.facilitator, "settles, pays network fees"),
        ("  demo model", f"{urls.model}/v1", "tells the truth on tokens"),
        ("  EVM", urls.evm_rpc, f"{town.evm.engine}, chain {town.evm.chain_id}"),
        ("  Solana", urls.svm_rpc, f"LiteSVM; {urls.svm_ws}"),
    ):
        table.add_row(*row)
    console.print(table)
    console.print()
    evm_key, svm_key = town.parties.buyer_keys
    console.print("[bold]A funded buyer[/] [dim](worthless keys: their money ends with this town)[/]")
    for title, address, key in (
        ("Base Sepolia", town.parties.buyer.evm_address, evm_key),
        ("Solana devnet", town.parties.buyer.svm_address, svm_key),
    ):
        console.print(f"  [cyan]{title}[/]  {address}", soft_wrap=True)
        console.print(f"    [dim]key  {key}[/]", soft_wrap=True)
    console.print()
    console.print("[bold]A seller[/] [dim](an address on each chain that can be paid)[/]")
    for network, address in town.parties.pay_to.items():
        console.print(f"  [cyan]{_title(network)}[/]  {address}", soft_wrap=True)
    console.print()
    console.print("[bold]In another terminal[/]")
    for line in (
        f"export X402_WALLET_FILE={town.wallet_file}",
        f"export X402_BASE_URL={urls.chat} X402_SVM_RPC_URL={urls.svm_rpc}",
        f"export X402_EVM_RPC_URL={urls.evm_rpc}",
        "x402 models",
        'x402 chat "Tell me a story" --model demo/story-1 --max 0.01 --stream',
    ):
        console.print(f"  {line}", soft_wrap=True)


def _title(network: str) -> str:
    from x402 import networks

    return networks.get(network).title


def _buyer(town: Town) -> dict[str, str]:
    evm_key, svm_key = town.parties.buyer_keys
    return {
        "evmAddress": town.parties.buyer.evm_address,
        "svmAddress": town.parties.buyer.svm_address,
        "evmKey": evm_key,
        "svmKey": svm_key,
        "walletFile": str(town.wallet_file),
    }
