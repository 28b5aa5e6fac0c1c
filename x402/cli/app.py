"""All commands in one tree, in the order in which a newcomer needs them."""

from __future__ import annotations

from copy import copy
from typing import Annotated

import typer

from x402.cli import (
    account,
    approve,
    buy,
    demo,
    devnet,
    history,
    inspect,
    keys,
    ledger,
    models,
    providers,
    proxy,
    serve,
    trust,
    wallet,
    webhooks,
)
from x402.cli.failures import Reporting
from x402.cli.screen import prose

app = typer.Typer(
    cls=Reporting,
    help="Pay for one HTTP answer at a time, in USDC, on Base or Solana; sell answers; settle payments.",
    epilog="New here? Type: x402 demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRY, _BUY, _RUN = "Try it offline", "Buy", "Sell and settle"


def _version(wanted: bool) -> None:
    if wanted:
        from x402 import __version__

        typer.echo(f"x402-engine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("demo", help=prose(demo.demo), rich_help_panel=_TRY)(demo.demo)
app.add_typer(devnet.app, name="devnet", rich_help_panel=_TRY)
app.command("inspect", help=prose(inspect.inspect), rich_help_panel=_TRY)(inspect.inspect)
app.add_typer(wallet.app, name="wallet", rich_help_panel=_BUY)
app.add_typer(models.app, name="models", rich_help_panel=_BUY)
app.command("approve", help=prose(approve.approve), rich_help_panel=_BUY)(approve.approve)
app.command("quote", help=prose(buy.quote), rich_help_panel=_BUY)(buy.quote)
app.command("chat", help=prose(buy.chat), rich_help_panel=_BUY)(buy.chat)
app.command("proxy", help=prose(proxy.proxy), rich_help_panel=_BUY)(proxy.proxy)
app.command("balance", help=prose(account.balance), rich_help_panel=_BUY)(account.balance)
app.command("deposit", help=prose(account.deposit), rich_help_panel=_BUY)(account.deposit)
app.command("withdraw", help=prose(account.withdraw), rich_help_panel=_BUY)(account.withdraw)
app.command("usage", help=prose(account.usage), rich_help_panel=_BUY)(account.usage)
app.command("history", help=prose(history.history), rich_help_panel=_BUY)(history.history)
app.command("resolve", help=prose(history.resolve), rich_help_panel=_BUY)(history.resolve)
app.command("trust", help=prose(trust.trust), rich_help_panel=_BUY)(trust.trust)
app.add_typer(serve.gateway_app, name="gateway", rich_help_panel=_RUN)
app.add_typer(keys.app, name="keys", rich_help_panel=_RUN)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=_RUN)
app.add_typer(serve.app, name="facilitator", rich_help_panel=_RUN)
app.add_typer(providers.app, name="providers", rich_help_panel=_RUN)
app.command("payouts", help=prose(providers.payouts), rich_help_panel=_RUN)(providers.payouts)
app.add_typer(ledger.app, name="ledger", rich_help_panel=_RUN)


def only(word: str) -> typer.Typer:
    """The tree for one run whose first word this is: where it names a command, that one alone is in it.

    typer looks at every parameter of every command that it is given, which takes as long as a short command itself.
    """
    narrow = copy(app)
    narrow.registered_commands = [command for command in app.registered_commands if command.name == word]
    narrow.registered_groups = [group for group in app.registered_groups if group.name == word]
    return narrow if narrow.registered_commands or narrow.registered_groups else app
