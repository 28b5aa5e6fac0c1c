"""`x402 models`: what a seller has on its shelf."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from x402.cli.screen import AsJson, out, prose, shown, working, write_json
from x402.cli.spending import BaseUrl, ProfileName, unpaid

_Capability = Annotated[
    str, typer.Option("--capability", "-c", help="Only models that can do this: chat, vision, embeddings, images.")
]
_MaxPrice = Annotated[
    str, typer.Option("--max-price", help="Only models whose dearest rate is at most this: USD per 1M tokens.")
]
_Free = Annotated[bool, typer.Option("--free", help="Only models that cost nothing.")]
_Sort = Annotated[str, typer.Option("--sort", help="price, context or name.")]


def listing(
    base_url: BaseUrl = "",
    capability: _Capability = "",
    max_price: _MaxPrice = "",
    free: _Free = False,
    sort: _Sort = "",
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """List the models that a seller offers, with their prices. Free of charge, and without a wallet.

    Example:

        x402 models list --base-url http://127.0.0.1:4021/api/v1 --capability chat --sort price
    """
    _list(base_url, profile, _filters("", capability, max_price, free, sort), as_json)


def search(
    words: Annotated[str, typer.Argument(help="Part of a model's name.")],
    base_url: BaseUrl = "",
    capability: _Capability = "",
    max_price: _MaxPrice = "",
    free: _Free = False,
    sort: _Sort = "",
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """List the models whose name has these words in it.

    A seller that does not filter answers with everything; then the names are compared here.

    Example:

        x402 models search story --max-price 5
    """
    _list(base_url, profile, _filters(words, capability, max_price, free, sort), as_json)


def _root(context: typer.Context, base_url: BaseUrl = "", profile: ProfileName = "", as_json: AsJson = False) -> None:
    """List the models that a seller offers, with their prices. Free of charge, and without a wallet.

    Example:

        x402 models --base-url http://127.0.0.1:4021/api/v1
    """
    if context.invoked_subcommand is None:
        _list(base_url, profile, {}, as_json)


app = typer.Typer(invoke_without_command=True, help=prose(_root))
app.callback(help=prose(_root))(_root)
app.command("list", help=prose(listing))(listing)
app.command("search", help=prose(search))(search)


def _filters(words: str, capability: str, max_price: str, free: bool, sort: str) -> dict[str, Any]:
    stated = {"q": words, "capability": capability, "max_price": max_price, "sort": sort}
    return {name: value for name, value in stated.items() if value} | ({"free": True} if free else {})


def _list(base_url: str, profile: str, filters: dict[str, Any], as_json: bool) -> None:
    from x402.client.chat import Chat

    caller = Chat(base_url or None, profile=profile or None, http_client=unpaid())
    with caller as chat, working("asking for the price list", quiet=as_json):
        listed = [model.as_json() for model in chat.models(**filters)]
    words = str(filters.get("q", "")).lower()
    listed = [model for model in listed if words in f"{model.get('id')} {model.get('display_name')}".lower()]
    if as_json:
        write_json(listed)
        return
    out().print(_table(listed) if listed else "[dim]no such model here[/]")


def _table(listed: list[dict[str, Any]]) -> Any:
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
    return table


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
