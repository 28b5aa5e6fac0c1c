"""`x402 gateway` and `x402 facilitator`: the two services, configured by the environment."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from x402.cli.screen import err

_Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
_Port = Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on.")]
_Ledger = Annotated[str | None, typer.Option("--ledger", help="The ledger, such as sqlite:///facilitator.sqlite.")]
_Mainnet = Annotated[bool, typer.Option("--mainnet", help="Allow networks with real money.")]


def gateway(host: _Host = None, port: _Port = None, ledger: _Ledger = None, mainnet: _Mainnet = False) -> None:
    """Run a gateway: sells the answers of any OpenAI-compatible model server, one paid call at a time.

    Settings come from the environment: X402_EVM_PAY_TO, X402_SVM_PAY_TO (addresses, no keys), X402_FACILITATOR_URL,
    X402_PRICES (a price file) or X402_UPSTREAM_URL, X402_UPSTREAM_API_KEY and X402_MODELS, X402_PUBLIC_URL,
    X402_QUOTE_KEY, X402_GATEWAY_LEDGER.

    Example:

        X402_SVM_PAY_TO=... X402_UPSTREAM_URL=https://api.example.com/v1 X402_MODELS=gpt-4o-mini x402 gateway
    """
    from x402.gateway.app import create_app
    from x402.settings import GatewaySettings

    settings = GatewaySettings.read(**_given(host=host, port=port, ledger=ledger, mainnet=mainnet or None))
    app = create_app(settings)
    titles = " and ".join(_title(network) for network in settings.pay_to)
    _run(app, settings.host, settings.port, f"gateway paid on {titles}")


def facilitator(host: _Host = None, port: _Port = None, ledger: _Ledger = None, mainnet: _Mainnet = False) -> None:
    """Run a facilitator: verifies and settles payments for any seller, and pays the network fees.

    Settings come from the environment, keys only from there: X402_FACILITATOR_EVM_PRIVATE_KEY,
    X402_FACILITATOR_SVM_PRIVATE_KEY, X402_EVM_NETWORK, X402_SVM_NETWORK, X402_EVM_RPC_URL, X402_SVM_RPC_URL,
    X402_LEDGER, X402_SETTLE_TIMEOUT_SECONDS.

    Example:

        X402_FACILITATOR_SVM_PRIVATE_KEY=... x402 facilitator --port 4022
    """
    from x402.facilitator.outfit import build_door
    from x402.facilitator.service import build_facilitator, create_app
    from x402.ports.ledger import SqlLedger
    from x402.settings import FacilitatorSettings

    settings = FacilitatorSettings.read(**_given(host=host, port=port, ledger=ledger, mainnet=mainnet or None))
    # Contradictions are told in one sentence here, before a server is started that would bury them in a traceback.
    networks = list(build_facilitator(settings, SqlLedger(settings.ledger)).rails)
    build_door(settings, networks)
    titles = " and ".join(_title(network) for network in networks)
    _run(create_app(settings), settings.host, settings.port, f"facilitator for {titles}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _title(network: str) -> str:
    from x402 import networks

    return networks.get(network).title


def _run(app: Any, host: str, port: int, what: str) -> None:
    """Serve until interrupted. The port is taken before anything starts, so that a taken one is a clear error."""
    import uvicorn

    from x402.devnet.town_serving import listen

    listener = listen(port, host)
    bound = listener.getsockname()[1]
    err().print(f"[bold]{what}[/] at http://{host}:{bound}  [dim](Ctrl-C ends it)[/]", soft_wrap=True)
    uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False)).run(sockets=[listener])
