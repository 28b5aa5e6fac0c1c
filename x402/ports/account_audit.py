"""Whether the accounts of a ledger agree with themselves, and with the payments that fill them.

I13  every balance is what its entries say and was never below zero; what a payment brought an account was paid, was
     brought once, and is not more than was paid; what was set aside, sold and paid out adds up
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from x402 import networks
from x402.billing import PAID_IN, EntryKind, Posting
from x402.lifecycle import Party
from x402.ports.account_reading import AccountRow, EntryRow
from x402.ports.account_rows import moved
from x402.ports.accounts import Balance, Held, Payout, TooLittle
from x402.ports.audit import Audit, Violation
from x402.stages import State

_DECIMALS = 6
_BROUGHT = frozenset({State.DELIVERED, State.CREDITED, State.LOST, State.FINAL})
"""States of a payment that may have brought an account something."""


def audit_accounts(rows: Iterable[AccountRow], found: Audit) -> Audit:
    """Check every account of a ledger, and add what is found to the audit of its payments."""
    told = found.holdings
    for row in rows:
        told.accounts += 1
        told.entries += len(row.entries)
        told.units += row.balance + row.reserved
        told.gifts += row.gift
        wrong = [*_unlike(row), *_unbacked(row), *_unbalanced(row)]
        found.violations += [Violation("I13", str(Party.GATEWAY), row.account, words) for words in wrong]
    return found


def _unlike(row: AccountRow) -> Iterator[str]:
    """The balance is what its entries make of it, and no step on the way went below zero."""
    balance = Balance(account=row.account)
    for entry in row.entries:
        if entry.kind not in set(EntryKind):
            yield f"entry {entry.seq} is of no kind that is known: {entry.kind!r}"
            continue
        posting = Posting(
            account=row.account,
            kind=EntryKind(entry.kind),
            reference=entry.reference,
            units=entry.units,
            held=entry.held,
        )
        try:
            balance = moved(balance, posting)
        except TooLittle:
            yield f"entry {entry.seq} takes more than there is"
            return
    for name, stated, rebuilt in (
        ("balance", row.balance, balance.units),
        ("reserved", row.reserved, balance.reserved),
        ("gift", row.gift, balance.gift),
    ):
        if stated != rebuilt:
            yield f"{name} is {stated}, and the entries make it {rebuilt}"


def _unbacked(row: AccountRow) -> Iterator[str]:
    """What a payment brought was paid by the account's own wallet, and is not more than was paid."""
    for entry in row.entries:
        if entry.kind not in PAID_IN:
            continue
        if entry.backing is None:
            yield f"{entry.kind} of {entry.units} names a payment that the ledger does not know: {entry.reference}"
        elif entry.backing.state not in _BROUGHT:
            yield f"{entry.kind} of {entry.units} for a payment that is {entry.backing.state}: {entry.reference}"
        elif f"{entry.backing.network}:{entry.backing.payer}" != row.account:
            yield f"{entry.kind} of {entry.units} for a payment of {entry.backing.payer}: {entry.reference}"
        elif entry.units > _paid(entry):
            yield f"{entry.kind} of {entry.units} for a payment of {_paid(entry)}: {entry.reference}"


def _paid(entry: EntryRow) -> int:
    """What the payment behind an entry was worth, in atomic USDC."""
    backing = entry.backing
    if backing is None or not backing.amount.isdigit():
        return 0
    known = networks.find(backing.network)
    asset = known.asset(backing.asset) if known else None
    shift = (asset.decimals if asset else _DECIMALS) - _DECIMALS
    return int(int(backing.amount) // 10**shift if shift >= 0 else int(backing.amount) * 10**-shift)


def _unbalanced(row: AccountRow) -> Iterator[str]:
    """What was set aside was debited and released to the unit; what went out was taken once."""
    told: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in row.entries:
        told[entry.reference][entry.kind] = entry.held or entry.units
    for id, one in row.reservations.items():
        kinds = told[id]
        out = -sum(kinds.get(kind, 0) for kind in (EntryKind.DEBIT, EntryKind.FEE))
        released = -kinds.get(EntryKind.RELEASE, 0)
        if kinds.get(EntryKind.RESERVE) != one.units:
            yield f"reservation {id} of {one.units} was never set aside"
        elif one.state != Held.OPEN and out + released != one.units:
            yield f"reservation {id} of {one.units} ended with {out} debited and {released} released"
        elif one.state == Held.SETTLED and one.charged != out:
            yield f"reservation {id} was debited {out} and billed {one.charged}"
        elif one.state != Held.SETTLED and out:
            yield f"reservation {id} is {one.state}, and was debited {out}"
    for id, one in row.withdrawals.items():
        kinds = told[id]
        if kinds.get(EntryKind.WITHDRAW) != -one.units:
            yield f"withdrawal {id} of {one.units} was not taken from the account"
        if (one.state == Payout.RETURNED) != (EntryKind.REFUND in kinds):
            yield f"withdrawal {id} is {one.state}, and {'came' if EntryKind.REFUND in kinds else 'never came'} back"
