"""`x402 trust`: at which addresses a seller is known to be paid, and one more of them."""

from __future__ import annotations

from typing import Annotated

import typer

from x402.cli.screen import AsJson, out, shown, write_json

_Seller = Annotated[str, typer.Argument(metavar="HOST", help="The seller's host, as x402 history shows it.")]
_Address = Annotated[str, typer.Argument(metavar="[ADDRESS]", help="Where it may be paid from now on.")]


def trust(host: _Seller, address: _Address = "", as_json: AsJson = False) -> None:
    """Show at which addresses a seller is known to be paid, or accept one more.

    The addresses of a seller are remembered from its first paid answer on, and a payment to any other is refused:
    somebody between you and the seller could have swapped them. Accept a new one only when the seller says so itself,
    on a way that is not the one by which the payment was asked for.

    Example:

        x402 trust api.example.com 0x209693Bc6afc0C5328bA36FaF03C514EF312287C
    """
    import time

    from x402 import networks
    from x402.client.journal import Journal
    from x402.client.trust import named_host
    from x402.settings import ClientSettings

    host = named_host(host)
    journal = Journal(ClientSettings.read().journal_path, clock=lambda: int(time.time()))
    if address:
        journal.trust(host, _checked(address))
    known = sorted(journal.payees(host), key=lambda payee: (payee.network, payee.address))
    if as_json:
        write_json({"host": host, "payees": [{"address": one.address, "network": one.network} for one in known]})
        return
    console = out()
    if not known:
        console.print(f"{shown(host)} has not answered a payment yet; whom it names first will be remembered")
    for payee in known:
        network = networks.find(payee.network)
        where = network.title if network is not None else payee.network or "any network"
        console.print(f"  {shown(payee.address)} on {shown(where)}")


def _checked(address: str) -> str:
    """An address of either family. Raises `MalformedError("invalid_address")` for anything else."""
    from x402.errors import MalformedError
    from x402.schemes.eip712 import parse_address
    from x402.schemes.exact_svm_layout import parse_key

    if address.startswith("0x"):
        return parse_address(address)
    try:
        return str(parse_key(address, "the address"))
    except MalformedError as error:
        raise MalformedError("invalid_address", "an address is 0x and 40 hex digits, or a Solana account") from error
