"""Payments as rows: reading them, writing them by the law, and the events that tell how each came to be.

Every function is a few statements inside a transaction of the ledger's, and either raises having written nothing, or
leaves row and events agreeing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, select, update

from x402.errors import Mender, UnavailableError
from x402.lifecycle import Entry, Event, Party, Subject, UnlawfulEvent, advance, begin
from x402.ports import Arrow, IdentifierTaken, Room, Sign, SignAgain, SignTogether, nonce_book, unsettled
from x402.ports.leases import Lease
from x402.ports.ledger_text import BEGIN, attest
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import bundles, events, identifiers, payments, whole_payments
from x402.stages import STAGES, Intended, Settled, Stage, State

_MEMBERS: Mapping[State, tuple[str, ...]] = {
    state: tuple(member.name for member in fields(kind)) for state, kind in STAGES.items()
}

_row = (payments.c.party == value("party")) & (payments.c.pay_id == value("pay_id"))
_FIND = Prepared(whole_payments.where(_row))
_FIND_TO_WRITE = Prepared(whole_payments.where(_row).with_for_update(of=payments))
_SHARING = Prepared(
    whole_payments.where(
        payments.c.party == str(Party.FACILITATOR),
        payments.c.state == str(State.INTENDED),
        payments.c.network == value("network"),
        payments.c.sender == value("signer"),
        payments.c.nonce == value("nonce"),
    )
    .order_by(payments.c.pay_id)
    .with_for_update(of=payments)
)
_INSERT = Prepared(
    lambda insert: insert(payments),
    [column.name for column in payments.columns if column.name != "turn"],
)
_LOG = Prepared(lambda insert: insert(events), [column.name for column in events.columns if column.name != "seq"])
_NAMED = Prepared(
    select(identifiers.c.pay_id).where(
        identifiers.c.payer == value("payer"), identifiers.c.identifier == value("identifier")
    )
)


def _name_insert(insert: Insert) -> object:
    row = insert(identifiers)
    return row.on_conflict_do_update(index_elements=["payer", "identifier"], set_={"pay_id": row.excluded.pay_id})


def _bundle_insert(insert: Insert) -> object:
    row = insert(bundles)
    return row.on_conflict_do_update(index_elements=["network", "signer", "nonce"], set_={"raw": row.excluded.raw})


_BUNDLE = Prepared(_bundle_insert, ("network", "signer", "nonce", "raw"))
_NAME = Prepared(_name_insert, ("payer", "identifier", "pay_id"))


@cache
def _update(columns: tuple[str, ...]) -> Prepared:
    return Prepared(update(payments).where(_row), columns)


def find(connection: Connection, party: Party, pay_id: str, *, to_write: bool = False) -> Entry | None:
    """The row; with `to_write` nobody else writes to it before this transaction ends."""
    row = (_FIND_TO_WRITE if to_write else _FIND).first(connection, party=str(party), pay_id=pay_id)
    return None if row is None else entry_of(row)


def open_row(
    connection: Connection,
    entry: Entry,
    lease: Lease,
    room: Room | None,
    identifier: str = "",
    arrows: Sequence[Arrow] = (),
) -> tuple[Entry, bool]:
    """The first memory of a payment, or the older one and False. Raises `NoRoom` or `IdentifierTaken`.

    Everything is looked at before anything is written, so whoever is refused has written nothing.
    """
    found = _FIND.ask(connection, party=str(entry.party), pay_id=entry.subject.pay_id)
    sums = unsettled.Sums(connection, entry.subject, room) if entry.party is Party.GATEWAY else None
    row = found.first()
    if row is not None:
        return entry_of(row), False
    if identifier:
        _check_name(connection, entry, identifier)
    if sums is not None:
        sums.check()
    first = replace(entry, created_at=lease.now, updated_at=lease.now)
    moved = _follow(first, arrows)
    _write_first(connection, entry, lease, sums)
    if identifier:
        payer, pay_id = entry.subject.payer, entry.subject.pay_id
        _NAME.do(connection, payer=payer, identifier=identifier, pay_id=pay_id)
    return (_move(connection, first, arrows, moved, lease.now) if arrows else first), True


def _check_name(connection: Connection, entry: Entry, identifier: str) -> None:
    """Raise `IdentifierTaken` when another payment has its payer's own name for this one, and came to something."""
    payer = entry.subject.payer
    named = _NAMED.scalar(connection, payer=payer, identifier=identifier)
    if named is not None and named != entry.subject.pay_id:
        other = find(connection, entry.party, named)
        if other is not None and other.state not in (State.REFUSED, State.RELEASED):
            raise IdentifierTaken(f"another payment of {payer} has this identifier")


def intend(
    connection: Connection, subject: Subject, signer: str, chain_nonce: int, sign: Sign, lease: Lease
) -> tuple[Entry, bool]:
    """Reserve, sign and write, all or nothing; or the older row and False."""
    older = find(connection, Party.FACILITATOR, subject.pay_id)
    if older is not None:
        return older, False
    nonce = nonce_book.free(connection, subject.network, signer, chain_nonce)
    # What signs may refuse, so nothing is written before it has signed.
    entry = begin(Party.FACILITATOR, subject, sign(nonce))
    _write_first(connection, entry, lease)
    nonce_book.take(connection, subject.network, signer, chain_nonce, nonce)
    return replace(entry, created_at=lease.now, updated_at=lease.now), True


def intend_together(
    connection: Connection,
    subjects: Sequence[Subject],
    signer: str,
    chain_nonce: int,
    sign: SignTogether,
    lease: Lease,
) -> Sequence[tuple[Entry, bool]]:
    """Reserve one nonce, sign one transaction for all that are new, and write every row, all or nothing; the older row
    and False for the others."""
    outcomes: dict[str, tuple[Entry, bool]] = {}
    fresh: dict[str, Subject] = {}
    asked = [_FIND.ask(connection, party=str(Party.FACILITATOR), pay_id=subject.pay_id) for subject in subjects]
    for subject, found in zip(subjects, asked, strict=True):
        row = found.first()
        if row is not None:
            outcomes[subject.pay_id] = entry_of(row), False
        else:
            fresh.setdefault(subject.pay_id, subject)
    if fresh:
        network = subjects[0].network
        nonce = nonce_book.free(connection, network, signer, chain_nonce)
        stages = sign(nonce, list(fresh.values()))
        entries = [
            begin(Party.FACILITATOR, subject, stage) for subject, stage in zip(fresh.values(), stages, strict=True)
        ]
        for entry in entries:
            _write_first(connection, entry, lease)
            outcomes[entry.subject.pay_id] = replace(entry, created_at=lease.now, updated_at=lease.now), True
        nonce_book.take(connection, network, signer, chain_nonce, nonce)
        _keep_bundle(connection, network, signer, nonce, stages)
    # One payment may have been presented twice, on different terms: the first of them is the row's.
    first = {subject.pay_id: subject for subject in reversed(subjects)}
    return [
        (entry, won and first[subject.pay_id] is subject)
        for subject in subjects
        for entry, won in [outcomes[subject.pay_id]]
    ]


def replace_together(
    connection: Connection,
    network: str,
    signer: str,
    nonce: int,
    transaction: str,
    sign: SignAgain,
    now: int,
    among: Collection[str],
) -> Sequence[Entry]:
    """The arrow REPLACE for every payment that waits for this very transaction, with the nonce that they share."""
    waiting = [one for one in sharing(connection, network, signer, nonce, transaction) if one.subject.pay_id in among]
    if not waiting:
        raise UnlawfulEvent(f"{Party.FACILITATOR}: nothing waits for {transaction} that could be replaced")
    stages = sign(nonce, waiting)
    moves = []
    for entry, stage in zip(waiting, stages, strict=True):
        arrows = ((Event.REPLACE, stage),)
        moves.append((entry, arrows, _follow(entry, arrows)))
    _keep_bundle(connection, network, signer, nonce, stages)
    return [_move(connection, entry, arrows, moved, now) for entry, arrows, moved in moves]


def sharing(connection: Connection, network: str, signer: str, nonce: int, transaction: str) -> Sequence[Entry]:
    """The payments that wait for this very transaction, for nobody else to write to before this transaction ends."""
    entries = [entry_of(row) for row in _SHARING.rows(connection, network=network, signer=signer, nonce=nonce)]
    return [one for one in entries if isinstance(one.stage, Intended) and one.stage.transaction == transaction]


def _keep_bundle(connection: Connection, network: str, signer: str, nonce: int, stages: Sequence[Intended]) -> None:
    if stages[0].shares > 1:
        _BUNDLE.do(connection, network=network, signer=signer, nonce=nonce, raw=stages[0].raw)


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
    entry = _known(connection, Party.FACILITATOR, pay_id)
    before = entry.stage
    if not isinstance(before, Intended) or before.attempt != attempt or (keep and before.nonce is None):
        raise UnlawfulEvent(f"{Party.FACILITATOR}: {entry.state} has no attempt {attempt} to replace any more")
    network = entry.subject.network
    own = before.nonce if keep else None
    nonce = nonce_book.free(connection, network, signer, chain_nonce) if own is None else own
    arrows = ((Event.REPLACE, sign(nonce)),)
    moved = _follow(entry, arrows)
    if own is None:
        nonce_book.take(connection, network, signer, chain_nonce, nonce)
    return _move(connection, entry, arrows, moved, now)


def move(connection: Connection, party: Party, pay_id: str, arrows: Sequence[Arrow], now: int) -> Entry:
    """Follow arrows of the law, all or none."""
    entry = _known(connection, party, pay_id)
    return _move(connection, entry, arrows, _follow(entry, arrows), now)


def _known(connection: Connection, party: Party, pay_id: str) -> Entry:
    entry = find(connection, party, pay_id, to_write=True)
    if entry is None:
        raise KeyError(f"{party} knows no payment {pay_id}")
    return entry


def entry_of(row: Any) -> Entry:
    """A row as the memory that it is. Raises `UnavailableError("ledger_damaged")` for one that nobody here wrote."""
    try:
        return _parsed(row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnavailableError(
            "ledger_damaged",
            f"the ledger's row of payment {row.pay_id!s:.200} can't be read: `x402 ledger audit` says what is wrong",
            mender=Mender.OPERATOR,
        ) from error


def _parsed(row: Any) -> Entry:
    told: dict[str, Any] = json.loads(row.stage)
    members: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    kind = STAGES[State(row.state)]
    if "raw" in _MEMBERS[kind.state]:
        members["raw"] = row.raw or row.bundle or b""
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


def _follow(entry: Entry, arrows: Sequence[Arrow]) -> Sequence[Entry]:
    """The memory after each arrow. Raises `UnlawfulEvent`."""
    moved: list[Entry] = []
    for what, stage in arrows:
        entry = advance(entry, what, stage)
        moved.append(entry)
    return moved


def _move(connection: Connection, entry: Entry, arrows: Sequence[Arrow], moved: Sequence[Entry], now: int) -> Entry:
    """Write where the arrows lead, and each of them into the events."""
    columns: dict[str, Any] = {}
    texts = []
    for (what, stage), after in zip(arrows, moved, strict=True):
        text, values = _written(after.stage)
        columns |= values
        texts.append((what, after, text))
        if isinstance(entry.stage, Intended) and isinstance(stage, Settled):
            # A payment that somebody else's transaction settled holds none of our nonces any more (fault A11).
            columns |= {} if stage.transaction in entry.stage.transactions else {"nonce": None}
    party, pay_id = str(entry.party), entry.subject.pay_id
    last, (_, _, text) = moved[-1], texts[-1]
    columns |= {"state": str(last.state), "stage": text, "updated_at": now}
    unsettled.book(connection, entry.state, last)
    _update(tuple(columns)).do(connection, party=party, pay_id=pay_id, **columns)
    for what, after, text in texts:
        _LOG.do(connection, party=party, pay_id=pay_id, at=now, event=str(what), after=str(after.state), stage=text)
    known = find(connection, entry.party, pay_id) if getattr(last.stage, "raw", None) == b"" else None
    return known or replace(last, updated_at=now)


def _write_first(connection: Connection, entry: Entry, lease: Lease, sums: unsettled.Sums | None = None) -> None:
    """Write a first memory. Nobody else can have done so meanwhile: who begins a row has its name to himself."""
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
    name = {"party": str(entry.party), "pay_id": subject.pay_id}
    state = {"state": str(entry.state), "stage": text, "created_at": now, "updated_at": now}
    row = {"raw": None, "sender": None, "nonce": None} | values | name | state | constants | lease.columns
    _INSERT.do(connection, **row)
    unsettled.book(connection, None, entry, sums)
    _LOG.do(connection, **name, at=now, event=BEGIN, after=str(entry.state), stage=attest(text, constants))


def _written(stage: Stage) -> tuple[str, dict[str, Any]]:
    """A stage as text, and what of it stands in columns: bytes, which only newer bytes replace, sender and nonce."""
    members = {name: getattr(stage, name) for name in _MEMBERS[stage.state]}
    if members.get("amount") is None:
        members.pop("amount", None)
    raw = members.pop("raw", b"")
    shared = isinstance(stage, Intended) and stage.shares > 1
    columns: dict[str, Any] = {"raw": raw} if raw and not shared else {}
    if isinstance(stage, Intended):
        columns |= {"sender": stage.sender, "nonce": stage.nonce}
    return json.dumps(members, separators=(",", ":")), columns
