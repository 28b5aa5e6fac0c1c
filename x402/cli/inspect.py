"""`x402 inspect`: any x402 header, body or live 402, decoded and explained."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from x402.cli.screen import AsJson, out, shown, working, write_json

if TYPE_CHECKING:
    from x402.cli.explanation import Explanation


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="HEADER_OR_URL", help="A header value or line, a JSON body, a URL, or - for stdin.")
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="With a URL: the JSON body to POST.")] = "",
    method: Annotated[str, typer.Option("--method", "-X", help="With a URL: the HTTP method.")] = "",
    as_json: AsJson = False,
) -> None:
    """Explain any x402 message in words: who asks, who pays, how much, until when, and what is wrong with it.

    Understands PAYMENT-REQUIRED, PAYMENT-SIGNATURE, X-PAYMENT, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE, 402 bodies of
    version 1 and 2, bodies and answers of facilitators, quote tokens, and live URLs. Nothing is ever paid.

    Examples:

        x402 inspect https://api.example.com/report

        x402 inspect http://127.0.0.1:4021/api/v1/chat/completions -d '{"model": "demo/echo-1", "messages": []}'

        x402 inspect eyJ4NDAyVmVyc2lvbiI6Mn0=

        curl -si URL | grep -i payment-required | x402 inspect -
    """
    from x402.cli.explain import TEXT_LIMIT, explain

    text = sys.stdin.read(TEXT_LIMIT + 1) if what == "-" else what
    now = int(time.time())
    if text.startswith(("http://", "https://")):
        from x402.cli.visit import visit

        with working(f"asking {text}", quiet=as_json):
            explanation = visit(text, method=method, data=data, now=now)
    else:
        explanation = explain(text, now=now)
    if as_json:
        write_json(explanation.as_json())
    else:
        show(explanation)


def show(explanation: Explanation) -> None:
    """Print an explanation as one small table per section."""
    from rich.table import Table

    console = out()
    console.print(f"[bold]{shown(explanation.summary)}[/]")
    for section in explanation.sections:
        console.print()
        console.print(f"[bold cyan]{shown(section.title)}[/]")
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in section.facts:
            table.add_row("  " + shown(name), shown(value))
        console.print(table)
        for problem in section.problems:
            console.print(f"  [yellow]! {shown(problem)}[/]")
    if explanation.problems:
        console.print()
        for problem in explanation.problems:
            console.print(f"[yellow]! {shown(problem)}[/]")
