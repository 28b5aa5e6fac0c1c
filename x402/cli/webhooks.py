"""`x402 webhooks`: who is told of payments, what became of it, and sending it once more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from x402.cli.screen import AsJson, out, prose, shown, write_json
from x402.errors import MalformedError

if TYPE_CHECKING:
    from x402.gateway.operations.webhooks import Webhooks

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="See, test and repeat what your gateway tells others.")

_Ledger = Annotated[
    str | None, typer.Option("--ledger", help="The gateway's ledger; X402_GATEWAY_LEDGER unless named.")
]


def listed(
    deliveries: Annotated[bool, typer.Option("--deliveries", help="The newest deliveries instead.")] = False,
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks, or what was sent to them. Secrets are not shown.

    Example:

        x402 webhooks list --deliveries
    """
    from x402.gateway.api.webhooks import shown as record
    from x402.gateway.api.webhooks import told

    async def read(hooks: Webhooks) -> list[dict[str, Any]]:
        if deliveries:
            return [told(one) for one in await hooks.book.listed()]
        return [{**record(one), "account": one.account} for one in await hooks.book.webhooks()]

    found = _with(ledger, read)
    if as_json:
        write_json(found)
        return
    for one in found:
        if deliveries:
            went = one["error"] or (f"status {one['status']}" if one["status"] else "")
            out().print(f"{one['id']}  {one['topic']:20} {one['state']:9} {shown(went)}", soft_wrap=True)
        else:
            whose = one["account"] or "the operator"
            out().print(f"{one['id']}  {shown(one['url'])}  for {shown(whose)}", soft_wrap=True)


def try_out(
    webhook_id: Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="The webhook's id.")],
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Send a message that says nothing to one webhook, now, and say what came of it.

    Example:

        x402 webhooks test operator
    """

    async def send(hooks: Webhooks) -> dict[str, Any]:
        from x402.gateway.api.webhooks import told

        known = {one.webhook_id: one for one in await hooks.book.webhooks()}
        if webhook_id not in known:
            raise MalformedError("webhook_not_found", f"no webhook {webhook_id}: x402 webhooks list shows them")
        await hooks.test(known[webhook_id])
        await hooks.step()
        return told((await hooks.book.listed(webhook_id=webhook_id, limit=1))[0])

    _outcome(_with(ledger, send), as_json)


def redeliver(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY_ID", help="The delivery's id, such as msg_1f2e....")],
    ledger: _Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Send one delivery once more, now, and say what came of it.

    Example:

        x402 webhooks redeliver msg_1f2e3d4c5b6a798877665544
    """

    async def send(hooks: Webhooks) -> dict[str, Any]:
        from x402.gateway.api.webhooks import told

        if not await hooks.book.again(delivery_id):
            raise MalformedError("delivery_not_found", f"no delivery {delivery_id}")
        await hooks.step()
        return next(told(one) for one in await hooks.book.listed(limit=1000) if one.delivery_id == delivery_id)

    _outcome(_with(ledger, send), as_json)


def _outcome(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(told)
    elif told["state"] == "arrived":
        out().print(f"[bold green]✓[/] {told['topic']} arrived, status {told['status']}")
    else:
        out().print(f"[bold yellow]…[/] {told['topic']} is {told['state']}: {shown(told['error'] or 'not sent yet')}")


def _with(ledger: str | None, work: Callable[[Webhooks], Awaitable[T]]) -> T:
    async def run() -> T:
        import time

        from x402.gateway.api.operations import seal_of
        from x402.gateway.operations.webhooks import Webhooks
        from x402.ports.courier import HttpCourier
        from x402.ports.deliveries import SqlDeliveries
        from x402.ports.ledger import SqlLedger
        from x402.settings import GatewaySettings

        settings = GatewaySettings.read(**({} if ledger is None else {"ledger": ledger}))
        courier = HttpCourier()
        try:
            async with SqlLedger(settings.ledger) as opened:
                seal = seal_of(settings, settings.ledger)
                hooks = Webhooks(SqlDeliveries(opened), courier, clock=lambda: int(time.time()), seal=seal)
                return await work(hooks)
        finally:
            await courier.aclose()

    return asyncio.run(run())


for _name, _command in (("list", listed), ("test", try_out), ("redeliver", redeliver)):
    app.command(_name, help=prose(_command))(_command)
