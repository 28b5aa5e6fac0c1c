"""`x402 ledger`: whether a seller's or facilitator's books agree with themselves, and the books as a table."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.failures import BOOKS_DISAGREE
from x402.cli.screen import AsJson, out, prose, shown, write_json

if TYPE_CHECKING:
    from x402.ports.audit import Audit, PaymentRow

app = typer.Typer(no_args_is_help=True, help="Check the books of a gateway or facilitator, or export them.")

_Place = Annotated[str, typer.Argument(metavar="FILE_OR_URL", help="The ledger: a file, or sqlite:///file.")]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run."""


class Format(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    JSON = "json"


class Who(StrEnum):
    """Whose rows `export` writes."""

    GATEWAY = "gateway"
    FACILITATOR = "facilitator"


def audit(
    ledger: _Place,
    overdue: Annotated[
        int, typer.Option("--overdue", min=0, help="Seconds after which the undecided is listed.")
    ] = 600,
    batched: Annotated[bool, typer.Option("--batched", help="Payments may share one EVM transaction.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a ledger agrees with itself: each row is rebuilt from its events, byte for byte, along the law.

    Reads only, also while the gateway or facilitator runs. Prints sums by network, asset and state, and what is still
    owed. Exits with 1 when an invariant does not hold, and names it: I1 one transaction per payment, I4 who paid is
    served or owed, I5 rows are what events say, I10 amounts are integers, I12 states only move forward.

    Example:

        x402 ledger audit x402-gateway.sqlite
    """
    from x402.ports.audit import audit as check
    from x402.ports.ledger_reading import read_ledger

    with read_ledger(ledger) as snapshot:
        found = check(snapshot.histories(), now=int(time.time()), overdue_seconds=overdue, batched=batched)
    if as_json:
        write_json(_as_json(found))
    else:
        _show(found)
    if found.violations:
        raise typer.Exit(BOOKS_DISAGREE)


def export(
    ledger: _Place,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.CSV,
    party: Annotated[Who | None, typer.Option("--party", help="Whose rows; all unless named.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one row per payment to standard output, for bookkeeping: oldest first, amounts atomic and decimal.

    Times are UTC. --json is --format json.

    Example:

        x402 ledger export x402-gateway.sqlite --party gateway > sales.csv
    """
    from x402.ports.ledger_reading import read_ledger

    with read_ledger(ledger) as snapshot:
        rows = (_bookkept(row) for row in snapshot.payments(party or ""))
        if as_json or form is Format.JSON:
            write_json(list(rows))
            return
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in rows:
            table.writerow([_cell(row[name]) for name in COLUMNS])


app.command("audit", help=prose(audit))(audit)
app.command("export", help=prose(export))(export)

COLUMNS = (
    "created", "updated", "party", "pay_id", "network", "asset", "symbol", "amount_atomic", "amount", "payer", "payee",
    "state", "transaction",
)  # fmt: skip


def _bookkept(row: PaymentRow) -> dict[str, str]:
    from x402.ports.audit import transaction_of

    told = {name: str(row.constants[name]) for name in ("network", "asset", "payer", "payee")}
    symbol, amount = _in_coins(told["network"], told["asset"], str(row.constants["amount"]))
    return {
        "created": _when(row.created_at),
        "updated": _when(row.updated_at),
        "party": row.party,
        "pay_id": row.pay_id,
        **told,
        "symbol": symbol,
        "amount_atomic": str(row.constants["amount"]),
        "amount": amount,
        "state": row.state,
        "transaction": transaction_of(row.stage),
    }


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _when(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_coins(network: str, address: str, atomic: str) -> tuple[str, str]:
    """Symbol and decimal amount; empty for an asset that is not in the table, or for what is no amount."""
    from x402 import networks
    from x402.errors import MalformedError
    from x402.money import parse_atomic, show_units

    known = networks.find(network)
    asset = known.asset(address) if known else None
    if asset is None:
        return "", ""
    try:
        return asset.symbol, show_units(parse_atomic(atomic), asset.decimals)
    except MalformedError:
        return asset.symbol, ""


def _as_json(found: Audit) -> dict[str, Any]:
    return {
        "agrees": not found.violations,
        "payments": found.payments,
        "events": found.events,
        "unattested": found.unattested,
        "violations": [asdict(one) for one in found.violations],
        "obligations": [asdict(one) for one in found.obligations],
        "totals": [
            {
                **dict(zip(("party", "network", "asset", "state"), place, strict=True)),
                **dict(zip(("symbol", "amount"), _in_coins(place[1], place[2], str(total.units)), strict=True)),
                "payments": total.payments,
                "amount_atomic": str(total.units),
            }
            for place, total in sorted(found.totals.items())
        ],
    }


def _show(found: Audit) -> None:
    from rich.table import Table

    console = out()
    if found.totals:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("party", "network", "state"):
            table.add_column(title)
        table.add_column("payments", justify="right")
        table.add_column("amount", justify="right", overflow="fold")
        for (party, network, asset, state), total in sorted(found.totals.items()):
            symbol, amount = _in_coins(network, asset, str(total.units))
            words = f"{amount} {symbol}" if symbol else f"{total.units} of {asset}"
            table.add_row(*(shown(text) for text in (party, network, state, str(total.payments), words)))
        console.print(table)
    for one in found.obligations:
        words = f"open: {one.state} since {_when(one.since)}, {one.amount} atomic units"
        console.print(f"[yellow]! {shown(f'{one.party} {one.pay_id}: {words}')}[/]", soft_wrap=True)
    for wrong in found.violations:
        words = f"{wrong.invariant} {wrong.party} {wrong.pay_id}: {wrong.words}"
        console.print(f"[bold red]✗ {shown(words)}[/]", soft_wrap=True)
    if found.unattested:
        console.print(f"[dim]{found.unattested} payments of an older program: their amounts are in no event[/]")
    told = f"{found.payments} payments, {found.events} events"
    if found.violations:
        console.print(f"[bold red]✗ {len(found.violations)} violations[/] in {told}")
    else:
        console.print(f"[bold green]✓ The ledger agrees with itself:[/] {told}, {len(found.obligations)} open")
