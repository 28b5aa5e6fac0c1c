"""Payments as rows: reading them, writing them by the law, and the events that tell how each came to be.

Every function is a few statements inside a transaction of the ledger's, and either raises having written nothing, or
leaves row and events agreeing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, select, update

from x402.lifecycle import Entry, Event, Party, Subject, UnlawfulEvent, advance, begin
from x402.ports import Sign, SignAgain, SignTogether, nonce_book, unsettled
from x402.ports.claiming import Arrow, IdentifierTaken, Instead, NoRoom, Room
from x402.ports.known import known
from x402.ports.leases import Lease
from x402.ports.ledger_entry import entry_of, written
from x402.ports.ledger_text import BEGIN, attest, compact
from x402.ports.prepared import Insert, Key, Prepared, value
from x402.ports.schema import bundles, events, identifiers, payments, whole_payments
from x402.stages import Intended, Settled, State

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
    return _look(connection, party, pay_id, to_write=to_write)()


def _look(connection: Connection, party: Party, pay_id: str, *, to_write: bool = False) -> Callable[[], Entry | None]:
    """Ask for a row, to be read when it is wanted: it may be known by then."""
    here, name = known(connection), (str(party), pay_id)
    if here is not None and name in here.entries:
        entry = here.entries[name]
        return lambda: entry
    asked = (_FIND_TO_WRITE if to_write else _FIND).ask(connection, party=name[0], pay_id=pay_id)

    def read() -> Entry | None:
        row = asked.first()
        entry = None if row is None else entry_of(row)
        if here is not None and here.remembers:
            here.entries[name] = entry
        return entry

    return read


def open_row(
    connection: Connection,
    entry: Entry,
    lease: Lease,
    room: Room | None,
    identifier: str = "",
    arrows: Sequence[Arrow] = (),
    instead: Instead | None = None,
) -> tuple[Entry, bool]:
    """The first memory of a payment, or the older one and False. Raises `NoRoom` or `IdentifierTaken`.

    Everything is looked at before anything is written, so whoever is refused has written nothing.
    """
    older = _look(connection, entry.party, entry.subject.pay_id)
    sums = unsettled.Sums(connection, entry.subject, room) if entry.party is Party.GATEWAY else None
    known_already = older()
    if known_already is not None:
        return known_already, False
    if identifier:
        _check_name(connection, entry, identifier)
    try:
        if sums is not None:
            sums.check()
    except NoRoom as error:
        if instead is None or error.scope not in instead.scopes:
            raise
        entry, arrows = instead.entry, instead.arrows
    last = _write_first(connection, entry, lease, sums, arrows)
    if identifier:
        payer, pay_id = entry.subject.payer, entry.subject.pay_id
        _NAME.gather(connection, ("name", payer, identifier), payer=payer, identifier=identifier, pay_id=pay_id)
    return last, True


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
    first = _write_first(connection, entry, lease)
    nonce_book.take(connection, subject.network, signer, chain_nonce, nonce)
    return first, True


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
    asked = [_look(connection, Party.FACILITATOR, subject.pay_id) for subject in subjects]
    for subject, older in zip(subjects, asked, strict=True):
        entry = older()
        if entry is not None:
            outcomes[subject.pay_id] = entry, False
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
            outcomes[entry.subject.pay_id] = _write_first(connection, entry, lease), True
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
        here = known(connection)
        if here is not None:
            here.forget_attempts()


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


def _follow(entry: Entry, arrows: Sequence[Arrow]) -> Sequence[Entry]:
    """The memory after each arrow. Raises `UnlawfulEvent`."""
    moved: list[Entry] = []
    for what, stage in arrows:
        entry = advance(entry, what, stage)
        moved.append(entry)
    return moved


def _move(connection: Connection, entry: Entry, arrows: Sequence[Arrow], moved: Sequence[Entry], now: int) -> Entry:
    """Write where the arrows lead, and each of them into the events."""
    columns, told = _arrows(entry, list(zip(arrows, moved, strict=True)))
    party, pay_id, last = str(entry.party), entry.subject.pay_id, moved[-1]
    columns["updated_at"] = now
    last = replace(last, updated_at=now)
    unsettled.book(connection, entry.state, last)
    _update(tuple(columns)).gather(connection, _key(entry), party=party, pay_id=pay_id, **columns)
    for one in told:
        _LOG.gather(connection, (), party=party, pay_id=pay_id, at=now, **one)
    return _written(connection, last)


def _arrows(entry: Entry, arrows: Sequence[tuple[Arrow, Entry]]) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    """What arrows change in a payment's row, each with the memory after it, and what each tells the events."""
    columns: dict[str, Any] = {}
    told = []
    for (what, stage), after in arrows:
        text, values = written(after.stage)
        columns |= values | {"state": str(after.state), "stage": text}
        told.append({"event": str(what), "after": str(after.state), "stage": text})
        if isinstance(entry.stage, Intended) and isinstance(stage, Settled):
            # A payment that somebody else's transaction settled holds none of our nonces any more (fault A11).
            columns |= {} if stage.transaction in entry.stage.transactions else {"nonce": None}
    return columns, told


def _written(connection: Connection, entry: Entry) -> Entry:
    """What a payment's row tells now, for those who ask later in this transaction too."""
    here, name = known(connection), (str(entry.party), entry.subject.pay_id)
    if getattr(entry.stage, "raw", None) == b"":
        # The bytes that were there before are there still.
        if here is not None:
            here.entries.pop(name, None)
        return find(connection, entry.party, entry.subject.pay_id) or entry
    if here is not None:
        here.entries[name] = entry
    return entry


def _key(entry: Entry) -> Key:
    return ("payment", str(entry.party), entry.subject.pay_id)


def _write_first(
    connection: Connection,
    entry: Entry,
    lease: Lease,
    sums: unsettled.Sums | None = None,
    arrows: Sequence[Arrow] = (),
) -> Entry:
    """Write a first memory, and the arrows that follow at once. Nobody else can have done so meanwhile: who begins a
    row has its name to himself. Raises `UnlawfulEvent`, having written nothing."""
    subject, now = entry.subject, lease.now
    entry = replace(entry, created_at=now, updated_at=now)
    moved = _follow(entry, arrows)
    last = moved[-1] if moved else entry
    text, values = written(entry.stage)
    constants = {
        "network": subject.network,
        "asset": subject.asset,
        "payer": subject.payer,
        "payee": subject.payee,
        "amount": str(subject.amount),
        "expires_at": subject.expires_at,
        "fingerprint": subject.fingerprint,
        "record": compact(dict(subject.record)),
    }
    name = {"party": str(entry.party), "pay_id": subject.pay_id}
    columns, told = _arrows(entry, list(zip(arrows, moved, strict=True)))
    state = {"state": str(entry.state), "stage": text, "created_at": now, "updated_at": now}
    row = {"raw": None, "sender": None, "nonce": None} | values | name | state | constants | lease.columns | columns
    _INSERT.gather(connection, _key(entry), **row)
    unsettled.book(connection, None, last, sums)
    begun = {"event": BEGIN, "after": str(entry.state), "stage": attest(text, constants)}
    for one in (begun, *told):
        _LOG.gather(connection, (), **name, at=now, **one)
    return _written(connection, last)
