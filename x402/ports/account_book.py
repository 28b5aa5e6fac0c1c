"""`AccountBook` and `BillBook` in the ledger's own database, written by the ledger's own thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, delete, func, select, tuple_, update

from x402.billing import Bill, EntryKind, Posting
from x402.ports import account_rows, bill_rows, withdrawal_rows
from x402.ports.accounts import (
    GROUPS,
    AccountEntry,
    Balance,
    BillFilter,
    BillSum,
    Held,
    Reservation,
    Withdrawal,
)
from x402.ports.ledger import SqlLedger, of_account
from x402.ports.prepared import Prepared, value
from x402.ports.schema import account_entries, answers, bills, reservations

T = TypeVar("T")

_DAY_SECONDS = 86_400
_ABANDONED = Prepared(
    select(reservations.c.id)
    .where(reservations.c.state == str(Held.OPEN), reservations.c.leased_until <= value("now"))
    .order_by(reservations.c.id)
    .limit(value("limit"))
)
_ended = (
    select(reservations.c.id)
    .where(reservations.c.id == answers.c.pay_id, reservations.c.state != str(Held.OPEN))
    .where(reservations.c.updated_at <= value("before"))
)
_FORGET_ANSWERS = Prepared(delete(answers).where(_ended.exists()))


class SqlAccounts:
    """The accounts and bills of one gateway, in its ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def _do(self, work: Callable[[Connection, int], T], *locks: tuple[str, ...]) -> T:
        now = self._ledger.clock()
        return await self._ledger.run(lambda connection: work(connection, now), *locks)

    # Accounts.

    async def balance(self, account: str) -> Balance:
        return await self._do(lambda connection, _: account_rows.balance_of(connection, account))

    async def statement(self, account: str, *, limit: int = 100, before: int = 0) -> Sequence[AccountEntry]:
        query = select(account_entries).where(account_entries.c.account == account)
        if before:
            query = query.where(account_entries.c.seq < before)
        query = query.order_by(account_entries.c.seq.desc()).limit(limit)

        def read(connection: Connection, _: int) -> Sequence[AccountEntry]:
            return [
                AccountEntry(
                    seq=row.seq,
                    at=row.at,
                    account=row.account,
                    kind=EntryKind(row.kind),
                    units=row.units,
                    held=row.held,
                    reference=row.reference,
                )
                for row in connection.execute(query)
            ]

        return await self._do(read)

    async def post(self, posting: Posting) -> bool:
        _, booked = await self._do(
            lambda connection, now: account_rows.post(connection, posting, now), of_account(posting.account)
        )
        return booked

    async def reserve(
        self, wanted: Reservation, *, lease_seconds: int, key_limit: int | None = None
    ) -> tuple[Reservation, bool]:
        lease = self._ledger.lease_for(lease_seconds)
        locks = [of_account(wanted.account)]
        if wanted.key_id:
            locks.append(("key", wanted.key_id))
        return await self._do(lambda connection, _: account_rows.reserve(connection, wanted, lease, key_limit), *locks)

    async def settle(self, reservation: str, bill: Bill) -> Balance:
        return await self._do(
            lambda connection, now: account_rows.settle(connection, reservation, bill, now), of_account(bill.account)
        )

    async def release(self, reservation: str) -> bool:
        held = await self._do(lambda connection, _: _account_of(connection, reservation))
        return await self._do(
            lambda connection, now: account_rows.release(connection, reservation, now), of_account(held)
        )

    async def keep(self, reservations_: Collection[str], seconds: int) -> None:
        lease = self._ledger.lease_for(seconds)
        mine = update(reservations).where(reservations.c.id.in_(list(reservations_)), reservations.c.state == Held.OPEN)
        await self._do(lambda connection, _: connection.execute(mine.values(leased_until=lease.until)))

    async def release_abandoned(self, limit: int = 64) -> Sequence[str]:
        now = self._ledger.clock()
        found = await self._do(
            lambda connection, _: [row.id for row in _ABANDONED.rows(connection, now=now, limit=limit)]
        )
        return [reservation for reservation in found if await self._release_if_left(reservation)]

    async def _release_if_left(self, reservation: str) -> bool:
        account = await self._do(lambda connection, _: _account_of(connection, reservation))

        def work(connection: Connection, now: int) -> bool:
            # Whoever holds it may have renewed it since we looked.
            until = connection.execute(
                select(reservations.c.leased_until).where(reservations.c.id == reservation)
            ).scalar_one()
            return until <= now and account_rows.release(connection, reservation, now)

        return await self._do(work, of_account(account))

    async def reserved_as(self, account: str, identifier: str) -> Reservation | None:
        return await self._do(lambda connection, _: account_rows.reserved_as(connection, account, identifier))

    async def use_nonce(self, account: str, nonce: str, expires_at: int) -> bool:
        return await self._do(lambda connection, _: account_rows.use_nonce(connection, account, nonce, expires_at))

    async def forget(self, before: int) -> None:
        def work(connection: Connection, now: int) -> None:
            _FORGET_ANSWERS.do(connection, before=before)
            account_rows.forget_nonces(connection, now)

        await self._do(work)

    # Withdrawals.

    async def withdraw(self, wanted: Withdrawal, *, lease_seconds: int) -> tuple[Withdrawal, bool]:
        lease = self._ledger.lease_for(lease_seconds)
        return await self._do(
            lambda connection, _: withdrawal_rows.begin(connection, wanted, lease), of_account(wanted.account)
        )

    async def move(self, withdrawal: Withdrawal, *, was: Withdrawal) -> bool:
        return await self._do(
            lambda connection, now: withdrawal_rows.move(connection, withdrawal, was, now),
            of_account(withdrawal.account),
        )

    async def withdrawal(self, id: str) -> Withdrawal | None:
        return await self._do(lambda connection, _: withdrawal_rows.find(connection, id))

    async def open_withdrawals(self, *, lease_seconds: int, limit: int = 16) -> Sequence[Withdrawal]:
        lease = self._ledger.lease_for(lease_seconds)
        return await self._do(lambda connection, _: withdrawal_rows.take_open(connection, lease, limit))

    # Bills.

    async def add(self, bill: Bill) -> bool:
        return await self._do(lambda connection, _: bill_rows.add(connection, bill))

    async def bill(self, bill_id: str) -> Bill | None:
        query = select(bills).where(bills.c.bill_id == bill_id)

        def read(connection: Connection, _: int) -> Bill | None:
            row = connection.execute(query).one_or_none()
            return None if row is None else bill_rows.bill_of(row)

        return await self._do(read)

    async def bills(
        self, wanted: BillFilter, *, limit: int = 100, before: tuple[int, str] | None = None
    ) -> Sequence[Bill]:
        query = select(bills).where(*_where(wanted))
        if before is not None:
            query = query.where(tuple_(bills.c.at, bills.c.bill_id) < before)
        query = query.order_by(bills.c.at.desc(), bills.c.bill_id.desc()).limit(limit)
        return await self._do(lambda connection, _: [bill_rows.bill_of(row) for row in connection.execute(query)])

    async def sums(self, wanted: BillFilter, by: Sequence[str] = ()) -> Sequence[BillSum]:
        unknown = set(by) - set(GROUPS)
        if unknown:
            raise ValueError(f"bills are not summed by {', '.join(sorted(unknown))}")
        groups = [bills.c.at // _DAY_SECONDS if name == "day" else bills.c[name] for name in by]
        totals = [func.sum(bills.c[name]) for name in _SUMMED]
        query = select(*groups, func.count(), *totals).where(*_where(wanted)).group_by(*groups).order_by(*groups)

        def read(connection: Connection, _: int) -> Sequence[BillSum]:
            rows = [list(row) for row in connection.execute(query)]
            return [_sum(row[: len(by)], row[len(by)], row[len(by) + 1 :]) for row in rows if row[len(by)]]

        return await self._do(read)


_SUMMED = tuple(member.name for member in fields(BillSum) if member.name not in ("group", "bills"))


def _sum(group: Sequence[object], count: int, sums: Sequence[int | None]) -> BillSum:
    # PostgreSQL sums integers to a decimal.
    named = {name: int(total or 0) for name, total in zip(_SUMMED, sums, strict=True)}
    return BillSum(group=tuple(str(value) for value in group), bills=count, **named)


def _where(wanted: BillFilter) -> list[ColumnElement[bool]]:
    named = {name: getattr(wanted, name) for name in ("account", "key_id", "provider", "model")}
    same = [bills.c[name] == value for name, value in named.items() if value]
    return [*same, bills.c.at >= wanted.since, bills.c.at < wanted.until]


def _account_of(connection: Connection, reservation: str) -> str:
    return connection.execute(select(reservations.c.account).where(reservations.c.id == reservation)).scalar() or ""
