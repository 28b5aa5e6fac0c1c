"""Accounts and reservations as rows, as statements inside the ledger's transactions.

Every function checks before it writes: it raises having written nothing, or leaves balances and entries agreeing. Who
moves an account has it for himself: SQLite has one writer, and on PostgreSQL a transaction names it in its locks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from x402.billing import PAID_IN, Bill, Booking, EntryKind, Posting
from x402.ports import bill_rows
from x402.ports.accounts import Balance, Held, NotHeld, OtherRequest, Reservation, TooLittle
from x402.ports.leases import Lease
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import account_entries, accounts, key_spending, reservations, sign_in_nonces

_SPENT = frozenset({EntryKind.DEBIT, EntryKind.FEE})
_GIVEN = frozenset({EntryKind.GRANT, EntryKind.REVOKE})
_PAID_IN = sorted(str(kind) for kind in PAID_IN)

_balance = select(accounts.c.balance, accounts.c.reserved, accounts.c.gift).where(
    accounts.c.account == value("account")
)
_BALANCE, _BALANCE_TO_WRITE = Prepared(_balance), Prepared(_balance.with_for_update())
_BALANCE_COLUMNS = ("balance", "reserved", "gift", "updated_at")


def _balance_insert(insert: Insert) -> object:
    row = insert(accounts)
    newest = {name: row.excluded[name] for name in _BALANCE_COLUMNS}
    return row.on_conflict_do_update(index_elements=["account"], set_=newest)


def _spending_insert(insert: Insert) -> object:
    row = insert(key_spending)
    more = {"units": key_spending.c.units + row.excluded.units}
    return row.on_conflict_do_update(index_elements=["key_id"], set_=more)


_STAND = Prepared(_balance_insert, ("account", "created_at", *_BALANCE_COLUMNS))
_ENTER = Prepared(
    lambda insert: insert(account_entries).on_conflict_do_nothing().returning(account_entries.c.seq),
    [column.name for column in account_entries.columns if column.name != "seq"],
)
_RESERVE = Prepared(lambda insert: insert(reservations), [column.name for column in reservations.columns])
_reservation_row = reservations.c.id == value("id")
_RESERVED_AS = Prepared(
    select(reservations).where(
        reservations.c.account == value("account"),
        reservations.c.identifier == value("identifier"),
        reservations.c.state != str(Held.RELEASED),
    )
)
_RESERVED = Prepared(select(reservations).where(_reservation_row).with_for_update())
_CLOSE = Prepared(update(reservations).where(_reservation_row), ("state", "leased_by", "leased_until", "updated_at"))
_SPENDING = Prepared(select(key_spending.c.units).where(key_spending.c.key_id == value("key_id")))
_SPEND = Prepared(_spending_insert, ("key_id", "units"))
_USE_NONCE = Prepared(
    lambda insert: insert(sign_in_nonces).on_conflict_do_nothing().returning(sign_in_nonces.c.nonce),
    [column.name for column in sign_in_nonces.columns],
)
_FORGET_NONCES = Prepared(delete(sign_in_nonces).where(sign_in_nonces.c.expires_at <= value("now")))


def balance_of(connection: Connection, account: str, *, to_write: bool = False) -> Balance:
    """How an account stands; an unknown one is empty."""
    row = (_BALANCE_TO_WRITE if to_write else _BALANCE).first(connection, account=account)
    if row is None:
        return Balance(account=account)
    return Balance(account=account, units=row.balance, reserved=row.reserved, gift=row.gift)


def post(connection: Connection, posting: Posting, now: int) -> tuple[Balance, bool]:
    """Book one movement once: how the account stands then, and whether it was new. Raises `TooLittle`."""
    before = balance_of(connection, posting.account, to_write=True)
    after = moved(before, posting)
    if not _enter(connection, posting, now):
        return before, False
    row = {"balance": after.units, "reserved": after.reserved, "gift": after.gift, "updated_at": now}
    _STAND.do(connection, account=posting.account, created_at=now, **row)
    return after, True


def moved(before: Balance, posting: Posting) -> Balance:
    """How an account stands after a movement. Raises `TooLittle`.

    A gift is spent before anything else, and what is left of it is never paid out.
    """
    units, reserved, gift = before.units + posting.units, before.reserved + posting.held, before.gift
    if units < 0 or reserved < 0:
        raise TooLittle("balance", before.units, -posting.units)
    if posting.kind in _GIVEN:
        gift += posting.units
    elif posting.kind in _SPENT:
        gift = max(0, gift + posting.held)
    elif posting.kind is EntryKind.WITHDRAW and units < gift:
        raise TooLittle("gift", before.withdrawable, -posting.units)
    return replace(before, units=units, reserved=reserved, gift=gift)


def _enter(connection: Connection, posting: Posting, now: int) -> bool:
    row = {
        "account": posting.account,
        "at": now,
        "kind": str(posting.kind),
        "units": posting.units,
        "held": posting.held,
        "reference": posting.reference,
    }
    return _ENTER.scalar(connection, **row) is not None


def book(connection: Connection, booking: Booking, now: int) -> None:
    """Write what belongs to a payment that moves; what was booked before stays as it is."""
    for posting in booking.postings:
        post(connection, posting, now)
    if booking.bill is not None:
        bill_rows.add(connection, booking.bill)


def reverse(connection: Connection, pay_id: str, now: int) -> None:
    """Take back what a payment brought an account, its bonus too, as far as anything is still there: the chain has
    undone the payment. Gifts go last, and stay gifts for as long as they are there."""
    paid = func.sum(account_entries.c.units).filter(account_entries.c.kind.in_(_PAID_IN))
    brought = select(account_entries.c.account, paid.label("paid"), func.sum(account_entries.c.units).label("whole"))
    of_payment = account_entries.c.kind.in_([*_PAID_IN, str(EntryKind.GRANT)]), account_entries.c.reference == pay_id
    for row in connection.execute(brought.where(*of_payment).group_by(account_entries.c.account)).all():
        there = balance_of(connection, row.account, to_write=True)
        units = min(there.withdrawable, int(row.paid))
        gift = min(there.units - units, there.gift, int(row.whole) - units)
        post(connection, Posting(account=row.account, kind=EntryKind.REVERSE, reference=pay_id, units=-units), now)
        if gift:
            post(connection, Posting(account=row.account, kind=EntryKind.REVOKE, reference=pay_id, units=-gift), now)


def restore(connection: Connection, pay_id: str, now: int) -> None:
    """Give an account again what it lost when the chain undid a payment: it has landed once more, for good."""
    lost = account_entries.c.kind.in_([str(EntryKind.REVERSE), str(EntryKind.REVOKE)])
    for row in connection.execute(select(account_entries).where(lost, account_entries.c.reference == pay_id)).all():
        kind, name = EntryKind.RESTORE, pay_id
        if row.kind == EntryKind.REVOKE:
            kind, name = EntryKind.GRANT, f"{pay_id} again"
        post(connection, Posting(account=row.account, kind=kind, reference=name, units=-row.units), now)


def reserve(
    connection: Connection, wanted: Reservation, lease: Lease, key_limit: int | None
) -> tuple[Reservation, bool]:
    """Set a bound aside, or find the reservation that has its name. Raises `TooLittle` or `OtherRequest`."""
    if wanted.identifier:
        older = reserved_as(connection, wanted.account, wanted.identifier)
        if older is not None:
            if older.fingerprint != wanted.fingerprint:
                raise OtherRequest(wanted.identifier)
            return older, False
    spent = _spent_by(connection, wanted.key_id)
    if key_limit is not None and spent + wanted.units > key_limit:
        raise TooLittle("key", max(0, key_limit - spent), wanted.units)
    post(
        connection,
        Posting(
            account=wanted.account,
            kind=EntryKind.RESERVE,
            reference=wanted.id,
            units=-wanted.units,
            held=wanted.units,
        ),
        lease.now,
    )
    _spend(connection, wanted.key_id, wanted.units)
    row = {
        "id": wanted.id,
        "account": wanted.account,
        "units": wanted.units,
        "key_id": wanted.key_id,
        "fingerprint": wanted.fingerprint,
        "identifier": wanted.identifier,
        "state": str(Held.OPEN),
        "leased_by": lease.holder,
        "leased_until": lease.until,
        "created_at": lease.now,
        "updated_at": lease.now,
    }
    _RESERVE.do(connection, **row)
    return wanted, True


def reserved_as(connection: Connection, account: str, identifier: str) -> Reservation | None:
    """The reservation of that name which was not released."""
    row = _RESERVED_AS.first(connection, account=account, identifier=identifier)
    return None if row is None else _reservation(row)


def settle(connection: Connection, reservation_id: str, bill: Bill, now: int) -> Balance:
    """Debit, release the rest, write the bill. Raises `NotHeld`, or `ValueError` for a bill beyond its bound."""
    held = _open(connection, reservation_id)
    charged, fee = bill.metered.charged, bill.metered.fee
    if held.account != bill.account or not 0 <= fee <= charged <= held.units:
        raise ValueError("a bill is its own account's, never more than what was set aside, nor less than its fee")
    for kind, units in ((EntryKind.DEBIT, charged - fee), (EntryKind.FEE, fee)):
        if units:
            post(connection, Posting(account=held.account, kind=kind, reference=held.id, held=-units), now)
    _close(connection, held, Held.SETTLED, held.units - charged, now)
    bill_rows.add(connection, bill)
    return balance_of(connection, held.account)


def release(connection: Connection, reservation_id: str, now: int) -> bool:
    """Give all of it back; False when it was not open any more."""
    try:
        held = _open(connection, reservation_id)
    except NotHeld:
        return False
    _close(connection, held, Held.RELEASED, held.units, now)
    return True


def _open(connection: Connection, reservation_id: str) -> Reservation:
    row = _RESERVED.first(connection, id=reservation_id)
    if row is None or row.state != Held.OPEN:
        raise NotHeld(reservation_id)
    return _reservation(row)


def _close(connection: Connection, held: Reservation, state: Held, unused: int, now: int) -> None:
    if unused:
        posting = Posting(account=held.account, kind=EntryKind.RELEASE, reference=held.id, units=unused, held=-unused)
        post(connection, posting, now)
        _spend(connection, held.key_id, -unused)
    ended = {"state": str(state), "leased_by": None, "leased_until": 0, "updated_at": now}
    _CLOSE.do(connection, id=held.id, **ended)


def _reservation(row: Any) -> Reservation:
    return Reservation(
        id=row.id,
        account=row.account,
        units=row.units,
        key_id=row.key_id,
        fingerprint=row.fingerprint,
        identifier=row.identifier,
        state=Held(row.state),
    )


def _spent_by(connection: Connection, key_id: str) -> int:
    if not key_id:
        return 0
    return int(_SPENDING.scalar(connection, key_id=key_id) or 0)


def _spend(connection: Connection, key_id: str, units: int) -> None:
    if key_id:
        _SPEND.do(connection, key_id=key_id, units=units)


def use_nonce(connection: Connection, account: str, nonce: str, expires_at: int) -> bool:
    """Use a nonce up; False when it was used before."""
    return _USE_NONCE.scalar(connection, account=account, nonce=nonce, expires_at=expires_at) is not None


def forget_nonces(connection: Connection, now: int) -> None:
    """Delete the nonces of sign-ins that could not be valid any more."""
    _FORGET_NONCES.do(connection, now=now)
