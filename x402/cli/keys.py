"""`x402 keys`: the operator's way to the book of API keys, in the ledger of a gateway that may be running."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from x402.cli.screen import AsJson, err, out, prose, shown, write_json
from x402.errors import MalformedError

if TYPE_CHECKING:
    from x402.gateway.accounts.keys import KeyRing

T = TypeVar("T")
ACTOR = "operator"

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate, revoke and check the API keys of your gateway.")

_Ledger = Annotated[
    str | None, typer.Option("--ledger", help="The gateway's ledger; X402_GATEWAY_LEDGER unless named.")
]
_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, such as key_1f2e....")]


def create(
    name: Annotated[str, typer.Option("--name", help="What it is for.")] = "",
    account: Annotated[
        str, typer.Option("--account", help="Whose balance pays, as CAIP-10; an account of the key's own unless named.")
    ] = "",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="completion_model, embeddings, images, billing or keys.")
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option("--from", help="A network in CIDR notation from which alone it may be used.")
    ] = None,
    tier: Annotated[str, typer.Option("--tier", help="The tier of X402_TIERS by which it is counted.")] = "",
    days: Annotated[int, typer.Option("--days", min=0, help="How long it lives; 0 for ever.")] = 0,
    uses: Annotated[int, typer.Option("--uses", min=0, help="How often it may be used; 0 for any number.")] = 0,
    spend_limit: Annotated[
        str | None, typer.Option("--spend-limit", help="What it may spend in all its life, in dollars.")
    ] = None,
    grant: Annotated[str | None, typer.Option("--grant", help="Credit to give its account, in dollars.")] = None,
    signed_only: Annotated[bool, typer.Option("--signed-only", help="It signs requests and is never sent.")] = False,
    from_env: Annotated[
        str | None, typer.Option("--from-env", metavar="NAME", help="Enter a key from elsewhere, out of a variable.")
    ] = None,
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. Its text is shown this once, and kept nowhere.

    Example:

        x402 keys create --name bakery --days 90 --spend-limit 25 --grant 5
    """
    from x402.gateway.accounts.keys import INFERENCE, KeyWish
    from x402.gateway.accounts.signed_key import Scope
    from x402.gateway.api.keys import shown as record

    try:
        scopes = frozenset(Scope(one) for one in scope) if scope else INFERENCE
    except ValueError:
        raise MalformedError("invalid_value", f"scopes are {', '.join(Scope)}") from None
    wish = KeyWish(
        account=account,
        name=name,
        scopes=scopes,
        addresses=tuple(address or ()),
        tier=tier,
        lifetime_seconds=days * 86_400,
        usage_limit=uses,
        spend_limit=None if spend_limit is None else _units(spend_limit),
        signed_only=signed_only,
        text=os.environ.get(from_env, "") if from_env else "",
    )

    async def make(ring: KeyRing) -> tuple[str, dict[str, Any]]:
        text, key = await ring.issue(wish, actor=ACTOR)
        if grant is not None:
            await _grant(ring, key.account, _units(grant), key.key_id)
        return text, record(key)

    text, told = _with(ledger, make)
    if as_json:
        write_json({"key": text, **told})
        return
    err().print(f"[bold]The key, shown this once:[/] {text}", soft_wrap=True)
    out().print(f"{told['id']}  pays from {shown(told['account'])}", soft_wrap=True)


def listed(
    account: Annotated[str | None, typer.Option("--account", help="Those that this account pays for.")] = None,
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """List keys, the newest first. Their text is not known here.

    Example:

        x402 keys list
    """
    from x402.gateway.api.keys import shown as record

    async def read(ring: KeyRing) -> list[dict[str, Any]]:
        return [record(key) for key in await ring.book.keys_of(account)]

    found = _with(ledger, read)
    if as_json:
        write_json(found)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "key", "name", "scopes", "uses", "state"):
        table.add_column(title)
    for one in found:
        state = "revoked" if one["revoked_at"] else "expires" if one["expires_at"] else "good"
        uses = f"{one['uses']}/{one['usage_limit']}" if one["usage_limit"] else str(one["uses"])
        table.add_row(one["id"], one["hint"], shown(one["name"]), " ".join(one["scopes"]), uses, state)
    out().print(table)


def revoke(
    key_id: _KeyId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the trail.")] = "",
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """End a key at once and for good.

    Example:

        x402 keys revoke key_1f2e3d4c5b6a7988 --reason "laptop lost"
    """
    ended = _with(ledger, lambda ring: ring.book.revoke(key_id, actor=ACTOR, reason=reason))
    if not ended:
        raise MalformedError("key_not_found", f"no key {key_id} that could be ended")
    _said({"id": key_id, "revoked": True}, f"[bold green]✓[/] {key_id} is of no use any more", as_json)


def rotate(
    key_id: _KeyId,
    overlap: Annotated[int, typer.Option("--overlap", min=0, help="Hours for which the old text is still good.")] = 24,
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Give a key another text; its limits, counts and account stay.

    Example:

        x402 keys rotate key_1f2e3d4c5b6a7988 --overlap 48
    """
    text, _ = _with(ledger, lambda ring: ring.rotate(key_id, overlap_seconds=overlap * 3600, actor=ACTOR))
    _said({"id": key_id, "key": text}, f"[bold]The key, shown this once:[/] {text}", as_json)


def verify(
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Check a key that is typed or piped in, never given as an argument: what it is, and whether it would pass now.

    Example:

        x402 keys verify < key.txt
    """
    from x402.errors import X402Error
    from x402.gateway.accounts.keys import digest_of

    text = sys.stdin.readline().strip()

    async def look(ring: KeyRing) -> dict[str, Any]:
        try:
            signed = ring.signed_key(text)
        except X402Error as error:
            return {"good": False, "reason": error.message}
        record = await ring.book.find(digest_of(text) if signed is None else ring.record_of(signed).digest)
        known = record or (ring.record_of(signed) if signed is not None else None)
        if known is None:
            return {"good": False, "reason": "this key is not known here"}
        from x402.gateway.api.keys import shown as record_of

        over = bool(known.revoked_at) or 0 < known.expires_at <= ring.now
        reason = "revoked" if known.revoked_at else "expired" if over else ""
        return {"good": not over, "reason": reason, **record_of(known)}

    told = _with(ledger, look)
    words = "[bold green]✓[/] a good key" if told["good"] else f"[bold red]✗[/] {shown(told['reason'])}"
    _said(told, words + (f" of {shown(told['account'])}" if "account" in told else ""), as_json)
    if not told["good"]:
        raise typer.Exit(1)


def trail(key_id: _KeyId, ledger: _Ledger = None, as_json: AsJson = False) -> None:
    """Show who made, rotated and revoked a key, and when.

    Example:

        x402 keys trail key_1f2e3d4c5b6a7988
    """
    from datetime import UTC, datetime

    events = _with(ledger, lambda ring: ring.book.trail(key_id))
    if as_json:
        write_json([{"at": one.at, "event": one.event, "actor": one.actor, **one.details} for one in events])
        return
    for one in events:
        when = datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        out().print(f"{when}  {one.event:8} by {shown(one.actor)}", soft_wrap=True)


@asynccontextmanager
async def opened_ring(ledger: str | None) -> AsyncIterator[KeyRing]:
    """The ring of the gateway that the environment describes, on its ledger."""
    import time

    from x402.gateway.api.operations import ring_of
    from x402.ports.ledger import SqlLedger
    from x402.settings import GatewaySettings

    settings = GatewaySettings.read(**({} if ledger is None else {"ledger": ledger}))
    async with SqlLedger(settings.ledger) as opened:
        yield ring_of(settings, opened, place=settings.ledger, clock=lambda: int(time.time()))


def _with(ledger: str | None, work: Callable[[KeyRing], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened_ring(ledger) as ring:
            return await work(ring)

    return asyncio.run(run())


async def _grant(ring: KeyRing, account: str, units: int, reference: str) -> None:
    from x402.billing import EntryKind, Posting
    from x402.ports.account_book import SqlAccounts
    from x402.ports.keys import SqlKeys

    assert isinstance(ring.book, SqlKeys)
    posting = Posting(account=account, kind=EntryKind.GRANT, reference=f"{ACTOR} {reference}", units=units)
    await SqlAccounts(ring.book.ledger).post(posting)


def _units(dollars: str) -> int:
    from decimal import ROUND_DOWN

    from x402.money import parse_price

    return int(parse_price(dollars)[0].scaleb(6).to_integral_value(ROUND_DOWN))


def _said(told: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        write_json(told)
    else:
        out().print(words, soft_wrap=True)


for _name, _command in (("create", create), ("list", listed), ("revoke", revoke), ("rotate", rotate),
                        ("verify", verify), ("trail", trail)):  # fmt: skip
    app.command(_name, help=prose(_command))(_command)
