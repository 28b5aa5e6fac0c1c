"""`x402 providers` and `x402 payouts`: who sells at a gateway besides its operator, and what they are paid."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from x402.cli.failures import OTHER
from x402.cli.screen import AsJson, err, out, prose, shown, working, write_json
from x402.errors import MalformedError, MisconfiguredError

if TYPE_CHECKING:
    from x402.gateway.inference.conformance import Report
    from x402.gateway.inference.earnings import Paid
    from x402.ports.ledger import SqlLedger
    from x402.ports.provider_book import SqlProviders

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Try out model servers, and see, let in and shut out providers.")

_Ledger = Annotated[
    str | None, typer.Option("--ledger", help="The gateway's ledger; X402_GATEWAY_LEDGER when left out.")
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The provider's id, as x402 providers list shows it.")]


def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's base URL, which ends in /v1.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The server's own name for a model.")],
    spoken: Annotated[str, typer.Option("--format", help="The API that it speaks: openai or anthropic.")] = "openai",
    key_variable: Annotated[
        str, typer.Option("--key-env", metavar="NAME", help="The environment variable that holds its API key.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Try out whether a model server does what a gateway needs: answers, streams with usage, limits, errors, tools.

    Six short requests are sent, at the server's expense. Exits with 9 when something is missing that is needed; tools
    are told and not needed.

    Example:

        x402 providers check https://api.example.com/v1 --model gpt-4o-mini --key-env EXAMPLE_KEY
    """
    from x402.gateway.inference.adapters import FORMATS
    from x402.gateway.inference.catalogue import Upstream
    from x402.gateway.inference.conformance import examine
    from x402.gateway.inference.upstream import UpstreamClient

    if spoken not in FORMATS:
        raise MalformedError("invalid_format", f"--format is one of {', '.join(FORMATS)}")
    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise MisconfiguredError("no_key", f"the environment variable {key_variable} is not set")

    async def run() -> Report:
        client = UpstreamClient()
        try:
            return await examine(client, Upstream(model, url, key, spoken))
        finally:
            await client.close()

    with working("asking six times", quiet=as_json):
        report = asyncio.run(run())
    _tell(report, as_json=as_json)
    if not report.passed:
        raise typer.Exit(OTHER)


def providers_list(ledger: _Ledger = None, as_json: AsJson = False) -> None:
    """Who has registered at a gateway, how each stands, and how each did in the last seven days.

    Example:

        x402 providers list --ledger sqlite:///x402-gateway.sqlite
    """

    async def read(book: SqlProviders, _: SqlLedger) -> list[dict[str, Any]]:
        today = int(time.time()) // 86_400
        seen = {one.provider: one for one in await book.seen(today - 6, today + 1)}
        rows = []
        for one in await book.providers():
            figures = seen.get(one.id)
            rows.append(
                {
                    "id": one.id,
                    "status": str(one.standing),
                    "reason": one.reason or None,
                    "account": one.account,
                    "answered": figures.answered if figures else 0,
                    "failed": figures.failed if figures else 0,
                    "issued_at": one.issued_at,
                }
            )
        return rows

    rows = asyncio.run(_with_book(ledger, read))
    if as_json:
        write_json(rows)
        return
    if not rows:
        out().print("Nobody has registered.")
    for row in rows:
        asked = row["answered"] + row["failed"]
        kept = f"{row['answered']} of {asked} answered" if asked else "not asked yet"
        out().print(f"[bold]{shown(row['id'])}[/]  {row['status']}  [dim]{kept}[/]", soft_wrap=True)
        if row["reason"]:
            out().print(f"  {shown(row['reason'])}", soft_wrap=True)


def add(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="The provider's document, as JSON.")],
    account: Annotated[
        str,
        typer.Option("--account", help="The wallet that is paid, such as eip155:8453:0x...; its address is the id."),
    ],
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Let a provider in without its signature: its server is tried out, and sold from when it does what it should.

    Its API key, if the document has one, is sealed with X402_ANSWER_KEY (or X402_QUOTE_KEY), as the gateway needs it.
    A gateway that runs sells it within seconds, if X402_PROVIDER_ADMISSION is not off.

    Example:

        x402 providers add provider.json --account eip155:84532:0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199
    """
    from x402.gateway.inference.registrar import Admission, House, Registrar
    from x402.gateway.inference.upstream import UpstreamClient
    from x402.settings import GatewaySettings

    settings = GatewaySettings.read()
    keys = settings.answer_keys or settings.quote_keys
    if not keys:
        raise MisconfiguredError("no_answer_key", "set X402_ANSWER_KEY or X402_QUOTE_KEY, as for the gateway")
    try:
        text = document.read_text()
    except (OSError, UnicodeError) as error:
        raise MalformedError("invalid_provider", f"{document}: {error}") from error

    async def run(book: SqlProviders, _: SqlLedger) -> tuple[str, list[Report]]:
        client = UpstreamClient(trusted_hosts=settings.trusted_hosts)
        house = House(domain="", admission=Admission.OPEN, secrets=keys, trusted_hosts=settings.trusted_hosts)
        registrar = Registrar(book, client, house, clock=lambda: int(time.time()))
        try:
            standing, reports = await registrar.examine(await registrar.admit(text, account))
        finally:
            await client.close()
        return str(standing), reports

    with working("asking its server", quiet=as_json):
        standing, reports = asyncio.run(_with_book(ledger, run))
    if as_json:
        write_json({"status": standing, "reports": [report.as_json() for report in reports]})
    else:
        for report in reports:
            _tell(report, as_json=False)
        out().print(f"It is [bold]{standing}[/].")
    if standing != "active":
        raise typer.Exit(OTHER)


def enable(provider: _Id, ledger: _Ledger = None, as_json: AsJson = False) -> None:
    """Sell what a provider offers, whatever was said about it before.

    Example:

        x402 providers enable 8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq
    """
    _mark(provider, "active", "", ledger, as_json)


def disable(
    provider: _Id,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the provider and for you.")] = "",
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Sell nothing of a provider any more; no document of its own changes that.

    Example:

        x402 providers disable 8W7X1tGnEdjBVcTZHvLKZQj5xrGfa9hzFnn6QwzZfBUq --reason "answers with advertisements"
    """
    _mark(provider, "disabled", reason, ledger, as_json)


def payouts(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be paid, and write nothing.")] = False,
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Pay providers what they have earned: in USDC, to the wallet that registered, once.

    Everything that was sold more than X402_PAYOUT_AFTER_SECONDS (an hour) ago is credited to the provider's account,
    with X402_BONUS_PERCENT on top for those who answered 99.5 of a hundred requests, and taken out of it again to be
    paid. The gateway that runs signs and sends it from its refund wallet. Less than X402_PAYOUT_MIN waits for more, and
    what is beyond X402_PAYOUT_PER_DAY on one network for the next day. Run it as often as you like: nothing is credited
    or paid twice, and what was interrupted, or billed late, is taken up.

    Example:

        x402 payouts --dry-run
    """
    from x402.gateway.inference.earnings import PayoutLimits, pay_out, preview
    from x402.money import EXACT_CONTEXT
    from x402.ports.account_book import SqlAccounts
    from x402.settings import GatewaySettings

    settings, now = GatewaySettings.read(), int(time.time())
    least, most = (int(dollars.scaleb(6, EXACT_CONTEXT)) for dollars in (settings.payout_min, settings.payout_per_day))

    async def run(book: SqlProviders, opened: SqlLedger) -> Sequence[Paid]:
        limits = PayoutLimits(ledger=opened, least=least, per_day=most, now=now)
        work = preview if dry_run else pay_out
        until = now - settings.payout_after_seconds
        return await work(
            book, SqlAccounts(opened), until=until, bonus_percent=settings.bonus_percent, limits=limits
        )  # fmt: skip

    rows = asyncio.run(_with_book(ledger, run))
    if as_json:
        write_json([one.as_json() for one in rows])
        return
    if not rows:
        out().print("Nothing is due.")
    for one in rows:
        bonus = f" and {one.earned.bonus} bonus" if one.earned.bonus else ""
        state = _STANDINGS.get(one.payout, one.payout) + (" (dry run)" if dry_run else "")
        words = f"{one.earned.earned}{bonus} atomic USDC for {one.earned.answers} answers"
        out().print(f"[bold]{shown(one.earned.provider)}[/]  {words}[dim]  {state}[/]", soft_wrap=True)


_STANDINGS = {
    "": "nothing left to pay out",
    "waits": "waits until it is X402_PAYOUT_MIN",
    "capped": "waits for tomorrow: X402_PAYOUT_PER_DAY is reached",
}


def _mark(provider: str, standing: str, reason: str, ledger: str | None, as_json: bool) -> None:
    from x402.ports.providers import Standing

    async def write(book: SqlProviders, _: SqlLedger) -> bool:
        return await book.mark(provider, Standing(standing), reason)

    if not asyncio.run(_with_book(ledger, write)):
        raise MalformedError("provider_not_found", f"no provider has the id {provider[:80]}")
    if as_json:
        write_json({"id": provider, "status": standing})
    else:
        out().print(f"{shown(provider)} is [bold]{standing}[/].", soft_wrap=True)


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        write_json(report.as_json())
        return
    out().print(f"[bold]{shown(report.model)}[/]")
    for finding in report.findings:
        mark = "[green]✓[/]" if finding.passed else ("[red]✗[/]" if finding.needed else "[yellow]–[/]")
        out().print(f"  {mark} {finding.name}: {shown(finding.words)}", soft_wrap=True)
    if not report.passed:
        err().print("It can't be sold yet: mend what is marked ✗ and try again.", soft_wrap=True)


async def _with_book(ledger: str | None, work: Callable[[SqlProviders, SqlLedger], Awaitable[T]]) -> T:
    from x402.ports.ledger import SqlLedger
    from x402.ports.provider_book import SqlProviders
    from x402.settings import GatewaySettings

    place = ledger or GatewaySettings.read().ledger
    async with SqlLedger(place if "://" in place else f"sqlite:///{place}") as opened:
        return await work(SqlProviders(opened), opened)


for _name, _command in (
    ("check", check),
    ("list", providers_list),
    ("add", add),
    ("enable", enable),
    ("disable", disable),
):
    app.command(_name, help=prose(_command))(_command)
