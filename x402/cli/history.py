"""`x402 history` and `x402 resolve`: what was paid, and what became of payments whose outcome is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, out, shown, working, write_json

if TYPE_CHECKING:
    from decimal import Decimal

    from x402.client.journal import Journal
    from x402.client.nodes import Nodes
    from x402.client.receipts import Checked
    from x402.client.record import Record
    from x402.client.resolve import Finding
    from x402.errors import X402Error

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
_Check = Annotated[bool, typer.Option("--check", help="Ask the chain whether the receipts are true.")]
_GiveUp = Annotated[str, typer.Option("--give-up", metavar="PAY_ID", help="Present this payment no more.")]
_Rpc = Annotated[
    list[str] | None,
    typer.Option("--rpc", help="Ask this node: NETWORK=URL, such as base=https://…; may be repeated."),
]


def history(
    limit: _Limit = 20, host: _Host = "", only_open: _Open = False, check: _Check = False, rpc: _Rpc = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what was paid: when, to whom, how much, what became of it, and what is still reserved in the budget.

    It reads the journal on this machine and asks nobody, unless --check is given: then the chain is asked whether the
    transaction that each receipt names really made our transfer. A receipt that the chain contradicts is marked for
    good as receipt_disputed, and the exit code is 1. x402 resolve asks the chain about open payments.

    Example:

        x402 history --check
    """
    from x402.client.budget import DAY_SECONDS

    named = _nodes_named(rpc or ())
    journal = journal_here()
    errors = _check(journal, journal.history(limit, host=host), named, quiet=as_json) if journal and check else []
    records = journal.history(limit, host=host, unresolved=only_open) if journal else []
    reserved = _reserved(journal.unresolved() if journal else [])
    today = journal.spent(DAY_SECONDS) if journal else _reserved([])
    if as_json:
        write_json({"payments": [as_data(one) for one in records], "reserved": _plain(reserved), "day": _plain(today)})
    else:
        _show(records, reserved, today, errors)
    _end(records, errors)


def _show(records: Sequence[Record], reserved: Decimal, today: Decimal, errors: Sequence[X402Error]) -> None:
    console = out()
    if not records:
        console.print("[dim]no payment here[/]")
    for record in records:
        console.print(_line(record, _words(record)), soft_wrap=True)
    console.print(
        f"\n${_plain(today)} spent or reserved in the last day; ${_plain(reserved)} reserved without a known outcome",
        soft_wrap=True,
    )
    for error in errors:
        console.print(f"[yellow]not checked:[/] {shown(error.message)}", soft_wrap=True)
    if reserved:
        console.print("[bold]Next:[/] x402 resolve")


def resolve(rpc: _Rpc = None, give_up: _GiveUp = "", as_json: AsJson = False) -> None:
    """Ask the chain, not the seller, what became of payments whose outcome is not known.

    A payment is settled when the chain shows the transfer, and released when the chain proves that it is dead and
    unused; until then its amount stays reserved.

    With --give-up a payment that brought no answer is not presented any more, so that the same call may be paid for
    anew. It goes on counting in every limit until the chain proves that it is dead.

    Example:

        x402 resolve --rpc base-sepolia=http://127.0.0.1:8545
    """
    import asyncio

    from x402.cli.failures import exit_code

    named = _nodes_named(rpc or ())
    journal = journal_here()
    if give_up:
        _give_up(journal, give_up)
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
        "answered": record.answered_at > 0,
        "reserved": _plain(_reserved([record])),
        "transaction": transaction,
        "link": _link(record, transaction),
        "receipt": record.receipt.as_json() if record.receipt else None,
        "check": asdict(record.check) if record.check else None,
    }


def _found(finding: Finding) -> dict[str, Any]:
    error = finding.error.as_json() if finding.error else None
    return {**as_data(finding.record), "resolved": finding.proof is not None, "found": finding.words, "error": error}


def journal_here() -> Journal | None:
    """The user's journal, or None when there is none yet: looking at it does not make one."""
    import time
    from pathlib import Path

    from x402.client.journal import Journal
    from x402.settings import ClientSettings

    path = Path(ClientSettings.read().journal_path).expanduser()
    return Journal(path, clock=lambda: int(time.time())) if path.exists() else None


def _nodes_named(rpc: Sequence[str]) -> dict[str, str]:
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


def _check(journal: Journal, records: Sequence[Record], named: dict[str, str], *, quiet: bool) -> list[X402Error]:
    """Compare the receipts that nobody has looked at with their chains; returns why some could not be."""
    import asyncio
    import time

    from x402.client.receipts import check, unchecked

    async def ask() -> list[Checked]:
        async with _nodes(named) as nodes:
            return await check(journal, unchecked(records), nodes, lambda: int(time.time()))

    with working("asking the chains", quiet=quiet):
        return [one.error for one in asyncio.run(ask()) if one.error is not None]


def _end(records: Sequence[Record], errors: Sequence[X402Error]) -> None:
    """Exit with what the receipts say, as far as somebody looked."""
    from x402.cli.failures import BOOKS_DISAGREE, exit_code

    if any(_is_disputed(one) for one in records):
        raise typer.Exit(BOOKS_DISAGREE)
    if errors:
        raise typer.Exit(exit_code(errors[0]))


def _is_disputed(record: Record) -> bool:
    from x402.client.record import Finding

    return record.check is not None and record.check.finding is Finding.DISPUTED


def _give_up(journal: Journal | None, pay_id: str) -> None:
    from x402.errors import MalformedError

    if journal is None or journal.find(pay_id) is None:
        raise MalformedError(
            "unknown_payment", "the journal holds no payment of this id: x402 history --json lists them"
        )
    journal.give_up(pay_id)


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
    if record.check is not None:
        mark = "bold red" if _is_disputed(record) else "green"
        lines.append(f"    [{mark}]{record.check.finding}[/]: {shown(record.check.words)}")
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
