"""`x402 models`, `x402 quote` and `x402 chat`: what a buyer types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, err, out, shown, wants_json, working, write_answer, write_json

if TYPE_CHECKING:
    from x402.client.budget import Limits
    from x402.client.chat import Chat
    from x402.client.choose import Policy
    from x402.wire.receipt import Receipt

_BaseUrl = Annotated[
    str, typer.Option("--base-url", envvar="X402_BASE_URL", help="The seller; ends before /chat/completions.")
]
_Model = Annotated[str, typer.Option("--model", "-m", help="The model, as x402 models lists it.")]
_Prompt = Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")]
_MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer; bounds the price too.")]
_Network = Annotated[
    list[str] | None,
    typer.Option("--network", "-n", help="Pay on this network only: base, solana, base-sepolia, solana-devnet …"),
]
_Mainnet = Annotated[bool, typer.Option("--mainnet", help="Allow paying real money.")]
_MaxHour = Annotated[str | None, typer.Option("--max-hour", help="The most that an hour may cost, in USD.")]
_MaxDay = Annotated[str | None, typer.Option("--max-day", help="The most that a day may cost, in USD.")]
_MaxHost = Annotated[str | None, typer.Option("--max-host", help="The most that this seller may get in a day.")]
_MaxPayee = Annotated[str | None, typer.Option("--max-payee", help="The most that one address may get in a day.")]
_Wallet = Annotated[Path | None, typer.Option("--wallet", help="The wallet file; default: what the environment names.")]


def models(base_url: _BaseUrl = "", as_json: AsJson = False) -> None:
    """List the models that a seller offers, with their prices. Free of charge.

    Example:

        x402 models --base-url http://127.0.0.1:4021/api/v1
    """
    from x402.client.chat import Chat

    with Chat(base_url or None, http_client=_plain()) as chat, working("asking for the price list", quiet=as_json):
        listed = [model.as_json() for model in chat.models()]
    if as_json:
        write_json(listed)
        return
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("model", "name"):
        table.add_column(column)
    for column in ("USD per 1M prompt tokens", "per 1M answer tokens", "context"):
        table.add_column(column, justify="right")
    for model in listed:
        stated = model.get("pricing")
        pricing = stated if isinstance(stated, dict) else {}
        table.add_row(
            shown(str(model.get("id", "?"))),
            shown(str(model.get("display_name") or model.get("name") or "")),
            _per_million(pricing.get("prompt"), pricing.get("unit")),
            _per_million(pricing.get("completion"), pricing.get("unit")),
            shown(f"{model.get('context_length') or ''}"),
        )
    out().print(table)


def quote(
    prompt: _Prompt,
    model: _Model,
    max_tokens: _MaxTokens = None,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for the price of a streamed answer.")] = False,
    base_url: _BaseUrl = "",
    as_json: AsJson = False,
) -> None:
    """Ask what an answer would cost, line by line, without paying and without a wallet.

    Example:

        x402 quote "Tell me a story" --model demo/story-1 --max-tokens 200
    """
    from x402.cli import tariff
    from x402.client.chat import Chat

    with Chat(base_url or None, http_client=_plain()) as chat, working("asking for the price", quiet=as_json):
        heard = chat.quote(model=model, messages=_messages(prompt), **_params(max_tokens, stream))
    if as_json:
        write_json(
            {
                "free": heard.free,
                "usd": None if heard.usd is None else tariff.plain(heard.usd),
                "quote": tariff.as_json(heard.quote) if heard.quote else None,
                "offers": [offer.as_json() for offer in heard.offers],
            }
        )
        return
    console = out()
    if heard.free:
        console.print("[bold green]free[/]: this model answers without a payment")
        return

    from x402 import networks
    from x402.cli.explanation import money

    if heard.quote is not None:
        console.print(bill(tariff.rows(heard.quote)))
        console.print()
    for offer in heard.offers:
        network = networks.find(offer.network)
        where = network.title if network else offer.network
        console.print(f"  {shown(money(offer.amount, offer.network, offer.asset))} on {shown(where)}")
    price = "" if heard.usd is None else f" --max {tariff.plain(heard.usd)}"
    err().print(f"[dim]nothing was paid.[/] [bold]Next:[/] x402 chat … --model {shown(model)}{price}")


def chat(
    context: typer.Context,
    prompt: _Prompt,
    model: _Model,
    most: Annotated[str, typer.Option("--max", help="The most that this answer may cost, in USD.")] = "0.01",
    network: _Network = None,
    stream: Annotated[bool, typer.Option("--stream", "-s", help="Print the answer as it comes.")] = False,
    max_tokens: _MaxTokens = None,
    base_url: _BaseUrl = "",
    wallet: _Wallet = None,
    mainnet: _Mainnet = False,
    max_hour: _MaxHour = None,
    max_day: _MaxDay = None,
    max_host: _MaxHost = None,
    max_payee: _MaxPayee = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model and pay for this one answer, at most --max US dollars.

    Limits for an hour, a day, a seller or an address count what all your programs paid by the same journal; without a
    flag the environment's hold. The answer goes to standard output, what was paid to standard error. Keys come from
    the environment or a wallet file, never from the command line; networks with real money need --mainnet.

    Example:

        x402 chat "Why is the sky blue?" --model demo/story-1 --max 0.01 --stream
    """
    from x402.cli.wallet import find
    from x402.client.chat import Chat

    policy, limits = _policy(most, network, mainnet), _limits(max_hour, max_day, max_host, max_payee)
    with Chat(base_url or None, wallet=find(wallet), policy=policy, limits=limits) as caller:
        question = {"model": model, "messages": _messages(prompt), **_params(max_tokens, False)}
        try:
            answer = _streamed(caller, question) if stream and not as_json else _whole(caller, question, as_json)
        except KeyboardInterrupt:
            if not wants_json(context):
                err().print("[yellow]interrupted.[/] If a payment was on its way, the same command presents it again.")
            raise
        paid = _paid(caller, answer["receipt"])
    if as_json:
        write_json({**answer, "receipt": answer["receipt"].as_json() if answer["receipt"] else None, "paid": paid})
        return
    if not stream:
        write_answer(answer["text"])
    err().print(_receipt_line(answer["receipt"], paid, local=_is_local(base_url)), soft_wrap=True)


def bill(rows: Any) -> Any:
    """Quote lines as a table, the bound set apart."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for row in rows[:-1]:
        table.add_row(row.units, shown(row.item), f"[dim]{shown(row.rate)}[/]", row.usd)
    last = rows[-1]
    table.add_row("", f"[bold]{shown(last.item)}[/]", "", f"[bold]{last.usd}[/]")
    return table


def _plain() -> Any:
    import httpx

    return httpx.Client(timeout=30)


def _messages(prompt: str) -> list[dict[str, str]]:
    text = typer.get_text_stream("stdin").read() if prompt == "-" else prompt
    return [{"role": "user", "content": text}]


def _params(max_tokens: int | None, stream: bool) -> dict[str, Any]:
    return {**({"max_tokens": max_tokens} if max_tokens is not None else {}), **({"stream": True} if stream else {})}


def _policy(most: str, network: list[str] | None, mainnet: bool) -> Policy:
    from x402 import networks
    from x402.client.choose import Policy
    from x402.errors import DeclinedError

    wanted = tuple(networks.get(name).id for name in network or ())
    for name in wanted:
        if not networks.get(name).testnet and not mainnet:
            raise DeclinedError("mainnet_refused", f"{networks.get(name).title} moves real money")
    return Policy(max_per_call=most, networks=wanted, mainnet=mainnet)


def _limits(hour: str | None, day: str | None, host: str | None, payee: str | None) -> Limits:
    """The environment's limits, with those that were named here in their place."""
    from dataclasses import replace

    from x402.client.budget import Limits
    from x402.settings import ClientSettings

    named = {"per_hour": hour, "per_day": day, "per_host": host, "per_payee": payee}
    return replace(Limits.of(ClientSettings.read()), **{name: bound for name, bound in named.items() if bound})


def _whole(caller: Chat, question: dict[str, Any], quiet: bool) -> dict[str, Any]:
    with working("asking, paying, waiting for the answer", quiet=quiet):
        answer = caller.create(**question)
    usage = answer.usage
    return {
        "text": answer.text,
        "model": answer.get("model"),
        "usage": usage.as_json() if usage else None,
        "requestId": answer.request_id,
        "receipt": answer.receipt,
    }


def _streamed(caller: Chat, question: dict[str, Any]) -> dict[str, Any]:
    with working("asking and paying"):
        stream = caller.stream(**question)
    with stream:
        for chunk in stream:
            write_answer(chunk.text, end="")
    typer.echo()
    return {"text": stream.text, "receipt": stream.receipt}


def _paid(caller: Chat, receipt: Receipt | None) -> dict[str, str] | None:
    """What the journal says about the payment behind a receipt."""
    if receipt is None or caller.auth is None:
        return None
    for record in caller.auth.journal.history(50):
        if record.receipt is not None and record.receipt.transaction == receipt.transaction:
            from x402.cli.tariff import plain

            subject = record.entry.subject
            return {"usd": plain(record.usd), "amount": str(subject.amount), "network": subject.network}
    return None


def _is_local(base_url: str) -> bool:
    """Whether the seller is on this machine, and so most likely on a devnet that no explorer knows."""
    from urllib.parse import urlsplit

    from x402.client.choose import is_secure

    return is_secure("http", urlsplit(base_url).hostname or "")


def _receipt_line(receipt: Receipt | None, paid: dict[str, str] | None, *, local: bool) -> str:
    if receipt is None:
        return "[dim]no receipt: the seller asked for no payment, or sent none[/]"

    from x402 import networks

    network = networks.find(receipt.network)
    where = network.title if network else receipt.network
    price = f"${paid['usd']} " if paid else ""
    link = network.transaction_url(receipt.transaction) if network and not local else ""
    words = f"[green]paid[/] {price}on {shown(where)} · {receipt.outcome} · {shown(receipt.transaction)}"
    return words + (f"\n[dim]{shown(link)}[/]" if link else "")


def _per_million(price: object, unit: object) -> str:
    """A token price of a listing in USD per million tokens, which is the same number as atomic USDC per token."""
    from x402.cli.tariff import plain
    from x402.errors import MalformedError
    from x402.price import TOKEN_UNITS, PriceUnit, Rate

    try:
        rate = Rate.of(str(price), PriceUnit(str(unit)))
    except (MalformedError, ValueError):
        return "?"
    if rate.unit not in TOKEN_UNITS:
        return "?"
    return "free" if not rate.value else plain(rate.atomic)
