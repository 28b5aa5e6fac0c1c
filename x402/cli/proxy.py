"""`x402 proxy`: any program that speaks OpenAI's API, pay-per-call, without a change."""

from __future__ import annotations

from typing import Annotated

import typer

from x402.cli.screen import announce, err
from x402.cli.spending import (
    BaseUrl,
    Mainnet,
    MaxDay,
    MaxHost,
    MaxHour,
    MaxPayee,
    Networks,
    ProfileName,
    WalletFile,
    limits_of,
    payer,
    policy_of,
)


def proxy(
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on.")] = 8080,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but this machine's needs a key.")
    ] = "127.0.0.1",
    base_url: BaseUrl = "",
    most: Annotated[str, typer.Option("--max", help="The most that one call may cost, in USD.")] = "0.10",
    network: Networks = None,
    wallet: WalletFile = None,
    mainnet: Mainnet = False,
    max_hour: MaxHour = None,
    max_day: MaxDay = None,
    max_host: MaxHost = None,
    max_payee: MaxPayee = None,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="Let this web page's origin ask; may be repeated.")
    ] = None,
    sign_in: Annotated[bool, typer.Option("--sign-in", help="Spend a balance with the seller first.")] = False,
    profile: ProfileName = "",
) -> None:
    """Run a local proxy that speaks OpenAI's API, and signs and pays what it passes on, within your limits.

    Point any program at the address that is printed. Its own API key goes nowhere; with X402_PROXY_KEY set, it must be
    that key. Web pages are refused unless their origin is named, and money is spent for POST requests only.

    Example:

        x402 proxy --port 8080 --max 0.05 --max-day 2
    """  # fmt: skip
    import uvicorn

    from x402.client.auth import X402Auth
    from x402.client.profile import profile as named
    from x402.client.proxy import Guard, create_app, is_loopback
    from x402.devnet.town_serving import listen
    from x402.errors import MisconfiguredError
    from x402.request_head import BoundedHead
    from x402.settings import ClientSettings, secret

    settings = ClientSettings.read()
    known = named(profile or settings.profile)
    key = secret(settings.proxy_key)
    if not key and not is_loopback(host):
        raise MisconfiguredError("proxy_open", f"whoever reaches {host} could spend your money: set X402_PROXY_KEY")
    purse = payer(known.name, wallet).get("wallet")
    policy, limits = policy_of(most, network, mainnet), limits_of(max_hour, max_day, max_host, max_payee)
    auth = X402Auth(purse, policy=policy, limits=limits, sign_in=sign_in or known.signs_in) if purse else None
    app = create_app(
        base_url or settings.base_url or known.base,
        auth,
        profile=known,
        api_key="" if purse else secret(settings.api_key),
        guard=Guard(key, tuple(origin or ())),
    )
    listener = listen(port, host)
    address = f"http://{host}:{listener.getsockname()[1]}/v1"
    announce("proxy", address)
    err().print(f"  export OPENAI_BASE_URL={address} OPENAI_API_KEY=x402", soft_wrap=True)
    uvicorn.Server(uvicorn.Config(app, http=BoundedHead, log_level="warning", access_log=False)).run(sockets=[listener])
