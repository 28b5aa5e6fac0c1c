"""Payments as rows: reading them, writing them by the law, and the events that tell how each came to be.

Every function is a few statements inside a transaction of the ledger's, and either raises having written nothing, or
leaves row and events agreeing.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from x402.errors import Mender, UnavailableError
from x402.lifecycle import Entry, Event, Party, Subject, UnlawfulEvent, advance, begin
from x402.ports import IdentifierTaken, NoRoom, Room, Sign, nonce_book
from x402.ports.leases import Lease
from x402.ports.ledger_text import BEGIN, attest
from x402.ports.schema import events, identifiers, payments, upsert
from x402.stages import STAGES, Intended, Settled, Stage, State

UNSETTLED = (State.CLAIMED, State.SERVED, State.SETTLING)
"""States in which a payer's money is promised and has not moved (fault A08)."""
_PAID = (State.SETTLED, State.DELIVERED, State.OWED, State.CREDITED)


def find(connection: Connection, party: Party, pay_id: str, *, to_write: bool = False) -> Entry | None:
    """The row; with `to_write` nobody else writes to it before this transaction ends."""
    query = select(payments).where(payments.c.party == str(party), payments.c.pay_id == pay_id)
    row = connection.execute(query.with_for_update() if to_write else query).one_or_none()
    return None if row is None else entry_of(row)


def open_row(
    connection: Connection, entry: Entry, lease: Lease, room: Room | None, identifier: str = ""
) -> tuple[Entry, bool]:
    """The first memory of a payment, or the older one and False. Raises `NoRoom` or `IdentifierTaken`."""
    with connection.begin_nested() if room is not None or identifier else nullcontext():
        if _insert(connection, entry, lease):
            if identifier:
                _name(connection, entry, identifier)
            if room is not None:
                _check_room(connection, entry, room)
            return Entry(entry.party, entry.subject, entry.stage, lease.now, lease.now), True
    return _older(connection, entry.party, entry.subject.pay_id), False


def _name(connection: Connection, entry: Entry, identifier: str) -> None:
    """Give a payment its payer's own name for it, unless another one has that name and came to something."""
    payer, pay_id = entry.subject.payer, entry.subject.pay_id
    mine = (identifiers.c.payer == payer) & (identifiers.c.identifier == identifier)
    named = connection.execute(select(identifiers.c.pay_id).where(mine)).scalar()
    if named is not None and named != pay_id:
        other = find(connection, entry.party, named)
        if other is not None and other.state not in (State.REFUSED, State.RELEASED):
            raise IdentifierTaken(f"another payment of {payer} has this identifier")
    statement = upsert(connection, identifiers).values(payer=payer, identifier=identifier, pay_id=pay_id)
    connection.execute(statement.on_conflict_do_update(index_elements=["payer", "identifier"], set_={"pay_id": pay_id}))


def intend(
    connection: Connection, subject: Subject, signer: str, chain_nonce: int, sign: Sign, lease: Lease
) -> tuple[Entry, bool]:
    """Reserve, sign and write, all or nothing; or the older row and False."""
    older = find(connection, Party.FACILITATOR, subject.pay_id)
    if older is not None:
        return older, False
    reservation = connection.begin_nested()
    with reservation:
        nonce = nonce_book.reserve(connection, subject.network, signer, chain_nonce)
        entry = begin(Party.FACILITATOR, subject, sign(nonce))
        if _insert(connection, entry, lease):
            return Entry(entry.party, subject, entry.stage, lease.now, lease.now), True
        reservation.rollback()
    return _older(connection, Party.FACILITATOR, subject.pay_id), False


def replace_attempt(
    connection: Connection,
    pay_id: str,
    attempt: int,
    signer: str,
    chain_nonce: int,
    sign: Sign,
    now: int,
    *,
    keep: bool,
) -> Entry:
    """The arrow REPLACE from exactly this attempt, with the row's own nonce (`keep`) or the signer's next one."""
    entry = find(connection, Party.FACILITATOR, pay_id, to_write=True)
    if entry is None:
        raise KeyError(f"{Party.FACILITATOR} knows no payment {pay_id}")
    before = entry.stage
    if not isinstance(before, Intended) or before.attempt != attempt or (keep and before.nonce is None):
        raise UnlawfulEvent(f"{Party.FACILITATOR}: {entry.state} has no attempt {attempt} to replace any more")
    with connection.begin_nested():
        network = entry.subject.network
        own = before.nonce if keep else None
        nonce = nonce_book.reserve(connection, network, signer, chain_nonce) if own is None else own
        return _move(connection, entry, Event.REPLACE, sign(nonce), now)


def move(connection: Connection, party: Party, pay_id: str, what: Event, stage: Stage, now: int) -> Entry:
    """Follow one arrow of the law."""
    entry = find(connection, party, pay_id, to_write=True)
    if entry is None:
        raise KeyError(f"{party} knows no payment {pay_id}")
    return _move(connection, entry, what, stage, now)


def entry_of(row: Row[Any]) -> Entry:
    """A row as the memory that it is. Raises `UnavailableError("ledger_damaged")` for one that nobody here wrote."""
    try:
        return _parsed(row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnavailableError(
            "ledger_damaged",
            f"the ledger's row of payment {row.pay_id!s:.200} can't be read: `x402 ledger audit` says what is wrong",
            mender=Mender.OPERATOR,
        ) from error


def _parsed(row: Row[Any]) -> Entry:
    told: dict[str, Any] = json.loads(row.stage)
    members: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    kind = STAGES[State(row.state)]
    if "raw" in {member.name for member in fields(kind)}:
        members["raw"] = row.raw or b""
    subject = Subject(
        pay_id=row.pay_id,
        network=row.network,
        asset=row.asset,
        payer=row.payer,
        payee=row.payee,
        amount=int(row.amount),
        expires_at=row.expires_at,
        fingerprint=row.fingerprint,
        record=json.loads(row.record),
    )
    return Entry(Party(row.party), subject, kind(**members), row.created_at, row.updated_at)


def _move(connection: Connection, entry: Entry, what: Event, stage: Stage, now: int) -> Entry:
    moved = advance(entry, what, stage)
    text, values = _written(moved.stage)
    row = (payments.c.party == str(entry.party)) & (payments.c.pay_id == entry.subject.pay_id)
    values |= {"state": str(moved.state), "stage": text, "updated_at": now}
    if isinstance(entry.stage, Intended) and isinstance(stage, Settled):
        # A payment that somebody else's transaction settled holds none of our nonces any more (fault A11).
        values |= {} if stage.transaction in entry.stage.transactions else {"nonce": None}
    connection.execute(update(payments).where(row).values(**values))
    _log(connection, moved, str(what), text, now)
    known = find(connection, entry.party, entry.subject.pay_id) if getattr(stage, "raw", None) == b"" else None
    return known or replace(moved, updated_at=now)


def _insert(connection: Connection, entry: Entry, lease: Lease) -> bool:
    subject, now = entry.subject, lease.now
    text, values = _written(entry.stage)
    constants = {
        "network": subject.network,
        "asset": subject.asset,
        "payer": subject.payer,
        "payee": subject.payee,
        "amount": str(subject.amount),
        "expires_at": subject.expires_at,
        "fingerprint": subject.fingerprint,
        "record": json.dumps(dict(subject.record), separators=(",", ":")),
    }
    values |= (
        constants | lease.columns | {"state": str(entry.state), "stage": text, "created_at": now, "updated_at": now}
    )
    statement = upsert(connection, payments).values(party=str(entry.party), pay_id=subject.pay_id, **values)
    written = statement.on_conflict_do_nothing().returning(payments.c.pay_id)
    won = connection.execute(written).first() is not None
    if won:
        _log(connection, entry, BEGIN, attest(text, constants), now)
    return won


def _older(connection: Connection, party: Party, pay_id: str) -> Entry:
    older = find(connection, party, pay_id)
    if older is None:
        raise UnavailableError("ledger_unavailable", "the ledger lost a row between two statements")
    return older


def _check_room(connection: Connection, entry: Entry, room: Room) -> None:
    """Raise `NoRoom` when this row, which is written already, leaves more unsettled than may be."""
    subject = entry.subject
    unsettled = payments.c.state.in_([str(state) for state in UNSETTLED])
    mine = (
        (payments.c.party == str(entry.party))
        & (payments.c.network == subject.network)
        & (payments.c.asset == subject.asset)
        & (payments.c.pay_id != subject.pay_id)
    )
    open_to_payer: ColumnElement[bool] = unsettled
    if room.since is not None:
        lately = payments.c.state.in_([str(state) for state in _PAID]) & (payments.c.updated_at >= room.since)
        open_to_payer = unsettled | lately
    of_payer = mine & open_to_payer & (payments.c.payer == subject.payer)
    scopes = (("payer", room.payer, of_payer), ("total", room.total, mine & unsettled))
    for scope, limit, rows in scopes:
        if limit is None:
            continue
        units = sum(int(amount) for (amount,) in connection.execute(select(payments.c.amount).where(rows)))
        if units + subject.amount > limit:
            raise NoRoom(scope, units, limit)


def _written(stage: Stage) -> tuple[str, dict[str, Any]]:
    """A stage as text, and what of it stands in columns: bytes, which only newer bytes replace, sender and nonce."""
    members = {member.name: getattr(stage, member.name) for member in fields(stage)}
    if members.get("amount") is None:
        members.pop("amount", None)
    raw = members.pop("raw", b"")
    columns: dict[str, Any] = {"raw": raw} if raw else {}
    if isinstance(stage, Intended):
        columns |= {"sender": stage.sender, "nonce": stage.nonce}
    return json.dumps(members, separators=(",", ":")), columns


def _log(connection: Connection, entry: Entry, what: str, stage: str, now: int) -> None:
    row = {"party": str(entry.party), "pay_id": entry.subject.pay_id, "at": now, "event": what}
    connection.execute(insert(events).values(**row, after=str(entry.state), stage=stage))
