"""`x402 ledger`: whether a seller's or facilitator's books agree with themselves, and the books as a table."""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.failures import BOOKS_DISAGREE
from x402.cli.screen import AsJson, out, prose, shown, working, write_json

if TYPE_CHECKING:
    from x402.evidence.books import Account
    from x402.evidence.holdings import Cover
    from x402.ports.audit import Audit
    from x402.ports.ledger_text import PaymentRow

app = typer.Typer(no_args_is_help=True, help="Check the books of a gateway or facilitator, or export them.")

_Place = Annotated[
    str,
    typer.Argument(
        metavar="FILE_OR_URL", help="The ledger: a file, sqlite:///file or postgresql://user@host/database."
    ),
]
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
    batched: Annotated[
        bool, typer.Option("--batched/--alone", help="Whether payments may share one EVM transaction.")
    ] = True,
    chain: Annotated[bool, typer.Option("--chain", help="Compare with the chain too, through public nodes.")] = False,
    rpc_url: Annotated[
        list[str] | None, typer.Option("--rpc-url", metavar="NETWORK=URL", help="Compare through this node.")
    ] = None,
    wallet: Annotated[
        list[str] | None,
        typer.Option("--wallet", metavar="NETWORK=ADDRESS", help="Another wallet of the seller's that holds money."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a ledger agrees with itself: each row is rebuilt from its events, byte for byte, along the law.

    Reads only, also while the gateway or facilitator runs. Prints sums by network, asset and state, and what is still
    owed. Exits with 1 when an invariant does not hold, and names it: I1 one transaction per payment, I4 who paid is
    served or owed, I5 rows are what events say, I8 one nonce for one payment, I10 amounts are integers, I11 one refund
    for one payment, I12 states only move forward, I13 accounts are what their entries say, and what payments brought
    them was paid. Rows can't tell the others (I2, I3, I6, I7, I9); tests do.

    With --chain or --rpc-url also I5 against the chain: what every payee got, to the unit, and each transaction about
    which ledger and chain disagree; and I14: the wallets that were paid, with those of --wallet, hold what is owed to
    payers. X402_EVM_RPC_URL and X402_SVM_RPC_URL name nodes as for the facilitator.

    Examples:

        x402 ledger audit x402-gateway.sqlite

        x402 ledger audit x402-gateway.sqlite --rpc-url eip155:8453=https://node.example.com
    """
    from x402.cli.ledger_chain import Compared, compare, wallets_of
    from x402.evidence.books import Books
    from x402.ports.account_audit import audit_accounts
    from x402.ports.audit import audit as check
    from x402.ports.ledger_reading import read_ledger

    def against_itself() -> Audit:
        with read_ledger(ledger) as snapshot:
            histories = books.read(snapshot.histories())
            found = check(histories, now=int(time.time()), overdue_seconds=overdue, batched=batched)
            return audit_accounts(snapshot.accounts(), found)

    books, wallets = Books(), wallets_of(wallet or [])
    told = Compared()
    if chain or rpc_url:
        with working("reading the chain", quiet=as_json):
            found, told = asyncio.run(
                compare(ledger, books, against_itself, rpc_url or [], wallets=wallets, everywhere=chain)
            )
        found.violations += told.violations
    else:
        found = against_itself()
    if as_json:
        write_json(_as_json(found) | told.as_json())
    else:
        _show_chain(told.accounts)
        _show_cover(told.covers)
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


def grant(
    ledger: _Place,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="CAIP-10, such as eip155:8453:0x…, or key:<id>.")],
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="Such as 5.00.")],
    name: Annotated[str, typer.Option("--name", help="What this gift is called: each name gives once.")],
) -> None:
    """Give an account something to spend. It is spent before anything else, and never paid out.

    Writes to the ledger, also while the gateway runs. The same name again gives nothing.

    Example:

        x402 ledger grant x402-gateway.sqlite eip155:8453:0x8ba1… 5.00 --name welcome-42
    """
    from x402.cli.ledger_grant import give

    given, units = asyncio.run(give(ledger, account, amount, name))
    out().print(shown(f"{units} USDC given to {account}" if given else f"{name} was given before; nothing was done"))


app.command("audit", help=prose(audit))(audit)
app.command("export", help=prose(export))(export)
app.command("grant", help=prose(grant))(grant)

COLUMNS = (
    "created", "updated", "party", "pay_id", "network", "asset", "symbol", "amount_atomic", "amount", "payer", "payee",
    "state", "transaction",
)  # fmt: skip


def _bookkept(row: PaymentRow) -> dict[str, str]:
    from x402.ports.ledger_text import amount_of, transaction_of

    told = {name: str(row.constants[name]) for name in ("network", "asset", "payer", "payee")}
    symbol, amount = _in_coins(told["network"], told["asset"], amount_of(row))
    return {
        "created": _when(row.created_at),
        "updated": _when(row.updated_at),
        "party": row.party,
        "pay_id": row.pay_id,
        **told,
        "symbol": symbol,
        "amount_atomic": amount_of(row),
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
        "accounts": {name: str(value) for name, value in asdict(found.holdings).items()},
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


def _show_chain(accounts: Sequence[Account]) -> None:
    console = out()
    for account in accounts:
        sums = [
            f"{amount} {symbol}" if symbol else f"{units} of {account.asset}"
            for units in (account.ledger_units, account.chain_units)
            for symbol, amount in [_in_coins(account.network, account.asset, str(units))]
        ]
        words = f"{account.party} {account.network} {account.payee}: ledger {sums[0]}, chain {sums[1]}"
        agrees = account.ledger_units == account.chain_units and not account.differences
        console.print(f"{'[green]=' if agrees else '[yellow]≠'} {shown(words)}[/]", soft_wrap=True)
        for one in account.differences:
            colour = "bold red" if one.wrong else "yellow"
            units = one.chain_units - one.ledger_units
            console.print(f"  [{colour}]{units:+} {shown(one.words)}[/]", soft_wrap=True)


def _show_cover(covers: Sequence[Cover]) -> None:
    for cover in covers:
        sums = [
            f"{_in_coins(cover.network, cover.asset, str(units))[1]} USDC"
            for units in (cover.owed_units, cover.held_units, cover.leaving_units)
        ]
        words = f"{cover.network}: {sums[0]} owed to payers, {sums[1]} in {len(cover.wallets)} wallets"
        leaving = f", {sums[2]} on its way out" if cover.leaving_units else ""
        colour = "bold red" if cover.short else "green"
        out().print(f"[{colour}]{'≠' if cover.short else '='} {shown(words + leaving)}[/]", soft_wrap=True)


def _show(found: Audit) -> None:
    from rich.table import Table

    from x402.money import show_units

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
    if found.holdings.accounts:
        # What the seller has that is not his must lie in his wallets beside what he earned.
        held, given = (show_units(units, 6) for units in (found.holdings.units, found.holdings.gifts))
        words = f"{found.holdings.accounts} accounts hold {held} USDC for others, {given} of it given"
        console.print(words, soft_wrap=True)
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
