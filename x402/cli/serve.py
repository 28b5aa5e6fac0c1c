"""`x402 gateway` and `x402 facilitator`: the two services, configured by the environment."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from socket import socket
from typing import Annotated, Any

import typer

from x402.cli import gateway_config
from x402.cli.screen import AsJson, announce, err, prose, write_json
from x402.errors import MalformedError, MisconfiguredError

_Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
_Port = Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on.")]
_Ledger = Annotated[
    str | None, typer.Option("--ledger", help="The ledger: sqlite:///file or postgresql://user@host/database.")
]
_Config = Annotated[Path | None, typer.Option("--config", "-c", help="The gateway's TOML file.")]
_Workers = Annotated[
    int | None, typer.Option("--workers", min=1, max=64, help="Processes that serve the port, on one ledger.")
]
_Mainnet = Annotated[bool, typer.Option("--mainnet", help="Allow networks with real money.")]
_Open = Annotated[bool, typer.Option("--open", help="Serve anybody on networks with real money, at your cost.")]


def gateway(
    context: typer.Context,
    config: _Config = None,
    host: _Host = None,
    port: _Port = None,
    ledger: _Ledger = None,
    workers: _Workers = None,
    mainnet: _Mainnet = False,
) -> None:
    """Run a gateway: sells the answers of any OpenAI-compatible model server, one paid call at a time.

    Settings come from a file (--config, X402_CONFIG; x402 gateway init writes one) and from the environment, which
    wins: X402_EVM_PAY_TO, X402_SVM_PAY_TO (addresses, no keys), X402_FACILITATOR_URL,
    X402_PRICES (a price file) or X402_UPSTREAM_URL, X402_UPSTREAM_API_KEY and X402_MODELS, X402_PUBLIC_URL,
    X402_QUOTE_KEY, X402_ANSWER_KEY, X402_GATEWAY_LEDGER. With X402_EVM_RPC_URL and X402_SVM_RPC_URL the gateway looks
    at the chains itself before it believes its facilitator (X402_CHECK_ABOVE, X402_CHECK_PERCENT). X402_MAX_UNSETTLED
    bounds what is served and not settled yet, in dollars. X402_REFUND_EVM_PRIVATE_KEY and X402_REFUND_SVM_PRIVATE_KEY
    pay back what was paid and never answered (X402_REFUND_AFTER_SECONDS, X402_REFUND_PER_DAY). Providers:
    X402_HEDGE_PERCENT asks a second one when the first is slow, X402_CACHE_SECONDS and X402_CACHE_SHARED give answers
    again, X402_PROVIDER_ADMISSION and X402_PROVIDER_HOSTS let others register, X402_BONUS_PERCENT and
    X402_PAYOUT_AFTER_SECONDS say what they are paid. SIGHUP has the price file read again. X402_WORKERS (--workers)
    processes serve the port together. Limits, keys, webhooks, the dashboard and retention: docs/operating.md.

    Example:

        X402_SVM_PAY_TO=... X402_UPSTREAM_URL=https://api.example.com/v1 X402_MODELS=gpt-4o-mini x402 gateway
    """
    if context.invoked_subcommand is not None:
        return
    from x402.cli.workers import check_shared, gateway_of, serve_together
    from x402.settings import GatewaySettings

    given = _given(config=config, host=host, port=port, ledger=ledger, workers=workers, mainnet=mainnet or None)
    settings = GatewaySettings.read(**given)
    if settings.workers > 1:
        check_shared(settings)
    # Contradictions are told here in one sentence, before any worker is started.
    app = gateway_of(given)
    titles = " and ".join(_title(network) for network in settings.pay_to)
    what = f"gateway paid on {titles}"
    if settings.workers == 1:
        _run(app, settings.host, settings.port, what)
    else:
        listener = _listen(settings.host, settings.port, f"{settings.workers} workers of a {what}")
        serve_together(partial(gateway_of, given), settings.workers, listener)


def facilitator(
    context: typer.Context,
    host: _Host = None,
    port: _Port = None,
    ledger: _Ledger = None,
    mainnet: _Mainnet = False,
    anybody: _Open = False,
) -> None:
    """Run a facilitator: verifies and settles payments for any seller, and pays the network fees.

    Settings come from the environment, keys only from there: X402_FACILITATOR_EVM_PRIVATE_KEY,
    X402_FACILITATOR_SVM_PRIVATE_KEY, X402_EVM_NETWORK, X402_SVM_NETWORK, X402_EVM_RPC_URL, X402_SVM_RPC_URL,
    X402_LEDGER, X402_SETTLE_TIMEOUT_SECONDS. Who may ask stands in the file that X402_FACILITATOR_CALLERS names; what
    fees may cost is said by X402_EVM_FEES_PER_DAY, X402_SVM_FEES_PER_DAY and others in docs/facilitating.md.

    Example:

        X402_FACILITATOR_SVM_PRIVATE_KEY=... x402 facilitator --port 4022
    """
    if context.invoked_subcommand is not None:
        return
    from x402.facilitator.outfit import build_door
    from x402.facilitator.service import build_facilitator, create_app
    from x402.ports.ledger import SqlLedger
    from x402.settings import FacilitatorSettings

    given = _given(host=host, port=port, ledger=ledger, mainnet=mainnet or None, open=anybody or None)
    settings = FacilitatorSettings.read(**given)
    # Contradictions are told in one sentence here, before a server is started that would bury them in a traceback.
    networks = list(build_facilitator(settings, SqlLedger(settings.ledger)).rails)
    build_door(settings, networks)
    titles = " and ".join(_title(network) for network in networks)
    _run(create_app(settings), settings.host, settings.port, f"facilitator for {titles}")


def keygen(
    name: Annotated[str, typer.Argument(help="What the caller is called, such as bakery.")],
    pay_to: Annotated[
        list[str] | None, typer.Option("--pay-to", help="NETWORK=ADDRESS that the caller is paid at; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key for a caller of your facilitator, and the lines for the file X402_FACILITATOR_CALLERS.

    The key is shown once and stored nowhere: give it to the caller, whose gateway takes it from
    X402_FACILITATOR_API_KEY. The file holds its SHA-256 alone.

    Example:

        x402 facilitator keygen bakery --pay-to base=0x... >> callers.toml
    """
    from x402.facilitator.callers import Callers, new_key

    accounts: dict[str, list[str]] = {}
    for text in pay_to or ["NETWORK=ADDRESS"]:
        network, _, address = text.partition("=")
        accounts.setdefault(network.strip(), []).append(address.strip())
    key, digest = new_key()
    lines = ["[[callers]]", f"name = {json.dumps(name)}", f'keys = ["{digest}"]', "[callers.pay_to]"]
    lines += [f"{json.dumps(network)} = {json.dumps(addresses)}" for network, addresses in accounts.items()]
    entry = "\n".join(lines) + "\n"
    if pay_to:
        try:
            Callers.parse(entry)
        except MisconfiguredError as error:
            raise MalformedError(error.code, error.message) from None
    if as_json:
        write_json({"name": name, "key": key, "sha256": digest, "entry": entry})
        return
    err().print(f"[bold]The key, shown this once:[/] {key}", soft_wrap=True)
    typer.echo(entry, nl=False)


gateway_app = typer.Typer(invoke_without_command=True, help=prose(gateway))
gateway_app.callback(help=prose(gateway))(gateway)
gateway_app.command("init", help=prose(gateway_config.init))(gateway_config.init)
gateway_app.command("check", help=prose(gateway_config.check))(gateway_config.check)
app = typer.Typer(invoke_without_command=True, help=prose(facilitator))
app.callback(help=prose(facilitator))(facilitator)
app.command("keygen", help=prose(keygen))(keygen)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _title(network: str) -> str:
    from x402 import networks

    return networks.get(network).title


def _run(app: Any, host: str, port: int, what: str) -> None:
    """Serve until interrupted."""
    import uvicorn

    from x402.cli.workers import keep_what_is_loaded
    from x402.request_head import BoundedHead

    listener = _listen(host, port, what)
    config = uvicorn.Config(app, http=BoundedHead, log_level="info", access_log=False)
    keep_what_is_loaded()
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int, what: str) -> socket:
    """The port, taken before anything starts, so that a taken one is a clear error; and where it is, told."""
    from x402.devnet.town_serving import listen

    listener = listen(port, host)
    bound = listener.getsockname()[1]
    announce(what, f"http://{host}:{bound}")
    return listener
