"""`x402 demo`: a town comes up, a wallet buys answers on both chains, and the books are compared to the unit."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from x402.cli.failures import BOOKS_DISAGREE, INTERRUPTED
from x402.cli.screen import AsJson, out, working, write_json

_STREAM_SECONDS = 0.015
"""Between the chunks of a stream, so that a person sees it come."""


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="No pauses for reading.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the town running afterwards, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a wallet without an account buy answers on Base and Solana, offline, and the money add up to the unit.

    Everything is real but the money: two chains with their token programs, a facilitator, a gateway, this client.
    Exits with 1 when chains and ledgers disagree.

    Example:

        x402 demo --fast
    """
    import asyncio

    try:
        agrees = asyncio.run(_demo(fast=fast, keep=keep, as_json=as_json))
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None
    if not agrees:
        raise typer.Exit(BOOKS_DISAGREE)


async def _demo(*, fast: bool, keep: bool, as_json: bool) -> bool:
    import asyncio

    from x402.cli.devnet import show, stop_on_terminate

    stop_on_terminate()
    began = time.monotonic()
    async with AsyncExitStack() as running:
        with working("bringing up two chains, a facilitator, a gateway and a model", quiet=as_json):
            from x402.cli.demo_play import play
            from x402.cli.demo_purchases import Shopper
            from x402.cli.demo_screen import Screen
            from x402.devnet.town import Town

            screen = Screen(slowly=not fast, quiet=as_json)
            shopper = Shopper(screen.tell, screen.pauses)
            delay = _STREAM_SECONDS if screen.pauses else 0.0
            town = await running.enter_async_context(Town(observers=[shopper.hear], model_delay_seconds=delay))
        result = await play(town, shopper, screen, began=began)
        if as_json:
            write_json({**result.as_json(), "town": town.urls.as_json()})
        if keep:
            if not as_json:
                out().print()
                show(town, "still up")
            await asyncio.Event().wait()
    return result.verdict.agrees
