"""How the demo looks: one block per purchase, one line per step, and the books at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from x402 import networks
from x402.cli import tariff
from x402.cli.buy import bill
from x402.cli.demo_purchases import PURCHASES, Seen
from x402.cli.explanation import span, usd
from x402.cli.screen import out, shown
from x402.devnet.town_books import Balances, Verdict
from x402.devnet.town_parties import Role
from x402.money import show_units
from x402.wire.challenge import Challenge

if TYPE_CHECKING:
    from x402.devnet.town import Town

_LABEL = 8
_PLACE = 13
_WORDS = 32
_PAUSES = {"ask": 0.2, "challenge": 0.45, "signed": 0.2, "receipt": 0.4}
"""Seconds to wait after a step, so that people can read along; none with `--fast`."""


class Screen:
    """Tells the demo to a person. `slowly` leaves time to read; `quiet` says nothing."""

    def __init__(self, *, slowly: bool, quiet: bool) -> None:
        self._slowly = slowly
        self._quiet = quiet
        self._number = 0
        self._column = 0

    def opening(self, town: Town, seconds: float) -> None:
        """Who is there."""
        if self._quiet:
            return
        console = out()
        console.print()
        console.print(f"[bold]The town is up[/] [dim]in {seconds:.1f} s: two real chains, play money, no network[/]")
        urls = town.urls
        for label, words, url in (
            ("Base Sepolia", f"{town.evm.engine} with EIP-3009 USDC", urls.evm_rpc),
            ("Solana devnet", "LiteSVM with SPL Token USDC", urls.svm_rpc),
            ("facilitator", "settles, pays the network fees", urls.facilitator),
            ("gateway", "sells a demo model's answers", urls.gateway),
            ("buyer", "25 USDC on each chain, and no account anywhere", ""),
        ):
            self._line(label, f"{words:<{_WORDS}} [dim]{url}[/]" if url else words, "cyan", _PLACE)

    def tell(self, step: str, seen: Seen) -> None:
        """One step of a purchase."""
        if self._quiet:
            return
        {
            "ask": self._ask,
            "challenge": self._challenge,
            "signed": self._signed,
            "verify.valid": self._verified,
            "settle.settled": self._settled,
            "chunk": self._chunk,
            "answer": self._answer,
            "receipt": self._receipt,
        }[step](seen)

    @property
    def pauses(self) -> Mapping[str, float]:
        """How long to wait after each step, in seconds."""
        return _PAUSES if self._slowly and not self._quiet and out().is_terminal else {}

    def books(self, before: Balances, after: Balances, verdict: Verdict) -> None:
        """What everybody has now, and whether the books agree."""
        if self._quiet:
            return
        console = out()
        console.print()
        console.print(Rule("[bold]The books[/]", align="left", style="dim"))
        console.print(Padding(_balance_table(before, after), (0, 2)))
        console.print(Padding(_sum_table(verdict), (1, 2)))
        if verdict.agrees:
            total = sum(account.received for account in verdict.accounts)
            words = f"{self._number} answers for {show_units(total, 6)} USDC"
            console.print(f"[bold green]✓ Chains and ledgers agree to the unit:[/] {words}.")
        for problem in verdict.problems:
            console.print(f"[bold red]✗ {shown(problem)}[/]")

    def _ask(self, seen: Seen) -> None:
        self._number += 1
        console = out()
        console.print()
        title = f"[bold]{self._number}/{len(PURCHASES)}[/] {shown(seen.purchase.title)}"
        console.print(Rule(title, align="left", style="dim"))
        purchase = seen.purchase
        self._line("ask", f"[bold]{shown(purchase.prompt)}[/]  [dim]{purchase.model}[/]")

    def _challenge(self, seen: Seen) -> None:
        if seen.challenge is None:
            return
        where = "body of v1" if seen.challenge.version == 1 else "PAYMENT-REQUIRED"
        self._line("402", f"{shown(_prices(seen.challenge))}  [dim]{where}[/]", style="yellow")
        if seen.quote is not None:
            out().print(Padding(bill(tariff.rows(seen.quote)), (0, 0, 0, _LABEL + 4)))

    def _signed(self, seen: Seen) -> None:
        if seen.payment is None or seen.offer is None:
            return
        offer = seen.offer
        evm = offer.network.startswith(networks.EIP155)
        what = "EIP-3009" if evm else "SPL transfer"
        life = f" for {span(offer.max_timeout_seconds)}" if evm else ""
        words = f"{what} {usd(offer.amount)} → {_short(offer.pay_to, 10)}{life}"
        self._line("sign", f"{words}  [dim]{seen.payment.header_name}[/]")

    def _verified(self, seen: Seen) -> None:
        self._line("verify", "every rule holds, and the chain's simulation succeeds")

    def _settled(self, seen: Seen) -> None:
        transaction = str(seen.facts[-1].attributes.get("transaction", ""))
        self._line("settle", f"on chain in [bold]{shown(_short(transaction, 40))}[/]", style="green")

    def _chunk(self, seen: Seen) -> None:
        """Write as it comes, broken between words at the margin."""
        console = out()
        if not console.is_terminal:
            return
        indent = _LABEL + 4
        if not self._column:
            console.print(Text.assemble("  ", (f"{'answer':<{_LABEL}}", "cyan"), "  "), end="")
            self._column = indent
        piece = seen.chunks[-1].replace("\n", " ")
        if self._column + len(piece) > console.width:
            console.print("\n" + " " * indent, end="")
            self._column, piece = indent, piece.lstrip()
        console.print(Text(piece), end="", soft_wrap=True)
        self._column += len(piece)

    def _answer(self, seen: Seen) -> None:
        if self._column:
            self._column = 0
            out().print()
        else:
            self._line("answer", shown(seen.text.replace("\n", " ")), style="cyan")

    def _receipt(self, seen: Seen) -> None:
        if seen.receipt is None:
            self._line("receipt", "none", style="red")
            return
        usage = seen.usage or {}
        words = [f"[bold]{seen.receipt.outcome}[/]"]
        charge = seen.receipt.extra.get("charge")
        if seen.offer is not None:
            words.append(f"paid {usd(seen.offer.amount)}")
        if isinstance(charge, dict) and str(charge.get("actual", "")).isdecimal():
            words.append(f"used {usd(int(charge['actual']))}")
        words.append(f"{usage.get('prompt_tokens', '?')} + {usage.get('completion_tokens', '?')} tokens")
        words.append(f"{seen.milliseconds} ms")
        self._line("receipt", ", ".join(words), style="green")

    def _line(self, label: str, words: str, style: str = "dim", width: int = _LABEL) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=width, style=style, no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(label, words)
        out().print(Padding(table, (0, 0, 0, 2)))


def _short(text: str, kept: int = 14) -> str:
    """An address or transaction that fits a line: its beginning and its end."""
    return text if len(text) <= kept + 1 else f"{text[: kept // 2 + 2]}…{text[-(kept // 2 - 2) :]}"


def _prices(challenge: Challenge) -> str:
    """What is asked, networks of one price together: `0.01 USDC on Base Sepolia or Solana devnet`."""
    places: dict[str, list[str]] = {}
    for offer in challenge.accepts:
        known = networks.find(offer.network)
        pinned = known.asset(offer.asset) if known else None
        price = f"{show_units(offer.amount, pinned.decimals)} {pinned.symbol}" if pinned else f"{offer.amount} units"
        places.setdefault(price, []).append(known.title if known else offer.network)
    return ", or ".join(f"{price} on {' or '.join(titles)}" for price, titles in places.items())


def _balance_table(before: Balances, after: Balances) -> Table:
    table = _table("USDC on chain", "before", "after", "change", "network fees")
    for network in dict.fromkeys(network for _, network in before.usdc):
        table.add_row(f"[bold]{networks.get(network).title}[/]")
        for role in Role:
            start, end = before.usdc[role, network], after.usdc[role, network]
            fees = before.fuel[role, network] - after.fuel[role, network]
            row = (f"  {role}", _usdc(start), _usdc(end), _change(end - start), _fuel(fees, network))
            table.add_row(*row)
    return table


def _sum_table(verdict: Verdict) -> Table:
    accounts = verdict.accounts
    table = _table("atomic units", *(networks.get(account.network).title for account in accounts))
    for words, figures in (
        ("buyer paid, says the chain", [account.paid for account in accounts]),
        ("seller received, says the chain", [account.received for account in accounts]),
        ("client's journal", [account.client for account in accounts]),
        ("gateway's ledger", [account.gateway for account in accounts]),
        ("facilitator's ledger", [account.facilitator for account in accounts]),
    ):
        table.add_row(words, *(f"{figure:,}" for figure in figures))
    signs = {True: "[bold green]✓ equal[/]", False: "[bold red]✗ differ[/]"}
    table.add_row("", *(signs[account.agrees] for account in accounts))
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _usdc(units: int) -> str:
    whole, fraction = divmod(units, 1_000_000)
    return f"{whole:,}.{fraction:06d}"


def _change(units: int) -> str:
    if not units:
        return "[dim]0[/]"
    sign, style = ("+", "green") if units > 0 else ("−", "yellow")
    return f"[{style}]{sign}{_usdc(abs(units))}[/]"


def _fuel(spent: int, network: str) -> str:
    if not spent:
        return "[dim]none[/]"
    evm = network.startswith(networks.EIP155)
    return f"{show_units(spent, 18 if evm else 9)} {'ETH' if evm else 'SOL'}"
