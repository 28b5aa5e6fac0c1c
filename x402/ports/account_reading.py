"""The accounts of a ledger as they stand in the tables, for audits: account by account, with what should back them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, and_, select

from x402.ports.schema import account_entries, accounts, bills, payments, reservations, withdrawals


@dataclass(frozen=True, slots=True)
class Backing:
    """The payment that an entry names, as the ledger has it; empty when it has none."""

    state: str
    network: str
    asset: str
    payer: str
    amount: str


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A row of `account_entries`, and the payment of its reference."""

    seq: int
    kind: str
    units: int
    held: int
    reference: str
    backing: Backing | None


@dataclass(frozen=True, slots=True)
class Set:
    """Something that was set aside, or is on its way out: its size, how it stands, and what it is billed."""

    units: int
    state: str
    charged: int | None = None


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account with everything that belongs to it."""

    account: str
    balance: int
    reserved: int
    gift: int
    entries: tuple[EntryRow, ...]
    reservations: dict[str, Set]
    withdrawals: dict[str, Set]


def account_rows(connection: Connection) -> Iterator[AccountRow]:
    """Every account that has a row or an entry, in the order of their names."""
    standing = {row.account: row for row in connection.execute(select(accounts))}
    seen = set()
    for account, entries in _entries(connection):
        seen.add(account)
        row = standing.get(account)
        held: tuple[int, int, int] = (0, 0, 0) if row is None else (row.balance, row.reserved, row.gift)
        yield AccountRow(account, *held, entries, _reserved(connection, account), _withdrawn(connection, account))
    for account in sorted(set(standing) - seen):
        row = standing[account]
        yield AccountRow(account, row.balance, row.reserved, row.gift, (), {}, {})


def _entries(connection: Connection) -> Iterator[tuple[str, tuple[EntryRow, ...]]]:
    same = and_(payments.c.party == "gateway", payments.c.pay_id == account_entries.c.reference)
    told = [payments.c[name] for name in ("state", "network", "asset", "payer", "amount")]
    query = select(account_entries, *told).select_from(account_entries.outerjoin(payments, same))
    rows = connection.execute(query.order_by(account_entries.c.account, account_entries.c.seq))
    for account, group in groupby(rows, lambda row: str(row.account)):
        yield (
            account,
            tuple(
                EntryRow(
                    row.seq,
                    row.kind,
                    row.units,
                    row.held,
                    row.reference,
                    None if row.state is None else Backing(row.state, row.network, row.asset, row.payer, row.amount),
                )
                for row in group
            ),
        )


def _reserved(connection: Connection, account: str) -> dict[str, Set]:
    joined = reservations.outerjoin(bills, bills.c.bill_id == reservations.c.id)
    query = select(reservations.c.id, reservations.c.units, reservations.c.state, bills.c.charged)
    rows = connection.execute(query.select_from(joined).where(reservations.c.account == account))
    return {row.id: Set(row.units, row.state, row.charged) for row in rows}


def _withdrawn(connection: Connection, account: str) -> dict[str, Set]:
    query = select(withdrawals).where(withdrawals.c.account == account)
    return {row.id: Set(row.units, row.state) for row in connection.execute(query)}
