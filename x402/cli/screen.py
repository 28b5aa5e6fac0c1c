"""What a person sees: one look for all commands. Colours vanish for `NO_COLOR`, pipes and dumb terminals.

Answers go to standard output; progress and errors go to standard error, so that output can be piped.
"""

from __future__ import annotations

import inspect
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

_JSON = "x402.json"
_NARROW, _WIDE = 60, 110
_OBEYED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories of what moves cursors, turns writing around or has no shape."""


def _remember(context: typer.Context, wanted: bool) -> bool:
    # Errors are reported by the root, which must know how; `meta` is shared with it.
    context.meta[_JSON] = wanted
    return wanted


AsJson = Annotated[bool, typer.Option("--json", callback=_remember, help="Print JSON for programs, errors too.")]
"""The option that every command has which prints data."""


def prose(command: Callable[..., None]) -> str:
    """A command's docstring as help: a paragraph's lines joined, so that the terminal wraps them; examples as typed."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(
        f"[cyan]{text.strip()}[/cyan]" if text.startswith("    ") else " ".join(text.split()) for text in paragraphs
    )


def wants_json(context: typer.Context) -> bool:
    """Whether `--json` was typed for the command that runs in this context."""
    return bool(context.meta.get(_JSON))


@cache
def _console(stream: TextIO) -> Console:
    from rich.console import Console

    console = Console(file=stream, highlight=False, soft_wrap=False, emoji=False)
    # A terminal as wide as a desk makes tables that nobody can read.
    console.width = max(_NARROW, min(console.width, _WIDE))
    return console


def out() -> Console:
    """Standard output."""
    return _console(sys.stdout)


def err() -> Console:
    """Standard error."""
    return _console(sys.stderr)


def announce(what: str, where: str) -> None:
    """Say on standard error that a service runs until it is interrupted."""
    if sys.stderr.isatty():
        err().print(f"[bold]{what}[/] at {where}  [dim](Ctrl-C ends it)[/]", soft_wrap=True)
    else:
        # A log has no colours, so the service doesn't wait for the library that makes them.
        typer.echo(f"{what} at {where}  (Ctrl-C ends it)", err=True)


def printable(text: str) -> str:
    """Text from others without what a terminal would obey: control and format characters become visible marks."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(mark) in _OBEYED and mark not in "\n\t" else mark
        for mark in text
    )


def shown(text: str) -> str:
    """Any text, from whomever, as rich prints it: as it is."""
    from rich.markup import escape

    return escape(printable(text))


def write_answer(text: str, *, end: str = "\n") -> None:
    """A model's words on standard output: as they are into a pipe, harmless on a terminal."""
    from x402.client.answers import joined

    text = joined([text])
    typer.echo((printable(text) if sys.stdout.isatty() else text) + end, nl=False)


def write_json(value: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def working(words: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner on standard error while something long goes on; nothing when it is no terminal, or `quiet`."""
    console = err()
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(f"[dim]{words}[/dim]", spinner="dots"):
        yield
