"""`x402 history` and `x402 resolve`: what was paid, and what became of payments whose outcome is not known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, out, shown, working, write_json

if TYPE_CHECKING:
    from decimal import Decimal

    from x402.client.journal import Journal
    from x402.client.nodes import Nodes
    from x402.client.record import Record
    from x402.client.resolve import Finding

_WORDS = {
    "held": "being signed",
    "exposed": "presented, outcome not known",
    "settled": "paid",
    "refused": "refused by the seller, not proven dead",
    "released": "no money moved",
}
_COLOURS = {"settled": "green", "released": "dim"}

_Limit = Annotated[int, typer.Option("--limit", "-l", min=1, help="How many, the newest first.")]
_Host = Annotated[str, typer.Option("--host", help="Only payments to this host, as the list shows it.")]
_Open = Annotated[bool, typer.Option("--open", help="Only payments whose outcome is not known.")]
_Rpc = Annotated[
    list[str] | None,
    typer.Option("--rpc", help="Ask this node: NETWORK=URL, such as base=https://…; may be repeated."),
]


def history(limit: _Limit = 20, host: _Host = "", only_open: _Open = False, as_json: AsJson = False) -> None:
    """Show what was paid: when, to whom, how much, what became of it, and what is still reserved in the budget.

    It reads the journal on this machine and asks nobody. x402 resolve asks the chain about open payments.

    Example:

        x402 history --open
    """
    from x402.client.budget import DAY_SECONDS

    journal = _journal()
    records = journal.history(limit, host=host, unresolved=only_open) if journal else []
    reserved = _reserved(journal.unresolved() if journal else [])
    today = journal.spent(DAY_SECONDS) if journal else _reserved([])
    if as_json:
        write_json({"payments": [as_data(one) for one in records], "reserved": _plain(reserved), "day": _plain(today)})
        return
    console = out()
    if not records:
        console.print("[dim]no payment here[/]")
    for record in records:
        console.print(_line(record, _words(record)), soft_wrap=True)
    console.print(
        f"\n${_plain(today)} spent or reserved in the last day; ${_plain(reserved)} reserved without a known outcome",
        soft_wrap=True,
    )
    if reserved:
        console.print("[bold]Next:[/] x402 resolve")


def resolve(rpc: _Rpc = None, as_json: AsJson = False) -> None:
    """Ask the chain, not the seller, what became of payments whose outcome is not known.

    A payment is settled when the chain shows the transfer, and released when the chain proves that it is dead and
    unused; until then its amount stays reserved.

    Example:

        x402 resolve --rpc base-sepolia=http://127.0.0.1:8545
    """
    import asyncio

    from x402.cli.failures import exit_code

    named = _named(rpc or ())
    journal = _journal()
    findings: Sequence[Finding] = ()
    if journal is not None:
        with working("asking the chains", quiet=as_json):
            findings = asyncio.run(_ask(journal, named))
    reserved = _reserved(journal.unresolved() if journal else [])
    if as_json:
        write_json({"payments": [_found(one) for one in findings], "reserved": _plain(reserved)})
    else:
        console = out()
        if not findings:
            console.print("[dim]every payment has a known outcome[/]")
        for one in findings:
            console.print(_line(one.record, f"{_words(one.record)}: {one.words}"), soft_wrap=True)
        console.print(f"\n${_plain(reserved)} reserved without a known outcome")
    errors = [one.error for one in findings if one.error is not None]
    if errors:
        raise typer.Exit(exit_code(errors[0]))


def as_data(record: Record) -> dict[str, Any]:
    """A payment for programs: amounts as strings, times in unix seconds."""
    subject, transaction = record.entry.subject, _transaction(record)
    return {
        "payId": record.pay_id,
        "createdAt": record.entry.created_at,
        "updatedAt": record.entry.updated_at,
        "host": record.host,
        "url": subject.record.get("url", ""),
        "network": subject.network,
        "asset": subject.asset,
        "amount": str(subject.amount),
        "usd": _plain(record.usd),
        "payer": subject.payer,
        "payee": subject.payee,
        "state": str(record.state),
        "words": _words(record),
        "answered": not record.open,
        "reserved": _plain(_reserved([record])),
        "transaction": transaction,
        "link": _link(record, transaction),
        "receipt": record.receipt.as_json() if record.receipt else None,
    }


def _found(finding: Finding) -> dict[str, Any]:
    error = finding.error.as_json() if finding.error else None
    return {**as_data(finding.record), "resolved": finding.proof is not None, "found": finding.words, "error": error}


def _journal() -> Journal | None:
    """The user's journal, or None when there is none yet: looking at it does not make one."""
    import time
    from pathlib import Path

    from x402.client.journal import Journal
    from x402.settings import ClientSettings

    path = Path(ClientSettings.read().journal_path).expanduser()
    return Journal(path, clock=lambda: int(time.time())) if path.exists() else None


def _named(rpc: Sequence[str]) -> dict[str, str]:
    """Node URLs by CAIP-2 network. Raises `MalformedError("invalid_rpc")` for anything but NETWORK=URL."""
    from x402 import networks
    from x402.errors import MalformedError

    found = {}
    for text in rpc:
        name, equals, url = text.partition("=")
        if not equals or not url.startswith(("http://", "https://")):
            raise MalformedError("invalid_rpc", "--rpc takes NETWORK=URL, such as base=https://…")
        found[networks.get(name).id] = url
    return found


async def _ask(journal: Journal, named: dict[str, str]) -> Sequence[Finding]:
    """Every open payment, each asked about at the node of its network."""
    from x402.client.resolve import resolve as resolve_all

    async with _nodes(named) as nodes:
        return await resolve_all(journal, nodes)


def _nodes(named: dict[str, str]) -> Nodes:
    """The nodes that were named here, or else in the environment."""
    from x402.client.nodes import Nodes
    from x402.settings import ClientSettings

    settings = ClientSettings.read()
    return Nodes(evm_rpc={"": settings.evm_rpc_url, **named}, svm_rpc={"": settings.svm_rpc_url, **named})


def _reserved(records: Sequence[Record]) -> Decimal:
    """US dollars that are held for payments without a known outcome."""
    from decimal import Decimal

    from x402.lifecycle import Party, open_states

    return sum((one.usd for one in records if one.state in open_states(Party.CLIENT)), Decimal(0))


def _words(record: Record) -> str:
    """The state for people, with its reason where there is one."""
    from x402.stages import Refused, Released, State

    words, stage = _WORDS[record.state], record.entry.stage
    if isinstance(stage, Refused | Released):
        return f"{words} ({stage.reason})"
    if record.state is State.SETTLED and record.open:
        return f"{words}, and no answer was received yet: the same call fetches it"
    return words


def _line(record: Record, words: str) -> str:
    from x402 import networks

    subject, transaction = record.entry.subject, _transaction(record)
    network = networks.find(subject.network)
    when = datetime.fromtimestamp(record.entry.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    where = network.title if network else subject.network
    colour = _COLOURS.get(record.state, "yellow")
    lines = [
        f"[dim]{when}[/]  {shown(record.host)}  [bold]{_amount(record)}[/] on {shown(where)}",
        f"    [{colour}]{record.state}[/]: {shown(words)}",
    ]
    if transaction:
        lines.append(f"    [dim]{shown(_link(record, transaction) or transaction)}[/]")
    return "\n".join(lines)


def _amount(record: Record) -> str:
    from x402 import networks
    from x402.money import show_units

    network, subject = networks.find(record.entry.subject.network), record.entry.subject
    asset = network.asset(subject.asset) if network else None
    return f"{show_units(subject.amount, asset.decimals)} {asset.symbol}" if asset else f"{subject.amount} atomic units"


def _transaction(record: Record) -> str:
    from x402.stages import Settled

    stage = record.entry.stage
    return stage.transaction if isinstance(stage, Settled) else record.receipt.transaction if record.receipt else ""


def _link(record: Record, transaction: str) -> str:
    """Where a person can look at a transaction; `""` for a seller on this machine, whose devnet no explorer knows."""
    from x402 import networks
    from x402.client.nodes import is_local

    network = networks.find(record.entry.subject.network)
    return network.transaction_url(transaction) if network and not is_local(record) else ""


def _plain(number: Decimal) -> str:
    from x402.cli.tariff import plain

    return plain(number)
