"""`x402 balance`, `deposit`, `withdraw` and `usage`: money that lies with a seller, and what went where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, err, out, shown, working, write_json
from x402.cli.spending import BaseUrl, Mainnet, Networks, ProfileName, WalletFile, payer, policy_of, who

if TYPE_CHECKING:
    from x402.client.chat import Chat
    from x402.client.record import Record


def balance(
    base_url: BaseUrl = "",
    network: Networks = None,
    wallet: WalletFile = None,
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """Show what your wallet has with a seller. The wallet signs in; nothing is paid.

    A balance belongs to a wallet on one chain: --network or X402_CHAIN_ID says on which.

    Example:

        x402 balance --base-url http://127.0.0.1:4021/api/v1
    """
    purse = payer(profile, wallet)
    opened = _caller(base_url, profile, sign_in=bool(purse) and who(wallet, network), **purse)
    with opened as caller, working("signing in", quiet=as_json):
        answer = caller.balance().as_json()
    if as_json:
        write_json(answer)
        return
    out().print(f"[bold]{_dollars(answer)}[/] with the seller", soft_wrap=True)
    account = answer.get("caip_account_id")
    if account:
        out().print(f"[dim]{shown(str(account))}[/]", soft_wrap=True)


def deposit(
    amount: Annotated[str, typer.Argument(help="US dollars, such as 0.50.")],
    base_url: BaseUrl = "",
    network: Networks = None,
    wallet: WalletFile = None,
    mainnet: Mainnet = False,
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """Pay into your balance with a seller, by one payment of this amount and no more.

    The limits of the environment hold for it as for any payment; networks with real money need --mainnet.

    Example:

        x402 deposit 0.50 --network base-sepolia
    """
    purse, policy = payer(profile, wallet), policy_of(amount, network, mainnet)
    opened = _caller(base_url, profile, sign_in=bool(purse) and who(wallet, network), policy=policy, **purse)
    with opened as caller, working("paying in", quiet=as_json):
        answer = caller.deposit(amount)
        members = caller.balance().as_json()
    receipt = answer.receipt
    if as_json:
        write_json({**members, "receipt": receipt.as_json() if receipt else None})
        return
    out().print(f"[green]paid in[/] ${shown(amount)}; the balance is [bold]{_dollars(members)}[/]", soft_wrap=True)
    if receipt is not None:
        err().print(f"[dim]{receipt.outcome} · {shown(receipt.transaction)}[/]", soft_wrap=True)


def withdraw(
    amount: Annotated[str, typer.Argument(help="US dollars, such as 0.50; all of it when it is left out.")] = "",
    base_url: BaseUrl = "",
    network: Networks = None,
    wallet: WalletFile = None,
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """Have your balance with a seller, or a part of it, sent back to your own wallet.

    Example:

        x402 withdraw 0.25 --network base-sepolia
    """
    purse = payer(profile, wallet)
    opened = _caller(base_url, profile, sign_in=bool(purse) and who(wallet, network), **purse)
    with opened as caller, working("asking for it back", quiet=as_json):
        answer = caller.withdraw(amount or None).as_json()
    if as_json:
        write_json(answer)
        return
    out().print(f"[green]on its way[/] · {shown(str(answer.get('id', '')))} · {shown(str(answer.get('status', '')))}")


def usage(
    base_url: BaseUrl = "",
    wallet: WalletFile = None,
    profile: ProfileName = "",
    seller: Annotated[
        bool, typer.Option("--seller", help="Ask the seller for its books too; the wallet signs in for that.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was spent, by seller: in the last hour, the last day and in all. From the journal; nobody is asked.

    With --seller the seller's own account of it stands below, for the wallet or the key that is in use.

    Example:

        x402 usage --seller --json
    """
    ours = _spent()
    theirs: dict[str, Any] | None = None
    if seller:
        from x402.settings import ClientSettings

        opened = {} if ClientSettings.read().api_key else {"sign_in": True, **payer(profile, wallet)}
        with _caller(base_url, profile, **opened) as caller, working("asking the seller", quiet=as_json):
            theirs = caller.usage().as_json()
    if as_json:
        write_json({"spent": ours, **({"seller": theirs} if theirs is not None else {})})
        return
    out().print(_table(ours))
    if theirs is not None:
        out().print(f"\n[bold]the seller's books[/]\n{shown(_lines(theirs))}", soft_wrap=True)


def _caller(base_url: str, profile: str, **options: Any) -> Chat:
    from x402.client.chat import Chat

    return Chat(base_url or None, profile=profile or None, **options)


def _dollars(members: dict[str, Any]) -> str:
    """An answer's balance in dollars: its own words for it, or its micro-USDC."""
    from x402.money import show_units

    micro = members.get("balance_micro_usdc")
    if isinstance(micro, int) and not isinstance(micro, bool):
        return f"${show_units(micro, 6)}"
    return f"${shown(str(members.get('balance_usd', '?')))}"


def _spent() -> list[dict[str, Any]]:
    """Per seller: payments, and US dollars of them, those without a known outcome included as limits count them."""
    from decimal import Decimal

    from x402.cli.history import journal_here
    from x402.cli.tariff import plain
    from x402.client.budget import DAY_SECONDS, HOUR_SECONDS

    journal = journal_here()
    if journal is None:
        return []
    by_host: dict[str, list[Record]] = {}
    for record in journal.records():
        by_host.setdefault(record.host, []).append(record)
    return [
        {
            "host": host,
            "payments": len(records),
            "settled": sum(record.state == "settled" for record in records),
            "hour": plain(journal.spent(HOUR_SECONDS, host=host)),
            "day": plain(journal.spent(DAY_SECONDS, host=host)),
            "total": plain(sum((one.usd for one in records if one.state == "settled"), start=Decimal(0))),
        }
        for host, records in sorted(by_host.items())
    ]


def _table(spent: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    if not spent:
        return "[dim]nothing was paid by this journal[/]"
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("seller")
    for column in ("payments", "settled", "USD in an hour", "in a day", "in all"):
        table.add_column(column, justify="right")
    for row in spent:
        table.add_row(shown(row["host"]), *(str(row[name]) for name in ("payments", "settled", "hour", "day", "total")))
    return table


def _lines(members: dict[str, Any]) -> str:
    """A seller's answer as lines, whatever it is made of."""
    import json

    entries = members.get("data")
    rows = entries if isinstance(entries, list) else [members]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) or "nothing"
