"""`x402 ledger grant`: something to spend for an account, out of the operator's own pocket."""

from __future__ import annotations

import re
from pathlib import Path

from x402.billing import EntryKind, Posting
from x402.errors import MalformedError
from x402.money import parse_price, show_units
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger

_ACCOUNT = re.compile(r"(?:[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}:[-.%a-zA-Z0-9]{1,128}|key:[!-~]{1,128})", re.ASCII)
_NAME = re.compile(r"[!-~]{1,100}", re.ASCII)


async def give(place: str, account: str, amount: str, name: str) -> tuple[bool, str]:
    """Book a gift once for each name: whether it was new, and the amount in dollars. Raises `MalformedError`."""
    units = _checked(place, account, amount, name)
    async with SqlLedger(place if "://" in place else f"sqlite:///{place}") as ledger:
        posting = Posting(account=account, kind=EntryKind.GRANT, reference=f"grant {name}", units=units)
        return await SqlAccounts(ledger).post(posting), show_units(units, 6)


def _checked(place: str, account: str, amount: str, name: str) -> int:
    """The amount in atomic USDC, of a gift that makes sense."""
    if _ACCOUNT.fullmatch(account) is None:
        raise MalformedError("invalid_account", "an account is CAIP-10, such as eip155:8453:0x…, or key:<id>")
    if _NAME.fullmatch(name) is None:
        raise MalformedError("invalid_name", "a gift's name has 1 to 100 visible characters")
    exact = parse_price(amount)[0].scaleb(6)
    units = int(exact)
    if units != exact or not 0 < units < 2**53:
        raise MalformedError("invalid_amount", "an amount is more than nothing, at most six digits behind its point")
    if "://" not in place and not Path(place).is_file():
        raise MalformedError("no_ledger", f"{place}: no such file")
    return units
