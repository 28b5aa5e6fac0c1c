"""`x402 quote` and `x402 chat`: what a buyer types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from x402.cli.screen import AsJson, err, out, shown, wants_json, working, write_answer, write_json
from x402.cli.spending import (
    BaseUrl,
    Mainnet,
    MaxDay,
    MaxHost,
    MaxHour,
    MaxPayee,
    Networks,
    ProfileName,
    WalletFile,
    limits_of,
    payer,
    policy_of,
    unpaid,
    who,
)

if TYPE_CHECKING:
    from x402.client.chat import Chat
    from x402.wire.receipt import Receipt

_Prompt = Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")]
_Model = Annotated[str, typer.Option("--model", "-m", help="The model, as x402 models lists it.")]
_MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer; bounds the price too.")]


def quote(
    prompt: _Prompt,
    model: _Model,
    max_tokens: _MaxTokens = None,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for the price of a streamed answer.")] = False,
    base_url: BaseUrl = "",
    as_json: AsJson = False,
) -> None:
    """Ask what an answer would cost, line by line, without paying and without a wallet.

    Example:

        x402 quote "Tell me a story" --model demo/story-1 --max-tokens 200
    """
    from x402.cli import tariff
    from x402.client.chat import Chat

    with Chat(base_url or None, http_client=unpaid()) as chat, working("asking for the price", quiet=as_json):
        heard = chat.quote(model=model, messages=_messages(prompt), **_params(max_tokens, stream))
    if as_json:
        write_json(
            {
                "free": heard.free,
                "usd": None if heard.usd is None else tariff.plain(heard.usd),
                "quote": tariff.as_json(heard.quote) if heard.quote else None,
                "offers": [offer.as_json() for offer in heard.offers],
            }
        )
        return
    console = out()
    if heard.free:
        console.print("[bold green]free[/]: this model answers without a payment")
        return

    from x402 import networks
    from x402.cli.explanation import money

    if heard.quote is not None:
        console.print(bill(tariff.rows(heard.quote)))
        console.print()
    for offer in heard.offers:
        network = networks.find(offer.network)
        where = network.title if network else offer.network
        console.print(f"  {shown(money(offer.amount, offer.network, offer.asset))} on {shown(where)}")
    price = "" if heard.usd is None else f" --max {tariff.plain(heard.usd)}"
    err().print(f"[dim]nothing was paid.[/] [bold]Next:[/] x402 chat … --model {shown(model)}{price}")


def chat(
    context: typer.Context,
    prompt: _Prompt,
    model: _Model,
    most: Annotated[str, typer.Option("--max", help="The most that this answer may cost, in USD.")] = "0.01",
    network: Networks = None,
    stream: Annotated[bool, typer.Option("--stream", "-s", help="Print the answer as it comes.")] = False,
    max_tokens: _MaxTokens = None,
    base_url: BaseUrl = "",
    wallet: WalletFile = None,
    mainnet: Mainnet = False,
    max_hour: MaxHour = None,
    max_day: MaxDay = None,
    max_host: MaxHost = None,
    max_payee: MaxPayee = None,
    sign_in: Annotated[bool, typer.Option("--sign-in", help="Spend your balance with the seller first.")] = False,
    profile: ProfileName = "",
    as_json: AsJson = False,
) -> None:
    """Ask a model and pay for this one answer, at most --max US dollars.

    Limits for an hour, a day, a seller or an address count what all your programs paid by the same journal; without a
    flag the environment's hold. The answer goes to standard output, what was paid to standard error. Keys come from
    the environment or a wallet file, never from the command line; networks with real money need --mainnet. A balance
    that --sign-in spends was paid in under these limits, and is not counted twice.

    Example:

        x402 chat "Why is the sky blue?" --model demo/story-1 --max 0.01 --stream
    """
    from x402.client.chat import Chat

    policy, limits = policy_of(most, network, mainnet), limits_of(max_hour, max_day, max_host, max_payee)
    purse = payer(profile, wallet) | ({"sign_in": who(wallet, network)} if sign_in else {})
    with Chat(base_url or None, profile=profile or None, policy=policy, limits=limits, **purse) as caller:
        question = {"model": model, "messages": _messages(prompt), **_params(max_tokens, False)}
        try:
            answer = _streamed(caller, question) if stream and not as_json else _whole(caller, question, as_json)
        except KeyboardInterrupt:
            if not wants_json(context):
                err().print("[yellow]interrupted.[/] If a payment was on its way, the same command presents it again.")
            raise
        paid = _paid(caller, answer["receipt"])
    if as_json:
        write_json({**answer, "receipt": answer["receipt"].as_json() if answer["receipt"] else None, "paid": paid})
        return
    if not stream:
        write_answer(answer["text"])
    line = _bill_line(answer["bill"]) if answer["bill"] else ""
    err().print(line or _receipt_line(answer["receipt"], paid, local=_is_local(base_url)), soft_wrap=True)


def bill(rows: Any) -> Any:
    """Quote lines as a table, the bound set apart."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for row in rows[:-1]:
        table.add_row(row.units, shown(row.item), f"[dim]{shown(row.rate)}[/]", row.usd)
    last = rows[-1]
    table.add_row("", f"[bold]{shown(last.item)}[/]", "", f"[bold]{last.usd}[/]")
    return table


def _messages(prompt: str) -> list[dict[str, str]]:
    text = typer.get_text_stream("stdin").read() if prompt == "-" else prompt
    return [{"role": "user", "content": text}]


def _params(max_tokens: int | None, stream: bool) -> dict[str, Any]:
    return {**({"max_tokens": max_tokens} if max_tokens is not None else {}), **({"stream": True} if stream else {})}


def _whole(caller: Chat, question: dict[str, Any], quiet: bool) -> dict[str, Any]:
    with working("asking, paying, waiting for the answer", quiet=quiet):
        answer = caller.create(**question)
    usage = answer.usage
    return {
        "text": answer.text,
        "model": answer.get("model"),
        "usage": usage.as_json() if usage else None,
        "requestId": answer.request_id,
        "receipt": answer.receipt,
        "bill": answer.bill.as_json() if answer.bill else None,
    }


def _streamed(caller: Chat, question: dict[str, Any]) -> dict[str, Any]:
    with working("asking and paying"):
        stream = caller.stream(**question)
    held = ""
    with stream:
        for chunk in stream:
            text = held + chunk.text
            # Half a character waits for the other half.
            held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
            write_answer(text[: len(text) - len(held)], end="")
    write_answer(held)
    return {"text": stream.text, "receipt": stream.receipt, "bill": stream.bill.as_json() if stream.bill else None}


def _paid(caller: Chat, receipt: Receipt | None) -> dict[str, str] | None:
    """What the journal says about the payment behind a receipt."""
    if receipt is None or caller.auth is None:
        return None
    for record in caller.auth.journal.history(50):
        if record.receipt is not None and record.receipt.transaction == receipt.transaction:
            from x402.cli.tariff import plain

            subject = record.entry.subject
            return {"usd": plain(record.usd), "amount": str(subject.amount), "network": subject.network}
    return None


def _is_local(base_url: str) -> bool:
    """Whether the seller is on this machine, and so most likely on a devnet that no explorer knows."""
    from urllib.parse import urlsplit

    from x402.client.choose import is_secure

    return is_secure("http", urlsplit(base_url).hostname or "")


def _bill_line(bill: dict[str, Any]) -> str:
    """What an answer out of a balance cost; of a stream, what it may have cost at most."""
    from x402.money import show_units

    stated = bill.get("charged", bill.get("quoted"))
    if not isinstance(stated, str) or not stated.isascii() or not stated.isdigit() or len(stated) > 30:
        return ""
    words = "[green]billed[/]" if "charged" in bill else "[green]billed[/] at most"
    return f"{words} ${show_units(int(stated), 6)} to your balance · {shown(str(bill.get('id', '')))}"


def _receipt_line(receipt: Receipt | None, paid: dict[str, str] | None, *, local: bool) -> str:
    if receipt is None:
        return "[dim]no receipt: the seller asked for no payment, or sent none[/]"

    from x402 import networks

    network = networks.find(receipt.network)
    where = network.title if network else receipt.network
    price = f"${paid['usd']} " if paid else ""
    link = network.transaction_url(receipt.transaction) if network and not local else ""
    words = f"[green]paid[/] {price}on {shown(where)} · {receipt.outcome} · {shown(receipt.transaction)}"
    return words + (f"\n[dim]{shown(link)}[/]" if link else "")
