"""`x402 gateway init` and `x402 gateway check`: a file to begin with, and what is still to be mended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, out, shown, working, write_json
from x402.errors import MalformedError

if TYPE_CHECKING:
    from x402.settings import GatewaySettings

TEMPLATE = """# A gateway's settings. `x402 gateway check` says what is still to be mended; `x402 gateway` runs it:
#
#     X402_CONFIG=gateway.toml x402 gateway
#
# What the environment says wins over this file. Keys are never written here: "std::env::NAME" takes one from there.

[gateway]
# How clients reach you, such as "https://api.example.com". Sign-ins and signed keys name it.
public_url = ""
host = "127.0.0.1"
port = 4021
# Processes that serve the port together, on one ledger.
workers = 1
# sqlite:///file, or postgresql://user@host/database where replicas share the work.
ledger = "sqlite:///x402-gateway.sqlite"
# Networks that carry real money are refused unless this is true.
mainnet = false
# Signs quotes; without it a key file beside a SQLite ledger does. At least 16 characters.
# quote_key = "std::env::QUOTE_KEY"
# Seals what must be read again: kept answers, secrets. Without it a key file is made beside a SQLite ledger.
# answer_key = "std::env::ANSWER_KEY"

[pay_to]
# Your addresses; no key is needed to be paid. Leave out the network on which you don't sell.
evm = "EVM_ADDRESS"
evm_network = "base-sepolia"
svm = "SVM_ADDRESS"
svm_network = "solana-devnet"

[facilitator]
# The preferred one first; the next is used when it fails.
urls = ["http://127.0.0.1:4022"]

[nodes]
# With nodes of your own the gateway looks at the chains itself before it believes a facilitator.
# evm = "std::env::EVM_NODE"
# svm = "std::env::SVM_NODE"

[limits]
# Requests a minute; 0 is any number. `free` is for everybody, others are given to keys.
tiers = { free = 100, pro = 1000, enterprise = 0 }
# What one address may leave unpaid at once, and ask for in an hour.
open_quotes = 10
quotes_per_hour = 100
# Behind a proxy: the networks whose X-Forwarded-For is believed. Without it all clients look like the proxy.
trusted_proxies = []
# Not counted. Take the loopback out when an unnamed proxy runs on this machine.
exempt = ["127.0.0.0/8", "::1"]
# Where requests are counted: "memory://", or "redis://host:6379" when replicas share.
store = "memory://"

[operators]
# Wallets that may look at the dashboard, at /operator.
wallets = []

# [webhook]
# url = "http://127.0.0.1:9000/x402"
# secret = "std::env::WEBHOOK_SECRET"     # whsec_ and base64 of 24 to 64 bytes

[retention]
# Keep nothing of requests and answers longer than it takes to deliver them.
zero = false
answer_seconds = 600
tag_days = 90
delivery_days = 30

# What you sell. Prices are US dollars per million tokens; a fee in percent is added to them.
# fee_percent = 3

[[models]]
name = "MODEL_NAME"
[models.pricing]
prompt = 0.15
completion = 0.60
[models.params]
model = "MODEL_NAME"
api_base = "https://api.example.com/v1"
api_key = "std::env::UPSTREAM_KEY"
"""

_Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="The gateway's TOML file; X402_CONFIG unless named.")
]


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("gateway.toml"),
    evm: Annotated[str, typer.Option("--evm", help="Your address on Base, where you are paid.")] = "",
    svm: Annotated[str, typer.Option("--svm", help="Your address on Solana, where you are paid.")] = "",
    model: Annotated[str, typer.Option("--model", help="The first model that you sell.")] = "",
    api_base: Annotated[str, typer.Option("--api-base", help="Its OpenAI-compatible server, ending in /v1.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a gateway's settings file, every entry explained. An existing file is left alone.

    Example:

        x402 gateway init gateway.toml --evm 0x... --model gpt-4o-mini --api-base https://api.example.com/v1
    """
    text = TEMPLATE
    for place, value in (("EVM_ADDRESS", evm), ("SVM_ADDRESS", svm)):
        text = text.replace(f'"{place}"', json.dumps(value))
    if model:
        text = text.replace('"MODEL_NAME"', json.dumps(model))
    if api_base:
        text = text.replace('"https://api.example.com/v1"', json.dumps(api_base))
    try:
        with file.open("x", encoding="utf-8") as fresh:
            fresh.write(text)
    except FileExistsError:
        raise MalformedError("file_exists", f"{file} exists; choose another name") from None
    except OSError as error:
        raise MalformedError("file_not_written", f"{file}: {error.strerror}") from None
    if as_json:
        write_json({"file": str(file)})
        return
    out().print(f"[bold green]✓[/] {shown(str(file))}", soft_wrap=True)
    out().print(f"[bold]Next:[/] fill it in, then\n  x402 gateway check --config {shown(str(file))}", soft_wrap=True)


def check(config: _Config = None, as_json: AsJson = False) -> None:
    """Check a gateway before it runs: its settings, its ledger, every provider, the facilitator and the nodes.

    Says what to mend, and exits with 1 while something is to be mended. Nothing is paid.

    Example:

        x402 gateway check --config gateway.toml
    """
    with working("asking everybody", quiet=as_json):
        findings = asyncio.run(_findings(config))
    wrong = [one for one in findings if not one["well"]]
    if as_json:
        write_json({"ready": not wrong, "checks": findings})
    else:
        for one in findings:
            mark = "[bold green]✓[/]" if one["well"] else "[bold red]✗[/]"
            out().print(f"{mark} {one['what']:24} {shown(one['words'])}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)


async def _findings(config: Path | None) -> list[dict[str, Any]]:
    import os
    import time

    from x402.errors import X402Error
    from x402.gateway.outfit import catalogue_of, refuse_mainnet
    from x402.settings import GatewaySettings

    found: list[dict[str, Any]] = []

    def note(what: str, well: bool, words: str) -> None:
        found.append({"what": what, "well": well, "words": words})

    try:
        settings = GatewaySettings.read(**({} if config is None else {"config": config}))
        if not settings.mainnet:
            refuse_mainnet(settings.pay_to)
        note("settings", True, f"paid on {' and '.join(settings.pay_to)}")
    except X402Error as error:
        note("settings", False, error.message)
        return found
    for what, words in _advice(settings):
        note(what, False, words)
    try:
        catalogue = catalogue_of(settings, environment=os.environ, now=int(time.time()))
        note("price list", True, f"{len(catalogue.models)} models")
        for provider, words, well in await _providers(catalogue):
            note(f"provider {provider}", well, words)
    except X402Error as error:
        note("price list", False, error.message)
    for name, look in (("ledger", _ledger), ("operations", _operations)):
        try:
            note(name, True, await look(settings))
        except X402Error as error:
            note(name, False, error.message)
    for url in settings.facilitator_urls:
        words, well = await _facilitator(url, settings)
        note(f"facilitator {url}", well, words)
    return found


def _advice(settings: GatewaySettings) -> Iterator[tuple[str, str]]:
    """What a gateway runs without, and should not in the open."""
    if settings.host not in ("127.0.0.1", "::1", "localhost") or settings.mainnet:
        if not settings.public_url:
            yield "public_url", "set public_url: sign-ins and signed keys name it, and without it nobody can sign in"
        if not settings.quote_keys and not settings.ledger.startswith("sqlite"):
            yield "quote_key", "set quote_key: without it a restart forgets every open quote"
    if settings.public_url and not settings.trusted_proxies and settings.public_url.startswith("https://"):
        yield "trusted_proxies", "who ends TLS in front of you? Name its network, or all clients count as one"


async def _providers(catalogue: Any) -> list[tuple[str, str, bool]]:
    """Whether each upstream lists its models; one question to each base URL."""
    import httpx

    asked: dict[tuple[str, str], tuple[str, str, bool]] = {}
    async with httpx.AsyncClient(timeout=10) as client:
        for model in catalogue.models:
            for provider in model.providers:
                if provider.upstream is None:
                    asked[provider.id, ""] = (provider.id, f"{model.id} has no [models.params]", False)
                    continue
                place = provider.upstream.api_base.rstrip("/")
                if (provider.id, place) in asked:
                    continue
                headers = {"Authorization": f"Bearer {provider.upstream.api_key}"} if provider.upstream.api_key else {}
                try:
                    status = (await client.get(f"{place}/models", headers=headers)).status_code
                except httpx.HTTPError as error:
                    asked[provider.id, place] = (provider.id, f"{place} does not answer: {type(error).__name__}", False)
                    continue
                words = {401: "refuses the API key", 403: "refuses the API key", 404: "answers, and lists no models"}
                well = status < 500 and status not in (401, 403)
                asked[provider.id, place] = (provider.id, f"{place} {words.get(status, f'answers {status}')}", well)
    return list(asked.values())


async def _ledger(settings: GatewaySettings) -> str:
    from x402.ports.ledger import SqlLedger
    from x402.settings import without_password

    async with SqlLedger(settings.ledger) as ledger:
        await ledger.ping()
    return f"{without_password(settings.ledger)} can be written"


async def _operations(settings: GatewaySettings) -> str:
    """Limits, keys and webhooks as the gateway would make them."""
    import time

    from x402.gateway.api.operations import Operations
    from x402.gateway.operations.webhooks import signing_key
    from x402.settings import secret
    from x402.telemetry import Telemetry

    Operations(
        settings,
        place=settings.ledger,
        receivers=list(settings.pay_to),
        url=settings.public_url,
        clock=lambda: int(time.time()),
        facts=Telemetry(),
    )
    if settings.webhook_url:
        signing_key(secret(settings.webhook_secret))
    wallets = len([one for one in settings.operators.split(",") if one.strip()])
    return f"limits {settings.tiers}; {wallets} wallets may look at /operator"


async def _facilitator(url: str, settings: GatewaySettings) -> tuple[str, bool]:
    """Whether a facilitator answers, and settles on the networks that are sold on."""
    from x402 import networks
    from x402.errors import X402Error
    from x402.facilitator.remote import RemoteFacilitator
    from x402.settings import secret

    remote = RemoteFacilitator(url, api_key=secret(settings.facilitator_api_key).split(",")[0])
    try:
        offered = {kind.network for kind in (await remote.supported()).kinds}
    except X402Error as error:
        return error.message, False
    finally:
        await remote.aclose()
    missing = [name for name in map(networks.to_caip2, settings.pay_to) if name not in offered]
    if missing:
        return f"does not settle on {', '.join(missing)}, where you want to be paid", False
    return f"settles on {', '.join(sorted(offered))}", True
